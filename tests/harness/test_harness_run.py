"""What a cell leaves behind, and what happens when one fails."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from harness_fakes import Drift, Elsewhere, FakeConfig, Likeness, Squares, make_job, planned
from PIL import Image

from datasets.errors import InputError
from datasets.media import video
from harness.cells import run
from harness.execute.here import Here
from harness.records import store
from harness.records.record import COMPILED

RESOLVED = {"method": {"name": "drift"}, "dataset": {}}
PROMPTS = ("fine", "trouble", "also fine")


def go(job):
    return run.run(job, *planned(job))


def test_a_cell_leaves_its_videos_and_a_complete_record(tmp_path):
    job = make_job(tmp_path, dataset=Squares(clips=1), repeats=2)
    plan, cells = planned(job)
    outcome = run.run(job, plan, cells)
    folder = tmp_path / cells[0].path
    assert sorted(path.name for path in folder.iterdir()) == [
        "frames.mkv", "record.json", "reference.mp4", "sheet.png", "trace.json", "tracks.npz", "video.mp4",
    ]  # fmt: skip
    record = store.load_record(folder)
    assert record == outcome.records[0]
    assert (record.id, record.status, record.clip, record.prompt, record.seed) == (
        cells[0].id, "ok", "clip0", "a red square", 0,
    )  # fmt: skip
    assert (record.method.name, record.backbone.name, record.dataset.name) == ("drift", "fake", "squares")
    assert record.identity == cells[0].identity and record.config == job.resolved
    assert record.timing.repeats == 2 and record.timing.warmup_steps == 1
    assert record.timing.load is not None and record.timing.total is not None
    assert record.calls == {"gradient": 3, "forward": 6}
    assert set(record.memory) == {"encode", "text", "guide", "denoise", "decode"}
    assert record.environment["device"] and record.environment["packages"]["torch"]
    assert record.started <= record.finished
    assert record.flops.model_flops is not None or record.flops.reason
    frames, fps = video.read_video(folder / "frames.mkv")
    assert video.frames_sha256(frames) == record.frames_sha256 and fps == 8
    assert len(video.read_video(folder / "video.mp4")[0]) == 5
    assert Image.open(folder / "sheet.png").width > 16
    assert [row["step"] for row in json.loads((folder / "trace.json").read_text())] == [0, 1, 2]


def test_records_come_in_the_order_of_the_plan(tmp_path):
    outcome = go(make_job(tmp_path, seeds=[1, 0]))
    assert [(r.clip, r.seed) for r in outcome.records] == [
        (clip, seed) for clip in ("clip0", "clip1", "clip2") for seed in (1, 0)
    ]
    assert len({record.frames_sha256 for record in outcome.records}) == 6


def test_the_backbone_is_loaded_once_and_warmed_up_once_a_shape(tmp_path):
    job = make_job(tmp_path)
    go(job)
    assert job.backbone.loads == 1
    assert len(job.method.noises) == 1 + 3


def test_without_warm_up_steps_nothing_is_warmed_up(tmp_path):
    job = make_job(tmp_path, warmup_steps=0)
    assert go(job).records[0].timing.warmup_steps == 0
    assert len(job.method.noises) == 3


@pytest.mark.parametrize(
    ("trouble", "status", "kind"),
    [
        ("error", "failed", "ValueError"),
        ("nan", "failed", "FloatingPointError"),
        ("oom", "oom", "OutOfMemoryError"),
    ],
)
def test_a_failing_cell_becomes_a_record_and_the_others_go_on(tmp_path, trouble, status, kind):
    method = Drift(trouble={"trouble": trouble})
    outcome = go(make_job(tmp_path, dataset=Squares(clips=1, prompts=PROMPTS), method=method))
    assert [record.status for record in outcome.records] == ["ok", status, "ok"]
    failed = outcome.failed[0]
    assert not outcome.ok and outcome.failed == [outcome.records[1]]
    assert failed.error is not None and failed.error.kind == kind
    assert "Traceback" in failed.error.traceback and failed.error.message
    assert failed.frames_sha256 is None and failed.metrics == {}
    assert len(list(tmp_path.glob("cells/**/frames.mkv"))) == 2


def test_on_error_stop_ends_the_run_at_the_first_failure(tmp_path):
    method = Drift(trouble={"trouble": "error"})
    job = make_job(
        tmp_path,
        dataset=Squares(clips=1, prompts=PROMPTS),
        method=method,
        engine=Here("here", on_error="stop"),
    )
    outcome = go(job)
    assert [record.status for record in outcome.records] == ["ok", "failed"]


def test_a_memory_error_is_out_of_memory(tmp_path, monkeypatch):
    def greedy(self, *_):
        raise MemoryError

    monkeypatch.setattr(Drift, "transfer", greedy)
    assert {record.status for record in go(make_job(tmp_path)).records} == {"oom"}


def test_one_unreadable_clip_among_many_fails_alone(tmp_path):
    outcome = go(make_job(tmp_path, dataset=Squares(unreadable=("clip1",))))
    assert [record.status for record in outcome.records] == ["ok", "failed", "ok"]
    error = outcome.records[1].error
    assert error is not None and "clip1.mp4 is damaged" in error.message


def test_a_backbone_that_cannot_be_loaded_fails_every_cell_but_is_tried_once(tmp_path):
    job = make_job(tmp_path, backbone=FakeConfig(trouble="weights are damaged"))
    outcome = go(job)
    assert [record.status for record in outcome.records] == ["failed"] * 3
    assert job.backbone.loads == 1


def test_jobs_of_one_backbone_share_it_and_another_one_takes_its_place(tmp_path):
    """A sweep: two methods and two seeds on one backbone, then one of other weights."""
    released, loaded = [], run.Loaded()

    def load(self, device):
        self.loads += 1
        assert loaded.backbone is None, "the one before is released first"
        backbone = FakeBackbone()
        weakref.finalize(backbone, released.append, self.width)
        return backbone

    jobs = [
        make_job(
            tmp_path, name=f"plan{number}", resolved={**RESOLVED, "backbone": {"dtype": dtype}}, **changes
        )
        for number, (dtype, changes) in enumerate(
            [
                ("float32", {}),
                ("float32", {"method": Drift(steps=2)}),
                ("float32", {"seeds": [1]}),
                ("float16", {"seeds": [2]}),
            ]
        )
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeConfig, "load", load)
        outcomes = [run.run(job, *planned(job), loaded) for job in jobs]
    assert all(outcome.ok for outcome in outcomes)
    assert [job.backbone.loads for job in jobs] == [1, 0, 0, 1]
    assert released == [16]
    seconds = {record.timing.load for outcome in outcomes[:3] for record in outcome.records}
    assert len(seconds) == 1 and None not in seconds
    alone = go(make_job(tmp_path / "alone", seeds=[1]))
    shared = outcomes[2].records
    assert [r.frames_sha256 for r in alone.records] == [r.frames_sha256 for r in shared]


@pytest.mark.parametrize("compiled", [True, False])
def test_a_record_says_whether_blocks_were_compiled(tmp_path, monkeypatch, compiled):
    monkeypatch.setattr(FakeBackbone, "compiled", compiled, raising=False)
    (record,) = go(make_job(tmp_path, dataset=Squares(clips=1))).records
    assert (COMPILED in record.notes) is compiled


def test_bad_input_found_while_loading_passes_through(tmp_path, monkeypatch):
    def load(self, device):
        raise InputError("backbone.weights: not there; download them")

    monkeypatch.setattr(FakeConfig, "load", load)
    with pytest.raises(InputError, match="not there"):
        go(make_job(tmp_path))
    assert not list(tmp_path.glob("cells/**/record.json"))


def test_finished_videos_are_fitted_to_the_reference_and_the_record_says_so(tmp_path):
    job = make_job(tmp_path, method=Elsewhere(), dataset=Squares(clips=1))
    record = go(job).records[0]
    assert record.status == "ok" and job.backbone.loads == 0
    assert record.timing.total == 12.5 and record.timing.stages == {}
    assert record.notes == [
        "resized and cropped from 40x32 to 16x16",
        "4 frames against the reference's 5: the first 4 compared",
    ]
    frames, _ = video.read_video(next(tmp_path.glob("cells/**/frames.mkv")))
    assert frames.shape == (4, 16, 16, 3) and np.all(frames == 7)
    assert all(value.value is not None for value in record.metrics.values())
    assert record.calls == {} and record.flops.reason and record.environment["device"] is None


def test_finished_videos_are_reused_on_every_device(tmp_path):
    go(make_job(tmp_path, method=Elsewhere()))
    assert go(make_job(tmp_path, method=Elsewhere())).reused == 3


def test_frames_are_not_kept_when_not_wanted(tmp_path):
    record = go(make_job(tmp_path, keep_frames=False)).records[0]
    assert record.status == "ok" and record.metrics["likeness"].value is not None
    assert not list(tmp_path.glob("cells/**/frames.mkv"))


def test_a_broken_metric_does_not_lose_the_video(tmp_path):
    metrics = {"likeness": Likeness(trouble="error")}
    record = go(make_job(tmp_path, metrics=metrics)).records[0]
    assert record.status == "ok" and record.frames_sha256
    assert record.metrics["likeness"].reason == "ZeroDivisionError: no pixels"


def test_amortised_cells_share_their_clip_s_reference_and_stand_beside_the_others(tmp_path, monkeypatch):
    encoded = []
    encode = FakeBackbone.encode
    monkeypatch.setattr(
        FakeBackbone, "encode", lambda self, frames: encoded.append(1) or encode(self, frames)
    )
    plain = go(make_job(tmp_path, seeds=[0, 1], warmup_steps=0)).records
    assert len(encoded) == 6
    amortised = go(make_job(tmp_path, seeds=[0, 1], warmup_steps=0, amortise=True, name="apart")).records
    assert len(encoded) == 6 + 3
    assert not {record.id for record in plain} & {record.id for record in amortised}
    assert [r.frames_sha256 for r in plain] == [r.frames_sha256 for r in amortised]
    assert all(set(record.timing.amortised) == {"encode"} for record in amortised)
    assert not any(record.timing.amortised for record in plain)
