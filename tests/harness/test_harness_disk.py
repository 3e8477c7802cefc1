"""Full disks, names that are no text, leftovers of killed writers, and what stands where a record should."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_fakes import FORBID, Drift, Squares, make_job, planned
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from datasets.files import temporary_path, unwritable
from datasets.interface import Clip, Listing
from harness import __main__ as cli
from harness.cells import plan, run
from harness.cells.score import Outcome
from harness.command.terminal import escape_output
from harness.records import store
from reports.__main__ import main as reports


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more ends as on a full disk, in every library. Nothing is printed meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def go(results: Path, **changes: Any) -> Outcome:
    job = make_job(results, **{"dataset": Squares(clips=1), **changes})
    made, cells = planned(job)
    store.begin_plans([(results, made)])
    return run.run(job, made, cells)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def only_cell(results: Path) -> Path:
    (folder,) = (path for path in results.glob("cells/*/*/*") if ".aside" not in path.name)
    return folder


# --- full disks --------------------------------------------------------------------------------


def test_a_full_disk_whichever_file_it_strikes_is_no_failed_cell_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = go(tmp_path / "undisturbed").records[0]
    fsync, struck = os.fsync, []
    for room in range(100):
        results, written = tmp_path / str(room), []

        def full_after_a_while(descriptor: int, room: int = room, written: list[int] = written) -> None:
            written.append(descriptor)
            if len(written) > room:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full_after_a_while)
        try:
            go(results)
            break
        except OSError as error:
            line = unwritable(error)
            assert line is not None and "\n" not in line
            assert str(results) in line and "No space left on device; it takes up to" in line
            struck.append(Path(str(error.filename)).name.split("-")[0])
        monkeypatch.setattr(os, "fsync", fsync)
        assert not hidden(results)
        assert all(store.load_record(path.parent).status == "ok" for path in results.rglob("record.json"))
        again = go(results).records[0]
        assert (again.status, again.frames_sha256) == ("ok", undisturbed.frames_sha256)
        assert again.metrics == undisturbed.metrics
    videos = ["reference.mp4", "video.mp4", "frames.mkv", "sheet.png", "trace.json", "tracks.npz"]
    assert struck[:8] == ["trial.json", "attempts", *videos]
    assert len(struck) == 13 and struck[8].endswith(".npz"), "the reference's tracks"
    assert struck[9:] == ["record.json", "likeness", "following", "trial.json"]


def test_the_command_line_tells_a_full_disk_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "results" / "plans" / "p.json"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "save_plan", full)
    monkeypatch.setattr(sys, "argv", ["harness", "action=plan", "limit=1", "device=cpu"])
    assert cli.main() == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{tmp_path / 'results' / 'plans'}: cannot write p.json" in err


def test_a_command_needs_room_for_a_cell_unless_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 5 * 16 * 16 * 3 + plan.BESIDE
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    go(tmp_path / "enough")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    assert go(tmp_path / "enough").reused == 1
    with pytest.raises(InputError, match=r"results: .*/short has 104 kB left and a cell takes up to 104 kB"):
        go(tmp_path / "short")


def test_a_report_that_finds_no_room_is_one_line(tmp_path: Path) -> None:
    go(tmp_path)
    with files_of_at_most(10):
        assert reports([str(tmp_path), "--out", str(tmp_path / "table.md")]) == 2
        assert reports([str(tmp_path), "--format", "html"]) == 2
    assert not (tmp_path / "table.md").exists() and not hidden(tmp_path)
    assert reports([str(tmp_path), "--format", "html"]) == 0


# --- leftovers ---------------------------------------------------------------------------------


def test_leftovers_of_killed_writers_are_swept_in_every_folder(tmp_path: Path) -> None:
    go(tmp_path)
    assert reports([str(tmp_path), "--format", "html"]) == 0
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    cell = only_cell(tmp_path)
    media = tmp_path / "page" / "media"
    for folder in (tmp_path / "plans", tmp_path / "levels", tmp_path / "tracks", cell, media.parent, media):
        for name in ("gone.json", "gone.npz"):
            now = temporary_path(folder / name)
            now.with_name(now.name.replace(f".{os.getpid()}.", f".{child.pid}.")).write_text("half")
            (folder / f".{name}.{child.pid}").write_text("half, by an earlier version")
    assert len(hidden(tmp_path)) == 24
    assert go(tmp_path).reused == 1
    assert reports([str(tmp_path), "--format", "html"]) == 0
    assert not hidden(tmp_path)


# --- names and messages ------------------------------------------------------------------------

BYTES = os.fsdecode(b"b\xff\xfed")
ODD = ("plain", BYTES, "\x1b[31mred\x07\nsecond line", "half \ud83d of a pair")


@dataclass(config=FORBID)
class OddNames(Squares):
    """Squares whose clips are called as no clip should be."""

    clips: int = len(ODD)

    def listing(self) -> Listing:
        from dataclasses import replace

        found = super().listing()
        clips = tuple(replace(clip, name=name) for clip, name in zip(found.clips, ODD, strict=True))
        return Listing(clips, found.left_out)

    def load(self, name: str) -> Clip:
        clip = super().load(f"clip{ODD.index(name)}")
        return Clip(self.listing().clips[ODD.index(name)], clip.frames, truth=clip.truth)


def test_names_that_are_no_text_are_escaped_in_records_plans_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    escape_output()
    assert go(tmp_path, dataset=OddNames()).computed == len(ODD)
    assert go(tmp_path, dataset=OddNames()).reused == len(ODD)
    for path in [*tmp_path.rglob("record.json"), *store.plan_paths(tmp_path)]:
        path.read_text(encoding="utf-8").encode()
    names = {store.load_record(path.parent).clip for path in tmp_path.rglob("record.json")}
    assert names == {"plain", "b\\udcff\\udcfed", ODD[2], "half \\ud83d of a pair"}
    for form in ("md", "latex", "csv", "html"):
        assert reports([str(tmp_path), "--format", form]) == 0
    (page,) = tmp_path.rglob("index.html")
    shown = [page, *page.parent.glob("media/*.js")]
    assert any("b\\udcff\\udcfed" in path.read_text(encoding="utf-8").replace("\\\\", "\\") for path in shown)


class Broken(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "error, says",
    [
        (ValueError(BYTES), "b\\udcff\\udcfed"),
        (ValueError("\x1b[31m\x00\n"), "\x1b[31m\x00\n"),
        (OSError(2, "No such file", BYTES), "[Errno 2] No such file: 'b\\udcff\\udcfed'"),
        (Broken(), "no message: ZeroDivisionError on asking for it"),
    ],
)
def test_a_message_that_is_no_text_fails_its_cell_alone(
    tmp_path: Path, error: Exception, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transfer(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Drift, "transfer", transfer)
    go(tmp_path)
    record = store.load_record(only_cell(tmp_path))
    assert record.status == "failed" and record.error is not None
    assert (record.error.kind, record.error.message) == (type(error).__name__, says)
    assert "transfer" in record.error.traceback


# --- in the place of a record or a plan --------------------------------------------------------


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "kept").write_text("kept")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def nested(depth: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        data = json.loads(path.read_text())
        key = "config" if "config" in data else "variants"
        text = json.dumps({**data, key: None})
        path.write_text(text.replace(f'"{key}": null', f'"{key}": ' + '{"a":' * depth + "1" + "}" * depth))

    return write


def not_a_variant(path: Path) -> None:
    path.write_text('{"schema": 1, "name": "trial", "variants": [3], "id": 3}')


@pytest.mark.parametrize(
    "change",
    [a_folder, a_pipe, nested(200_000), nested(400), not_a_variant],
    ids=["a folder", "a pipe", "nested 200,000 deep", "nested 400 deep", "not a variant"],
)
@pytest.mark.parametrize("which", ["record", "plan"])
def test_what_is_no_record_or_plan_is_set_aside_whole_with_one_line(
    change: Callable[[Path], None],
    which: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    go(tmp_path)
    path = only_cell(tmp_path) / "record.json" if which == "record" else store.plan_path(tmp_path, "trial")
    change(path)
    job = make_job(tmp_path, dataset=Squares(clips=1))
    made, cells = planned(job)
    said: list[str] = []
    store.begin_plans([(tmp_path, made)], said.append)
    outcome = run.run(job, made, cells)
    lines = [*said, *(line for line in capsys.readouterr().err.splitlines() if "aside" in line)]
    assert len(lines) == 1 and "cannot be read" in lines[0]
    assert outcome.ok and outcome.computed == (which == "record")
    (aside,) = tmp_path.rglob("*.aside")
    kept = aside / "record.json" if which == "record" else aside
    assert kept.exists() and (change is not a_folder or (kept / "kept").read_text() == "kept")
    assert store.load_plan(store.plan_path(tmp_path, "trial")).name == "trial"


def test_a_file_in_the_place_of_a_folder_is_told_and_stays(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("mine")
    with pytest.raises(OSError) as error:
        go(tmp_path)
    assert "cells/drift" in str(unwritable(error.value))
    assert (tmp_path / "cells").read_text() == "mine"
