"""Where objects of known colours are in frames of the embedded world, generated ones too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Detector(NamedTuple):
    """What counts as a pixel of a colour, and as an object.

    ``hue``: largest distance in degrees. ``saturation``, ``value``: least, 0..1. ``area``: least region, as
    a share of the frame.
    """

    hue: float
    saturation: float
    value: float
    area: float


def detect(frames: NDArray[np.uint8], hues: Sequence[float], detector: Detector) -> NDArray[np.float64]:
    """Centroids (T, K, 2) of K objects of given hues (degrees) in (T, H, W, 3) uint8 RGB; NaN where missing.

    A pixel belongs to the nearest of the hues, if near enough. Objects of one hue are that hue's largest
    regions; from frame to frame they keep their places in the result by least total distance.
    """
    places: dict[float, list[int]] = {}
    for place, hue in enumerate(hues):
        places.setdefault(hue, []).append(place)
    centroids = np.full((len(frames), len(hues), 2), np.nan)
    for t, frame in enumerate(frames):
        for hue, cover in zip(places, colour_masks(frame, list(places), detector), strict=True):
            found = _regions(cover, len(places[hue]), detector.area)
            if len(places[hue]) > 1:
                found = _in_order(found, centroids[:t, places[hue]])
            centroids[t, places[hue][: len(found)]] = found
    return centroids


def colour_masks(frame: NDArray[np.uint8], hues: Sequence[float], detector: Detector) -> NDArray[np.bool_]:
    """Pixels (K, H, W) of each hue."""
    import cv2

    hsv = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    distance = np.abs((hsv[None, ..., 0] - np.array(hues)[:, None, None] + 180) % 360 - 180)
    vivid = (hsv[..., 1] >= detector.saturation) & (hsv[..., 2] >= detector.value)
    nearest = distance.argmin(0) == np.arange(len(hues))[:, None, None]
    return np.asarray(nearest & (distance <= detector.hue) & vivid)


def _regions(cover: NDArray[np.bool_], count: int, area: float) -> NDArray[np.float64]:
    """Centroids (n, 2) of the at most ``count`` largest 8-connected regions, largest first."""
    import cv2

    _, _, stats, centroids = cv2.connectedComponentsWithStats(cover.astype(np.uint8), connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    largest = np.argsort(-sizes, kind="stable")[:count]
    return np.asarray(centroids[1:][largest[sizes[largest] >= max(1.0, area * cover.size)]])


def _in_order(found: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centroids (n, 2) put in the places (K, 2) they are nearest to, judged by each place's last position."""
    from scipy.optimize import linear_sum_assignment

    places = before.shape[1]
    last = np.full((places, 2), np.nan)
    for row in before:
        known = ~np.isnan(row[:, 0])
        last[known] = row[known]
    distance = np.linalg.norm(found[:, None] - last[None], axis=-1)
    # A place never seen yet costs more than any seen one, so it is taken only when the others are.
    rows, columns = linear_sum_assignment(np.nan_to_num(distance, nan=1e6))
    ordered = np.full((places, 2), np.nan)
    ordered[columns] = found[rows]
    return ordered
