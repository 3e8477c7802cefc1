"""What the harness hands to metrics, programs and methods is what the names say: no two values alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from harness_fakes import FORBID, Elsewhere, FakeConfig, make_job, planned
from pydantic.dataclasses import dataclass

from datasets.interface import Clip, ClipInfo, Dataset, Listing, Prompt
from harness.cells import run
from harness.records import store
from methods.interface import VideoMethod, VideoRequest
from metrics.interface import Column, Metric, Sample, Score

SEEN: list[Sample] = []
ASKED: list[VideoRequest] = []


@dataclass(config=FORBID)
class Apart(Dataset):
    """One clip, wider than high, whose name, caption, prompts and rate are all different."""

    name: str = "apart"

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ()
    real_footage: ClassVar[bool] = False

    def listing(self) -> Listing:
        prompts = (Prompt("a fox in snow", "scene"), Prompt("a hen on grass", "subject"))
        info = ClipInfo("walk", hashlib.sha256(b"walk").hexdigest(), prompts, "a fox on grass", fps=12.0)
        return Listing((info,), ())

    def load(self, name: str) -> Clip:
        frames = np.random.default_rng(0).integers(0, 255, (5, 16, 24, 3), dtype=np.uint8)
        return Clip(self.listing().clips[0], frames, truth={"path": "known"})


@dataclass(config=FORBID)
class Watching(Metric):
    """Keeps the sample it is given."""

    name: str = "watching"

    version: ClassVar[str] = "1"
    column = Column("Watching", "px", higher_is_better=False, digits=1, primary=False, sees_motion=True)

    def score(self, sample: Sample) -> Score:
        SEEN.append(sample)
        return Score(0.5, details={"rows": sample.generated.shape[1]})


@dataclass(config=FORBID)
class Program(VideoMethod):
    """Keeps what it is asked for; its video counts up from 10."""

    name: str = "program"
    frames: int = 5

    version: ClassVar[str] = "1"
    uncounted = "a program"

    def video(self, request: VideoRequest) -> tuple[Any, float | None]:
        ASKED.append(request)
        video = np.zeros((self.frames, 16, 24, 3), np.uint8)
        video += 10 * np.arange(1, self.frames + 1, dtype=np.uint8)[:, None, None, None]
        return video, 3.5


@pytest.fixture(autouse=True)
def forgotten() -> None:
    SEEN.clear()
    ASKED.clear()


def go(results: Path, **changes: Any) -> list[Any]:
    given = {"dataset": Apart(), "metrics": {"watching": Watching()}, "warmup_steps": 0, **changes}
    job = make_job(results, **given)
    return run.run(job, *planned(job)).records


def test_a_metric_is_given_the_prompt_the_caption_and_the_truth_each_in_its_place(tmp_path: Path) -> None:
    records = go(tmp_path, method=Program())
    reference = Apart().load("walk").frames
    assert [sample.prompt for sample in SEEN] == ["a fox in snow", "a hen on grass"]
    for sample, record in zip(SEEN, records, strict=True):
        assert (sample.clip, sample.caption, sample.truth) == ("walk", "a fox on grass", {"path": "known"})
        assert np.array_equal(sample.reference, reference)
        assert sample.generated[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50]
        assert (record.clip, record.prompt) == ("walk", sample.prompt)
    assert [record.prompt_kind for record in records] == ["scene", "subject"]


def test_a_record_keeps_a_metric_s_value_and_how_it_stands_in_tables(tmp_path: Path) -> None:
    value = go(tmp_path, method=Program())[0].metrics["watching"]
    assert (value.value, value.label, value.unit, value.digits) == (0.5, "Watching", "px", 1)
    assert (value.higher_is_better, value.primary, value.sees_motion) == (False, False, True)
    assert (value.beside_motion, value.truth, value.applies, value.reason) == (False, False, True, None)
    assert value.details == {"rows": 16}


def test_a_program_is_asked_for_the_clip_at_its_rate_with_its_caption(tmp_path: Path) -> None:
    records = go(tmp_path, method=Program(), seeds=[7])
    assert [request.prompt for request in ASKED] == ["a fox in snow", "a hen on grass"]
    for request, record in zip(ASKED, records, strict=True):
        assert (request.clip, request.caption, request.seed) == ("walk", "a fox on grass", 7)
        assert (request.fps, request.device) == (12.0, "cpu")
        assert np.array_equal(request.reference, Apart().load("walk").frames)
        assert request.folder.parent.name.endswith(record.id) and request.folder.is_absolute()
        assert record.timing.total == 3.5


def test_of_a_video_longer_than_its_reference_the_first_frames_are_compared(tmp_path: Path) -> None:
    record = go(tmp_path, method=Program(frames=8))[0]
    assert SEEN[0].generated[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50]
    assert record.notes[-1] == "8 frames against the reference's 5: the first 5 compared"


def test_kept_videos_play_at_the_clip_s_rate(tmp_path: Path) -> None:
    from datasets.media.video import read_video

    go(tmp_path, method=Program())
    for name in (store.VIDEO, store.REFERENCE, store.FRAMES):
        for path in tmp_path.glob(f"cells/**/{name}"):
            assert read_video(path)[1] == 12.0


def test_a_finished_video_s_own_seconds_are_its_time(tmp_path: Path) -> None:
    record = go(tmp_path, method=Elsewhere(), repeats=3, backbone=FakeConfig())[0]
    assert (record.timing.total, record.timing.repeats, record.timing.values) == (12.5, 1, [])


def nothing_fits(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_that_cannot_be_written_whole_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets.media import images, video

    (record, *_) = go(tmp_path, method=Program())
    (plan,) = (tmp_path / "plans").glob("*.json")
    folder = next(path.parent for path in tmp_path.glob(f"cells/**/{store.RECORD}"))
    before = {path: path.read_bytes() for path in [*folder.iterdir(), plan] if path.is_file()}
    frames = np.zeros((5, 16, 24, 3), np.uint8)
    writes = {
        store.RECORD: lambda: store.save_record(folder, record.model_copy(update={"seed": 99})),
        store.TRACE: lambda: store.write_json(folder / store.TRACE, [{"step": 1}]),
        store.FRAMES: lambda: video.write_ffv1(folder / store.FRAMES, frames, 8.0),
        store.VIDEO: lambda: video.write_h264(folder / store.VIDEO, frames, 8.0),
        store.SHEET: lambda: images.sheet(frames, frames, folder / store.SHEET),
        "plan": lambda: store.save_plan(tmp_path, store.load_plan(plan).model_copy(update={"created": "x"})),
    }
    # The disk is full when the bytes are to reach it, or when the finished file is to take its place.
    for module, name in (("os", "fsync"), ("pathlib.Path", "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.{name}", nothing_fits)
            for write in writes.values():
                with pytest.raises(OSError, match="No space left"):
                    write()
        assert {path: path.read_bytes() for path in before} == before
        assert sorted(folder.iterdir()) == sorted(path for path in before if path.parent == folder)
