"""A tracker against the true tracks of rendered clips or of cut-out footage, by TAP-Vid's measures.

Doersch et al., "TAP-Vid: A Benchmark for Tracking Any Point in a Video", NeurIPS 2022, as released in
``google-deepmind/tapnet:tapnet/tapvid/evaluation_datasets.py``: coordinates scaled to 256x256, thresholds of
1, 2, 4, 8 and 16 pixels. As in its "strided" mode points begin in several frames and are judged in all
others, before and after.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from datasets.interface import Dataset
from metrics.interface import Tracker, Tracks

THRESHOLDS = (1, 2, 4, 8, 16)
SIDE = 256
MOVES = 1.0
"""A point moves if it ever is further than this from its start, in pixels of 256x256."""
NEAR = 8.0
"""A benchmark's point is followed by the track that begins nearest, closer than this in pixels of 256x256."""


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


class Truth(Protocol):
    """What is known of a clip: ``datasets.sprites.world.Truth`` or ``metrics.validate.collage.Collage``."""

    @property
    def motion(self) -> str:
        """Its kind of motion."""
        ...

    def tracks(
        self, points: NDArray[np.floating], begun: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """True tracks (T, N, 2) and visibility (T, N) of points (N, 2) of frame ``begun``."""
        ...

    def owners(self, points: NDArray[np.floating], frame: int) -> NDArray[np.intp]:
        """Number (N,) of the object that each point (N, 2) of a frame is on; -1 for the background."""
        ...


class Made(NamedTuple):
    """A clip whose motion is known: ``frames`` (T, H, W, 3) uint8 RGB."""

    name: str
    frames: NDArray[np.uint8]
    truth: Truth


def tap_vid(found: Tracks, true: Tracks, size: tuple[int, int]) -> TapVid:
    """TAP-Vid's measures of tracks in frames of ``size`` (height, width); where they begin is not judged."""
    scale = np.array([SIDE / size[1], SIDE / size[0]])
    far = np.linalg.norm((found.points.astype(np.float64) - true.points) * scale, axis=-1)
    judged = np.arange(len(far))[:, None] != true.start
    seen, claimed = true.visible & judged, found.visible & judged
    if not seen.any():
        return TapVid(np.nan, np.nan, np.nan, (np.nan,) * len(THRESHOLDS))
    within, jaccard = [], []
    for threshold in THRESHOLDS:
        close = far < threshold
        within.append(float((close & seen).sum() / seen.sum()))
        hits, false = (close & seen & claimed).sum(), (claimed & ~(close & seen)).sum()
        jaccard.append(float(hits / (seen.sum() + false)))
    occlusion = float((seen == claimed)[judged].mean())
    return TapVid(float(np.mean(within)), float(np.mean(jaccard)), occlusion, tuple(within))


def moving(true: Tracks, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points (N,) move: see ``MOVES``."""
    scale = np.array([SIDE / size[1], SIDE / size[0]])
    begin = true.points[true.start, np.arange(len(true.start))]
    away = np.linalg.norm((true.points - begin) * scale, axis=-1)
    return np.asarray(away.max(0) > MOVES)


def true_tracks(truth: Truth, found: Tracks) -> tuple[Tracks, NDArray[np.bool_]]:
    """The true tracks of the points that were followed, and which of them (N,) are on an object."""
    points, visible = np.empty_like(found.points), np.empty_like(found.visible)
    on_object = np.empty(len(found.start), bool)
    for begun in np.unique(found.start):
        own = found.start == begun
        points[:, own], visible[:, own] = truth.tracks(found.points[begun, own], int(begun))
        on_object[own] = truth.owners(found.points[begun, own], int(begun)) >= 0
    return Tracks(points, visible, found.start), on_object


class Clip(NamedTuple):
    """One clip's result on all points, on the moving ones and on those on objects.

    ``static``: share of points that rest.
    """

    name: str
    motion: str
    all: TapVid
    moving: TapVid
    objects: TapVid
    static: float


def score_clips(tracker: Tracker, clips: Iterable[Made]) -> Iterator[Clip]:
    """Score a tracker on the points that it chooses itself, clip by clip."""
    for clip in clips:
        size = clip.frames.shape[1], clip.frames.shape[2]
        found = tracker.track(clip.frames)
        true, on_object = true_tracks(clip.truth, found)
        moves = moving(true, size)
        every, some, objects = (
            tap_vid(found.chosen(which), true.chosen(which), size)
            for which in (np.ones_like(moves), moves, on_object)
        )
        yield Clip(clip.name, clip.truth.motion, every, some, objects, float(1 - moves.mean()))


def beside(found: Tracks, given: NDArray[np.float32], size: tuple[int, int]) -> tuple[Tracks, Tracks]:
    """The tracks that begin in frame 0 nearest to a benchmark's points, moved onto these, and its own tracks.

    ``given`` (T, N, 3): x, y and whether it is seen, as ``Clip.tracks``. Without the points that are hidden
    in frame 0, and those that no track begins within ``NEAR`` of.
    """
    first = found.chosen(found.start == 0)
    begun = given[0, :, :2]
    away = np.full((len(begun), 1), np.inf)
    if first.points.shape[1]:
        scale = np.array([SIDE / size[1], SIDE / size[0]])
        away = np.linalg.norm((begun[:, None] - first.points[0][None]) * scale, axis=-1)
    kept = (given[0, :, 2] > 0.5) & (away.min(1) < NEAR)
    nearest = away.argmin(1)[kept]
    points = first.points[:, nearest] + (begun[kept] - first.points[0, nearest])
    start = np.zeros(len(nearest), np.intp)
    true = Tracks(given[:, kept, :2], given[:, kept, 2] > 0.5, start)
    return Tracks(points, first.visible[:, nearest], start), true


def score_benchmark(tracker: Tracker, dataset: Dataset, count: int) -> Iterator[Clip]:
    """Score a tracker beside the tracks of a benchmark's first ``count`` clips that have some.

    These are themselves a tracker's, so this is how far two agree. The motion is the clip's stratum.
    """
    for info in dataset.listing().clips[:count]:
        clip = dataset.load(info.name)
        if clip.tracks is None:
            continue
        size = clip.frames.shape[1], clip.frames.shape[2]
        found, true = beside(tracker.track(clip.frames), clip.tracks, size)
        moves = moving(true, size)
        some = tap_vid(found.chosen(moves), true.chosen(moves), size)
        every = tap_vid(found, true, size)
        motion = ", ".join(info.strata.values()) or "any"
        static = float(1 - moves.mean()) if len(moves) else float("nan")
        yield Clip(info.name, motion, every, some, every, static)


def sprites(seeds: Sequence[int], frames: int, side: int) -> Iterator[Made]:
    """Rendered clips of the sprites world."""
    from datasets.sprites.world import render

    for seed in seeds:
        video, truth = render(seed, frames, side, side)
        yield Made(str(seed), video, truth)


def cut_outs(folder: Path, seeds: Sequence[int], frames: int, side: int) -> Iterator[Made]:
    """Clips cut out of a folder of footage (``metrics.validate.collage``), ``side`` rows of 7:4."""
    from metrics.validate import collage

    stills = collage.read(folder)
    for seed in seeds:
        truth = collage.draw(stills, seed, frames, side, round(side * 7 / 4))
        yield Made(str(seed), truth.paint(seed), truth)


def timed(tracker: Tracker, frames: NDArray[np.uint8], count: int = 81) -> tuple[float, float]:
    """Seconds, by the clock and of processors, to track ``count`` frames at 480x832; played to and fro."""
    from datasets.media import images

    there = images.resize_crop(frames, 480, 832)
    whole = np.stack(list(islice(cycle([*there, *there[::-1]]), count)))
    clock, processors = time.perf_counter(), time.process_time()
    tracker.track(whole)
    return time.perf_counter() - clock, time.process_time() - processors
