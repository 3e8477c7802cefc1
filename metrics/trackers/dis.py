"""Point tracks from DIS optical flow (OpenCV; no weights).

DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. The occlusion test is the
forward-backward check of Sundaram, Brox and Keutzer, "Dense Point Trajectories by GPU-accelerated Large
Displacement Optical Flow", ECCV 2010. Choosing between flows over short and long spans of time follows
Neoral, Serych and Matas, "MFT: Long-Term Tracking of Every Pixel", WACV 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.flow import Floats, Grey, colour_planes, dis_medium, enlarged, inconsistent, outside, pixel_grid
from metrics.interface import Tracker, Tracks
from metrics.trackers.starts import start_grid

CALM = 0.75
"""A point moves otherwise than most only if its surroundings then look more alike by this factor."""
ALIKE = 10.0
"""Surroundings this alike (mean difference in grey levels) need no check there and back."""
UNLIKE = 0.5
"""Surroundings that differ by more than this share of what unrelated places differ by are another point's.

A place where a point rests, or moves as most do, may differ by 1 / ``CALM`` times as much.
"""


def sample(field: Floats, points: Floats) -> Floats:
    """Bilinear values (N, C) of a field (H, W, C) at points (N, 2) x, y; beyond the border, the border's."""
    import cv2

    # remap refuses maps wider than 32767; one row per point keeps any number of points legal.
    maps = np.ascontiguousarray(points, np.float32)
    rows = [
        cv2.remap(field, part[:, :1], part[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in np.array_split(maps, len(maps) // 30_000 + 1)
    ]
    return np.asarray(np.concatenate(rows), np.float32).reshape(len(points), -1)


def blurred(frames: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    """Frames (T, H, W, ...) under a Gaussian of this standard deviation in pixels; 0 leaves them."""
    import cv2

    if not deviation:
        return frames
    return np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in frames])


class Spans(NamedTuple):
    """Flow there and back, each (H, W, 2) float32 in pixels, to one frame: from the one before, and from the
    first one.
    """

    step: tuple[Floats, Floats]
    direct: tuple[Floats, Floats]


def spans(plane: Sequence[Grey]) -> Iterator[Spans]:
    """DIS flow (preset MEDIUM) to each of the images (H, W) but the first.

    The search for the direct flow begins where the last one and the step from there lead: alone, DIS does not
    find motions of a quarter of the frame, and a chain of steps alone adds up their errors.
    """
    import cv2

    # Any: OpenCV's stub does not know that the third argument may be None.
    remap: Any = cv2.remap
    dis = dis_medium()
    height, width = plane[0].shape
    pixels = pixel_grid(height, width)

    def then(first: Floats, second: Floats) -> Floats:
        """Flow ``first``, then ``second`` from where it leads."""
        onward = remap(second, pixels + first, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(first + onward)

    away = home = np.zeros((height, width, 2), np.float32)
    for before, now in pairwise(plane):
        forward, backward = dis(before, now, None), dis(now, before, None)
        away = dis(plane[0], now, then(away, forward))
        home = dis(now, plane[0], then(backward, home))
        yield Spans((forward, backward), (away, home))


def surroundings(image: NDArray[np.uint8], points: Floats, reach: int = 8) -> Floats:
    """Colours (N, 243) of a 9 x 9 lattice of every other pixel around points (N, 2)."""
    offset = np.arange(-reach, reach + 1, 2, dtype=np.float32)
    lattice = np.stack(np.meshgrid(offset, offset), -1).reshape(1, -1, 2)
    places = (points[:, None] + lattice).reshape(-1, 2)
    return sample(image.astype(np.float32), places).reshape(len(points), -1)


def carried(points: Floats, ends: Floats, sure: NDArray[np.bool_]) -> Floats:
    """Points (N, 2) moved as most of them do: by the similarity that ``ends`` (N, 2), where sure, agree on.

    RANSAC; the points themselves where fewer than 8 are sure or none is found.
    """
    import cv2

    if sure.sum() < 8:
        return points
    matrix, _ = cv2.estimateAffinePartial2D(points[sure], ends[sure], ransacReprojThreshold=1.0)
    if matrix is None:
        return points
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float32)


@dataclass(config={"extra": "forbid"})
class Dis(Tracker, kind="dis"):
    """DIS flow from a regular grid of frame 0, straight from there and step by step.

    In each frame a point has several candidate places: where the flow from frame 0 puts it and where the
    flow from its last place does, each on every colour plane, where it was at first, and where it would be
    if it moved as most points do (a moving camera). Among those that pass the forward-backward check the
    one whose surroundings look most like the point's in frame 0 is taken; without any, or where even that
    one looks like another point, it is invisible until it is found again.

    ``grid``: points a side. ``min_side``: smaller frames are enlarged to it before the flow is computed (the
    tracks stay in the frame's own pixels). ``blur``: standard deviation, in pixels of the enlarged frame, of
    the Gaussian that takes noise and boiling textures out of it; 0 for none. ``planes``: see
    ``colour_planes``.
    """

    name: str
    grid: Annotated[int, Field(ge=2, le=256)] = 30
    min_side: Annotated[int, Field(ge=16)] = 256
    blur: Annotated[float, Field(ge=0)] = 2.4
    planes: Annotated[int, Field(ge=1, le=3)] = 2

    version: ClassVar[str] = "4"

    def track(self, frames: NDArray[np.uint8], masks: NDArray[np.bool_] | None = None) -> Tracks:
        """Tracks of a regular grid of frame 0 (inside its mask, if given) through (T, H, W, 3) uint8 RGB.

        The same frames give the same tracks on any number of threads.
        """
        height, width = frames.shape[1:3]
        start = start_grid(height, width, self.grid, None if masks is None else masks[0])
        begun = np.zeros(len(start), np.intp)
        points = np.repeat(start[None], len(frames), 0)
        visible = np.ones(points.shape[:2], bool)
        images, scale = enlarged(frames, self.min_side)
        images = blurred(images, self.blur)
        planes = colour_planes(images, self.planes)
        if not len(start) or not planes:
            return Tracks(points, visible, begun)
        # Pixel centres are integers at both sizes, so enlarging also shifts by half a pixel.
        origin = (start + 0.5) * np.float32(scale) - 0.5
        look = surroundings(images[0], origin)
        at, seen = origin, visible[0]
        each = np.arange(len(start))
        shuffled = np.random.default_rng(0).permutation(len(start))
        limit = max(ALIKE, UNLIKE * float(np.median(np.abs(look - look[shuffled]).mean(1))))
        for t, found in enumerate(zip(*(spans(plane) for plane in planes), strict=True), 1):
            places, sure = [], []
            for step, direct in found:
                # A lost point's last place is not to be trusted, but frame 0 always is.
                for (there, back), begin, known in ((direct, origin, visible[0]), (step, at, seen)):
                    way = sample(there, begin)
                    places.append(begin + way)
                    sure.append(known & ~inconsistent(way, sample(back, begin + way)))
            unlike = [np.abs(surroundings(images[t], place) - look).mean(1) for place in places]
            # Flow drags a background along with the object before it, and noise shakes it.
            some_sure = np.any(sure, axis=0)
            for calm in (origin, carried(origin, places[0], sure[0])):
                unlike.append(CALM * np.abs(surroundings(images[t], calm) - look).mean(1))
                places.append(calm)
                sure.append((unlike[-1] < ALIKE) | some_sure)
            best = np.where(sure, unlike, np.add(unlike, 256)).argmin(0)
            at, seen = np.stack(places)[best, each], np.stack(sure)[best, each]
            seen = seen & (np.stack(unlike)[best, each] <= limit)
            points[t] = (at + 0.5) / np.float32(scale) - 0.5
            seen = visible[t] = seen & ~outside(points[t], height, width)
        return Tracks(points, visible, begun)
