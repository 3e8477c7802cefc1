"""Point tracks from DIS optical flow (OpenCV; no weights).

DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. The occlusion test is the
forward-backward check of Sundaram, Brox and Keutzer, "Dense Point Trajectories by GPU-accelerated Large
Displacement Optical Flow", ECCV 2010. Points take over their neighbours' motion where it explains them
better, as in Barnes et al., "PatchMatch", SIGGRAPH 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.media.flow import Floats, Grey, colour_planes, dis_medium, inconsistent, outside
from metrics.interface import Tracker, Tracks
from metrics.trackers.starts import start_points
from metrics.trackers.surroundings import Indices, Places, Surroundings, sample

Bools = NDArray[np.bool_]
Images = Sequence[Floats]
Step = tuple[NDArray[np.float16], NDArray[np.float16]]
"""Flow (H, W, 2) from a frame to the next, and back, in pixels."""

CALM = 0.75
"""A point moves otherwise than most only if its surroundings then look more alike by this factor."""
SHARED = 0.9
"""A neighbour's motion is taken over only if the surroundings then look more alike by this factor."""
NEIGHBOURS = 8
NEAR = 2.0
"""A point this close, in pixels, to where it would rest, or move as most do, has not moved by itself."""
MARGIN = 3.0
"""One that has must look more alike than what was there at first by so many grey levels, and by ``CALM``."""
SMALLEST = 0.01
"""A camera's motion that shrinks areas by more is none."""
ALIKE = 10.0
"""Surroundings this alike (mean difference in grey levels) need no check there and back."""
UNLIKE = 0.5
"""Surroundings that differ by more than this share of what unrelated places differ by are another point's.

A place where a point rests, or moves as most do, may differ by 1 / ``CALM`` times as much.
"""


def resized(frames: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, 3) at this shorter side (bicubic, shrunk by area), and the factor."""
    import cv2

    scale = side / min(frames.shape[1:3])
    if scale == 1:
        return frames, scale
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return np.stack(
        [cv2.resize(np.ascontiguousarray(frame), size, interpolation=how) for frame in frames]
    ), scale


def blurred(frames: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    """Frames (T, H, W, ...) under a Gaussian of this standard deviation in pixels; 0 leaves them."""
    import cv2

    if not deviation:
        return frames
    return np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in frames])


def steps(planes: Sequence[Sequence[Grey]]) -> list[list[Step]]:
    """DIS flow (preset MEDIUM) there and back between successive frames (T - 1), on each plane of images."""
    dis = dis_medium()

    def both(first: Grey, second: Grey) -> Step:
        # Halves: their rounding is below a hundredth of a pixel, and all steps are kept for all starts.
        return dis(first, second, None).astype(np.float16), dis(second, first, None).astype(np.float16)

    return [
        list(pair)
        for pair in zip(*([both(*two) for two in pairwise(plane)] for plane in planes), strict=True)
    ]


class Points(NamedTuple):
    """Points to follow: ``origin`` (N, 2) in frame ``begun`` (N,), and what they look like there.

    ``near`` (N, K): indices of the nearest that began in the same frame. ``limit``: what differs by more grey
    levels looks like another point (``UNLIKE``).
    """

    origin: Floats
    begun: Indices
    around: Surroundings
    near: Indices
    limit: float

    @staticmethod
    def of(images: Images, origin: Floats, begun: Indices) -> Points:
        """Of frames (T, H, W, 3)."""
        from scipy.spatial import cKDTree

        near = np.repeat(np.arange(len(origin))[:, None], NEIGHBOURS, 1)
        parts = []
        for frame in np.unique(begun):
            own = np.flatnonzero(begun == frame)
            parts.append(Surroundings.of(images[frame], origin[own]))
            # In units of the grid's extent, so that it has the same neighbours whatever the frame's shape.
            places = origin[own] / np.maximum(np.ptp(origin[own], axis=0), 1)
            count = min(NEIGHBOURS, len(own) - 1)
            if count:
                near[own, :count] = own[cKDTree(places).query(places, k=count + 1)[1][:, 1:]]
        arrays = zip(*(vars(part).values() for part in parts), strict=True)
        around = Surroundings(*map(np.concatenate, arrays))
        shuffled = np.random.default_rng(0).permutation(len(origin))
        strangers = around.mean(around.colours - around.colours[shuffled])
        return Points(origin, begun, around, near, max(ALIKE, UNLIKE * float(np.median(strangers))))

    def some(self, which: Indices) -> Points:
        """Some of the points: all that began in any of some frames."""
        place = np.full(len(self.origin), -1)
        place[which] = np.arange(len(which))
        return self._replace(
            origin=self.origin[which],
            begun=self.begun[which],
            around=self.around.some(which),
            near=place[self.near[which]],
        )


def cameras(points: Points, ends: Floats, sure: Bools) -> Floats:
    """How most points move (N, 2, 3): the similarity that ``ends`` (N, 2), where sure, agree on.

    For the points of each start by RANSAC; the identity where fewer than 8 are sure or none is found.
    """
    import cv2

    maps = np.repeat(np.eye(2, 3, dtype=np.float32)[None], len(ends), 0)
    for frame in np.unique(points.begun):
        own = points.begun == frame
        trusted = own & sure
        if trusted.sum() < 8:
            continue
        begin, end = points.origin[trusted], ends[trusted]
        matrix, _ = cv2.estimateAffinePartial2D(begin, end, ransacReprojThreshold=1.0)
        if matrix is not None and np.linalg.det(matrix[:, :2]) > SMALLEST:
            maps[own] = matrix
    return maps


def carried(places: Places, maps: Floats) -> Places:
    """Places moved by affine maps (N, 2, 3)."""
    linear = maps[:, :, :2]
    return Places(np.einsum("nij,nj->ni", linear, places.at) + maps[:, :, 2], linear @ places.affine)


def followed(
    points: Points, images: Images, t: int, step: Sequence[Step], last: Places, seen: Bools
) -> tuple[Places, Bools]:
    """Where the points are in image ``t``, and whether they are seen, from their last places."""
    around, each = points.around, np.arange(len(seen))
    image = images[t]
    candidates, sure = [], []
    for there, back in step:
        way = sample(there.astype(np.float32), last.at)
        candidates.append(Places(last.at + way, last.affine))
        returned = sample(back.astype(np.float32), last.at + way)
        sure.append(seen & ~inconsistent(way, returned))
    unlike = [around.unlike(image, places) for places in candidates]
    some_sure = np.any(sure, axis=0)
    # Flow drags a background along with the object before it, and noise shakes it.
    begin = Places(points.origin, np.repeat(np.eye(2, dtype=np.float32)[None], len(each), 0))
    maps = cameras(points, candidates[0].at, sure[0])
    for calm in (begin, carried(begin, maps)):
        unlike.append(CALM * around.unlike(image, calm))
        candidates.append(calm)
        sure.append((unlike[-1] < ALIKE) | some_sure)
    best = np.where(sure, unlike, np.add(unlike, 256)).argmin(0)
    chosen = Places(
        np.stack([places.at for places in candidates])[best, each],
        np.stack([places.affine for places in candidates])[best, each],
    )
    found, differs = around.fitted(image, chosen)
    # Noise is fitted too: a point at rest stays unless that makes a difference.
    still = (best == len(step)) & (differs > SHARED * np.stack(unlike)[best, each] / CALM)
    found = found.where(still, begin)
    found, differs, known = shared(points, image, found, differs, np.stack(sure)[best, each])
    return found, known & (differs <= points.limit) & ~dragged(points, images, found, differs, maps)


def shared(
    points: Points, image: Floats, found: Places, differs: Floats, sure: Bools
) -> tuple[Places, Floats, Bools]:
    """Places, how different they look and whether they are sure, once each point has tried its neighbours'
    motions: at an object's edge the flow is both sides' mean, and a hidden point comes back where they are.
    """
    best, least, known = found, differs, sure.copy()
    good = sure & (differs <= points.limit)
    for near in points.near.T:
        offset = points.origin - points.origin[near]
        affine = found.affine[near]
        theirs = Places(found.at[near] + np.einsum("nij,nj->ni", affine, offset), affine)
        now = points.around.unlike(image, theirs)
        better = good[near] & np.where(known, now < SHARED * least, now < UNLIKE * points.limit)
        best, least = best.where(better, theirs), np.where(better, now, least)
        known |= better
    changed = np.flatnonzero((best.at != found.at).any(1))
    if len(changed):
        again, differs = points.around.some(changed).fitted(image, best.some(changed))
        best.at[changed], best.affine[changed], least[changed] = again.at, again.affine, differs
    return best, least, known


def dragged(points: Points, images: Images, found: Places, differs: Floats, maps: Floats) -> Bools:
    """Points (N,) that moved by themselves to where the background looked like them all along.

    Untextured water or sky is so alike that it follows whatever moves past it.
    """
    linear = np.linalg.inv(maps[:, :, :2])
    shift = -np.einsum("nij,nj->ni", linear, maps[:, :, 2])
    before = carried(found, np.concatenate([linear, shift[..., None]], -1))
    there = np.empty_like(differs)
    for frame in np.unique(points.begun):
        own = np.flatnonzero(points.begun == frame)
        there[own] = points.around.some(own).unlike(images[frame], before.some(own))
    moved = [np.linalg.norm(at - points.origin, axis=1) > NEAR for at in (found.at, before.at)]
    return np.asarray(moved[0] & moved[1] & (differs >= np.minimum(CALM * there, there - MARGIN)))


@dataclass(config={"extra": "forbid"})
class Dis(Tracker, kind="dis"):
    """DIS flow from frame to frame, from a regular grid of points in several frames, both ways in time.

    In each frame a point has several candidate places: where the flow on each colour plane puts it, where it
    began, and where it would be if it moved as most points do (a moving camera). Of those that pass the
    forward-backward check the one whose surroundings look most like the point's first ones is fitted to them
    by an affine map, which takes out what the flow's errors add up to. Then every point tries the motions of
    its neighbours. Without a sure place, or where even the best looks like another point, it is not visible
    until it is found again.

    ``grid``: points a side. ``starts``: frames in which a grid begins, evenly from the first to the last; so
    there are at most ``starts`` * ``grid`` ** 2 points. ``side``: the shorter side to which frames are
    brought (the tracks stay in the frame's own pixels). ``blur``: standard deviation, in pixels of the frame
    (of the resized one where that is smaller), of the Gaussian that takes noise and boiling textures out of
    it; 0 for none. ``planes``: see ``colour_planes``.
    """

    name: str
    grid: Annotated[int, Field(ge=2, le=256)] = 30
    starts: Annotated[int, Field(ge=1)] = 3
    side: Annotated[int, Field(ge=16)] = 256
    blur: Annotated[float, Field(ge=0)] = 0.4
    planes: Annotated[int, Field(ge=1, le=3)] = 2

    version: ClassVar[str] = "5"

    def track(self, frames: NDArray[np.uint8], masks: Bools | None = None) -> Tracks:
        """See ``Tracker.track``. The same frames give the same tracks on any number of threads."""
        start, begun = start_points(frames, self.grid, self.starts, masks)
        images, scale = resized(frames, self.side)
        # Enlarging spreads noise as far.
        images = blurred(images, self.blur * max(1.0, scale))
        planes = colour_planes(images, self.planes)
        places = np.repeat(start[None], len(frames), 0)
        visible = np.ones(places.shape[:2], bool)
        if not len(start) or not planes or len(frames) < 2:
            return Tracks(places, visible, begun)
        # Pixel centres are integers at both sizes, so resizing also shifts by half a pixel.
        levels = list(images.astype(np.float32))
        points = Points.of(levels, (start + 0.5) * np.float32(scale) - 0.5, begun)
        flow = steps(planes)
        back = [[(home, away) for away, home in planes] for planes in reversed(flow)]
        turned = points._replace(begun=len(frames) - 1 - begun)
        with ThreadPoolExecutor(2) as pool:
            passes = pool.map(_onward, (levels, levels[::-1]), (flow, back), (points, turned))
            (onward, seen), (backward, seen_back) = passes
        later = np.arange(len(frames))[:, None] > begun
        earlier = np.arange(len(frames))[:, None] < begun
        for which, found, sees in ((later, onward, seen), (earlier, backward[::-1], seen_back[::-1])):
            places[which] = (found[which] + 0.5) / np.float32(scale) - 0.5
            visible[which] = sees[which]
        visible &= ~outside(places, *frames.shape[1:3])
        return Tracks(places, visible, begun)


def _onward(images: Images, flow: Sequence[Sequence[Step]], points: Points) -> tuple[Floats, Bools]:
    """Points (T, N, 2) and whether they are seen (T, N) in the frames after the one that each began in."""
    count = len(points.origin)
    all_at = np.repeat(points.origin[None], len(images), 0)
    all_seen = np.ones((len(images), count), bool)
    affine = np.repeat(np.eye(2, dtype=np.float32)[None], count, 0)
    for first, until in pairwise([*np.unique(points.begun), len(images) - 1]):
        own = np.flatnonzero(points.begun <= first)
        some = points.some(own)
        last, seen = Places(all_at[first, own], affine[own]), all_seen[first, own]
        for t in range(first, until):
            last, seen = followed(some, images, t + 1, flow[t], last, seen)
            all_at[t + 1, own], all_seen[t + 1, own] = last.at, seen
        affine[own] = last.affine
    return all_at, all_seen
