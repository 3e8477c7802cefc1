"""A tracker against the true tracks of rendered clips, by TAP-Vid's measures.

Doersch et al., "TAP-Vid: A Benchmark for Tracking Any Point in a Video", NeurIPS 2022, as released in
``google-deepmind/tapnet:tapnet/tapvid/evaluation_datasets.py``: coordinates scaled to 256x256, query-first
(here: points of frame 0, judged in all later frames), thresholds of 1, 2, 4, 8 and 16 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metrics.interface import Tracker, Tracks

THRESHOLDS = (1, 2, 4, 8, 16)
SIDE = 256
MOVES = 1.0
"""A point moves if it ever is further than this from its start, in pixels of 256x256."""


class TapVid(NamedTuple):
    """``within``: share of the truly visible points closer than each threshold; ``delta``: its mean.

    ``jaccard``: average over the thresholds of true positives over (truly visible points + false positives),
    a true positive being truly visible, predicted visible and close enough; ``occlusion``: share of points
    whose visibility is predicted right. NaN without points.
    """

    delta: float
    jaccard: float
    occlusion: float
    within: tuple[float, ...]


def tap_vid(found: Tracks, true: Tracks, size: tuple[int, int]) -> TapVid:
    """TAP-Vid's measures of tracks in frames of ``size`` (height, width) whose first frame is the query."""
    scale = np.array([SIDE / size[1], SIDE / size[0]])
    far = np.linalg.norm((found.points[1:].astype(np.float64) - true.points[1:]) * scale, axis=-1)
    seen, claimed = true.visible[1:], found.visible[1:]
    if not seen.any():
        return TapVid(np.nan, np.nan, np.nan, (np.nan,) * len(THRESHOLDS))
    within, jaccard = [], []
    for threshold in THRESHOLDS:
        close = far < threshold
        within.append(float((close & seen).sum() / seen.sum()))
        hits, false = (close & seen & claimed).sum(), (claimed & ~(close & seen)).sum()
        jaccard.append(float(hits / (seen.sum() + false)))
    occlusion = float((seen == claimed).mean())
    return TapVid(float(np.mean(within)), float(np.mean(jaccard)), occlusion, tuple(within))


def moving(true: Tracks, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points (N,) move: see ``MOVES``."""
    scale = np.array([SIDE / size[1], SIDE / size[0]])
    away = np.linalg.norm((true.points - true.points[:1]) * scale, axis=-1)
    return np.asarray(away.max(0) > MOVES)


class Clip(NamedTuple):
    """One clip's result on all points and on the moving ones; ``static``: share of points that rest."""

    name: str
    motion: str
    all: TapVid
    moving: TapVid
    static: float


def score_clips(tracker: Tracker, seeds: Sequence[int], frames: int = 17, side: int = 64) -> Iterator[Clip]:
    """Score a tracker on the grid of points that it chooses itself in rendered clips, one by one."""
    from datasets.sprites.world import render

    for seed in seeds:
        video, truth = render(seed, frames, side, side)
        found = tracker.track(video)
        found = found.chosen(found.start == 0)
        true = Tracks(*truth.tracks(found.points[0]), found.start)
        size = (side, side)
        moves = moving(true, size)
        some = [tracks.chosen(moves) for tracks in (found, true)]
        yield Clip(
            str(seed),
            truth.motion,
            tap_vid(found, true, size),
            tap_vid(some[0], some[1], size),
            float(1 - moves.mean()),
        )
