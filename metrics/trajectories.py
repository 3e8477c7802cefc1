"""Published measures of point trajectories: Fréchet distances (FTD) and DeT's two motion fidelities.

All read the tracks that begin in frame 0, whatever the tracker, and are comparable only at an equal tracker,
grid and number of frames. None is put in one column with ``motion_fidelity``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from metrics.chance import mismatched
from metrics.interface import Column, Details, Metric, MetricUnavailable, Sample, Score, Tracks

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BLOCK = 2**22
"""Distances held at once, of 8 bytes each."""


class Trajectories(NamedTuple):
    """Points (T, N, 2) float64 x, y in shares of width and height, where they are seen, (T, N) bool, and the
    frame's ``size``, (2,) width and height in pixels.
    """

    points: Floats
    visible: Bools
    size: Floats


def trajectories(tracks: Tracks, frames: NDArray[np.uint8]) -> Trajectories:
    """The tracks that begin in frame 0 of frames (T, H, W, 3)."""
    chosen = tracks.chosen(tracks.start == 0)
    size = np.array([frames.shape[2], frames.shape[1]], np.float64)
    return Trajectories(chosen.points / size, chosen.visible, size)


def frechet(a: Floats, b: Floats) -> Floats:
    """Discrete Fréchet distances (N,) of paths (N, T, 2) and (N, S, 2), pair by pair.

    Eiter and Mannila, "Computing Discrete Fréchet Distance", 1994: the least over all ways of walking both to
    their ends, never back, of the largest distance on the way. By anti-diagonals, all pairs at once.
    """
    parts = max(1, BLOCK // (a.shape[1] * b.shape[1]))
    pieces = [_frechet(a[at : at + parts], b[at : at + parts]) for at in range(0, len(a), parts)]
    return np.concatenate(pieces) if pieces else np.empty(0)


def _frechet(a: Floats, b: Floats) -> Floats:
    count, rows, columns = len(a), a.shape[1], b.shape[1]
    far = np.linalg.norm(a[:, :, None] - b[:, None], axis=-1)
    # Row i + 1 of a diagonal holds the cell (i, diagonal - i); row 0 and what is outside stay infinite.
    last = np.full((rows + 1, count), np.inf)
    before = last.copy()
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        least = np.minimum(np.minimum(last[i], last[i + 1]), before[i])
        now = np.full_like(last, np.inf)
        now[i + 1] = (
            far[:, i, diagonal - i].T if diagonal == 0 else np.maximum(far[:, i, diagonal - i].T, least)
        )
        last, before = now, last
    return np.asarray(last[rows])


def ftd(generated: Trajectories, reference: Trajectories) -> tuple[float, int]:
    """Fréchet trajectory distance and the number of points it is over; NaN where none is left.

    ``generated`` and ``reference`` of as many points, compared by index. A point that is lost for ever in
    either clip is left out of both; a hidden one stands where it is next seen, or was last.
    """
    kept = ~(lost(generated.visible) | lost(reference.visible))
    paths = [filled(one).points[:, kept].transpose(1, 0, 2) for one in (generated, reference)]
    distances = frechet(*paths)
    return (float(np.sqrt(np.square(distances).mean())) if len(distances) else float("nan")), len(distances)


def lost(visible: Bools) -> Bools:
    """Points (N,) that, once hidden, are never seen again; one hidden in the last frame only is not."""
    hidden_since = np.where(visible.all(0), len(visible), visible.argmin(0))
    last_seen = np.where(visible.any(0), len(visible) - 1 - visible[::-1].argmax(0), -1)
    return np.asarray((hidden_since < len(visible) - 1) & (last_seen < hidden_since))


def filled(one: Trajectories) -> Trajectories:
    """Points that are hidden put where they stand at the nearest time at which they are seen."""
    times = np.arange(len(one.points))
    away = np.abs(times[:, None, None] - times[None, :, None])
    nearest = np.where(one.visible[None], away, len(times)).argmin(1)
    return one._replace(points=np.take_along_axis(one.points, nearest[..., None], 0))


def ftd_legacy(generated: Trajectories, reference: Trajectories) -> tuple[float, int]:
    """The distance as released, with its axes exchanged: points are filled and dropped like frames.

    ``YigitEkin/RoPECraft:ftd.py``: CoTracker gives (frames, points), ``fill_and_drop`` reads (points,
    frames). So where a point is hidden, it is put where it stands in another frame, and numbers of frames are
    left out as numbers of points.
    """
    paths, dropped = [], np.zeros(generated.points.shape[1], bool)
    for one in (generated, reference):
        paths.append(_filled_as_released(one).transpose(1, 0, 2))
        frames = np.flatnonzero(lost(one.visible.T))
        dropped[frames[frames < len(dropped)]] = True
    distances = frechet(*(path[~dropped] for path in paths))
    return (float(np.sqrt(np.square(distances).mean())) if len(distances) else float("nan")), len(distances)


def _filled_as_released(one: Trajectories) -> Floats:
    points = one.points * one.size
    for n in range(1, points.shape[1]):
        seen, hidden = np.flatnonzero(one.visible[:, n]), np.flatnonzero(~one.visible[:, n])
        if not len(seen):
            points[:, n] = points[:, n - 1]
        elif len(hidden):
            away = np.linalg.norm(points[hidden, n - 1][:, None] - points[seen, n][None], axis=-1)
            points[hidden, n] = points[seen[away.argmin(1)], n]
    return np.asarray(points / one.size)


ALPHA = 0.5
"""Weight of place against direction in DeT's hybrid."""
RESTS = 1e-5
"""A step shorter than this share of the frame is a rounding error of the tracker's, no motion."""


def mf_hybrid(generated: Trajectories, reference: Trajectories) -> tuple[float, int]:
    """DeT's motion fidelity as its paper has it, and the number of generated tracks it is over.

    Mean over generated tracks of the best, over the reference's, of ``ALPHA`` exp(-d) + (1 - ``ALPHA``) c: d
    the discrete Fréchet distance, c the mean cosine of the steps. Two things the paper leaves open: each
    track meets all, and where nothing moves there is no direction. So steps at which both rest are left out,
    one against a rest counts 0, tracks that rest throughout are left out, and where all do the value is 0.
    """
    moving = (np.linalg.norm(np.diff(generated.points, axis=0), axis=-1) > RESTS).any(0)
    g, r = (points.transpose(1, 0, 2) for points in (generated.points[:, moving], reference.points))
    if not len(g):
        return 0.0, 0
    cosines = _mean_cosines(g, r)
    ends = [np.linalg.norm(g[:, None, at] - r[None, :, at], axis=-1) for at in (0, -1)]
    # Ends always meet, so no distance is below theirs: pairs that cannot be the best are not computed.
    bound = ALPHA * np.exp(-np.maximum(*ends)) + (1 - ALPHA) * cosines
    best = np.full(len(g), -np.inf)
    order = np.argsort(-bound, axis=1, kind="stable")
    for place in range(len(r)):
        partner = order[:, place]
        open_ = np.flatnonzero(bound[np.arange(len(g)), partner] > best)
        if not len(open_):
            break
        other = partner[open_]
        near = np.exp(-frechet(g[open_], r[other]))
        best[open_] = np.maximum(best[open_], ALPHA * near + (1 - ALPHA) * cosines[open_, other])
    return float(best.mean()), len(g)


def _mean_cosines(g: Floats, r: Floats) -> Floats:
    """Of the steps of paths (N, T, 2) and (M, T, 2): (N, M), over the steps at which either moves."""
    units, rests = [], []
    for paths in (g, r):
        steps = np.diff(paths, axis=1)
        lengths = np.linalg.norm(steps, axis=-1, keepdims=True)
        moves = lengths > RESTS
        unit = np.divide(steps, lengths, out=np.zeros_like(steps), where=moves)
        units.append(unit.reshape(len(paths), -1))
        rests.append((~moves[..., 0]).astype(np.float64))
    counted = g.shape[1] - 1 - rests[0] @ rests[1].T
    return np.asarray(units[0] @ units[1].T / counted)


def det_mf(generated: Trajectories, reference: Trajectories) -> tuple[float, int]:
    """DeT's motion fidelity as its code has it (``Shi-qingyu/DeT:evaluation.py``); NaN when a track rests.

    As the legacy motion fidelity, in shares of width and height, without the identity matrix, and with a
    term more: the cosine of the directions in which both tracks begin, seen from the top left corner.
    Its Fréchet half is off there unless asked for, and is a mean distance.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        g, r = (_with_start(one.points) for one in (generated, reference))
    if not g.shape[1] or not r.shape[1]:
        return float("nan"), g.shape[1]
    return float((np.einsum("tnc,tmc->nm", g, r, optimize=True) / len(g)).max(1).mean()), g.shape[1]


def _with_start(points: Floats) -> Floats:
    """Unit vectors (T, N, 2): of the places in frame 0, and of the steps."""
    vectors = np.concatenate([points[:1], np.diff(points, axis=0)])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


Compare = Callable[[Trajectories, Trajectories], tuple[float, int]]


class ComparesTrajectories(Metric):
    """What the metrics of this file have in common."""

    uses_tracks: ClassVar[bool] = True
    best: ClassVar[float]
    """The value of a clip and itself."""

    compare: ClassVar[Compare]
    """Generated and reference trajectories to the value and the number of points it is over."""
    by_index: ClassVar[bool] = False
    """Whether point i of one meets point i of the other, so that both must have as many."""

    def score(self, sample: Sample) -> Score:
        """The value of a generation beside its own reference; details: the tracker and its points."""
        generated = trajectories(sample.generated_tracks, sample.generated)
        reference = trajectories(sample.reference_tracks, sample.reference)
        details: Details = {"tracker": sample.tracker.name, "tracks": reference.points.shape[1]}
        reason = self._incomparable(generated, reference)
        if reason is not None:
            return Score(None, reason, details=details)
        value, used = type(self).compare(generated, reference)
        details["used"] = used
        if np.isnan(value):
            return Score(None, self._nothing(used), details=details)
        return Score(value, details=details)

    def _incomparable(self, generated: Trajectories, reference: Trajectories) -> str | None:
        if not generated.points.shape[1] or not reference.points.shape[1]:
            return "no tracks"
        if len(generated.points) != len(reference.points):
            return "generation and reference differ in the number of frames"
        if len(reference.points) < 2:
            return "one frame has no motion"
        if self.by_index and generated.points.shape != reference.points.shape:
            return "generation and reference differ in the number of tracks"
        return None

    def _nothing(self, used: int) -> str:
        return (
            "a track rests between two frames: 0/0 in the released score" if used else "every point is lost"
        )

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """``chance``: mean value against the references of other clips; ``true``: of a clip and itself."""
        generations: list[tuple[str, Trajectories]] = []
        references: dict[str, Trajectories] = {}
        try:
            for sample in samples:
                generations.append((sample.clip, trajectories(sample.generated_tracks, sample.generated)))
                if sample.clip not in references:
                    references[sample.clip] = trajectories(sample.reference_tracks, sample.reference)
        except MetricUnavailable:
            return {}
        found = [
            type(self).compare(g, r)[0]
            for g, r in mismatched(generations, references)
            if self._incomparable(g, r) is None
        ]
        values = [value for value in found if not np.isnan(value)]
        if not values:
            return {}
        return {"chance": float(np.mean(values)), "pairs": float(len(values)), "true": self.best}


@dataclass(config={"extra": "forbid"})
class Ftd(ComparesTrajectories, kind="ftd"):
    """RoPECraft's Fréchet trajectory distance, its exchanged axes put right, in shares of the frame.

    Gokmen et al., "RoPECraft: Training-Free Motion Transfer", 2025. Root of the mean square over points of
    the discrete Fréchet distance between a point's path in both clips. Points are the tracker's grid,
    within the object's mask where there is one; the paper has 100 random ones, half of them on the object.
    Blind to timing along the path, sharp on place.
    """

    name: str

    version: ClassVar[str] = "1"
    column = Column("FTD", higher_is_better=False, primary=False, sees_motion=True)
    best: ClassVar[float] = 0.0
    by_index: ClassVar[bool] = True
    compare: ClassVar[Compare] = staticmethod(ftd)


@dataclass(config={"extra": "forbid"})
class FtdLegacy(ComparesTrajectories, kind="ftd_legacy"):
    """RoPECraft's Fréchet trajectory distance as released, number for number, its exchanged axes kept.

    What it does to hidden points has no meaning; where all are seen it equals ``Ftd``.
    """

    name: str

    version: ClassVar[str] = "1"
    column = Column("FTD (legacy)", higher_is_better=False, primary=False, sees_motion=True)
    best: ClassVar[float] = 0.0
    by_index: ClassVar[bool] = True
    compare: ClassVar[Compare] = staticmethod(ftd_legacy)


@dataclass(config={"extra": "forbid"})
class MfHybrid(ComparesTrajectories, kind="mf_hybrid"):
    """DeT's motion fidelity by its paper's formula (Shi et al., "Decouple and Track", ICCV 2025)."""

    name: str

    version: ClassVar[str] = "1"
    column = Column("Motion fid. (DeT paper)", primary=False, sees_motion=True)
    best: ClassVar[float] = 1.0
    compare: ClassVar[Compare] = staticmethod(mf_hybrid)


@dataclass(config={"extra": "forbid"})
class DetMf(ComparesTrajectories, kind="det_mf"):
    """DeT's motion fidelity by its released code, number for number but for the points.

    Its own are 50 a side in the bounding box of the reference's first mask, ours the tracker's within the
    mask itself.
    """

    name: str

    version: ClassVar[str] = "1"
    column = Column("Motion fid. (DeT code)", primary=False, sees_motion=True)
    best: ClassVar[float] = 1.0
    compare: ClassVar[Compare] = staticmethod(det_mf)
