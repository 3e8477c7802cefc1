"""Motion fidelity on tracks whose motion is known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from first_frame import from_first

from datasets.sprites.world import HELD_OUT, draw
from metrics.interface import MetricUnavailable, Sample, Tracks
from metrics.motion import (
    MAX_PAIRS,
    MotionFidelity,
    MotionFidelityLegacy,
    bridged,
    motion_fidelity,
    motion_fidelity_legacy,
    paths,
)
from metrics.trackers.starts import start_grid

SIZE = (64, 64)
GOLDEN = Path(__file__).parents[1] / "data" / "legacy_motion_fidelity.npz"


class NoTracker:
    name = "rendered"
    version = "0"

    def track(self, frames, masks=None):
        raise AssertionError("tracks are given")


def rendered(motion: str, size: int = 64, grid: int = 12) -> Tracks:
    """True tracks of a sprites clip of that motion."""
    seed = next(s for s in range(HELD_OUT, HELD_OUT + 200) if draw(s).motion == motion)
    return from_first(*draw(seed, 17, size, size).tracks(start_grid(size, size, grid)))


def moved(step, frames: int = 9, side: int = 5) -> Tracks:
    """A grid whose points all take the same steps: ``step`` (2,) or (frames - 1, 2)."""
    start = start_grid(64, 64, side)
    way = np.concatenate([np.zeros((1, 2)), np.cumsum(np.broadcast_to(step, (frames - 1, 2)), 0)])
    points = (start[None] + way[:, None]).astype(np.float32)
    return from_first(points, np.ones(points.shape[:2], bool))


def fidelity(generated: Tracks, reference: Tracks) -> float:
    return motion_fidelity(paths(generated, SIZE, SIZE), paths(reference, SIZE, SIZE)).value


def sample(clip: str, generated: Tracks, reference: Tracks, size: int = 64) -> Sample:
    def frames(tracks: Tracks, side: int) -> np.ndarray:
        return np.zeros((len(tracks.points), side, side, 3), np.uint8)

    made = Sample(clip, frames(generated, size), frames(reference, 64), "", NoTracker())
    made.tracks.update(generated=generated, reference=reference)
    return made


@pytest.mark.parametrize("motion", ["straight", "curved", "accelerating", "stopping", "two", "pan", "zoom"])
def test_a_clip_moves_like_itself(motion):
    tracks = rendered(motion)
    assert fidelity(tracks, tracks) == pytest.approx(1, abs=1e-12)


def test_a_frozen_generation_scores_zero_and_a_frozen_reference_nothing():
    still, moving = moved((0, 0), frames=17), rendered("curved")
    assert fidelity(still, moving) == 0
    assert np.isnan(fidelity(moving, still))
    metric = MotionFidelity("motion_fidelity")
    assert metric.score(sample("a", still, moving)).value == 0
    score = metric.score(sample("a", moving, still))
    assert score.value is None
    assert score.reason == "no track of the reference moves"
    assert score.details["moving_reference"] == 0
    assert score.details["moving_generated"] > 0
    assert score.details["tracks"] == 25


@pytest.mark.parametrize("motion", ["straight", "pan", "zoom", "two"])
def test_jitter_below_the_threshold_does_not_count(motion):
    moving = rendered(motion)
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, moving.points.shape).astype(np.float32)
    assert fidelity(from_first(rendered("pan").points[:1] + jitter, moving.visible), moving) == 0


def test_a_point_that_trembles_about_its_place_does_not_move():
    """Its steps add up to a long path, but lead nowhere."""
    moving = rendered("straight")
    trembling = moving.points[:1] + np.random.default_rng(0).uniform(-0.4, 0.4, moving.points.shape)
    assert fidelity(from_first(trembling.astype(np.float32), np.ones_like(moving.visible)), moving) == 0


def test_scaling_a_path_changes_only_the_speed_sensitive_value():
    slow, fast = moved((1, 0.5)), moved((2, 1))
    found = motion_fidelity(paths(slow, SIZE, SIZE), paths(fast, SIZE, SIZE))
    assert found.value == pytest.approx(1)
    assert found.speed_sensitive == pytest.approx(2 * 2 / (1 + 4))
    curve = rendered("curved")
    wide = from_first(curve.points[:1] + 3 * (curve.points - curve.points[:1]), curve.visible)
    assert fidelity(wide, curve) == pytest.approx(1)


def test_a_uniform_motion_reversed_scores_minus_one():
    assert fidelity(moved((-2, 1)), moved((2, -1))) == pytest.approx(-1)
    there = moved((2, -1))
    assert fidelity(from_first(there.points[::-1], there.visible), there) == pytest.approx(-1)


def test_orthogonal_motion_scores_zero():
    assert fidelity(moved((0, 2)), moved((2, 0))) == pytest.approx(0)


@pytest.mark.parametrize(("a", "b"), [("curved", "pan"), ("two", "zoom"), ("straight", "accelerating")])
def test_either_clip_may_be_the_reference(a, b):
    first, second = rendered(a), rendered(b)
    assert fidelity(first, second) == pytest.approx(fidelity(second, first))


def test_half_of_the_time_at_double_speed_is_told_apart():
    """One step of 2 d against 2 steps of d: cosine 1 / sqrt 2 of the whole paths."""
    steady = moved(np.array([[2.0, 0], [2, 0]]), frames=3)
    late = moved(np.array([[0.0, 0], [4, 0]]), frames=3)
    assert fidelity(late, steady) == pytest.approx(2**-0.5)


def test_clips_of_different_size_meet_on_the_reference_canvas():
    small = rendered("curved")
    large = from_first(small.points * 2, small.visible)
    score = MotionFidelity("motion_fidelity").score(sample("a", large, small, size=128))
    assert score.value == pytest.approx(1)
    assert score.details["speed_sensitive"] == pytest.approx(1)
    assert score.details["same_place"] == pytest.approx(1)


def test_a_wider_canvas_turns_directions():
    """Twice as wide a frame halves x on the canvas: (2, 1) becomes (1, 1), at 18 degrees from (2, 1)."""
    tracks = moved((2, 1))
    squeezed = paths(tracks, (64, 128), SIZE)
    value = motion_fidelity(squeezed, paths(tracks, SIZE, SIZE)).value
    assert value == pytest.approx(3 / np.sqrt(2 * 5))


def test_a_track_that_moves_alone_is_an_error_but_the_only_track_is_not():
    still, moving = moved((0, 0), side=9), moved((-2, 1), side=9)
    block = np.zeros(81, bool)
    block.reshape(9, 9)[2:6, 2:6] = True
    points = np.where(block[:, None], moving.points, still.points)
    clean = from_first(points, still.visible)
    points = points.copy()
    back = moved((2, -1), side=9)
    points[:, [31, 80]] = back.points[:, [31, 80]]  # in the block, and in a corner
    stray = from_first(points, still.visible)
    metric = MotionFidelity("motion_fidelity")
    assert metric.score(sample("a", clean, back)).value == pytest.approx(-1)
    assert metric.score(sample("a", stray, back)).value == pytest.approx(-1)
    everything = MotionFidelity("motion_fidelity", neighbours=0)
    assert everything.score(sample("a", stray, back)).value > -0.1
    one = from_first(moving.points[:, :1], moving.visible[:, :1])
    assert metric.score(sample("a", one, one)).value == pytest.approx(1)


def test_a_boiling_texture_moves_less_than_what_moves_through_it():
    rng = np.random.default_rng(0)
    true = rendered("straight", grid=30)
    trembling = np.cumsum(rng.normal(0, 0.5, true.points.shape), 0).astype(np.float32)
    boiling = from_first(true.points + trembling, true.visible)
    every, filtered = (paths(boiling, SIZE, SIZE, neighbours=n).moving.mean() for n in (0, 8))
    assert every > 0.5
    assert filtered < every / 2
    values = [
        motion_fidelity(
            *(paths(tracks, SIZE, SIZE, neighbours=n) for tracks in (boiling, true))
        ).speed_sensitive
        for n in (0, 8)
    ]
    assert values[1] > values[0]


@pytest.mark.parametrize("motion", ["straight", "curved", "two", "pan", "zoom"])
def test_objects_and_cameras_move_as_wholes(motion):
    """On true tracks the filter changes little: an object's outline, a zoom's border."""
    tracks = rendered(motion, grid=30)
    every, some = (paths(tracks, SIZE, SIZE, neighbours=n) for n in (0, 8))
    assert every.moving.sum() > 20
    assert (every.moving & some.moving).sum() > 0.6 * every.moving.sum()
    assert motion_fidelity(some, every).value > 0.95


def test_a_point_lost_and_found_again_counts_as_one_that_went_straight():
    reference = moved((2, 0))
    wild = reference.points.copy()
    wild[3:6] += np.random.default_rng(0).normal(0, 20, wild[3:6].shape).astype(np.float32)
    seen = np.ones(wild.shape[:2], bool)
    seen[3:6] = False
    np.testing.assert_allclose(bridged(from_first(wild, seen)), reference.points, atol=1e-5)


def test_a_point_never_seen_rests():
    wild = np.random.default_rng(0).normal(32, 20, (9, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        bridged(from_first(wild, np.zeros((9, 4), bool))), np.repeat(wild[:1], 9, 0).astype(float)
    )


def test_a_point_rests_after_it_was_last_seen():
    reference = moved((2, 0))
    wild = reference.points.copy()
    wild[5:] += np.random.default_rng(0).normal(0, 20, wild[5:].shape).astype(np.float32)
    seen = np.ones(wild.shape[:2], bool)
    seen[5:] = False
    visible_part = paths(from_first(wild, seen), SIZE, SIZE)
    assert (visible_part.steps.reshape(25, 8, 2)[:, 4:] == 0).all()
    found = motion_fidelity(visible_part, paths(reference, SIZE, SIZE))
    assert found.value == pytest.approx(np.sqrt(4 / 8))


def test_other_numbers_of_frames_are_refused():
    with pytest.raises(ValueError, match="frames"):
        fidelity(moved((1, 0), frames=5), moved((1, 0), frames=9))
    score = MotionFidelity("motion_fidelity").score(sample("a", moved((1, 0), 5), moved((1, 0), 9)))
    assert score.value is None
    assert "frames" in score.reason


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


@pytest.mark.parametrize("metric", [MotionFidelity("m"), MotionFidelityLegacy("l")])
def test_chance_averages_all_mismatched_pairs(metric):
    ways = {"right": (2.0, 0.0), "up": (0.0, -2.0), "left": (-2.0, 0.0)}
    samples = [sample(clip, moved(way), moved(way)) for clip, way in ways.items()]
    levels = metric.levels(iter(samples))
    # of the six ordered pairs, right-left and left-right are opposite and the others at right angles
    chance = {"chance": pytest.approx(-2 / 6), "pairs": 6}
    # MF-w of a clip and itself is 1; the legacy score's is not.
    assert levels == (chance | {"true": 1} if metric.name == "m" else chance)


def test_chance_never_pairs_a_clip_with_itself_and_is_capped():
    many = [sample(str(i // 3), moved((2, 0)), moved((0, 2))) for i in range(60)]
    assert MotionFidelity("m").levels(many) == {"chance": pytest.approx(0), "pairs": MAX_PAIRS, "true": 1}
    assert MotionFidelity("m").levels(many[:3]) == {}
    assert MotionFidelity("m").levels([]) == {}


def test_chance_is_empty_without_a_tracker():
    class Missing(NoTracker):
        def track(self, frames, masks=None):
            raise MetricUnavailable("no weights")

    frames = np.zeros((3, 16, 16, 3), np.uint8)
    assert MotionFidelity("m").levels([Sample("a", frames, frames, "", Missing())]) == {}
