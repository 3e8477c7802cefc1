"""Temporal consistency: does a generation stay itself from frame to frame?

Both metrics reward a frozen video (1 at best), so neither is ever shown without a motion score beside it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.media.flow import bilinear, flows, grey_frames, pixel_grid
from metrics.clip_model import UsesClip
from metrics.interface import Column, Details, Metric, Sample, Score


@dataclass(config={"extra": "forbid"})
class ClipF(UsesClip, kind="clip_f"):
    """Mean cosine of the CLIP image features of consecutive frames (T - 1 pairs), in float32.

    Fields as in ``UsesClip``. 1 for a static video.
    """

    version: ClassVar[str] = "1"
    column = Column("Temp. cons.")

    def score(self, sample: Sample) -> Score:
        """Mean over consecutive pairs; ``per_frame`` has T - 1 values."""
        if len(sample.generated) < 2:
            return Score(None, "one frame has no successor")
        clip = self.clip()
        features = clip.image_features(sample.generated)
        cosines = (features[:-1] * features[1:]).sum(1)
        return Score(float(cosines.mean()), per_frame=tuple(cosines.tolist()), details={"model": clip.id})


@dataclass(config={"extra": "forbid"})
class WarpConsistency(Metric, kind="warp_consistency"):
    """1 - mean absolute error (0..1 scale) of the next frame warped back by DIS flow, on non-occluded pixels.

    The warping error of Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018, with DIS and the
    forward-backward check of ``datasets/media/flow.py``. Never shown without a motion score: a frozen video
    has 1, and pixels that the flow cannot explain are left out (see ``used`` in the details).

    ``min_side``: smaller frames are enlarged to it for the flow; errors are taken in the frame's own pixels.
    """

    name: str
    min_side: Annotated[int, Field(ge=16)] = 256

    version: ClassVar[str] = "2"
    column = Column("Warp cons.", primary=False, beside_motion=True)

    def score(self, sample: Sample) -> Score:
        """Mean over consecutive pairs with a non-occluded pixel; details ``used``: share of pixels used."""
        import cv2

        frames = sample.generated
        if len(frames) < 2:
            return Score(None, "one frame has no successor")
        height, width = frames.shape[1:3]
        pixels = pixel_grid(height, width)
        grey, scale = grey_frames(frames, self.min_side)
        values: list[float] = []
        used = 0
        for t, flow in enumerate(flows(grey)):
            forward, occluded = flow.forward, flow.occluded
            if scale > 1:
                resized = cv2.resize(forward, (width, height), interpolation=cv2.INTER_AREA)
                forward = np.asarray(resized, np.float32) / scale
                share = cv2.resize(occluded.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
                occluded = np.asarray(share > 0.5)
            warped = bilinear(frames[t + 1].astype(np.float32), pixels + forward)
            error = np.abs(warped[~occluded] - frames[t][~occluded]) / 255
            used += len(error)
            if error.size:
                values.append(1 - float(error.mean()))
        details: Details = {"used": used / ((len(frames) - 1) * height * width)}
        if not values:
            return Score(None, "no pixel passes the forward-backward check", details=details)
        return Score(float(np.mean(values)), per_frame=tuple(values), details=details)
