"""The published motion fidelity, number for number, for comparison with papers.

Yatim et al., "Space-Time Diffusion Features for Zero-Shot Text-Driven Motion Transfer", 2024, as released in
``diffusion-motion-transfer/diffusion-motion-transfer:motion_fidelity_score.py`` and
``ditflow/ditflow:eval/motion_fidelity_score.py``. It is never put in one column with ``motion_fidelity``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from metrics.chance import mismatched
from metrics.interface import Column, Details, Metric, MetricUnavailable, Sample, Score, Tracks


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
class MotionFidelityLegacy(Metric, kind="motion_fidelity_legacy"):
    """The published motion fidelity: how alike in direction the tracks of generation and reference are.

    None when one step of one track is exactly zero (the released code gives NaN).

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
        generations: list[tuple[str, NDArray[np.float32]]] = []
        references: dict[str, NDArray[np.float32]] = {}
        try:
            for sample in samples:
                generations.append((sample.clip, _from_first(sample.generated_tracks)))
                references.setdefault(sample.clip, _from_first(sample.reference_tracks))
        except MetricUnavailable:
            return {}
        scores = [
            float(motion_fidelity_legacy(g, r))
            for g, r in mismatched(generations, references)
            if g.shape == r.shape and g.shape[1] and len(g) > 1
        ]
        values = [score for score in scores if not np.isnan(score)]
        return {"chance": float(np.mean(values)), "pairs": float(len(values))} if values else {}


def _from_first(tracks: Tracks) -> NDArray[np.float32]:
    """Points (T, N, 2) of the tracks that begin in frame 0."""
    return tracks.points[:, tracks.start == 0]


def _resting(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tracks (N,) of points (T, N, 2) with a step of exactly zero."""
    return np.asarray((np.diff(points, axis=0) == 0).all(-1).any(0))
