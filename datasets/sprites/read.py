"""What a frame of the embedded world shows, read from its pixels without any network.

Colours are told by their hue, shapes by their overlap with each of the world's outlines, backgrounds by their
median colour.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.sprites.detect import Detector, colour_masks
from datasets.sprites.world import BACKGROUNDS, OBJECT_HUES, SHAPES, outline, rgb

BLURS = (0.0, 1.5, 3.0)
"""Outlines are also tried rounded off by so many pixels of 64, as generated ones often are."""


class Reading(NamedTuple):
    """What one frame shows: ``objects`` as (shape, colour), one for each region, and the background."""

    objects: tuple[tuple[str, str], ...]
    background: str


def read(frame: NDArray[np.uint8], detector: Detector, *, shapes: bool = True) -> Reading:
    """Objects and background of one (H, W, 3) uint8 RGB frame of the rendered world.

    An object is a connected region of one object hue and at least ``detector.area`` of the frame; its shape
    is the outline, at any size and sharp or rounded off, that overlaps it best, or empty where ``shapes``,
    which take nearly all the time, are not wanted.
    """
    covers = colour_masks(frame, list(OBJECT_HUES.values()), detector)
    objects = [
        (_shape(region) if shapes else "", colour)
        for colour, mask in zip(OBJECT_HUES, covers, strict=True)
        for region in _regions(mask, detector.area)
    ]
    return Reading(tuple(objects), _background(frame[~covers.any(0)]))


def _regions(mask: NDArray[np.bool_], area: float) -> list[NDArray[np.bool_]]:
    """8-connected regions (H, W) of at least this share of the frame."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return [labels == i for i in range(1, count) if stats[i, cv2.CC_STAT_AREA] >= area * mask.size]


def _shape(region: NDArray[np.bool_]) -> str:
    """The shape whose outline, laid on the region's centroid, overlaps it best (intersection over union)."""
    scale = min(region.shape) / 64
    rows, columns = np.nonzero(region)
    centre = columns.mean(), rows.mean()
    # Unit outlines have an area of about 2.8; what is partly hidden is larger than what is seen of it.
    about = (len(rows) / 2.8) ** 0.5 / scale
    radii = np.arange(np.floor(2 * 0.85 * about) / 2, 1.4 * about + 0.5, 0.5)
    best = {
        shape: max(
            _overlap(
                region, _outline_mask(shape, radius * scale, blur * scale, region.shape, *_halves(centre))
            )
            for radius in radii
            for blur in BLURS
        )
        for shape in SHAPES
    }
    return max(best, key=best.__getitem__)


def _halves(centre: tuple[float, float]) -> tuple[float, float]:
    """Rounded to half a pixel, so that outlines are drawn once and used often."""
    return round(2 * centre[0]) / 2, round(2 * centre[1]) / 2


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@lru_cache(maxsize=4096)
def _outline_mask(
    shape: str, radius: float, blur: float, size: tuple[int, int], x: float, y: float
) -> NDArray[np.bool_]:
    """Pixels (H, W) inside an outline with its centroid at (x, y), rounded off by ``blur`` px (Gaussian)."""
    import cv2

    mask = np.zeros(size, np.uint8)
    corners = outline(shape) * radius + (x, y)
    cv2.fillPoly(mask, [np.round(corners * 256).astype(np.int32)], 1, shift=8)
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), blur) > 0.5 if blur else mask.astype(bool)


def _background(pixels: NDArray[np.uint8]) -> str:
    """The background whose colour is nearest to the median of (N, 3) RGB pixels, at any brightness."""
    if not len(pixels):
        return ""
    median = np.median(pixels.astype(float), 0)
    colours = {name: rgb(h, s, np.array(v)) for name, (h, s, v) in BACKGROUNDS.items()}
    return min(colours, key=lambda name: float(np.abs(_chroma(median) - _chroma(colours[name])).sum()))


def _chroma(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(colour / max(float(colour.sum()), 1e-9))
