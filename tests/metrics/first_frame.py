"""Tracks that all begin in frame 0, for tests to which other beginnings are nothing."""

from __future__ import annotations

import numpy as np

from metrics.interface import Tracks


def from_first(points: np.ndarray, visible: np.ndarray) -> Tracks:
    """Points (T, N, 2) and visibility (T, N) as tracks."""
    return Tracks(points, visible, np.zeros(points.shape[1], np.intp))
