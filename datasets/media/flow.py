"""Optical flow between successive frames: DIS (OpenCV, no weights) and RAFT (torchvision).

DIS reads one channel: grey levels (``grey_frames``) or a main axis of a video's colours (``colour_planes``).
Metrics take it both ways with the forward-backward check (``flows``); methods take it one way, as they do
RAFT's (``dis_flow``, ``raft_flow``).

DIS: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. RAFT: Teed and Deng, "RAFT:
Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020. The forward-backward check: Sundaram, Brox
and Keutzer, "Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow", ECCV 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Floats = NDArray[np.float32]
Grey = NDArray[np.uint8]

# Smaller frames are enlarged to these shorter sides: DIS matches 8x8 patches at half resolution, and
# RAFT's coarsest level would be empty.
DIS_SIDE = 256
RAFT_SIDE = 128


class Flow(NamedTuple):
    """Flow between two frames in their own pixels.

    ``forward``, ``backward``: (H, W, 2) float32 x, y; the pixel x of the first frame is seen at
    ``x + forward[x]`` in the second. ``occluded``: (H, W) bool over the first frame: the flow leaves the
    frame or fails the forward-backward check.
    """

    forward: Floats
    backward: Floats
    occluded: NDArray[np.bool_]


def pixel_grid(height: int, width: int) -> Floats:
    """Every pixel's place: (H, W, 2) float32 x, y."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def bilinear(field: NDArray[np.floating], places: Floats) -> Floats:
    """Values (H, W, C) of a field (H, W, C) at ``places`` (H, W, 2) x, y; beyond the border, the border's.

    Exact, and slower than OpenCV's remap, which rounds places to 1/32 of a pixel.
    """
    from scipy.ndimage import map_coordinates

    at = (places[..., 1], places[..., 0])
    channels = [map_coordinates(part, at, order=1, mode="nearest") for part in np.moveaxis(field, -1, 0)]
    return np.stack(channels, -1)


def remapped(field: Floats, places: Floats) -> Floats:
    """As ``bilinear``, by OpenCV's remap: fast, places rounded to 1/32 of a pixel."""
    import cv2

    # Any: OpenCV's stub does not know that the second map may be None.
    remap: Any = cv2.remap
    return np.asarray(remap(field, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def inconsistent(forward: Floats, backward: Floats) -> NDArray[np.bool_]:
    """The check that fails: |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5, in pixels, over the last axis."""
    error = _square(forward + backward)
    return np.asarray(error > 0.01 * (_square(forward) + _square(backward)) + 0.5)


def _square(vectors: Floats) -> Floats:
    return np.asarray(np.einsum("...c,...c", vectors, vectors), np.float32)


def outside(points: Floats, height: int, width: int) -> NDArray[np.bool_]:
    """Points (..., 2) beyond the centres of the outermost pixels."""
    x, y = points[..., 0], points[..., 1]
    return np.asarray((x < 0) | (x > width - 1) | (y < 0) | (y > height - 1))


def enlarged(frames: NDArray[np.uint8], min_side: int) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, ...) enlarged (bicubic) until the shorter side has ``min_side``, and the factor."""
    import cv2

    scale = max(1.0, min_side / min(frames.shape[1:3]))
    if scale == 1:
        return frames, scale
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    images = (np.ascontiguousarray(frame) for frame in frames)
    resized = [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in images]
    return np.stack(resized).astype(np.uint8, copy=False), scale


def grey_frames(frames: NDArray[np.uint8], min_side: int) -> tuple[list[Grey], float]:
    """Frames (T, H, W, 3) as grey images, ``enlarged``, and the factor."""
    import cv2

    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    images, scale = enlarged(np.stack(grey).astype(np.uint8, copy=False), min_side)
    return list(images), scale


def colour_planes(frames: NDArray[np.uint8], count: int) -> list[list[Grey]]:
    """The ``count`` (1 to 3) principal axes of a video's colours, each as grey images stretched to 0..255.

    Grey levels hide a red object on an equally bright background. An axis whose standard deviation is below
    2 grey levels, or a tenth of the first one's, holds noise and is left out.
    """
    some = frames[:, ::4, ::4].reshape(-1, 3).astype(np.float64)
    mean = some.mean(0)
    power, axes = np.linalg.eigh(np.cov(some - mean, rowvar=False))
    spread = np.sqrt(np.maximum(power[::-1], 0))
    planes = []
    for axis in axes.T[::-1][:count][(spread >= max(2.0, spread[0] / 10))[:count]]:
        # An axis has no sign of its own; the images would not be the same on every machine.
        axis = axis * np.sign(axis[np.abs(axis).argmax()])
        low, high = np.percentile((some - mean) @ axis, (0, 100))
        stretch = (axis * 255 / (high - low)).astype(np.float32)
        levels = ((frame - mean.astype(np.float32)) @ stretch for frame in frames)
        offset = np.float32(low * 255 / (high - low))
        planes.append([np.clip(np.round(level - offset), 0, 255).astype(np.uint8) for level in levels])
    return planes


def dis_medium() -> Callable[[Grey, Grey, Floats | None], Floats]:
    """DIS with OpenCV's preset MEDIUM: flow (H, W, 2) float32 x, y from one image (H, W) to another.

    The third argument is the flow from which it searches, overwritten by the result, or None.
    """
    import cv2

    # Any: OpenCV's stub does not know that the third argument may be None.
    dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda first, second, guess: np.asarray(dis.calc(first, second, guess), np.float32)


def flows(grey: Sequence[Grey]) -> Iterator[Flow]:
    """DIS flow between successive grey images, there and back, with the forward-backward check."""
    dis = dis_medium()
    height, width = grey[0].shape
    pixels = pixel_grid(height, width)
    for first, second in pairwise(grey):
        forward, backward = dis(first, second, None), dis(second, first, None)
        there = pixels + forward
        back = bilinear(backward, there)
        yield Flow(forward, backward, inconsistent(forward, back) | outside(there, height, width))


def dis_flow(frames: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """DIS flow between successive frames (T, H, W, 3) RGB, on the main axis of their colours.

    (T - 1, H, W, 2) float32 rows, columns in pixels; 0 where the frames have but one colour.
    """
    import cv2
    import torch

    height, width = frames.shape[1:3]
    rows_columns = np.zeros((len(frames) - 1, height, width, 2), np.float32)
    for plane in colour_planes(frames, 1):
        images, scale = enlarged(np.stack(plane), DIS_SIDE)
        dis = dis_medium()
        for index, (first, second) in enumerate(pairwise(images)):
            flow = dis(first, second, None) / scale
            resized = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA)
            rows_columns[index] = resized[..., ::-1]
    return torch.from_numpy(rows_columns).to(device)


def raft_flow(frames: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    """RAFT-small flow (torchvision's default weights, see ``raft_weights``) between successive frames.

    Frames (T, H, W, 3) RGB; (T - 1, H, W, 2) float32 rows, columns in pixels.
    """
    import torch
    import torch.nn.functional as F
    from torchvision.models.optical_flow import raft_small

    network = raft_small(weights=None)
    network.load_state_dict(torch.load(raft_weights(), map_location="cpu", weights_only=True))
    network = network.eval().to(device)
    height, width = frames.shape[1:3]
    scale = max(1.0, RAFT_SIDE / min(height, width))
    size = [-(-round(side * scale) // 8) * 8 for side in (height, width)]
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    images = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False).to(device)
    shrink = torch.tensor([height / size[0], width / size[1]], device=device)
    rows_columns = []
    with torch.no_grad():
        for first, second in pairwise(images):
            flow = network(first[None], second[None])[-1]
            resized = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
            rows_columns.append(resized[0].flip(0).permute(1, 2, 0) * shrink)
    return torch.stack(rows_columns)


def raft_weights() -> Path:
    """Where torchvision keeps the default weights of RAFT-small."""
    import torch
    from torchvision.models.optical_flow import Raft_Small_Weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(Raft_Small_Weights.DEFAULT.url).name
