"""Flow fidelity: do objects move with the same spread of speeds and directions? Rendered worlds only.

FlexiMMT's measure: histograms of the optical flow inside each clip's own object masks, compared by their
Bhattacharyya coefficient. A generation has masks only where objects can be told by their colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from datasets.media.flow import RAFT_SIDE, Floats, enlarged
from datasets.sprites.detect import colour_masks
from datasets.sprites.world import OBJECT_HUES, parse
from metrics.chance import mismatched
from metrics.interface import Column, MetricUnavailable, Sample, Score
from metrics.position import CAMERA_ONLY, NO_TRUTH, NOT_THE_GRAMMAR, UsesDetector
from metrics.raft import Raft, UsesRaft, unpadded

SPEEDS, DIRECTIONS = 20, 18
"""Bins of a histogram."""


Vectors = Sequence[Floats]
"""Flow of one object: (n, 2) x, y for each pair of frames, none where it is not seen."""


def flow_fidelity(generated: Vectors, reference: Vectors) -> float:
    """Mean over pairs of frames of ``likeness``, of one object in both clips."""
    return float(np.mean([likeness(g, r) for g, r in zip(generated, reference, strict=False)]))


def likeness(generated: Floats, reference: Floats) -> float:
    """Of flow vectors (n, 2) and (m, 2): the mean of the coefficients of speeds and of directions, 0..1.

    0 where either has none. Blind to place and, because speeds are divided by their mean, to how fast.
    """
    if not len(generated) or not len(reference):
        return 0.0
    speeds = [_relative(vectors) for vectors in (generated, reference)]
    top = max(float(np.percentile(one, 99)) for one in speeds)
    angles = [np.arctan2(vectors[:, 1], vectors[:, 0]) for vectors in (generated, reference)]
    of_speeds = bhattacharyya(speeds[0], speeds[1], SPEEDS, (0.0, top if top > 0 else 1.0))
    return (of_speeds + bhattacharyya(angles[0], angles[1], DIRECTIONS, (-np.pi, np.pi))) / 2


def _relative(vectors: Floats) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return np.asarray(lengths / max(float(lengths.mean()), 1e-8))


def bhattacharyya(
    a: NDArray[np.floating], b: NDArray[np.floating], bins: int, ends: tuple[float, float]
) -> float:
    """The sum of the roots of p times q of two samples' histograms; what lies beyond the ends is dropped."""
    shares = [np.histogram(one, bins, ends)[0].astype(np.float64) for one in (a, b)]
    p, q = (counts / max(counts.sum(), 1.0) for counts in shares)
    return float(np.sqrt(p * q).sum())


@dataclass(config={"extra": "forbid"})
class FlowFidelity(UsesDetector, UsesRaft, kind="flow_fidelity"):
    """How alike the flow of a rendered world's objects is in both videos, by torchvision's RAFT; 0..1.

    Objects of generation and reference are found by their colours, frame by frame, and put together in the
    order that is likest. Fields as in ``UsesDetector`` and ``UsesRaft``.
    """

    version: ClassVar[str] = "1"
    column = Column("Flow fid.", sees_motion=True)

    def score(self, sample: Sample) -> Score:
        """Mean over pairs of frames, then over objects; details count the objects."""
        if sample.truth is None:
            return Score(None, NO_TRUTH, applies=False)
        if sample.truth.kind == "camera":
            return Score(None, CAMERA_ONLY, applies=False)
        if len(sample.generated) < 2:
            return Score(None, "one frame has no motion")
        try:
            colours = asked_colours(sample.prompt)
        except ValueError:
            return Score(None, NOT_THE_GRAMMAR)
        raft = self.raft()
        generated = self._vectors(raft, sample.generated, colours)
        value = together(generated, self._vectors(raft, sample.reference, sample.truth.colours))
        return Score(value, details={"model": raft.id, "objects": len(colours)})

    def _vectors(self, raft: Raft, frames: NDArray[np.uint8], colours: Sequence[str]) -> list[Vectors]:
        """Flow of each object; small frames are enlarged for it."""
        hues = [OBJECT_HUES[colour] for colour in colours]
        shown, _ = enlarged(frames, RAFT_SIDE)
        found: list[list[Floats]] = [[] for _ in hues]
        for first, second in pairwise(shown):
            flow = unpadded(raft.flow(first, second), *first.shape[:2])
            for one, mask in zip(found, colour_masks(first, hues, self.detector), strict=True):
                one.append(flow[mask])
        return list(found)

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """``chance``: mean value against the references of other clips; ``true`` is 1."""
        generations: list[tuple[str, list[Vectors]]] = []
        references: dict[str, list[Vectors]] = {}
        try:
            raft = self.raft()
        except MetricUnavailable:
            return {}
        for sample in samples:
            generations.append(
                (sample.clip, self._vectors(raft, sample.generated, asked_colours(sample.prompt)))
            )
            if sample.clip not in references:
                references[sample.clip] = self._vectors(raft, sample.reference, sample.truth.colours)
        values = [together(g, r) for g, r in mismatched(generations, references)]
        return {"chance": float(np.mean(values)), "pairs": float(len(values)), "true": 1.0} if values else {}


def asked_colours(prompt: str) -> list[str]:
    """Colours of the objects that a prompt asks for. ValueError outside the rendered world's grammar."""
    colours = [colour for _, colour in parse(prompt).objects]
    if not set(colours) <= set(OBJECT_HUES):
        raise ValueError(f"no such colours: {colours}")
    return colours


def together(generated: Sequence[Vectors], reference: Sequence[Vectors]) -> float:
    """Mean over objects, put together in the likest order; one without a partner is left out."""
    from scipy.optimize import linear_sum_assignment

    alike = np.array([[flow_fidelity(g, r) for r in reference] for g in generated])
    return float(alike[linear_sum_assignment(-alike)].mean())
