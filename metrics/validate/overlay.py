"""Tracks drawn over the video they come from: no number replaces looking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.media import images, video
from datasets.media.frame_files import frame_files
from metrics.interface import Tracks

TRAIL = 8
"""Frames behind a point that its trail shows."""


def read(path: Path) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) uint8 RGB of a video file or of a folder of pictures. InputError without any."""
    if not path.is_dir():
        return video.read_video(path)[0]
    found = frame_files(path)
    if found.reason:
        raise InputError(f"{path}: {found.reason}; give a video file or a folder of frames")
    return images.read_images(found.frames)


def draw(frames: NDArray[np.uint8], tracks: Tracks, count: int = 3) -> NDArray[np.uint8]:
    """``count`` frames from first to last side by side: (H, count * W, 3) uint8 RGB.

    Visible points are discs with a trail, coloured by where they begin (hue from left to right, brightness
    from top to bottom), so that a point is the same colour in every frame.
    """
    import cv2

    height, width = frames.shape[1:3]
    start = tracks.points[tracks.start, np.arange(len(tracks.start))]
    hsv = np.stack([start[:, 0] / width * 170, np.full(len(start), 255), 255 - start[:, 1] / height * 120], 1)
    colours = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0].tolist()
    size = max(1, height // 240)
    pictures = []
    for t in np.linspace(0, len(frames) - 1, count).round().astype(int):
        # Greyed, so that the discs' colours are the only ones.
        grey = cv2.cvtColor(np.ascontiguousarray(frames[t]), cv2.COLOR_RGB2GRAY)
        picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        for i in np.flatnonzero(tracks.visible[t]):
            shown = tracks.visible[max(0, t - TRAIL) : t + 1, i]
            trail = tracks.points[max(0, t - TRAIL) : t + 1, i][shown]
            cv2.polylines(picture, [np.round(trail).astype(np.int32)], False, colours[i], 1, cv2.LINE_AA)
            x, y = np.round(tracks.points[t, i]).astype(int).tolist()
            cv2.circle(picture, (x, y), size, colours[i], -1, cv2.LINE_AA)
        pictures.append(picture)
    return np.concatenate(pictures, 1)


def draw_flow(frame: NDArray[np.uint8], grid: NDArray[np.float32], steps: float = 8) -> NDArray[np.uint8]:
    """A frame (H, W, 3) uint8 RGB, greyed, with an arrow from each cell of a flow grid (rows, columns, 2).

    Arrows show where the motion would lead in so many steps; cells that are unknown or rest have none.
    """
    import cv2

    height, width = frame.shape[:2]
    picture = cv2.cvtColor(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    rows, columns = grid.shape[:2]
    for row, column in np.argwhere(np.linalg.norm(np.nan_to_num(grid), axis=-1) > 0.001):
        start = np.array([(column + 0.5) * width / columns, (row + 0.5) * height / rows])
        end = start + grid[row, column] * steps * min(height, width)
        ends = [tuple(np.round(at).astype(int).tolist()) for at in (start, end)]
        cv2.arrowedLine(picture, ends[0], ends[1], (255, 80, 0), 1, cv2.LINE_AA, tipLength=0.3)
    return np.asarray(picture, np.uint8)
