"""Motion smoothness: known clips, and a second implementation with exact sampling."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from networks import random_raft
from scipy.ndimage import map_coordinates

from metrics.interface import Sample
from metrics.smoothness import MotionSmoothnessDis, MotionSmoothnessRaft

DIS = MotionSmoothnessDis("motion_smoothness_dis")


def sample(generated: np.ndarray, reference: np.ndarray | None = None) -> Sample:
    return Sample("a", generated, generated if reference is None else reference, "", None)


def pan(frames: int, step: int = 4, jitter: int = 0, height: int = 240, width: int = 320) -> np.ndarray:
    """A window over blurred noise that goes right; every second frame ``jitter`` lower."""
    noise = np.random.default_rng(0).integers(0, 256, (height + 40, width + step * frames, 3), np.uint8)
    ground = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    shifts = [(20 - jitter * (t % 2), step * t) for t in range(frames)]
    return np.stack([ground[y : y + height, x : x + width] for y, x in shifts])


def test_a_still_has_1_and_a_pan_nearly():
    clip = pan(9)
    assert DIS.score(sample(np.repeat(clip[:1], 5, 0))).value == 1
    assert DIS.score(sample(clip)).value > 0.995


def test_jitter_costs_where_interpolation_cannot_follow():
    clip = pan(9, jitter=4)
    score = DIS.score(sample(clip, pan(9)))
    assert score.value < 0.96
    assert score.details["reference"] > 0.995
    assert score.details["difference"] == pytest.approx(score.value - score.details["reference"])
    assert len(score.per_frame) == 4 and np.mean(score.per_frame) == pytest.approx(score.value)


def test_two_frames_have_none_between():
    score = DIS.score(sample(pan(2)))
    assert score.value is None and "between" in score.reason


def test_a_trailing_odd_frame_is_left_out():
    clip = pan(6)
    changed = np.concatenate([clip[:5], 255 - clip[5:]])
    assert DIS.score(sample(changed)).value == DIS.score(sample(clip[:5])).value


def by_hand(frames: np.ndarray, between) -> float:
    """Loops, with scipy's exact bilinear sampling; ``between`` gives (T - 1) pairs of flows."""
    errors = []
    even = frames[::2].astype(np.float64)
    for k, (there, back) in enumerate(between):
        if 2 * k + 1 >= len(frames) or k + 1 >= len(even):
            break
        height, width = there.shape[:2]
        y, x = np.mgrid[:height, :width].astype(np.float64)

        def at(image, flow, share, x=x, y=y):
            places = (y + share * flow[..., 1], x + share * flow[..., 0])
            channels = [
                map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(image.shape[2])
            ]
            return np.stack(channels, -1)

        def fails(one, other, x=x, y=y, at=at, height=height, width=width):
            met = at(other.astype(np.float64), one, 1.0)
            apart = ((one + met) ** 2).sum(-1)
            far = (one.astype(np.float64) ** 2).sum(-1) + (met**2).sum(-1)
            u, v = x + one[..., 0], y + one[..., 1]
            return (apart > 0.01 * far + 0.5) | (u < 0) | (u > width - 1) | (v < 0) | (v > height - 1)

        moved = (at(even[k], back, 0.5) + at(even[k + 1], there, 0.5)) / 2
        plain = (even[k] + even[k + 1]) / 2
        hidden = fails(there, back) | fails(back, there)
        made = np.floor(np.where(hidden[..., None], plain, moved))
        errors.append(np.abs(made - frames[2 * k + 1]).mean())
    return 1 - np.mean(errors) / 255


def test_dis_equals_its_second_implementation():
    clip = pan(7, step=3, jitter=1)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip[::2]]
    # 240 rows are enlarged to 256.
    size = (round(320 * 256 / 240), 256)
    grey = [cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) for one in grey]
    flows = [
        tuple(
            cv2.resize(dis.calc(*images, None), (320, 240), interpolation=cv2.INTER_AREA) * 240 / 256
            for images in ((one, two), (two, one))
        )
        for one, two in pairwise(grey)
    ]
    # OpenCV samples at 1/32 of a pixel, which truncation to whole levels makes up to a level.
    assert DIS.score(sample(clip)).value == pytest.approx(by_hand(clip, flows), abs=1e-3)


def test_raft_equals_its_second_implementation(tmp_path, monkeypatch):
    from torchvision.models.optical_flow import raft_large

    monkeypatch.setattr("metrics.raft.STEPS", 2)
    path = random_raft(tmp_path / "raft.pth")
    model = raft_large(weights=None).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    clip = pan(4, height=128, width=136)
    images = [
        torch.from_numpy(np.ascontiguousarray(one)).permute(2, 0, 1)[None] / 127.5 - 1 for one in clip[::2]
    ]
    with torch.no_grad():
        there, back = (
            model(*pair, num_flow_updates=2)[-1][0].permute(1, 2, 0).numpy()
            for pair in (images, images[::-1])
        )
    score = MotionSmoothnessRaft("motion_smoothness_raft", path).score(sample(clip))
    assert score.value == pytest.approx(by_hand(clip, [(there, back)]), abs=2e-3)
    still = np.repeat(clip[:1], 3, 0)
    assert MotionSmoothnessRaft("r", path).score(sample(still)).value <= 1
