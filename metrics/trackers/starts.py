"""Where tracks begin: a regular grid of points in several frames, so that what appears later is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def start_frames(frames: int, starts: int) -> list[int]:
    """``starts`` frames of a video of ``frames``, evenly from first to last; no frame twice."""
    return [int(t) for t in np.unique(np.linspace(0, frames - 1, min(starts, frames)).round())]


def start_grid(height: int, width: int, grid: int, mask: NDArray[np.bool_] | None = None) -> Floats:
    """Starting points (N, 2) float32 x, y of one frame: a regular ``grid`` x ``grid``, row by row.

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
    return np.asarray(points[mask[row, column]])


def start_points(
    frames: NDArray[np.uint8], grid: int, starts: int, masks: NDArray[np.bool_] | None = None
) -> tuple[Floats, NDArray[np.intp]]:
    """Points (N, 2) float32 x, y and the frame (N,) that each begins in: a ``start_grid`` in each of them.

    ``frames``: (T, H, W, 3); ``masks``: (T, H', W') of the object, whose points alone are taken. At most
    ``starts`` * ``grid`` ** 2 points.
    """
    height, width = frames.shape[1:3]
    begun = start_frames(len(frames), starts)
    grids = [start_grid(height, width, grid, None if masks is None else masks[t]) for t in begun]
    return np.concatenate(grids), np.repeat(begun, [len(points) for points in grids])
