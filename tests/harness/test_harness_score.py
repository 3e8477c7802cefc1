"""Values, reasons, versions, kept tracks and levels."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from brief import WITHOUT_SLOW
from harness_fakes import (
    Corners,
    Elsewhere,
    FakeConfig,
    Following,
    Likeness,
    Squares,
    make_job,
    planned,
)

from harness import __main__ as cli
from harness.cells import run, score, tracks
from harness.records import store


def go(job):
    return run.run(job, *planned(job))


def scored(job, generated=None):
    _, cells = planned(job)
    clip = job.dataset.load("clip0")
    return score.score_cell(job, cells[0], clip, clip.frames if generated is None else generated)


def test_a_reference_scored_against_itself_is_perfect(tmp_path):
    values = scored(make_job(tmp_path))
    assert list(values) == ["likeness", "following"]
    assert values["likeness"].value == 1 and values["following"].value == 0
    assert values["likeness"].per_frame == [1.0] * 5
    assert (values["following"].unit, values["following"].higher_is_better) == ("px", False)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("unavailable", "likeness needs weights; fetch them"),
        ("error", "ZeroDivisionError: no pixels"),
        ("nan", "the metric gave nan"),
    ],
)
def test_a_value_that_cannot_be_had_is_null_with_the_reason(tmp_path, trouble, reason):
    values = scored(
        make_job(tmp_path, metrics={"likeness": Likeness(trouble=trouble), "following": Following()})
    )
    assert values["likeness"].value is None and values["likeness"].reason == reason
    assert values["following"].value == 0
    assert ("traceback" in values["likeness"].details) == (trouble == "error")


def test_quality_of_random_weights_is_null(tmp_path):
    values = scored(make_job(tmp_path, backbone=FakeConfig(weights="random")))
    assert {value.reason for value in values.values()} == {"weights=random: the backbone is untrained"}


def test_finished_videos_are_scored_whatever_the_backbone(tmp_path):
    values = scored(make_job(tmp_path, backbone=FakeConfig(weights="random"), method=Elsewhere()))
    assert values["likeness"].value == 1


def test_a_shorter_video_is_compared_with_the_start_of_the_reference(tmp_path):
    clip = Squares().load("clip0")
    assert scored(make_job(tmp_path), clip.frames[:3])["likeness"].value == 1


def test_a_version_names_options_and_the_tracker_where_tracks_are_used():
    assert score.metric_version(Likeness(), Corners()) == "1"
    assert score.metric_version(Following(), Corners(step=3)) == "1; corners 1 step=3"
    assert score.metric_version(Likeness(trouble="error"), Corners()) == "1", "outside_id does not enter"


def test_tracks_are_made_once_and_kept(tmp_path):
    job = make_job(tmp_path, metrics={"following": Following(), "again": Following(name="again")})
    first = scored(job)
    assert job.tracker.calls == 2
    again = make_job(tmp_path, metrics={"following": Following()})
    assert scored(again)["following"] == first["following"]
    assert again.tracker.calls == 0
    other = make_job(tmp_path, metrics={"following": Following()})
    scored(other, np.zeros_like(other.dataset.load("clip0").frames))
    assert other.tracker.calls == 1, "kept tracks belong to one video; the reference's are still its own"


def test_a_reference_is_tracked_once_for_all_cells_of_its_clip(tmp_path):
    """Three clips with two prompts each: three references and six videos."""
    job = make_job(
        tmp_path, dataset=Squares(prompts=("a red square", "a cat")), metrics={"following": Following()}
    )
    assert go(job).ok
    assert job.tracker.calls == 3 + 6
    assert len(list(tmp_path.glob("tracks/*.npz"))) == 3
    for path in tmp_path.glob("cells/**/tracks.npz"):
        with np.load(path) as kept:
            assert tracks.of_reference(tmp_path, str(kept["reference"])).exists(), "the page draws both"
            video = store.load_record(path.parent).generated
            assert video is not None and tuple(kept["size"]) == (video.height, video.width)
    tracks._held.clear()
    again = make_job(
        tmp_path,
        dataset=Squares(prompts=("a red square", "a cat")),
        metrics={"other": Following(name="other")},
    )
    assert go(again).rescored == 6
    assert again.tracker.calls == 0, "another process finds them on disk"


def test_another_mask_or_tracker_has_other_tracks():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    masks = np.zeros((2, 8, 8), bool)
    other = masks.copy()
    other[1, 3, 3] = True
    made_of = [("a 1", frames, None), ("b 1", frames, None), ("a 1", frames + 1, None)]
    made_of += [("a 1", frames, masks), ("a 1", frames, other)]
    assert len({tracks.key(*what) for what in made_of}) == 5


def test_tracks_survive_the_file_exactly(tmp_path):
    made = Corners().track(np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3)).astype(np.uint8))
    path = tmp_path / "tracks.npz"
    tracks.write(path, made, "key")
    kept = tracks.read(path, "key")
    assert kept is not None and kept.points.dtype == np.float32 and kept.visible.dtype == bool
    for ours, theirs in zip(kept, made, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert tracks.read(path, "another key") is None
    whole = path.read_bytes()
    for broken in (b"half", b"", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        assert tracks.read(path, "key") is None


def test_no_tracks_are_made_for_metrics_without_tracks(tmp_path):
    job = make_job(tmp_path, metrics={"likeness": Likeness()})
    scored(job)
    assert job.tracker.calls == 0 and not list(tmp_path.glob("cells/**/tracks.npz"))


def test_a_required_metric_without_a_value_fails_the_cell_until_it_has_one(tmp_path):
    broken = {"likeness": Likeness(trouble="unavailable")}
    job = make_job(tmp_path, metrics=broken, required=["likeness"])
    failed = go(job)
    assert [record.status for record in failed.records] == ["failed"] * 3
    error = failed.records[0].error
    assert error is not None and "likeness needs weights; fetch them" in error.message
    mended = make_job(tmp_path, metrics={"likeness": Likeness()}, required=["likeness"])
    outcome = go(mended)
    assert outcome.ok and (outcome.computed, outcome.rescored) == (0, 3)
    assert mended.backbone.loads == 0
    assert store.load_record(next(tmp_path.glob("cells/**/record.json")).parent).error is None


def test_a_metric_required_later_fails_a_cell_without_its_value(tmp_path):
    broken = {"likeness": Likeness(trouble="unavailable")}
    assert go(make_job(tmp_path, metrics=broken)).ok
    assert not go(make_job(tmp_path, metrics=broken, required=["likeness"])).ok
    assert go(make_job(tmp_path, metrics=broken)).ok


def test_null_values_are_not_tried_again_by_a_second_run_but_by_scoring(tmp_path):
    go(make_job(tmp_path, metrics={"likeness": Likeness(trouble="unavailable")}))
    assert go(make_job(tmp_path, metrics={"likeness": Likeness()})).reused == 3
    job = make_job(tmp_path, metrics={"likeness": Likeness()})
    outcome = score.rescore(job, *planned(job))
    assert (outcome.rescored, outcome.reused, outcome.computed) == (3, 0, 0)
    assert all(record.metrics["likeness"].value is not None for record in outcome.records)


def test_scoring_passes_over_a_broken_record(tmp_path):
    go(make_job(tmp_path, limit=2))
    next(tmp_path.glob("cells/**/record.json")).write_text("{")
    job = make_job(tmp_path, limit=2)
    assert len(score.rescore(job, *planned(job), everything=True).records) == 1


def test_scoring_applies_the_required_metrics_as_they_stand_now(tmp_path):
    broken = {"likeness": Likeness(trouble="unavailable")}
    go(make_job(tmp_path, limit=1, metrics=broken))
    job = make_job(tmp_path, limit=1, metrics=broken, required=["likeness"])
    assert not score.rescore(job, *planned(job)).ok
    job = make_job(tmp_path, limit=1, metrics=broken)
    assert score.rescore(job, *planned(job)).ok


def test_scoring_again_changes_only_what_is_stale(tmp_path, monkeypatch):
    go(make_job(tmp_path))
    job = make_job(tmp_path)
    assert score.rescore(job, *planned(job)).rescored == 0
    monkeypatch.setattr(Likeness, "score", lambda self, sample: score.Score(0.5))
    job = make_job(tmp_path)
    assert score.rescore(job, *planned(job), everything=True).records[0].metrics["likeness"].value == 0.5
    monkeypatch.setattr(Following, "score", lambda self, sample: score.Score(9.0))
    monkeypatch.setattr(Likeness, "version", "2")
    record = score.rescore(job, *planned(job)).records[0]
    assert record.metrics["likeness"].version == "2"
    assert record.metrics["following"].value != 9


def test_scoring_names_cells_that_have_not_run_or_kept_no_frames(tmp_path):
    go(make_job(tmp_path, limit=1, keep_frames=False))
    job = make_job(tmp_path, limit=2)
    lines = []
    outcome = score.rescore(job, *planned(job), everything=True, note=lines.append)
    assert len(outcome.records) == 1 and outcome.rescored == 0
    assert "frames.mkv is missing" in lines[0] and "has not run" in lines[1]


def test_levels_come_from_all_finished_cells(tmp_path):
    job = make_job(tmp_path)
    go(job)
    found = score.levels(job, planned(job)[1])
    brightness = np.mean([job.dataset.load(f"clip{i}").frames.mean() for i in range(3)]) / 255
    assert found == {"likeness": {"true": 1.0, "chance": pytest.approx(brightness), "pairs": 3}}


def test_levels_follow_changed_captions(tmp_path, monkeypatch):
    job = make_job(tmp_path, metrics={"likeness": Likeness()})
    go(job)
    _, cells = planned(job)
    before = score.levels(job, cells)
    monkeypatch.setattr(Likeness, "levels", lambda self, samples: {"true": 0.5})
    assert score.levels(job, cells) == before, "kept"
    renamed = [replace(cell, clip=replace(cell.clip, caption="a green square")) for cell in cells]
    assert score.levels(job, renamed) == {"likeness": {"true": 0.5}}


def test_levels_without_kept_frames_are_missed_in_one_line(tmp_path):
    job = make_job(tmp_path, keep_frames=False)
    go(job)
    lines = []
    assert score.levels(job, planned(job)[1], lines.append) == {}
    assert len(lines) == 1 and "3 of 3 finished cells" in lines[0] and "keep_frames=true" in lines[0]


def test_scoring_does_not_try_again_what_does_not_apply(tmp_path, monkeypatch):
    away = score.Score(None, "no truth here", applies=False)
    monkeypatch.setattr(Likeness, "score", lambda self, sample: away)
    go(make_job(tmp_path))
    job = make_job(tmp_path)
    outcome = score.rescore(job, *planned(job))
    assert outcome.rescored == 0
    assert not outcome.records[0].metrics["likeness"].applies


def test_levels_that_cannot_be_computed_cost_a_line_only(tmp_path):
    job = make_job(tmp_path, metrics={"likeness": Likeness(trouble="levels")})
    assert go(job).ok
    lines = []
    assert score.levels(job, planned(job)[1], lines.append) == {}
    assert lines == ["levels of likeness: ZeroDivisionError: no pairs"]


def test_levels_follow_a_changed_metric_into_the_plan(tmp_path, monkeypatch):
    go(make_job(tmp_path))
    monkeypatch.setattr(Likeness, "version", "2")
    monkeypatch.setattr(Likeness, "levels", lambda self, samples: {"chance": 0.25})
    job = make_job(tmp_path)
    score.rescore(job, *planned(job))
    assert store.load_plan(tmp_path / "plans" / "trial.json").variants[0].levels == {
        "likeness": {"chance": 0.25}
    }


def test_the_action_generates_nothing_whatever_engine_is_chosen(tmp_path, monkeypatch, capsys):
    """Cells that have not run stay so; those that have are scored from their frames, by this process."""
    words = ["method=none", "backbone.steps=1", "dataset.clips=2", f"results={tmp_path}", "wandb=disabled"]

    def command(*more):
        monkeypatch.setattr(sys, "argv", ["harness", *words, *WITHOUT_SLOW, *more])
        code = cli.main()
        return (
            code,
            {path: path.read_bytes() for path in tmp_path.glob("cells/**/frames.mkv")},
            capsys.readouterr().err,
        )

    assert command("limit=1", "execute=here", "~metrics.metrics.clip_f")[0] == 0
    (path,) = tmp_path.glob("cells/**/record.json")
    before, frames = store.load_record(path.parent), command("action=plan")[1]
    for engine in ("here", "local"):
        code, found, said = command("action=score", f"execute={engine}")
        assert code == 0 and found == frames and "has not run, so there is nothing to score" in said
    after = store.load_record(path.parent)
    assert set(after.metrics) - set(before.metrics) == {"clip_f"}
    assert after.run == before.run and after.timing == before.timing
