"""Cells whose videos a program makes: planned, run, failed, and found again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from harness_fakes import Squares, make_job, planned

from datasets.errors import InputError
from datasets.media import video
from harness.actions.score import Score
from harness.cells import run
from harness.records import store
from methods.external import External

EXAMPLE = Path(__file__).parents[2] / "docs" / "external_example.py"
DEVICE = "harness.cells.environment.device_model"


def job(results, command=(sys.executable, str(EXAMPLE)), clips=2, repeats=1, **options):
    method = External(name="mine", command=list(command), **options)
    return make_job(results, method=method, dataset=Squares(clips=clips), repeats=repeats)


def go(one):
    return run.run(one, *planned(one))


def test_a_program_s_videos_are_scored_like_any_other_method_s(tmp_path):
    one = job(tmp_path)
    outcome = go(one)
    assert [record.status for record in outcome.records] == ["ok", "ok"]
    assert one.backbone.loads == 0
    record = outcome.records[0]
    assert record.timing.total and record.timing.stages == {}
    assert "whole program's" in record.notes[0]
    assert record.environment["device"], "it ran here"
    assert record.flops.reason == "a program of its own: its operations are not counted"
    assert all(value.value is not None for value in record.metrics.values())
    assert set(record.identity["method"]["program"]) == {sys.executable, str(EXAMPLE)}
    assert record.identity["backbone"]["weights"] is None
    folder = next(tmp_path.glob("cells/mine/squares/clip0-*"))
    frames, _ = video.read_video(folder / "frames.mkv")
    assert np.array_equal(frames, 255 - one.dataset.load("clip0").frames)
    assert list((folder / "program").glob("*/job.json"))
    again = go(job(tmp_path))
    assert (again.reused, again.computed) == (2, 0)


def test_a_program_s_times_belong_to_a_device(tmp_path, monkeypatch):
    go(job(tmp_path, clips=1))
    monkeypatch.setattr(DEVICE, lambda device: "another GPU")
    assert go(job(tmp_path, clips=1)).computed == 1


def test_repeats_run_the_program_again(tmp_path):
    record = go(job(tmp_path, clips=1, repeats=2)).records[0]
    assert record.timing.repeats == 2
    assert len(record.timing.values) == 2
    assert len(record.notes) == 1, "its frames did not differ"


@pytest.mark.parametrize(
    "body, changes, status, kind, says",
    [
        ("raise SystemExit('no weights')", {}, "failed", "ProgramFailed", "exit status 1; .*no weights"),
        ("import time; time.sleep(600)", {"timeout": 1}, "timeout", "ProgramTimeout", "longer than"),
    ],
)
def test_a_program_that_fails_is_a_failed_record_and_is_tried_again(
    tmp_path, body, changes, status, kind, says
):
    path = tmp_path / "broken.py"
    path.write_text(body)
    results = tmp_path / "results"
    broken = (sys.executable, str(path))
    record = go(job(results, broken, clips=1, **changes)).records[0]
    assert record.status == status
    assert record.error is not None and record.error.kind == kind

    assert re.search(says, record.error.message)
    assert len(list(results.glob("cells/mine/squares/*/program/*/log.txt"))) == 1
    again = go(job(results, broken, clips=1, **changes))
    assert (again.computed, again.records[0].attempts) == (1, 2)


def test_command_options_release_and_files_make_other_cells_and_the_rest_does_not(tmp_path):
    path = tmp_path / "program.py"
    path.write_text("pass")
    command = (sys.executable, str(path))

    def ids(words=command, **options):
        return planned(job(tmp_path / "results", words, clips=1, **options))[1][0].id

    first = ids()
    same = [
        ids(timeout=5), ids(environment={"A": "1"}), ids(folder=str(tmp_path)),
    ]  # fmt: skip
    assert set(same) == {first}
    others = [ids((*command, "--fast")), ids(options={"steps": 5}), ids(release="v2")]
    path.write_text("changed")
    others.append(ids())
    assert len({first, *others}) == 5


def test_a_program_that_does_not_exist_is_bad_input_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match=r"method\.command: no-such-program does not exist"):
        planned(job(tmp_path, ["no-such-program"]))


def test_scoring_goes_without_the_program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(EXAMPLE.read_text())
    one = job(tmp_path / "results", (sys.executable, str(path)), clips=1)
    plan, cells = planned(one)
    run.run(one, plan, cells)
    store.save_plan(one.results, plan)
    path.unlink()
    one.needs = Score.needs
    assert [cell.id for cell in planned(one)[1]] == [cell.id for cell in cells]
