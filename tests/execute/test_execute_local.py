"""Workers of this machine: whatever a cell does to its process ends as a record, and the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, Command, alive, children, until


def test_cells_in_workers_end_as_they_do_in_this_process(command: Command) -> None:
    apart = command("execute=local", "execute.devices=[0,1]", "seed=0,1", "-m")
    assert apart.code == 0 and "hostile" in apart.out
    found = command.ending()
    assert len(found) == 8
    assert {record.environment["workers"] for record in command.records().values()} == {2}
    here = command("execute=here", "seed=0,1", "-m", "results=other")
    assert here.code == 0
    assert command.ending("other") == found


ENDINGS = {
    "exit": ("failed", "SystemExit"),
    "leave": ("killed", "its process ended with exit code 0 in stage generate"),
    "segfault": ("killed", "its process was ended by signal 11 (SIGSEGV) in stage generate"),
    "kill": ("killed", "its process was ended by signal 9 (SIGKILL) in stage generate"),
    "hang": ("timeout", "it took longer than execute.cell_timeout=4 s, in stage generate"),
    "memory": ("oom", "MemoryError"),
}


def test_what_ends_a_process_becomes_a_record_and_the_others_go_on(command: Command) -> None:
    acts = ", ".join(f"c{number}: {act}" for number, act in enumerate(ENDINGS))
    done = command(
        f"+method.acts={{{acts}}}", "execute.cell_timeout=4", "execute.retries=0", "dataset.clips=8"
    )
    records = command.records()
    assert done.code == 1 and len(records) == 8
    assert [records.pop(name).status for name in ("c6-0", "c7-0")] == ["ok", "ok"]
    for record, (act, (status, words)) in zip(records.values(), ENDINGS.items(), strict=True):
        assert record.error is not None and record.tries == 1
        assert (record.status, words) == (status, words if words in str(record.error) else str(record.error))
        assert "about to end" in record.error.traceback or act not in ("segfault", "kill")


def test_what_ends_its_process_is_tried_again_after_all_others(command: Command) -> None:
    once = command.folder / "once"
    acts = "+method.acts={c0: kill, c1: memory, c2: hang}"
    done = command(acts, f"method.once={once}", "execute.cell_timeout=4")
    assert done.code == 0, done.err
    records = command.records()
    assert {name: record.tries for name, record in records.items()} == {
        "c0-0": 2,
        "c1-0": 2,
        "c2-0": 2,
        "c3-0": 1,
    }
    assert all(records["c3-0"].started <= records[name].started for name in ("c0-0", "c1-0", "c2-0"))


def test_a_cell_that_ends_its_process_on_every_try_is_given_up(command: Command) -> None:
    done = command("+method.acts.c1=leave", "dataset.clips=2")
    assert done.code == 1
    record = command.records()["c1-0"]
    assert record.tries == 2 and record.error is not None and "2 times" in record.error.message


def test_on_error_stop_begins_no_further_cell(command: Command) -> None:
    done = command("+method.acts.c1=exit", "execute.on_error=stop")
    assert done.code == 1
    assert {name: record.status for name, record in command.records().items()} == {
        "c0-0": "ok",
        "c1-0": "failed",
    }


def test_on_error_stop_reaches_the_other_workers(command: Command) -> None:
    done = command(
        "+method.acts.c0=exit",
        "method.seconds=2",
        "execute.on_error=stop",
        "execute.devices=[0,1]",
        "dataset.clips=8",
    )
    assert done.code == 1
    assert len(command.records()) < 8


def test_weights_that_never_load_are_a_time_out(command: Command) -> None:
    done = command("method=latent", "dataset.clips=1", "execute.cell_timeout=4", "execute.retries=0")
    (record,) = command.records().values()
    assert done.code == 1 and record.status == "timeout"
    assert record.error is not None and "in stage load" in record.error.message


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_an_ending_signal_ends_the_workers_and_the_same_command_goes_on(
    command: Command, ending: signal.Signals
) -> None:
    process = command.start("method.seconds=1")
    until(lambda: process.poll() is not None or command.records())
    workers = children(process.pid)
    process.send_signal(ending)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command resumes" in err
    until(lambda: not any(map(alive, workers)), 5)
    assert len(command.records()) < 4
    assert command().code == 0 and len(command.records()) == 4


def test_workers_end_with_a_command_that_is_killed(command: Command) -> None:
    process = command.start("method.seconds=1")
    until(lambda: process.poll() is not None or command.records())
    workers = children(process.pid)
    assert workers
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, workers)), 15)
    assert command().code == 0 and len(command.records()) == 4


def test_a_second_run_starts_no_worker(command: Command) -> None:
    assert command().code == 0
    runs = list(command.results.glob("runs/*"))
    again = command()
    assert again.code == 0 and again.err.count("reused") == 4
    assert list(command.results.glob("runs/*")) == runs


def test_two_commands_on_one_folder_share_its_cells(command: Command) -> None:
    both = [command.start("method.seconds=.3", "dataset.clips=6") for _ in range(2)]
    assert [process.wait(100) for process in both] == [0, 0]
    records = command.records()
    assert len(records) == 6 and {record.attempts for record in records.values()} == {1}
    assert len({record.run for record in records.values()}) == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("execute.devices=[]", "execute.devices"),
        ("execute.retries=-1", "execute.retries"),
        ("execute.cell_timeout=0", "execute.cell_timeout"),
        ("execute.wait=false", "execute.wait=false: workers of execute=local end with their command"),
        ("execute.locks=no", "execute.locks"),
    ],
)
def test_a_bad_key_of_execute_is_one_line(command: Command, override: str, words: str) -> None:
    done = command(override)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1


def test_a_video_is_scored_while_the_next_is_made(command: Command) -> None:
    done = command("measure.quiet=false", "method.seconds=1", "metrics.metrics.brightness.seconds=0.8")
    records = command.records()
    assert done.code == 0 and {record.status for record in records.values()} == {"ok"}
    assert {record.environment["scoring"] for record in records.values()} == {"beside"}
    assert [f"hostile c{n}: unscored in" in done.err for n in range(4)] == [True] * 4
    assert done.err.count("hostile c") == 4, "one line a cell"
    by_time = sorted(records.values(), key=lambda record: record.finished)
    for first, following in pairwise(by_time):
        assert first.finished <= following.started, "one video after another"
    alone = command("measure.quiet=true", "results=other")
    assert alone.code == 0
    assert command.ending("other") == command.ending()
    assert {record.environment["scoring"] for record in command.records("other").values()} == {"after"}


def test_a_killed_scorer_costs_no_video(command: Command) -> None:
    process = command.start("measure.quiet=false", "metrics.metrics.brightness.seconds=2", "dataset.clips=2")

    def scorer() -> int | None:
        for pid in children(process.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"score" in words and list(command.results.glob("runs/*/scoring/*")):
                return pid
        return None

    os.kill(until(scorer), signal.SIGKILL)
    assert process.wait(60) == 0
    assert {record.status for record in command.records().values()} == {"ok"}
    assert {record.attempts for record in command.records().values()} == {1}


def test_a_video_without_scores_has_a_record_and_a_rerun_only_scores_it(command: Command) -> None:
    slow = "metrics.metrics.brightness.seconds=60"
    process = command.start("measure.quiet=false", slow, "dataset.clips=1", "keep_frames=false")
    until(lambda: command.records())
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    (record,) = command.records().values()
    assert record.status == "unscored" and record.metrics == {}
    table = subprocess.run(
        [sys.executable, "-m", "reports", "results"],
        cwd=command.folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "unscored" in table.stdout + table.stderr
    assert command("dataset.clips=1", "keep_frames=false").code == 0
    (again,) = command.records().values()
    assert again.status == "ok" and again.metrics["brightness"].value is not None
    assert again.started == record.started and not list(command.results.rglob("frames.mkv"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "execute=here,local"), "execute: the jobs of a grid have one engine"),
        (("execute=here", "+execute.cell_timeout=5"), "execute.cell_timeout: no such key"),
    ],
)
def test_what_an_engine_cannot_do_is_one_line(command: Command, words: tuple[str, ...], said: str) -> None:
    done = command(*words)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
