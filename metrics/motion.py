"""Motion fidelity: how well a generation's tracks move like the reference's.

Metrics that share a name in the literature and are never put in one column:

``MotionFidelity`` (MF-w)
    Ours. Whole displacement paths are compared, weighted by how far they go; two-way.
``MotionFidelitySpeed``
    The same, but a path at another speed is another path.
``MotionFidelityLegacy``
    What is published: Yatim et al., "Space-Time Diffusion Features for Zero-Shot Text-Driven Motion
    Transfer", 2024, as released in ``diffusion-motion-transfer/diffusion-motion-transfer:
    motion_fidelity_score.py`` and ``ditflow/ditflow:eval/motion_fidelity_score.py``, number for number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from metrics.interface import Column, Details, Metric, MetricUnavailable, Sample, Score, Tracks

MAX_PAIRS = 200
"""Mismatched pairs averaged for a chance level, at most."""

Size = tuple[int, int]


class Paths(NamedTuple):
    """Displacement paths on the canvas: ``steps`` (N, (T - 1) * 2) float64, ``moving`` (N,) bool."""

    steps: NDArray[np.float64]
    moving: NDArray[np.bool_]


class Fidelity(NamedTuple):
    """MF-w of a pair. ``value`` is NaN when the reference has no moving track.

    ``speed_sensitive``: the same two-way mean of 2<a, b> / (|a|^2 + |b|^2), which also asks for equal speed.
    ``same_place``: mean over the reference's moving tracks of the cosine with the generation's track of the
    same start (0 where that one does not move); NaN when the tracks do not correspond.
    """

    value: float
    speed_sensitive: float
    same_place: float
    moving_generated: int
    moving_reference: int


def paths(
    tracks: Tracks,
    size: Size,
    canvas: Size,
    still: float = 0.5,
    min_path: float = 0.04,
    neighbours: int = 0,
) -> Paths:
    """Displacements of tracks in frames of ``size`` (height, width), on a ``canvas`` (height, width).

    Where a point is hidden, trackers extrapolate: between two frames in which it is seen it is taken to have
    gone straight and evenly, before the first and after the last of them to have rested (``bridged``); in
    generated videos, whose textures boil, a tracked point is lost and found again every few frames. Steps
    shorter than ``still`` pixels (stated for 480 rows) are zeroed; a track moves if the rest of its path
    leads at least ``min_path`` of the canvas height away from its start (not along the path: the trembling
    of a tracked point at rest would add up).

    Each step is the median (of x and of y) over the track and the ``neighbours`` that start nearest to it, as
    flow fields are filtered (Sun, Roth and Black, "Secrets of Optical Flow Estimation and Their Principles",
    CVPR 2010): things move as wholes, a tracking error moves alone, and a texture that boils moves every way.
    """
    scale = np.array([canvas[1] / size[1], canvas[0] / size[0]])
    steps = np.diff(bridged(tracks), axis=0) * scale
    if neighbours:
        steps = np.median(steps[:, _neighbourhood(tracks.points[0], neighbours)], axis=2)
    steps[np.linalg.norm(steps, axis=-1) < still * canvas[0] / 480] = 0
    away = np.linalg.norm(steps.cumsum(0), axis=-1).max(0, initial=0)
    moving = (away > 0) & (away >= min_path * canvas[0])
    return Paths(steps.transpose(1, 0, 2).reshape(steps.shape[1], -1), moving)


def bridged(tracks: Tracks) -> NDArray[np.float64]:
    """Points (T, N, 2), those of hidden frames on the straight line between the frames beside them.

    Before the first frame in which a point is seen and after the last one it stays where it is seen then; a
    point that is never seen stays where it began.
    """
    points = tracks.points.astype(np.float64)
    frames = np.arange(len(points))
    for index in np.flatnonzero(~tracks.visible.all(0)):
        seen = tracks.visible[:, index] if tracks.visible[:, index].any() else frames == 0
        for axis in range(2):
            known = points[seen, index, axis]
            points[:, index, axis] = np.interp(frames, frames[seen], known)
    return points


def _neighbourhood(start: NDArray[np.float32], neighbours: int) -> NDArray[np.intp]:
    """Indices (N, up to ``neighbours`` + 1) of each track and of those that start nearest to it.

    Distances are in units of the extent of ``start`` (N, 2), so that a grid has the same neighbours whatever
    the frame's shape.
    """
    from scipy.spatial import cKDTree

    if not len(start):
        return np.empty((0, 1), np.intp)
    places = start / np.maximum(np.ptp(start, axis=0), 1)
    count = range(1, min(neighbours + 1, len(start)) + 1)
    return np.asarray(cKDTree(places).query(places, k=count)[1])


def motion_fidelity(generated: Paths, reference: Paths) -> Fidelity:
    """MF-w of two sets of paths over as many frames.

    S_ij = <g_i, r_j> / (|g_i| |r_j|) over moving tracks; the value is (mean_i max_j S + mean_j max_i S) / 2.
    It is symmetric, 1 for paths that are the reference's times any factor, 0 for a generation that
    stands still. ValueError when the numbers of frames differ.
    """
    if generated.steps.shape[1] != reference.steps.shape[1]:
        raise ValueError("motion fidelity compares clips of as many frames")
    g, r = generated.steps[generated.moving], reference.steps[reference.moving]
    if not len(r):
        return Fidelity(np.nan, np.nan, np.nan, len(g), 0)
    if not len(g):
        return Fidelity(0.0, 0.0, 0.0, 0, len(r))
    inner = g @ r.T
    square_g, square_r = (g**2).sum(1)[:, None], (r**2).sum(1)[None]
    return Fidelity(
        _two_way(inner / np.sqrt(square_g * square_r)),
        _two_way(2 * inner / (square_g + square_r)),
        _same_place(generated, reference),
        len(g),
        len(r),
    )


def _two_way(similarity: NDArray[np.float64]) -> float:
    return float((similarity.max(1).mean() + similarity.max(0).mean()) / 2)


def _same_place(generated: Paths, reference: Paths) -> float:
    if len(generated.steps) != len(reference.steps):
        return float("nan")
    both = generated.moving & reference.moving
    g, r = generated.steps[both], reference.steps[both]
    cosine = (g * r).sum(1) / np.sqrt((g**2).sum(1) * (r**2).sum(1))
    return float(cosine.sum() / reference.moving.sum())


def motion_fidelity_legacy(
    generated: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The released score from points (T, N, 2), visibility ignored: a 0-d array, NaN when a track rests.

    u = d / |d| without epsilon; S_ij = mean over steps of <u^g_i, u^r_j>; the identity matrix is subtracted
    (in the released code a leftover of comparing a video with itself, which keeps MF(v, v) below 1); mean
    over generated tracks of the maximum over reference tracks. The longer clip is cut to the shorter.
    ValueError when the numbers of tracks differ, for which the released code fails.
    """
    if generated.shape[1] != reference.shape[1]:
        raise ValueError("legacy motion fidelity needs as many tracks in both clips")
    frames = min(len(generated), len(reference))
    with np.errstate(invalid="ignore", divide="ignore"):
        g, r = (_unit_steps(points[:frames]) for points in (generated, reference))
    similarity = np.einsum("tnc,tmc->nm", g, r, optimize=True) / (frames - 1)
    return np.asarray((similarity - np.eye(len(similarity))).max(1).mean())


def _unit_steps(points: NDArray[np.float32]) -> NDArray[np.float64]:
    steps = np.diff(points.astype(np.float64), axis=0)
    return np.asarray(steps / np.linalg.norm(steps, axis=-1, keepdims=True))


@dataclass(config={"extra": "forbid"})
class MotionFidelity(Metric, kind="motion_fidelity"):
    """MF-w on a canvas of the reference's size. Say which tracker made the tracks.

    ``still``: shortest step that counts, in pixels of a 480-row frame. ``min_path``: how far from its
    start a moving track gets, as a share of the frame height. ``neighbours``: over how many the
    steps are filtered (``paths``); 0 for none. The value is None when nothing moves in the reference and 0
    when nothing moves in the generation.
    """

    name: str
    still: Annotated[float, Field(ge=0)] = 0.5
    min_path: Annotated[float, Field(ge=0)] = 0.04
    neighbours: Annotated[int, Field(ge=0)] = 8

    version: ClassVar[str] = "5"
    column = Column("Motion fid.", sees_motion=True)
    uses_tracks: ClassVar[bool] = True

    def _paths(self, tracks: Tracks, size: Size, canvas: Size) -> Paths:
        begun = tracks.chosen(tracks.start == 0)
        return paths(begun, size, canvas, self.still, self.min_path, self.neighbours)

    def _value(self, found: Fidelity) -> float:
        return found.value

    def score(self, sample: Sample) -> Score:
        """The score of a generation against its own reference; details count tracks and moving tracks."""
        canvas = _size(sample.reference)
        if len(sample.generated) != len(sample.reference):
            return Score(None, "generation and reference differ in the number of frames")
        found = motion_fidelity(
            self._paths(sample.generated_tracks, _size(sample.generated), canvas),
            self._paths(sample.reference_tracks, canvas, canvas),
        )
        details: Details = {
            "tracker": sample.tracker.name,
            "tracks": int((sample.reference_tracks.start == 0).sum()),
            "moving_generated": found.moving_generated,
            "moving_reference": found.moving_reference,
        }
        if np.isnan(found.value):
            return Score(None, "no track of the reference moves", details=details)
        details["speed_sensitive"] = found.speed_sensitive
        if not np.isnan(found.same_place):
            details["same_place"] = found.same_place
        return Score(self._value(found), details=details)

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """``chance``: mean score of generations against the references of other clips of as many frames.

        ``true`` is 1: a clip against itself.
        """

        def value(generated: _Kept, reference: _Kept) -> float | None:
            if len(generated.tracks.points) != len(reference.tracks.points):
                return None
            found = motion_fidelity(
                self._paths(generated.tracks, generated.size, reference.size),
                self._paths(reference.tracks, reference.size, reference.size),
            )
            value = self._value(found)
            return None if np.isnan(value) else value

        chance = _chance(samples, value)
        return {**chance, "true": 1.0} if chance else {}


@dataclass(config={"extra": "forbid"})
class MotionFidelitySpeed(MotionFidelity, kind="motion_fidelity_speed"):
    """MF-w with S_ij = 2 <g_i, r_j> / (|g_i|^2 + |r_j|^2): 1 only for equal paths at equal speed.

    This is 1 - |g_i - r_j|^2 / (|g_i|^2 + |r_j|^2), the squared error of the displacements relative to their
    own size: half and double speed both give 0.8, standing still 0, the way back -1. Fields and reasons as
    in ``MotionFidelity``.
    """

    column = Column("Motion fid. (speed)", primary=False, sees_motion=True)

    def _value(self, found: Fidelity) -> float:
        return found.speed_sensitive


@dataclass(config={"extra": "forbid"})
class MotionFidelityLegacy(Metric, kind="motion_fidelity_legacy"):
    """The published score. None when one step of one track is exactly zero (the released code gives NaN).

    It ignores position and speed and rises with fewer frames and more tracks, so it is comparable only at an
    equal tracker, grid, number of frames and frame stride.
    """

    name: str

    version: ClassVar[str] = "1"
    column = Column("Motion fid. (legacy)", primary=False, sees_motion=True)
    uses_tracks: ClassVar[bool] = True

    def score(self, sample: Sample) -> Score:
        """The legacy score of a generation against its own reference."""
        generated, reference = (
            _from_first(tracks) for tracks in (sample.generated_tracks, sample.reference_tracks)
        )
        details: Details = {
            "tracker": sample.tracker.name,
            "tracks": reference.shape[1],
            "resting": int(_resting(generated).sum() + _resting(reference).sum()),
        }
        if generated.shape[1] != reference.shape[1]:
            return Score(None, "generation and reference differ in the number of tracks", details=details)
        if not reference.shape[1] or min(len(generated), len(reference)) < 2:
            return Score(None, "no tracks", details=details)
        value = float(motion_fidelity_legacy(generated, reference))
        if np.isnan(value):
            return Score(None, "a track rests between two frames: 0/0 in the legacy score", details=details)
        return Score(value, details=details)

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """``chance``: mean legacy score of generations against the references of other clips."""

        def value(generated: _Kept, reference: _Kept) -> float | None:
            g, r = _from_first(generated.tracks), _from_first(reference.tracks)
            if g.shape != r.shape or not g.shape[1] or len(g) < 2:
                return None
            score = float(motion_fidelity_legacy(g, r))
            return None if np.isnan(score) else score

        return _chance(samples, value)


def _size(frames: NDArray[np.uint8]) -> Size:
    return int(frames.shape[1]), int(frames.shape[2])


def _from_first(tracks: Tracks) -> NDArray[np.float32]:
    """Points (T, N, 2) of the tracks that begin in frame 0."""
    return tracks.points[:, tracks.start == 0]


def _resting(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tracks (N,) of points (T, N, 2) with a step of exactly zero."""
    return np.asarray((np.diff(points, axis=0) == 0).all(-1).any(0))


class _Kept(NamedTuple):
    clip: str
    tracks: Tracks
    size: Size


def _chance(samples: Iterable[Sample], value: Callable[[_Kept, _Kept], float | None]) -> dict[str, float]:
    """Mean of ``value`` over mismatched pairs, without those that have none.

    Generation i of clip c meets the reference of clip c + 1, then (all generations again) c + 2 and so on,
    cyclically, until all pairs or ``MAX_PAIRS`` are seen: every clip gets about an equal share.
    """
    generations: list[_Kept] = []
    references: dict[str, _Kept] = {}
    try:
        for sample in samples:
            generations.append(_Kept(sample.clip, sample.generated_tracks, _size(sample.generated)))
            if sample.clip not in references:
                references[sample.clip] = _Kept(sample.clip, sample.reference_tracks, _size(sample.reference))
    except MetricUnavailable:
        return {}
    order = list(references.values())
    place = {clip: index for index, clip in enumerate(references)}
    pairs = (
        (generation, order[(place[generation.clip] + shift) % len(order)])
        for shift in range(1, len(order))
        for generation in generations
    )
    values = [
        found for pair, _ in zip(pairs, range(MAX_PAIRS), strict=False) if (found := value(*pair)) is not None
    ]
    return {"chance": float(np.mean(values)), "pairs": float(len(values))} if values else {}
