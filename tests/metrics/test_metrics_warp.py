"""Warp consistency on translations, noise and flicker."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from metrics.consistency import WarpConsistency
from metrics.interface import Sample

METRIC = WarpConsistency("warp_consistency")


def score(frames: np.ndarray):
    return METRIC.score(Sample("a", frames, frames, "x", None))


def texture(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).uniform(20, 235, (height // 4, width // 4, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(
        np.uint8
    )


@pytest.mark.parametrize("side", [64, 256])
def test_an_exact_translation_scores_one(side):
    big = texture(side + 20, side + 20)
    frames = np.stack([big[2 * t : 2 * t + side, t : t + side] for t in range(5)])
    found = score(frames)
    assert found.value > 0.985
    assert found.details["used"] > 0.7
    assert len(found.per_frame) == 4
    shown = np.abs(frames[1:].astype(float) - frames[:-1]).mean() / 255
    assert 1 - found.value < shown / 5


def test_a_still_video_scores_one():
    found = score(np.repeat(texture(64, 96)[None], 3, 0))
    assert found.value == pytest.approx(1, abs=1e-6)
    assert found.details["used"] == pytest.approx(1)


def test_noise_scores_low():
    found = score(np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), np.uint8))
    assert found.value is None or found.value < 0.9
    assert found.details["used"] < 0.7


def test_flicker_costs_its_amplitude():
    """Frames that differ by 20 grey levels everywhere: no flow explains that."""
    dark = texture(64, 64) // 2
    frames = np.stack([dark, dark + 20, dark, dark + 20])
    assert score(frames).value == pytest.approx(1 - 20 / 255, abs=0.02)


def test_one_frame_has_no_value():
    assert score(texture(64, 64)[None]).value is None
