"""Does a clip show what its prompt asks for? Read from the pixels of the rendered world, without any network.

Colours are told by their hue, shapes by their overlap with each of the world's outlines, backgrounds by their
median colour. It shares nothing with the tiny CLIP, so each can be checked against the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from metrics.interface import Sample, Score
from metrics.position import Detector, UsesDetector, colour_masks

Attribute = Literal["objects", "background", "count"]

BLURS = (0.0, 1.5, 3.0)
"""Outlines are also tried rounded off by so many pixels of 64, as generated ones often are."""
NOT_THE_GRAMMAR = "the prompt is not of the rendered world's grammar"


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
    from datasets.sprites import OBJECT_HUES

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
        for shape in _shapes()
    }
    return max(best, key=best.__getitem__)


def _shapes() -> Sequence[str]:
    from datasets.sprites import SHAPES

    return SHAPES


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

    from datasets.sprites import outline

    mask = np.zeros(size, np.uint8)
    corners = outline(shape) * radius + (x, y)
    cv2.fillPoly(mask, [np.round(corners * 256).astype(np.int32)], 1, shift=8)
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), blur) > 0.5 if blur else mask.astype(bool)


def _background(pixels: NDArray[np.uint8]) -> str:
    """The background whose colour is nearest to the median of (N, 3) RGB pixels, at any brightness."""
    from datasets.sprites import BACKGROUNDS, rgb

    if not len(pixels):
        return ""
    median = np.median(pixels.astype(float), 0)
    colours = {name: rgb(h, s, np.array(v)) for name, (h, s, v) in BACKGROUNDS.items()}
    return min(colours, key=lambda name: float(np.abs(_chroma(median) - _chroma(colours[name])).sum()))


def _chroma(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(colour / max(float(colour.sum()), 1e-9))


@dataclass(config={"extra": "forbid"})
class PromptRead(UsesDetector):
    """Is what the prompt asks for in the pixels? 1 or 0 a clip, so that the mean over clips is a share.

    ``attribute``: ``objects`` (every asked shape in its colour), ``background``, or ``count`` (as many
    objects as asked). Each frame is read by itself; the clip counts when more than half of its frames are
    right, an object's shape being the one most frames read. Rendered worlds only. Other fields as in
    ``UsesDetector``.
    """

    attribute: Attribute = "objects"
    area: Annotated[float, Field(ge=0, lt=1)] = 0.01

    version: ClassVar[str] = "2"
    outside_id: ClassVar[Sequence[str]] = ()
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    uses_tracks: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return {"objects": "Objects right", "background": "Background right", "count": "Count right"}[
            self.attribute
        ]

    def score(self, sample: Sample) -> Score:
        """1.0 or 0.0; ``per_frame`` whether each frame is right."""
        from datasets.sprites import parse

        if sample.truth is None:
            return Score(None, "only the rendered world is read from its pixels", applies=False)
        try:
            asked = parse(sample.prompt)
        except ValueError:
            return Score(None, NOT_THE_GRAMMAR)
        wanted = self.attribute == "objects"
        readings = [read(frame, self.detector, shapes=wanted) for frame in sample.generated]
        if self.attribute == "background":
            right = [reading.background == asked.background for reading in readings]
        elif self.attribute == "count":
            right = [len(reading.objects) == len(asked.objects) for reading in readings]
        else:
            shapes = {colour: _vote(readings, colour) for _, colour in asked.objects}
            right = [
                all(any(c == colour for _, c in reading.objects) for _, colour in asked.objects)
                and all(shapes[colour] == shape for shape, colour in asked.objects)
                for reading in readings
            ]
        return Score(float(np.mean(right) > 0.5), per_frame=tuple(map(float, right)))

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """None: a true clip's value is 1."""
        return {}


def _vote(readings: Sequence[Reading], colour: str) -> str | None:
    """The shape that most frames read in objects of a colour."""
    votes = Counter(shape for reading in readings for shape, c in reading.objects if c == colour)
    return votes.most_common(1)[0][0] if votes else None


__all__ = ["PromptRead", "Reading", "read"]
