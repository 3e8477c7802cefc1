"""The published motion fidelity, on tracks whose motion is known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from first_frame import from_first

from metrics.chance import MAX_PAIRS
from metrics.interface import MetricUnavailable, Sample, Tracks
from metrics.motion_legacy import MotionFidelityLegacy, motion_fidelity_legacy
from metrics.trackers.starts import start_grid

GOLDEN = Path(__file__).parents[1] / "data" / "legacy_motion_fidelity.npz"


class NoTracker:
    name = "rendered"
    version = "0"

    def track(self, frames, masks=None):
        raise AssertionError("tracks are given")


def moved(step, frames: int = 9, side: int = 5) -> Tracks:
    """A grid whose points all take the same steps: ``step`` (2,) or (frames - 1, 2)."""
    start = start_grid(64, 64, side)
    way = np.concatenate([np.zeros((1, 2)), np.cumsum(np.broadcast_to(step, (frames - 1, 2)), 0)])
    points = (start[None] + way[:, None]).astype(np.float32)
    return from_first(points, np.ones(points.shape[:2], bool))


def sample(clip: str, generated: Tracks, reference: Tracks, size: int = 64) -> Sample:
    def frames(tracks: Tracks, side: int) -> np.ndarray:
        return np.zeros((len(tracks.points), side, side, 3), np.uint8)

    made = Sample(clip, frames(generated, size), frames(reference, 64), "", NoTracker())
    made.tracks.update(generated=generated, reference=reference)
    return made


@pytest.mark.parametrize("case", [0, 1, 2])
def test_legacy_equals_the_released_code(case):
    """Scores that DiTFlow's released function gave to these tracks (stored N, T, 2)."""
    with np.load(GOLDEN) as golden:
        generated, reference = (golden[f"{name}{case}"].transpose(1, 0, 2) for name in ("gen", "ref"))
        score, itself = float(golden[f"score{case}"]), float(golden[f"self{case}"])
    assert float(motion_fidelity_legacy(generated, reference)) == pytest.approx(score, abs=1e-5)
    assert float(motion_fidelity_legacy(reference, reference)) == pytest.approx(itself, abs=1e-5)


@pytest.mark.parametrize("side", [3, 10])
def test_legacy_subtracts_the_identity_once(side):
    """All tracks alike: S is 1 everywhere, so another index always gives 1; a single track gives 0."""
    same = moved((2, 1), side=side).points
    assert float(motion_fidelity_legacy(same, same)) == pytest.approx(1)
    assert float(motion_fidelity_legacy(same[:, :1], same[:, :1])) == pytest.approx(0)


def test_legacy_of_a_clip_with_itself_by_loops():
    rng = np.random.default_rng(1)
    points = np.cumsum(rng.normal(size=(7, 6, 2)), 0).astype(np.float32)
    steps = np.diff(points.astype(float), axis=0)
    total = 0.0
    for i in range(6):
        row = []
        for j in range(6):
            unit = [
                steps[t, i] @ steps[t, j] / np.linalg.norm(steps[t, i]) / np.linalg.norm(steps[t, j])
                for t in range(6)
            ]
            row.append(sum(unit) / 6 - (i == j))
        total += max(row)
    assert float(motion_fidelity_legacy(points, points)) == pytest.approx(total / 6)


def test_legacy_ignores_speed_place_and_visibility_and_cuts_the_longer_clip():
    rng = np.random.default_rng(2)
    a, b = np.cumsum(rng.normal(size=(2, 9, 8, 2)), 1).astype(np.float32)
    value = float(motion_fidelity_legacy(a, b))
    assert float(motion_fidelity_legacy(a * 0.5 + 7, b)) == pytest.approx(value, abs=1e-5)
    assert float(motion_fidelity_legacy(np.concatenate([a, a]), b)) == pytest.approx(value)
    hidden = from_first(a, np.zeros((9, 8), bool)), from_first(b, np.ones((9, 8), bool))
    score = MotionFidelityLegacy("motion_fidelity_legacy").score(sample("a", *hidden))
    assert score.value == pytest.approx(value)


def test_legacy_reversed_uniform_motion():
    there = moved((2, 1)).points
    assert float(motion_fidelity_legacy(there[::-1], there)) == pytest.approx(-1)


def test_legacy_is_null_with_a_reason_when_a_track_rests():
    tracks = moved((2, 1))
    tracks.points[4, 3] = tracks.points[3, 3]
    score = MotionFidelityLegacy("motion_fidelity_legacy").score(sample("a", tracks, moved((2, 1))))
    assert score.value is None
    assert "rests" in score.reason
    assert score.details["resting"] == 1


def test_legacy_needs_as_many_tracks():
    score = MotionFidelityLegacy("motion_fidelity_legacy").score(
        sample("a", moved((1, 1)), moved((1, 1), side=4))
    )
    assert score.value is None
    assert "number of tracks" in score.reason


def test_chance_averages_all_mismatched_pairs():
    ways = {"right": (2.0, 0.0), "up": (0.0, -2.0), "left": (-2.0, 0.0)}
    samples = [sample(clip, moved(way), moved(way)) for clip, way in ways.items()]
    # of the six ordered pairs, right-left and left-right are opposite and the others at right angles
    levels = MotionFidelityLegacy("l").levels(iter(samples))
    assert levels == {"chance": pytest.approx(-2 / 6), "pairs": 6}


def test_chance_never_pairs_a_clip_with_itself_and_is_capped():
    metric = MotionFidelityLegacy("l")
    many = [sample(str(i // 3), moved((2, 0)), moved((0, 2))) for i in range(60)]
    assert metric.levels(many) == {"chance": pytest.approx(0), "pairs": MAX_PAIRS}
    assert metric.levels(many[:3]) == {}
    assert metric.levels([]) == {}


def test_chance_is_empty_without_a_tracker():
    class Missing(NoTracker):
        def track(self, frames, masks=None):
            raise MetricUnavailable("no weights")

    frames = np.zeros((3, 16, 16, 3), np.uint8)
    assert MotionFidelityLegacy("l").levels([Sample("a", frames, frames, "", Missing())]) == {}
