"""A finished video beside its reference: frames of the same times, whatever the two rates are."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from datasets.interface import Clip, ClipInfo
from harness.cells.beside import brought_beside, nearest
from harness.records.record import Record, Source
from methods.interface import VideoRequest
from methods.precomputed import Precomputed


def spread(rng: np.random.Generator) -> np.ndarray:
    """Times of some video: a steady rate, a container's rounding, or a rate that varies."""
    count, fps = int(rng.integers(2, 90)), float(rng.choice([8, 10, 12, 16, 23.976, 24, 25, 30, 60]))
    times = np.arange(count) / fps
    match rng.integers(3):
        case 1:
            times = times.round(3)
        case 2:
            times = np.concatenate([[0], np.cumsum(rng.uniform(0.3, 2, count - 1) / fps)])
    return times


@pytest.mark.parametrize("seed", range(40))
def test_frames_beside_each_other_are_the_nearest_in_time(seed):
    rng = np.random.default_rng(seed)
    reference, generated = spread(rng), spread(rng)
    ours, theirs = nearest(reference, generated)
    assert len(ours) == len(theirs) >= 1 and ours[0] == theirs[0] == 0
    assert (np.diff(ours) >= 0).all() and (np.diff(theirs) >= 0).all()
    gaps = np.diff(reference), np.diff(generated)
    # Each frame of the slower one, up to the end of the shorter, has the nearest there is.
    slow, fast, a, b = (reference, generated, ours, theirs)
    if gaps[1].mean() > 1.01 * gaps[0].mean():
        slow, fast, a, b = (generated, reference, theirs, ours)
    assert a == list(range(len(a)))
    for place, partner in zip(a, b, strict=True):
        assert abs(slow[place] - fast[partner]) == np.abs(fast - slow[place]).min()
    inside = slow <= min(reference[-1], generated[-1])
    assert len(a) >= inside.sum() and (slow[a] <= fast[-1] + np.diff(fast).mean() / 2 + 1e-3).all()


@pytest.mark.parametrize(("count", "own"), [(17, 17), (9, 9), (33, 17)])
def test_equal_rates_are_compared_frame_by_frame_however_times_are_rounded(count, own):
    for rate, other in ((24, 24), (24, 24000 / 1001), (30000 / 1001, 30)):
        reference, generated = np.arange(17) / rate, (np.arange(count) / other).round(3)
        assert nearest(reference, generated) == (list(range(own)), list(range(own)))


def test_a_video_of_half_the_rate_meets_every_other_frame():
    assert nearest(np.arange(17) / 24, np.arange(9) / 12) == (list(range(0, 17, 2)), list(range(9)))
    # 72 frames at 24 a second, 16 at 10: 1.5 of 3 seconds.
    ours, theirs = nearest(np.arange(72) / 24, np.arange(16) / 10)
    assert theirs == list(range(16)) and ours[-1] == 36


def record() -> Record:
    plain = Source(name="x", version="1", config={})
    return Record(
        id="x", status="ok", method=plain, backbone=plain, dataset=plain, clip="a", prompt="p", seed=0
    )


def test_truth_and_masks_are_those_of_the_frames_compared():
    frames = np.arange(17, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    masks = np.arange(17)[:, None, None] == np.arange(16)[None, :, None] * np.ones((1, 1, 16))
    info = ClipInfo("a", "c", ())
    clip = Clip(info, frames, masks, truth="the truth", times=np.arange(17) / 24)
    half, kept = record(), clip.at(range(9))
    made = brought_beside(frames[::2], np.arange(9) / 12, clip, half)
    assert np.array_equal(made, frames[::2]) and half.compared is not None
    beside = clip.at(half.compared.reference)
    assert np.array_equal(beside.frames, made) and np.array_equal(beside.masks, masks[::2])
    assert beside.truth is None and kept.truth == "the truth"


def test_without_known_times_frames_meet_one_by_one_and_it_is_said():
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    clip, found = Clip(ClipInfo("a", "c", ()), frames), record()
    brought_beside(frames[:3], np.arange(3) / 12, clip, found)
    assert found.compared is not None and (found.compared.by, found.compared.frames) == ("frame", 3)
    assert found.notes[0] == "compared frame by frame: nothing says when the clip's were taken"


STEADY = {rate: np.arange(40) / rate for rate in (4, 8, 12, 23.976, 25, 30, 60, 120)}
UNSTEADY = np.cumsum(np.random.default_rng(0).uniform(0.005, 0.4, 40))


@pytest.mark.parametrize("times", [*STEADY.values(), UNSTEADY - UNSTEADY[0]])
@pytest.mark.parametrize("reference", [np.arange(17) / 24, np.arange(9) / 10, np.arange(1) / 24, None])
def test_a_finished_video_read_to_the_references_end_is_compared_like_the_whole(tmp_path, times, reference):
    numbers = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((16, 16, 3), np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(numbers, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "m.csv").write_text("clip,prompt,seed,file\na,p,0,a.mkv\n")
    method = Precomputed(name="precomputed", manifest=str(tmp_path / "m.csv"))
    length = 17 if reference is None else len(reference)
    clip = Clip(ClipInfo("a", "c", ()), np.zeros((length, 16, 16, 3), np.uint8), times=reference)
    request = VideoRequest("a", clip.frames, 24.0, None, "p", 0, "cpu", tmp_path, reference)
    frames, _ = method.video(request)
    cut, whole = record(), record()
    assert np.array_equal(
        brought_beside(frames, method.times(request), clip, cut),
        brought_beside(numbers, method.times(request), clip, whole),
    )
    assert (cut.compared, cut.notes, cut.generated) == (whole.compared, whole.notes, whole.generated)
    end = length if reference is None else (times <= reference[-1] + 1 / 24 + 0.1).sum() + 2
    assert len(frames) <= end
