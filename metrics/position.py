"""Does the object go where the reference's object went? Only a rendered world knows.

The object of a generation is the largest connected region of the prompted colour. Coordinates are x, y in
pixels of the reference frame; pixel centres are integers.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.media.flow import flows, grey_frames, pixel_grid
from datasets.sprites.detect import Detector, detect
from datasets.sprites.world import OBJECT_HUES, parse
from metrics.interface import Column, Details, Metric, Sample, Score

NO_TRUTH = "only rendered clips know the truth"
CAMERA_ONLY = "only the camera moves here: see background_flow_error"
OBJECTS_MOVE = "objects move here: see position_error"
NOT_THE_GRAMMAR = "the prompt is not of the rendered world's grammar"
LONGER = "the generation has more frames than the truth"


def match(detected: NDArray[np.float64], true: NDArray[np.float64], missing: float) -> NDArray[np.float64]:
    """Detected paths (T, J, 2) put in the order of the true ones (T, K, 2), NaN for one that has no partner.

    Hungarian assignment over the whole path: mean distance, a missing detection costing ``missing``.
    """
    from scipy.optimize import linear_sum_assignment

    cost = _distances(detected[:, :, None], true[:, None], missing).mean(0)
    rows, columns = linear_sum_assignment(cost)
    matched = np.full(true.shape, np.nan)
    matched[:, columns] = detected[:, rows]
    return matched


def _distances(
    detected: NDArray[np.float64], true: NDArray[np.float64], missing: float
) -> NDArray[np.float64]:
    return np.asarray(np.nan_to_num(np.linalg.norm(detected - true, axis=-1), nan=missing))


def direction_cosine(
    detected: NDArray[np.float64], true: NDArray[np.float64], seen: NDArray[np.bool_], stride: int = 2
) -> float | None:
    """Mean cosine between true and detected displacements over ``stride`` frames, (T, K, 2) each.

    Only where the true object goes more than 0.5 px, is seen (T, K) and was detected at both ends; a
    detection that stands still counts 0. Two frames rather than one halve the weight of detection noise.
    None when nothing is left.
    """
    step, truth = detected[stride:] - detected[:-stride], true[stride:] - true[:-stride]
    length, far = np.linalg.norm(step, axis=-1), np.linalg.norm(truth, axis=-1)
    use = (far > 0.5) & ~np.isnan(length) & seen[stride:] & seen[:-stride]
    if not use.any():
        return None
    cosine = (step * truth).sum(-1)[use] / (np.maximum(length, 1e-9) * far)[use]
    return float(cosine.mean())


class _Matched(NamedTuple):
    detected: NDArray[np.float64]
    true: NDArray[np.float64]
    seen: NDArray[np.bool_]
    missing: float


def _match(sample: Sample, detector: Detector) -> _Matched | Score:
    """Detected and true paths of a sample, or a score that says why there are none."""
    truth = sample.truth
    if truth is None:
        return Score(None, NO_TRUTH, applies=False)
    if truth.kind == "camera":
        return Score(None, CAMERA_ONLY, applies=False)
    length = len(sample.generated)
    if length > len(truth.positions):
        return Score(None, LONGER)
    try:
        hues = [OBJECT_HUES[colour] for _, colour in parse(sample.prompt).objects]
    except (KeyError, ValueError):
        return Score(None, NOT_THE_GRAMMAR)
    height, width = sample.reference.shape[1:3]
    scale = np.array([width / sample.generated.shape[2], height / sample.generated.shape[1]])
    detected = (detect(sample.generated, hues, detector) + 0.5) * scale - 0.5
    missing = float(np.hypot(width, height) / 2)
    true = np.asarray(truth.positions, np.float64)[:length]
    return _Matched(match(detected, true, missing), true, np.asarray(truth.inside, bool)[:length], missing)


@dataclass(config={"extra": "forbid"})
class UsesDetector(Metric):
    """Options of the detector, as metrics have them.

    ``hue``: tolerance in degrees (object and background palettes are 25 apart). ``saturation``, ``value``:
    least of an object's pixel, 0..1. ``area``: least region, as a share of the frame.
    """

    name: str
    hue: Annotated[float, Field(gt=0, le=180)] = 18.0
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.5
    value: Annotated[float, Field(ge=0, le=1)] = 0.3
    area: Annotated[float, Field(ge=0, lt=1)] = 0.002

    @property
    def detector(self) -> Detector:
        return Detector(self.hue, self.saturation, self.value, self.area)


@dataclass(config={"extra": "forbid"})
class PositionError(UsesDetector, kind="position_error"):
    """Mean distance in pixels between an object's centroid in the generation and in the reference.

    Two objects are matched over the whole path. A frame without the object counts half the diagonal and is
    reported (``missed``, a share). Frames whose true object is hidden or outside do not count. Clips in which
    only the camera moves are left to ``background_flow_error``. Fields as in ``UsesDetector``.
    """

    version: ClassVar[str] = "1"
    column = Column(
        "Position err.", unit="px", higher_is_better=False, digits=2, sees_motion=True, truth=True
    )

    def score(self, sample: Sample) -> Score:
        """Mean over objects and frames in which the true object is seen; ``per_frame`` means over objects."""
        found = _match(sample, self.detector)
        if isinstance(found, Score):
            return found
        if not found.seen.any():
            return Score(None, "the reference's objects are never seen")
        errors = np.where(found.seen, _distances(found.detected, found.true, found.missing), np.nan)
        missed = np.isnan(found.detected[..., 0]) & found.seen
        details: Details = {
            "missed": float(missed.sum() / found.seen.sum()),
            "objects": found.true.shape[1],
        }
        frames = tuple(float(np.nanmean(row)) for row in errors if not np.isnan(row).all())
        return Score(float(np.nanmean(errors)), per_frame=frames, details=details)


@dataclass(config={"extra": "forbid"})
class DirectionCosine(UsesDetector, kind="direction_cosine"):
    """Mean cosine between the displacements of the reference's and the generation's objects.

    See ``direction_cosine``; fields as in ``UsesDetector``. Frames that miss the object do not count, so
    read it beside ``position_error``, which counts them.
    """

    version: ClassVar[str] = "1"
    column = Column("Direction cos.", sees_motion=True, truth=True)

    def score(self, sample: Sample) -> Score:
        """Mean over objects and pairs of frames two apart."""
        found = _match(sample, self.detector)
        if isinstance(found, Score):
            return found
        cosine = direction_cosine(found.detected, found.true, found.seen)
        if cosine is None:
            return Score(None, "no two frames in which a moving object was detected")
        return Score(cosine)


def flow_errors(
    frames: NDArray[np.uint8], truth: Any, size: tuple[int, int], min_side: int = 256
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Error per step (T - 1,) of the DIS flow of (T, H, W, 3) uint8 RGB, and the share of pixels used.

    The error is the mean distance, in pixels of a frame of ``size`` (height, width), between a pixel's flow
    and where the world's ``truth`` takes the pixel, over pixels that pass the forward-backward check. Objects
    rest in the world while the camera moves, so a pixel's truth does not depend on what it shows. A step
    whose every pixel fails counts as no motion.
    """
    grey, _ = grey_frames(frames, min_side)
    height, width = grey[0].shape
    ratio = np.array([size[1] / width, size[0] / height])
    # Pixel centres are integers at every size.
    pixels = (pixel_grid(height, width).astype(np.float64) + 0.5) * ratio - 0.5
    errors, used = np.empty(len(frames) - 1), np.empty(len(frames) - 1)
    for t, flow in enumerate(flows(grey)):
        true = truth.to_image(truth.to_world(pixels, t), t + 1) - pixels
        used[t] = 1 - flow.occluded.mean()
        found = flow.forward * ratio
        error = np.linalg.norm(found - true if used[t] else true, axis=-1)
        errors[t] = error[~flow.occluded].mean() if used[t] else error.mean()
    return errors, used


@dataclass(config={"extra": "forbid"})
class BackgroundFlowError(Metric, kind="background_flow_error"):
    """Distance in pixels per frame between the generation's optical flow and the true flow of the camera.

    For clips in which only the camera moves; see ``flow_errors``. It is taken pixel by pixel, because a zoom
    leaves the frame's centre where it is. ``min_side``: smaller frames are enlarged to it for the flow.
    """

    name: str
    min_side: Annotated[int, Field(ge=16)] = 256

    version: ClassVar[str] = "2"
    column = Column("Bg. flow err.", unit="px/frame", higher_is_better=False, digits=2)

    def score(self, sample: Sample) -> Score:
        """Mean over steps; details: share of ``used`` pixels and of steps without any (``missed``)."""
        if sample.truth is None:
            return Score(None, NO_TRUTH, applies=False)
        if sample.truth.kind != "camera":
            return Score(None, OBJECTS_MOVE, applies=False)
        steps = len(sample.generated) - 1
        if steps < 1 or steps >= sample.truth.frames:
            return Score(None, "one frame does not move" if steps < 1 else LONGER)
        height, width = sample.reference.shape[1:3]
        errors, used = flow_errors(sample.generated, sample.truth, (height, width), self.min_side)
        details: Details = {
            "used": float(used.mean()),
            "missed": float((used == 0).mean()),
        }
        return Score(float(errors.mean()), per_frame=tuple(errors.tolist()), details=details)
