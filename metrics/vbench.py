"""VBench's columns that can be computed here, each as its code computes it (``Vchitect/VBench:vbench``).

Huang et al., "VBench: Comprehensive Benchmark Suite for Video Generative Models", CVPR 2024. A frozen video
wins all of them but dynamic degree. VBench averages over the frames of all videos; a value here is of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from datasets.media.flow import RAFT_SIDE, Floats, enlarged
from datasets.weights import Weight
from metrics.clip_model import SPRITES, UsesClip
from metrics.dino import UsesDino
from metrics.interface import Column, Details, Metric, MetricUnavailable, Sample, Score
from metrics.raft import Raft, UsesRaft

if TYPE_CHECKING:
    from torch import Tensor

ONE_FRAME = "one frame has no successor"


def consistency(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Likeness (T - 1,) of each frame but the first to its predecessor and to the first, in 0..1.

    ``features``: unit vectors (T, D). The mean of the two cosines, each clamped at 0.
    """
    x = features.astype(np.float64)
    before, first = (x[1:] * x[:-1]).sum(1), x[1:] @ x[0]
    return np.asarray((np.maximum(before, 0) + np.maximum(first, 0)) / 2)


@dataclass(config={"extra": "forbid"})
class SubjectConsistency(UsesDino, kind="subject_consistency"):
    """VBench's subject consistency: ``consistency`` of DINO ViT-B/16 features of whole frames.

    Fields as in ``UsesDino``.
    """

    version: ClassVar[str] = "1"
    column = Column("Subject cons.", beside_motion=True)

    def score(self, sample: Sample) -> Score:
        """Mean over frames but the first; ``per_frame`` has T - 1 values."""
        if len(sample.generated) < 2:
            return Score(None, ONE_FRAME)
        model = self.dino()
        return _aggregate(model.features(sample.generated), {"model": model.id, "resize": "vbench"})


def _aggregate(features: NDArray[np.float32], details: Details) -> Score:
    values = consistency(features)
    return Score(float(values.mean()), per_frame=tuple(values.tolist()), details=details)


def vbench_clip_images(frames: NDArray[np.uint8], side: int) -> Tensor:
    """Frames (T, H, W, 3) uint8 RGB to (T, 3, side, side) float32, as VBench's ``clip_transform``.

    Shorter side to ``side``, bicubic without antialiasing and without clamping, centre crop, CLIP's
    normalisation.
    """
    import torch
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from torch.nn.functional import interpolate

    height, width = frames.shape[1:3]
    short = min(height, width)
    size = (int(side * height / short), int(side * width / short))
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    images = interpolate(images, size, mode="bicubic", align_corners=False)
    top, left = (round((length - side) / 2) for length in size)
    images = images[..., top : top + side, left : left + side] / 255
    mean, deviation = (
        torch.tensor(one).view(1, 3, 1, 1) for one in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    )
    return (images - mean) / deviation


@dataclass(config={"extra": "forbid"})
class BackgroundConsistency(UsesClip, kind="background_consistency"):
    """VBench's background consistency: ``consistency`` of CLIP image features, of the whole frame despite its
    name. VBench's model is ViT-B/32; the rendered world's CLIP reads frames in its own way.

    Fields as in ``UsesClip``.
    """

    version: ClassVar[str] = "1"
    column = Column("Background cons.", beside_motion=True)

    def score(self, sample: Sample) -> Score:
        """Mean over frames but the first; ``per_frame`` has T - 1 values."""
        if len(sample.generated) < 2:
            return Score(None, ONE_FRAME)
        clip = self.clip()
        if self.model != SPRITES:
            side = clip.model.visual.image_size
            side = side if isinstance(side, int) else side[0]
            clip = replace(clip, preprocess=partial(vbench_clip_images, side=side))
        return _aggregate(clip.image_features(sample.generated), {"model": clip.id})


@dataclass(config={"extra": "forbid"})
class TemporalFlicker(Metric, kind="temporal_flicker"):
    """VBench's temporal flickering: 1 - mean absolute difference of successive frames, of 255 levels.

    Meant for static clips alone: every motion lowers it, and a frozen video has 1.
    """

    name: str

    version: ClassVar[str] = "1"
    column = Column("Flicker (VBench)", primary=False, beside_motion=True)

    def score(self, sample: Sample) -> Score:
        """Mean over the T - 1 pairs, which ``per_frame`` holds; details have the reference's own value."""
        if len(sample.generated) < 2:
            return Score(None, ONE_FRAME)
        values = 1 - _changes(sample.generated)
        own = float(1 - _changes(sample.reference).mean())
        details: Details = {"reference": own, "difference": float(values.mean()) - own}
        return Score(float(values.mean()), per_frame=tuple(values.tolist()), details=details)


def _changes(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean absolute difference (T - 1,) of successive frames, 0..1."""
    import cv2

    pairs = pairwise(np.ascontiguousarray(frames))
    return np.array([float(cv2.absdiff(first, second).mean()) / 255 for first, second in pairs])


SHARE = 0.05
"""Share of a frame's pixels, the fastest, whose mean speed is a pair's."""


def fastest(flow: Floats) -> float:
    """Mean length of the fastest ``SHARE`` of the vectors of a flow (H, W, 2); NaN below 20 vectors."""
    lengths = np.sort(np.linalg.norm(flow, axis=-1).ravel())[::-1]
    chosen = lengths[: int(SHARE * lengths.size)]
    return float(chosen.mean()) if chosen.size else float("nan")


def is_dynamic(speeds: Sequence[float], threshold: float) -> bool:
    """VBench's flag from the speeds of pairs of kept frames, one fewer than these.

    True where at least round(4 n / 16) pairs of n frames exceed the threshold: always, where that is 0.
    """
    return sum(speed > threshold for speed in speeds) >= round((len(speeds) + 1) / 4)


@dataclass(config={"extra": "forbid"})
class DynamicDegree(UsesRaft, kind="dynamic_degree"):
    """VBench's dynamic degree by torchvision's RAFT, in place of the authors' code: 1 or 0 a clip.

    Every round(fps / 8)-th frame is kept. A clip is dynamic where ``is_dynamic`` says so, at a threshold of
    6 pixels a step at 256 pixels of the shorter side. Noise and jumps count as well as motion.
    Fields as in ``UsesRaft``.
    """

    version: ClassVar[str] = "1"
    column = Column("Dynamic degree (TV RAFT)", digits=2, sees_motion=True)

    def score(self, sample: Sample) -> Score:
        """1.0 or 0.0; details: ``degree`` (mean speed over threshold), the ``reference``'s, ``ratio``."""
        step = max(1, round(sample.fps / 8))
        if len(sample.generated[::step]) < 2:
            return Score(None, f"fewer than two frames, one in {step}, at {sample.fps:.4g} a second")
        raft = self.raft()
        speeds, threshold = _speeds(sample.generated[::step], raft)
        degree = float(np.mean(speeds)) / threshold
        own, limit = _speeds(sample.reference[::step], raft)
        reference = float(np.mean(own)) / limit
        details: Details = {"model": raft.id, "degree": degree, "reference": reference}
        if reference > 0:
            details["ratio"] = degree / reference
        return Score(float(is_dynamic(speeds, threshold)), per_frame=tuple(speeds), details=details)


def _speeds(frames: NDArray[np.uint8], raft: Raft) -> tuple[list[float], float]:
    """Speeds of successive frames, and VBench's threshold at their size; small frames are enlarged."""
    shown, _ = enlarged(frames, RAFT_SIDE)
    speeds = [fastest(raft.flow(first, second)) for first, second in pairwise(shown)]
    return speeds, 6 * min(shown.shape[1:3]) / 256


@dataclass(config={"extra": "forbid"})
class MotionSmoothness(Metric, kind="motion_smoothness"):
    """VBench's motion smoothness, which is not computed here: always null, with the line that says why.

    Its interpolator is AMT-S (Li et al., CVPR 2023), whose code and weights are for non-commercial use.
    """

    name: str

    version: ClassVar[str] = "1"
    column = Column("Motion smooth.", beside_motion=True)

    WEIGHT: ClassVar[Weight] = Weight("lalala125/AMT amt-s.pth", 12_000_000, "CC BY-NC 4.0")

    def ready(self) -> None:
        """Raises MetricUnavailable."""
        raise self._unavailable()

    def needed_weights(self) -> Sequence[Weight]:
        """AMT-S's, never at hand."""
        return (self.WEIGHT,)

    def score(self, sample: Sample) -> Score:
        """Raises MetricUnavailable."""
        raise self._unavailable()

    def _unavailable(self) -> MetricUnavailable:
        return MetricUnavailable(
            f"VBench's motion smoothness needs AMT-S, {self.WEIGHT}, which is no part of this package: "
            "let an external scorer run VBench, or read motion_smoothness_dis"
        )
