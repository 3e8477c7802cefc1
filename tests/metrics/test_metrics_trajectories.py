"""Fréchet distances and DeT's motion fidelities: known values, and second implementations by plain loops."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from first_frame import from_first

from metrics.interface import MetricUnavailable, Sample, Tracks
from metrics.trajectories import (
    DetMf,
    Ftd,
    FtdLegacy,
    MfHybrid,
    Trajectories,
    det_mf,
    filled,
    frechet,
    ftd,
    ftd_legacy,
    lost,
    mf_hybrid,
)

HEIGHT, WIDTH = 48, 80
SIZE = np.array([80.0, 48.0])
ALL = (Ftd("ftd"), FtdLegacy("ftd_legacy"), MfHybrid("mf_hybrid"), DetMf("det_mf"))


class NoTracker:
    name = "given"
    version = "0"


def sample(generated: Tracks, reference: Tracks, clip: str = "a") -> Sample:
    frames = np.zeros((len(generated.points), HEIGHT, WIDTH, 3), np.uint8)
    made = Sample(clip, frames, frames[: len(reference.points)], "", NoTracker())
    made.tracks.update(generated=generated, reference=reference)
    return made


def random_tracks(seed: int, frames: int = 7, points: int = 9, hidden: float = 0.3) -> Tracks:
    rng = np.random.default_rng(seed)
    places = rng.uniform(5, 40, (1, points, 2)) + np.cumsum(rng.normal(0, 2, (frames, points, 2)), 0)
    visible = rng.random((frames, points)) >= hidden
    visible[0] = True
    return from_first(places.astype(np.float32), visible)


# --- second implementations, on lists


def frechet_by_recursion(a, b) -> float:
    """Eiter and Mannila's own definition."""

    @lru_cache(None)
    def couple(i: int, j: int) -> float:
        here = math.dist(a[i], b[j])
        if i == 0 and j == 0:
            return here
        before = [couple(k, m) for k, m in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if k >= 0 and m >= 0]
        return max(here, min(before))

    return couple(len(a) - 1, len(b) - 1)


def shares(tracks: Tracks) -> list[list[list[float]]]:
    """Point by point, its places in shares of the frame."""
    points = range(tracks.points.shape[1])
    return [[[float(x) / WIDTH, float(y) / HEIGHT] for x, y in tracks.points[:, n]] for n in points]


def ftd_by_hand(generated: Tracks, reference: Tracks) -> float:
    squares = []
    for n, (own, other) in enumerate(zip(shares(generated), shares(reference), strict=True)):
        paths, gone = [], False
        for path, seen in ((own, generated.visible[:, n]), (other, reference.visible[:, n])):
            hidden = [t for t in range(len(path)) if not seen[t]]
            gone |= bool(hidden) and hidden[0] + 1 < len(path) and not any(seen[hidden[0] + 1 :])
            times = [t for t in range(len(path)) if seen[t]]
            paths.append([path[min(times, key=lambda s, t=t: (abs(s - t), s))] for t in range(len(path))])
        if not gone:
            squares.append(frechet_by_recursion(*paths) ** 2)
    return math.sqrt(sum(squares) / len(squares))


def released_ftd(generated: Tracks, reference: Tracks) -> float:
    """What the release computes: arrays of (frames, points) read as (points, frames)."""
    tracks, left_out = [], set()
    for one in (generated, reference):
        track = one.points.astype(float).tolist()
        seen = one.visible.tolist()
        rows, columns = len(track), len(track[0])
        for t in range(1, columns):
            good = [n for n in range(rows) if seen[n][t]]
            for n in range(rows):
                if not good:
                    track[n][t] = list(track[n][t - 1])
                elif not seen[n][t]:
                    at = track[n][t - 1]
                    track[n][t] = list(
                        track[min(good, key=lambda k, at=at, t=t: math.dist(at, track[k][t]))][t]
                    )
        for n in range(rows):
            bad = [t for t in range(columns) if not seen[n][t]]
            if bad and bad[0] + 1 < columns and not any(seen[n][bad[0] + 1 :]):
                left_out.add(n)
        tracks.append([[[x / WIDTH, y / HEIGHT] for x, y in row] for row in track])
    squares = [
        frechet_by_recursion([row[n] for row in tracks[0]], [row[n] for row in tracks[1]]) ** 2
        for n in range(len(tracks[0][0]))
        if n not in left_out
    ]
    return math.sqrt(sum(squares) / len(squares))


def cosine(a, b) -> float:
    return (a[0] * b[0] + a[1] * b[1]) / (math.hypot(*a) * math.hypot(*b))


def steps(path) -> list[list[float]]:
    return [[b[0] - a[0], b[1] - a[1]] for a, b in pairwise(path)]


def hybrid_by_hand(generated: Tracks, reference: Tracks) -> float:
    best = []
    for own in shares(generated):
        if not any(math.hypot(*step) for step in steps(own)):
            continue
        found = []
        for other in shares(reference):
            pairs = [(g, r) for g, r in zip(steps(own), steps(other), strict=True) if any(g) or any(r)]
            alike = [cosine(g, r) if any(g) and any(r) else 0.0 for g, r in pairs]
            found.append(0.5 * math.exp(-frechet_by_recursion(own, other)) + 0.5 * sum(alike) / len(alike))
        best.append(max(found))
    return sum(best) / len(best) if best else 0.0


def det_by_hand(generated: Tracks, reference: Tracks) -> float:
    best = []
    for own in shares(generated):
        found = []
        for other in shares(reference):
            terms = [cosine(own[0], other[0])]
            terms += [cosine(g, r) for g, r in zip(steps(own), steps(other), strict=True)]
            found.append(sum(terms) / len(terms))
        best.append(max(found))
    return sum(best) / len(best)


BY_HAND = {"ftd": ftd_by_hand, "ftd_legacy": released_ftd, "mf_hybrid": hybrid_by_hand, "det_mf": det_by_hand}


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
@pytest.mark.parametrize("seed", range(6))
def test_a_metric_equals_its_second_implementation(metric, seed):
    generated, reference = random_tracks(seed), random_tracks(100 + seed)
    if metric.name == "mf_hybrid":
        # Some rest throughout, some for a step.
        generated.points[:, :2] = generated.points[:1, :2]
        reference.points[:, 1:3] = reference.points[:1, 1:3]
        generated.points[3, 4] = generated.points[2, 4]
    score = metric.score(sample(generated, reference))
    assert score.value == pytest.approx(BY_HAND[metric.name](generated, reference), rel=1e-6)
    assert score.details["tracker"] == "given" and score.details["tracks"] == 9


def test_the_axes_that_the_release_exchanges_make_another_number_only_where_points_are_hidden():
    hidden = random_tracks(0), random_tracks(1)
    seen = random_tracks(0, hidden=0), random_tracks(1, hidden=0)
    one, other = (metric.score(sample(*hidden)).value for metric in ALL[:2])
    assert one != pytest.approx(other, rel=1e-3)
    one, other = (metric.score(sample(*seen)).value for metric in ALL[:2])
    assert one == pytest.approx(other)


# --- discrete Fréchet


def test_known_frechet_distances():
    rng = np.random.default_rng(0)
    paths = rng.normal(size=(5, 6, 2))
    assert frechet(paths, paths) == pytest.approx(np.zeros(5))
    assert frechet(paths, paths + np.array([0.3, 0.4])) == pytest.approx(np.full(5, 0.5))
    line = np.stack([np.linspace(0, 2, 9), np.zeros(9)], 1)[None]
    assert frechet(line, line[:, ::-1]) == pytest.approx([2])
    others = rng.normal(size=(5, 4, 2))
    assert frechet(paths, others) == pytest.approx(frechet(others, paths))
    assert frechet(paths[:, :1], others) == pytest.approx(
        np.linalg.norm(paths[:, :1] - others, axis=-1).max(1)
    )


def test_frechet_does_not_see_when_but_where():
    line = np.stack([np.linspace(0, 1, 12), np.zeros(12)], 1)
    late = line[[0, 0, 0, 0, 0, 0, 1, 3, 5, 7, 9, 11]]
    assert frechet(line[None], late[None])[0] < 0.1


def test_frechet_by_diagonals_is_that_by_recursion_whatever_is_held_at_once(monkeypatch):
    monkeypatch.setattr("metrics.trajectories.BLOCK", 60)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 5, 2)), rng.normal(size=(20, 8, 2))
    expected = [frechet_by_recursion(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]
    assert frechet(a, b) == pytest.approx(expected)


# --- points that are not seen


def test_a_point_is_lost_when_it_never_returns():
    visible = np.array(
        [
            [1, 1, 1, 1, 1, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 1, 0, 0],
            [1, 0, 0, 1, 1, 0],
        ],
        bool,
    )
    assert lost(visible).tolist() == [False, False, True, False, False, True]


def test_a_hidden_point_stands_where_it_is_next_seen_or_was_last():
    points = np.arange(6.0).reshape(6, 1, 1).repeat(2, 2)
    visible = np.array([1, 0, 0, 0, 1, 1], bool)[:, None]
    assert filled(Trajectories(points, visible, SIZE)).points[:, 0, 0].tolist() == [0, 0, 0, 4, 4, 5]


def test_a_point_lost_in_either_clip_counts_in_neither():
    generated, reference = random_tracks(3, hidden=0), random_tracks(4, hidden=0)
    full = ftd(*map(_shares, (generated, reference)))
    gone = reference.visible.copy()
    gone[3:, 0] = False
    value, used = ftd(_shares(generated), _shares(reference._replace(visible=gone)))
    assert full[1] == 9 and used == 8
    assert value == pytest.approx(
        ftd(*(_shares(one.chosen(np.arange(9) > 0)) for one in (generated, reference)))[0]
    )


def _shares(tracks: Tracks) -> Trajectories:
    return Trajectories(tracks.points / SIZE, tracks.visible, SIZE)


# --- what they say of known pairs


def test_a_clip_and_itself():
    tracks = random_tracks(5, hidden=0)
    values = {metric.name: metric.score(sample(tracks, tracks)).value for metric in ALL}
    assert values == pytest.approx({"ftd": 0, "ftd_legacy": 0, "mf_hybrid": 1, "det_mf": 1})


def test_resting_tracks():
    """DeT's code divides by 0, its paper's formula leaves them out, a frozen clip is no good transfer."""
    moving = random_tracks(6, hidden=0)
    frozen = from_first(np.repeat(moving.points[:1], 7, 0), moving.visible)
    scores = {metric.name: metric.score(sample(frozen, moving)) for metric in ALL}
    assert scores["det_mf"].value is None and "rests" in scores["det_mf"].reason
    assert scores["mf_hybrid"].value == 0
    # A tracker that resizes frames returns places a rounding error away.
    nearly = from_first(frozen.points + np.float32(1e-5) * (np.arange(7) % 2)[:, None, None], moving.visible)
    assert MfHybrid("m").score(sample(nearly, moving)).value == 0
    away = np.linalg.norm((moving.points - moving.points[:1]) / [WIDTH, HEIGHT], axis=-1).max(0)
    assert scores["ftd"].value == pytest.approx(np.sqrt((away**2).mean()))
    one = moving.points.copy()
    one[:, 1:] = one[:1, 1:]
    assert MfHybrid("m").score(sample(from_first(one, moving.visible), moving)).value == pytest.approx(1)


def test_what_cannot_be_compared_is_null_with_a_reason():
    tracks = random_tracks(7)
    none = from_first(tracks.points[:, :0], tracks.visible[:, :0])
    short = from_first(tracks.points[:-1], tracks.visible[:-1])
    few = from_first(tracks.points[:, 1:], tracks.visible[:, 1:])
    one = from_first(tracks.points[:1], tracks.visible[:1])
    for metric in ALL:
        assert metric.score(sample(tracks, none)).reason == "no tracks"
        assert "number of frames" in metric.score(sample(tracks, short)).reason
        assert metric.score(sample(one, one)).reason == "one frame has no motion"
    assert "number of tracks" in ALL[0].score(sample(tracks, few)).reason
    assert ALL[2].score(sample(tracks, few)).value is not None
    hidden = np.zeros_like(tracks.visible)
    gone = from_first(tracks.points, hidden)
    assert ALL[0].score(sample(gone, tracks)).reason == "every point is lost"


def test_points_that_begin_later_do_not_count():
    tracks = random_tracks(8, hidden=0)
    wild = Tracks(
        np.concatenate([tracks.points, tracks.points * 9], 1),
        np.concatenate([tracks.visible] * 2, 1),
        np.repeat([0, 3], 9),
    )
    other = random_tracks(9, hidden=0)
    for metric in ALL:
        assert metric.score(sample(wild, other)).value == metric.score(sample(tracks, other)).value


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_chance_is_the_mean_over_the_references_of_other_clips(metric):
    clips = {name: random_tracks(seed, hidden=0) for name, seed in (("a", 10), ("b", 11), ("c", 12))}
    made = {name: random_tracks(20 + place, hidden=0) for place, name in enumerate(clips)}
    levels = metric.levels(sample(made[name], clips[name], name) for name in clips)
    pairs = [(made[one], clips[other]) for one in clips for other in clips if one != other]
    assert levels["pairs"] == 6
    assert levels["chance"] == pytest.approx(np.mean([BY_HAND[metric.name](*pair) for pair in pairs]))
    assert levels["true"] == metric.score(sample(clips["a"], clips["a"])).value


def test_without_tracks_there_are_no_levels():
    class Absent:
        name = "absent"

        def track(self, frames, masks=None):
            raise MetricUnavailable("no weights")

    frames = np.zeros((3, 8, 8, 3), np.uint8)
    assert Ftd("ftd").levels([Sample("a", frames, frames, "", Absent())]) == {}


def test_the_search_for_the_best_partner_is_exhaustive():
    """It leaves out partners that cannot win; nothing changes by that."""
    rng = np.random.default_rng(3)
    for _ in range(5):
        g, r = (
            Trajectories(rng.random((4, n, 2)).cumsum(0) / 4, np.ones((4, n), bool), SIZE) for n in (12, 15)
        )
        best = [
            max(
                0.5 * math.exp(-frechet_by_recursion(a.tolist(), b.tolist()))
                + 0.5
                * np.mean([cosine(x, y) for x, y in zip(steps(a.tolist()), steps(b.tolist()), strict=True)])
                for b in r.points.transpose(1, 0, 2)
            )
            for a in g.points.transpose(1, 0, 2)
        ]
        assert mf_hybrid(g, r)[0] == pytest.approx(np.mean(best))


def test_the_released_functions_count_the_points_they_are_over():
    tracks = _shares(random_tracks(13, hidden=0))
    assert ftd_legacy(tracks, tracks) == (0, 9) and det_mf(tracks, tracks)[1] == 9
