"""Motion smoothness: is a frame what lies between its neighbours?

VBench's formula (``Vchitect/VBench:vbench/motion_smoothness.py``) with other interpolators than its AMT,
under names of their own. Fast true motion costs as much as jitter, so each value stands beside the
reference's own.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.media.flow import (
    RAFT_SIDE,
    Floats,
    dis_medium,
    enlarged,
    grey_frames,
    inconsistent,
    outside,
    pixel_grid,
    remapped,
)
from metrics.interface import Column, Details, Metric, Sample, Score
from metrics.raft import Raft, UsesRaft, unpadded

Frames = NDArray[np.uint8]
Between = tuple[Floats, Floats]
"""Flow (H, W, 2) x, y from a frame to the next but one, and back, in pixels of the frames."""


def midway(first: Frames, second: Frames, flow: Between) -> Frames:
    """The frame (H, W, 3) uint8 in the middle of two, by linear motion.

    The mean of both, each sampled half a flow away; where the flow there and back disagrees or leaves the
    frame, the mean of the two as they are. Truncated to whole levels, as VBench truncates AMT's.
    """
    there, back = flow
    pixels = pixel_grid(*first.shape[:2])
    half = np.float32(0.5)
    one, two = first.astype(np.float32), second.astype(np.float32)
    moved = (remapped(one, pixels + half * back) + remapped(two, pixels + half * there)) / 2
    hidden = _fails(there, back, pixels) | _fails(back, there, pixels)
    return np.clip(np.where(hidden[..., None], (one + two) / 2, moved), 0, 255).astype(np.uint8)


def _fails(forward: Floats, backward: Floats, pixels: Floats) -> NDArray[np.bool_]:
    at = pixels + forward
    return inconsistent(forward, remapped(backward, at)) | outside(at, *forward.shape[:2])


def smoothness(errors: NDArray[np.float64]) -> float:
    """(255 - mean error) / 255, of mean absolute errors of interpolated frames, in levels."""
    return float((255 - errors.mean()) / 255)


class Interpolates(Metric):
    """What both have in common: every odd frame that has two neighbours is interpolated from them."""

    @abstractmethod
    def between(self, frames: Frames) -> list[Between]:
        """Flow between successive frames (T, H, W, 3), there and back: T - 1 pairs."""

    def errors(self, frames: Frames) -> NDArray[np.float64]:
        """Mean absolute error in levels of each interpolated frame; a trailing odd frame is left out."""
        import cv2

        even, odd = np.ascontiguousarray(frames[::2]), np.ascontiguousarray(frames[1::2])
        made = map(midway, even, even[1:], self.between(even))
        return np.array([float(cv2.absdiff(one, true).mean()) for one, true in zip(made, odd, strict=False)])

    def score(self, sample: Sample) -> Score:
        """The value, also by interpolated frame; details: the reference's own, and the difference."""
        if len(sample.generated) < 3:
            return Score(None, f"no frame lies between two others in {len(sample.generated)}")
        errors = self.errors(sample.generated)
        value, own = smoothness(errors), smoothness(self.errors(sample.reference))
        details: Details = {"reference": own, "difference": value - own}
        return Score(value, per_frame=tuple((1 - errors / 255).tolist()), details=details)


@dataclass(config={"extra": "forbid"})
class MotionSmoothnessDis(Interpolates, kind="motion_smoothness_dis"):
    """VBench's motion smoothness, with frames interpolated by DIS flow. A frozen video has 1.

    ``min_side``: smaller frames are enlarged to it for the flow; frames are made in their own pixels.
    """

    name: str
    min_side: Annotated[int, Field(ge=16)] = 256

    version: ClassVar[str] = "1"
    column = Column("Motion smooth. (DIS)", beside_motion=True)

    def between(self, frames: Frames) -> list[Between]:
        """DIS flow on grey levels."""
        import cv2

        height, width = frames.shape[1:3]
        grey, scale = grey_frames(frames, self.min_side)
        dis = dis_medium()

        def flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Floats:
            found = dis(first, second, None)
            if scale == 1:
                return found
            resized = cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA)
            return np.asarray(resized, np.float32) / np.float32(scale)

        return [(flow(one, two), flow(two, one)) for one, two in pairwise(grey)]


@dataclass(config={"extra": "forbid"})
class MotionSmoothnessRaft(Interpolates, UsesRaft, kind="motion_smoothness_raft"):
    """VBench's motion smoothness, with frames interpolated by RAFT's flow. A frozen video has about 1.

    Fields as in ``UsesRaft``.
    """

    version: ClassVar[str] = "1"
    column = Column("Motion smooth. (RAFT)", beside_motion=True)

    def between(self, frames: Frames) -> list[Between]:
        """RAFT's flow, of small frames at ``RAFT_SIDE`` pixels."""
        raft = self.raft()
        shown, scale = enlarged(frames, RAFT_SIDE)
        size = (int(frames.shape[1]), int(frames.shape[2]))
        return [
            (_resized(raft, one, two, scale, size), _resized(raft, two, one, scale, size))
            for one, two in pairwise(shown)
        ]


def _resized(raft: Raft, first: Frames, second: Frames, scale: float, size: tuple[int, int]) -> Floats:
    import cv2

    flow = unpadded(raft.flow(first, second), *first.shape[:2])
    resized = cv2.resize(np.ascontiguousarray(flow), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.float32) / np.float32(scale)
