"""Motion by place: the optical flow of a video, read in the cells of a grid.

Nothing is followed through time, so that nothing is lost: what appears late is seen as well as what was there
from the start. The flow is DIS (``media.flow``) on the main axis of the video's colours, checked there and
back: the second axis is mostly the chroma that codecs spare on. Where the image is bare (sky, calm water, a
wall) flow is an invention of its smoothness, and changes with every encoding: such cells rest.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from datasets.media.flow import (
    Floats,
    Grey,
    colour_planes,
    dis_medium,
    inconsistent,
    outside,
    pixel_grid,
    remapped,
)

SIDE = 256
"""Shorter side, in pixels, at which flow is computed, whatever the video's own size."""
BLUR = 2.0
"""Standard deviation, in those pixels, of the Gaussian that takes noise and boiling textures out."""
OWN_BLUR = 1.5
"""It has at least so many of the video's own pixels: enlarged noise is as wide as they are."""
CELLS = 16
"""Cells along the shorter side."""
KNOWN = 0.25
"""Share of a cell's pixels whose flow must pass the check, else the cell is unknown."""
TEXTURE = 2.0
"""Root mean square slope, in levels of 255 a pixel, below which a cell has nothing to see move, and rests."""
VERSION = 2
"""Changes with what a grid holds, so that a kept one of another version is not taken."""
KEPT = 512
"""Grids kept in memory, of about 100 kB each."""

Size = tuple[int, int]

_folder: Path | None = None
_kept: OrderedDict[tuple[str, Size], Floats] = OrderedDict()


def flow_grid(frames: NDArray[np.uint8], size: Size) -> Floats:
    """Motion of frames (T, H, W, 3) uint8 RGB shown at ``size`` (height, width).

    (T - 1, rows, columns, 2) float32 x, y in shorter sides a step: the median flow of each cell of a grid
    with ``CELLS`` cells along the shorter side; 0 where the image is bare, NaN where the motion is unknown.
    Kept by content, in memory and in the folder that ``keep_in`` names.
    """
    from datasets.media.video import frames_sha256

    key = (frames_sha256(frames), size)
    if key not in _kept:
        _kept[key] = _recalled(frames, size, key[0])
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def keep_in(folder: Path) -> None:
    """Keep the grids that are computed from now on in this folder, for other processes too."""
    global _folder
    _folder = folder


def _recalled(frames: NDArray[np.uint8], size: Size, digest: str) -> Floats:
    from datasets.files import whole

    if _folder is None:
        return _grid(frames, size)
    path = _folder / f"{digest[:32]}-{size[0]}x{size[1]}-{VERSION}.npz"
    try:
        with np.load(path) as kept:
            grid = np.asarray(kept["grid"], np.float32)
        if grid.shape == (len(frames) - 1, *grid_shape(size), 2):
            return grid
    except (OSError, ValueError, KeyError, BadZipFile):
        pass
    grid = _grid(frames, size)
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, grid=grid)
    return grid


def grid_shape(size: Size) -> Size:
    """Rows and columns of the grid over frames of ``size`` (height, width)."""
    short = min(size)
    return max(1, round(CELLS * size[0] / short)), max(1, round(CELLS * size[1] / short))


def mask_grid(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Shares of cells that are inside masks (T, H, W): (T, rows, columns), NaN in frames without one."""
    rows, columns = grid_shape((masks.shape[1], masks.shape[2]))
    down, across = _edges(masks.shape[1], rows), _edges(masks.shape[2], columns)
    shares = [
        [masks[:, top:bottom, left:right].mean((1, 2)) for left, right in pairwise(across)]
        for top, bottom in pairwise(down)
    ]
    shares_by_frame = np.asarray(shares, np.float32).transpose(2, 0, 1)
    shares_by_frame[~masks.any((1, 2))] = np.nan
    return shares_by_frame


def _edges(length: int, parts: int) -> list[int]:
    return [int(at) for at in np.linspace(0, length, parts + 1).round()]


def _grid(frames: NDArray[np.uint8], size: Size) -> Floats:
    scale = SIDE / min(size)
    images = _shown(frames, round(size[0] * scale), round(size[1] * scale))
    rows, columns = grid_shape(size)
    grid = np.full((len(frames) - 1, rows, columns, 2), np.nan, np.float32)
    for plane in colour_planes(images, 1):
        for t, (before, after) in enumerate(pairwise(plane)):
            grid[t] = _medians(_flow(before, after), rows, columns) / SIDE
            grid[t][_slopes(before, rows, columns) < TEXTURE] = 0
    return grid


def _shown(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Frames at another size, under the Gaussian."""
    import cv2

    smaller = height < frames.shape[1]
    deviation = max(BLUR, OWN_BLUR * min(height, width) / min(frames.shape[1:3]))
    images = [
        cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        for frame in frames
    ]
    return np.stack([cv2.GaussianBlur(image, (0, 0), deviation) for image in images]).astype(
        np.uint8, copy=False
    )


def _flow(before: Grey, after: Grey) -> Floats:
    """Flow (H, W, 2) from one image to the next; NaN where it fails the check there and back."""
    dis = dis_medium()
    forward, backward = dis(before, after, None), dis(after, before, None)
    height, width = before.shape
    there = pixel_grid(height, width) + forward
    failed = inconsistent(forward, remapped(backward, there)) | outside(there, height, width)
    return np.where(failed[..., None], np.float32(np.nan), forward)


def _slopes(image: Grey, rows: int, columns: int) -> Floats:
    """Root mean square gradient of an image (H, W) in each cell, in levels a pixel."""
    import cv2

    across, down = (cv2.Sobel(image, cv2.CV_32F, x, 1 - x, scale=1 / 8) for x in (1, 0))
    squares = np.square(across) + np.square(down)
    means = [
        [squares[top:bottom, left:right].mean() for left, right in pairwise(_edges(image.shape[1], columns))]
        for top, bottom in pairwise(_edges(image.shape[0], rows))
    ]
    return np.sqrt(np.asarray(means, np.float32))


def _medians(flow: Floats, rows: int, columns: int) -> Floats:
    medians = np.full((rows, columns, 2), np.nan, np.float32)
    down, across = _edges(flow.shape[0], rows), _edges(flow.shape[1], columns)
    for row, (top, bottom) in enumerate(pairwise(down)):
        for column, (left, right) in enumerate(pairwise(across)):
            cell = flow[top:bottom, left:right].reshape(-1, 2)
            known = cell[~np.isnan(cell[:, 0])]
            if len(known) >= KNOWN * len(cell):
                medians[row, column] = np.median(known, 0)
    return medians
