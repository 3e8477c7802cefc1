"""Point tracks by chaining DIS optical flow (OpenCV; no weights).

DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. The occlusion test is the
forward-backward check of Sundaram, Brox and Keutzer, "Dense Point Trajectories by GPU-accelerated Large
Displacement Optical Flow", ECCV 2010.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from metrics.interface import Tracks

Floats = NDArray[np.float32]


class Flow(NamedTuple):
    """Flow between two frames in their own pixels.

    ``forward``, ``backward``: (H, W, 2) float32 x, y; the pixel x of the first frame is seen at
    ``x + forward[x]`` in the second. ``occluded``: (H, W) bool over the first frame: the way there and back
    misses, or leaves the frame.
    """

    forward: Floats
    backward: Floats
    occluded: NDArray[np.bool_]


def sample(field: Floats, points: Floats) -> Floats:
    """Bilinear values (N, C) of a field (H, W, C) at points (N, 2) x, y; beyond the border, the border's."""
    import cv2

    # remap refuses maps wider than 32767; one row per point keeps any number of points legal.
    maps = np.ascontiguousarray(points, np.float32)
    rows = [
        cv2.remap(field, part[:, :1], part[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for part in np.array_split(maps, len(maps) // 30_000 + 1)
    ]
    return np.concatenate(rows).reshape(len(points), -1)


def missed(forward: Floats, backward: Floats) -> NDArray[np.bool_]:
    """|f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, in pixels, over the last axis."""
    error = _square(forward + backward)
    return np.asarray(error > 0.01 * (_square(forward) + _square(backward)) + 0.5)


def _square(vectors: Floats) -> Floats:
    return np.asarray(np.einsum("...c,...c", vectors, vectors), np.float32)


def outside(points: Floats, height: int, width: int) -> NDArray[np.bool_]:
    """Points (..., 2) beyond the centres of the outermost pixels."""
    x, y = points[..., 0], points[..., 1]
    return np.asarray((x < 0) | (x > width - 1) | (y < 0) | (y > height - 1))


def grey_frames(frames: NDArray[np.uint8], min_side: int) -> tuple[list[NDArray[np.uint8]], float]:
    """Frames (T, H, W, 3) as grey images, enlarged until the shorter side has ``min_side``, and the factor.

    DIS matches 8x8 patches at half resolution: on a 64-pixel frame there is too little to match.
    """
    import cv2

    scale = max(1.0, min_side / min(frames.shape[1:3]))
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    if scale > 1:
        grey = [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in grey]
    return grey, scale


def flows(grey: Sequence[NDArray[np.uint8]]) -> Iterator[Flow]:
    """DIS flow (preset MEDIUM) between consecutive grey images, there and back."""
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = grey[0].shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    for first, second in pairwise(grey):
        forward, backward = dis.calc(first, second, None), dis.calc(second, first, None)
        there = pixels + forward
        back = cv2.remap(backward, there, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        yield Flow(forward, backward, missed(forward, back) | outside(there, height, width))


def start_grid(height: int, width: int, grid: int, mask: NDArray[np.bool_] | None = None) -> Floats:
    """Starting points (N, 2) float32 x, y: a regular ``grid`` x ``grid``, row by row.

    Without a mask it spans the frame less a margin of W/64 (as CoTracker's). With one (H, W; another size is
    rescaled) it spans the mask's bounding box and keeps the points inside: none for an empty mask.
    """
    import cv2

    if mask is None:
        margin = width / 64
        left, right, top, bottom = margin, width - 1 - margin, margin, height - 1 - margin
    else:
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return np.empty((0, 2), np.float32)
        left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    x, y = np.meshgrid(np.linspace(left, right, grid), np.linspace(top, bottom, grid))
    points = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    if mask is None:
        return points
    column, row = np.round(points).astype(int).T
    return points[mask[row, column]]


@dataclass(config={"extra": "forbid"})
class Dis:
    """Chained DIS flow from a regular grid of frame 0.

    ``grid``: points a side. ``min_side``: smaller frames are enlarged to it before the flow is computed (the
    tracks stay in the frame's own pixels). A point is visible until it first leaves the frame or fails the
    forward-backward check; from then on the flow still moves it, but it stays invisible: a chain cannot find
    a point again.
    """

    name: str
    grid: Annotated[int, Field(ge=2, le=256)] = 30
    min_side: Annotated[int, Field(ge=16)] = 256

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ()

    def track(self, frames: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> Tracks:
        """Tracks of a regular grid of frame 0 (inside ``mask``, if given) through (T, H, W, 3) uint8 RGB.

        The same frames give the same tracks on any number of threads.
        """
        height, width = frames.shape[1:3]
        start = start_grid(height, width, self.grid, mask)
        points = np.empty((len(frames), len(start), 2), np.float32)
        visible = np.ones((len(frames), len(start)), bool)
        points[0] = start
        if not len(start):
            return Tracks(points, visible)
        grey, scale = grey_frames(frames, self.min_side)
        # Pixel centres are integers at both sizes, so enlarging also shifts by half a pixel.
        at = (start + 0.5) * np.float32(scale) - 0.5
        for t, flow in enumerate(flows(grey)):
            step = sample(flow.forward, at)
            at = at + step
            lost = missed(step, sample(flow.backward, at)) | outside(
                (at + 0.5) / np.float32(scale) - 0.5, height, width
            )
            points[t + 1] = (at + 0.5) / np.float32(scale) - 0.5
            visible[t + 1] = visible[t] & ~lost
        return Tracks(points, visible)
