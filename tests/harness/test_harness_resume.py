"""Killed runs, second runs, other devices: what is kept, what is computed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness_fakes import Corners, Drift, FakeConfig, Likeness, Squares, make_job, planned

from datasets.media import video
from harness.cells import environment, run
from harness.records import store


def go(job):
    return run.run(job, *planned(job))


def folders(results: Path) -> list[Path]:
    return sorted(path.parent for path in results.glob("cells/**/record.json"))


def test_runs_killed_anywhere_end_as_an_undisturbed_one(tmp_path):
    script = Path(__file__).with_name("kill_script.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "8", "5"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    undisturbed = found["undisturbed"]
    assert len(undisturbed["cells"]) == 4
    attempts = []
    for killed in found["killed"]:
        for cell in killed["cells"].values():
            attempts.append(cell.pop("attempts"))
        expected = {
            path: {key: value for key, value in cell.items() if key != "attempts"}
            for path, cell in undisturbed["cells"].items()
        }
        assert killed["cells"] == expected, f"killed at event {killed['kill_at']} of {found['events']}"
        assert killed["levels"] == undisturbed["levels"]
    assert max(attempts) > 1


def test_a_second_run_computes_and_loads_nothing(tmp_path):
    first = go(make_job(tmp_path))
    job = make_job(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/**/*") if path.is_file()}
    second = go(job)
    assert (first.computed, first.reused) == (3, 0)
    assert (second.computed, second.reused, second.rescored) == (0, 3, 0)
    assert job.backbone.loads == 0 and job.tracker.calls == 0
    assert second.records == first.records
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/**/*") if path.is_file()}


def test_resume_false_runs_every_cell_anew(tmp_path):
    first = go(make_job(tmp_path))
    second = go(make_job(tmp_path, resume=False))
    assert second.computed == 3
    assert [r.frames_sha256 for r in first.records] == [r.frames_sha256 for r in second.records]
    assert [r.attempts for r in second.records] == [1, 1, 1]


def test_results_do_not_depend_on_which_cells_ran_before(tmp_path):
    together = go(make_job(tmp_path / "a"))
    job = make_job(tmp_path / "b")
    plan, cells = planned(job)
    alone = run.run(job, plan, cells[2:])
    assert alone.records[0].frames_sha256 == together.records[2].frames_sha256


def test_a_failed_cell_is_tried_again_and_counts_its_attempts(tmp_path):
    trouble = {"a red square": "error"}
    go(make_job(tmp_path, method=Drift(trouble=trouble)))
    second = go(make_job(tmp_path, method=Drift(trouble=trouble)))
    third = go(make_job(tmp_path))
    assert [r.attempts for r in second.records] == [2, 2, 2]
    assert third.ok and [r.attempts for r in third.records] == [3, 3, 3]


def test_leftovers_of_a_killed_attempt_are_cleared(tmp_path):
    outcome = go(make_job(tmp_path))
    folder = folders(tmp_path)[0]
    clean = sorted(path.name for path in folder.iterdir())
    (folder / "record.json").unlink()
    (folder / "video.mp4").write_bytes(b"half")
    (folder / ".frames.mkv.abc").write_bytes(b"half")
    (folder / "attempts").write_text("4")
    again = go(make_job(tmp_path))
    assert again.computed == 1 and again.records[0].attempts == 5
    assert again.records[0].frames_sha256 == outcome.records[0].frames_sha256
    assert sorted(path.name for path in folder.iterdir()) == clean


def test_leftovers_beside_a_finished_cell_are_cleared_too(tmp_path):
    go(make_job(tmp_path, limit=1))
    folder = folders(tmp_path)[0]
    clean = sorted(path.name for path in folder.iterdir())
    (folder / "attempts").write_text("1")
    (folder / ".record.json.abc").write_bytes(b"half")
    assert go(make_job(tmp_path, limit=1)).reused == 1
    assert sorted(path.name for path in folder.iterdir()) == clean


def test_a_broken_record_counts_as_none(tmp_path):
    go(make_job(tmp_path))
    (folders(tmp_path)[1] / "record.json").write_text('{"schema": 1, "id"')
    assert go(make_job(tmp_path)).computed == 1


def test_another_device_runs_the_cell_anew_and_both_are_kept(tmp_path, monkeypatch):
    def on(model):
        monkeypatch.setattr(environment, "device_model", lambda device: model)
        return go(make_job(tmp_path, dataset=Squares(clips=1)))

    assert on("Old CPU (R)").computed == 1
    assert on("New CPU").computed == 1
    names = sorted(path.name for path in folders(tmp_path))
    assert len(names) == 2 and names[1] == f"{names[0]}@old-cpu-r"
    back = on("Old CPU (R)")
    assert (back.computed, back.reused) == (0, 1)
    assert back.records[0].environment["device"] == "Old CPU (R)"
    assert on("New CPU").reused == 1
    aside = next(path for path in folders(tmp_path) if "@" in path.name)
    frames, _ = video.read_video(aside / "frames.mkv")
    assert video.frames_sha256(frames) == store.load_record(aside).frames_sha256


def test_a_failure_on_another_device_does_not_hide_the_finished_cell(tmp_path, monkeypatch):
    def on(model, **changes):
        monkeypatch.setattr(environment, "device_model", lambda device: model)
        return go(make_job(tmp_path, dataset=Squares(clips=1), **changes))

    on("A")
    assert not on("B", method=Drift(trouble={"a red square": "oom"})).ok
    back = on("A")
    assert back.ok and back.reused == 1


def test_a_changed_metric_is_scored_again_from_the_frames(tmp_path, monkeypatch):
    first = go(make_job(tmp_path))
    monkeypatch.setattr(Likeness, "version", "2")
    job = make_job(tmp_path)
    second = go(job)
    assert (second.computed, second.reused, second.rescored) == (0, 0, 3)
    assert job.backbone.loads == 0 and job.tracker.calls == 0
    for old, new in zip(first.records, second.records, strict=True):
        assert new.metrics["likeness"].version == "2"
        assert new.metrics["likeness"].value == old.metrics["likeness"].value
        assert new.timing == old.timing
    assert go(make_job(tmp_path)).reused == 3


def test_a_metric_added_later_is_scored_from_the_frames(tmp_path):
    go(make_job(tmp_path, metrics={"likeness": Likeness()}))
    later = go(make_job(tmp_path))
    assert later.rescored == 3
    assert all(record.metrics["following"].value is not None for record in later.records)


def test_another_tracker_option_makes_tracks_and_their_metrics_stale(tmp_path):
    go(make_job(tmp_path))
    job = make_job(tmp_path, tracker=Corners(step=2))
    outcome = go(job)
    assert outcome.rescored == 3 and job.tracker.calls == 6
    assert outcome.records[0].metrics["following"].version == "1; corners 1 step=2"
    assert outcome.records[0].metrics["likeness"].version == "1"


def test_without_kept_frames_a_changed_metric_makes_the_cell_anew(tmp_path, monkeypatch):
    first = go(make_job(tmp_path, keep_frames=False))
    assert not list(tmp_path.glob("cells/**/frames.mkv"))
    assert go(make_job(tmp_path, keep_frames=False)).reused == 3
    monkeypatch.setattr(Likeness, "version", "2")
    second = go(make_job(tmp_path, keep_frames=False))
    assert second.computed == 3
    assert [r.frames_sha256 for r in first.records] == [r.frames_sha256 for r in second.records]


def test_frames_of_another_video_are_not_scored(tmp_path, monkeypatch):
    go(make_job(tmp_path, dataset=Squares(clips=2)))
    one, two = folders(tmp_path)
    (one / "frames.mkv").write_bytes((two / "frames.mkv").read_bytes())
    monkeypatch.setattr(Likeness, "version", "2")
    outcome = go(make_job(tmp_path, dataset=Squares(clips=2)))
    assert (outcome.computed, outcome.rescored) == (1, 1)


def test_an_interrupt_leaves_no_record_and_the_finished_cells(tmp_path):
    dataset = Squares(clips=1, prompts=("fine", "stop here", "later"))
    with pytest.raises(KeyboardInterrupt):
        go(make_job(tmp_path, dataset=dataset, method=Drift(trouble={"stop here": "interrupt"})))
    assert len(folders(tmp_path)) == 1
    outcome = go(make_job(tmp_path, dataset=dataset))
    assert (outcome.computed, outcome.reused) == (2, 1)
    assert [record.attempts for record in outcome.records] == [1, 2, 1]


def test_levels_are_written_into_the_plan_and_computed_once(tmp_path, monkeypatch):
    go(make_job(tmp_path))
    plan = store.load_plan(tmp_path / "plans" / "trial.json")
    assert plan.variants[0].levels["likeness"]["pairs"] == 3
    assert "following" not in plan.variants[0].levels

    def never(self, samples):
        raise AssertionError("computed twice")

    monkeypatch.setattr(Likeness, "levels", never)
    job = make_job(tmp_path)
    go(job)
    assert store.load_plan(tmp_path / "plans" / "trial.json").variants == plan.variants
    assert job.backbone == FakeConfig()
