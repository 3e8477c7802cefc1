"""Leakage: how much of the reference's look came along with its motion?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from metrics.chance import mismatched
from metrics.clip_model import UsesClip
from metrics.dino import UsesDino
from metrics.interface import Column, Details, Metric, MetricUnavailable, Sample, Score

Read = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class ComparesLooks(Metric):
    """What leakage by any features has in common."""

    column = Column("Leak", higher_is_better=False, primary=False, beside_motion=True)

    @abstractmethod
    def reader(self) -> tuple[str, Read]:
        """The network's id, and frames (T, H, W, 3) uint8 RGB to unit vectors (T, D); MetricUnavailable."""

    def score(self, sample: Sample) -> Score:
        """Mean over the frames that both have; ``per_frame`` their cosines."""
        model, read = self.reader()
        cosines = _cosines(read(sample.generated), read(sample.reference))
        details: Details = {"model": model}
        return Score(float(cosines.mean()), per_frame=tuple(cosines.tolist()), details=details)

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """``chance``: mean value against references of other clips; ``true``: 1, the reference itself."""
        generations: list[tuple[str, NDArray[np.float32]]] = []
        references: dict[str, NDArray[np.float32]] = {}
        try:
            _, read = self.reader()
        except MetricUnavailable:
            return {}
        for sample in samples:
            generations.append((sample.clip, read(sample.generated)))
            if sample.clip not in references:
                references[sample.clip] = read(sample.reference)
        values = [float(_cosines(g, r).mean()) for g, r in mismatched(generations, references)]
        return {"chance": float(np.mean(values)), "pairs": float(len(values)), "true": 1.0} if values else {}


@dataclass(config={"extra": "forbid"})
class Leak(ComparesLooks, UsesClip, kind="leak"):
    """Mean over frames of the cosine between a generated frame's and the reference frame's CLIP features.

    Lower is better, down to chance: what generations have with the references of other clips. 1 where the
    generation is the reference. A still of another scene wins it, and a prompt that keeps the subject asks
    for some likeness. Fields as in ``UsesClip``.
    """

    version: ClassVar[str] = "1"

    def reader(self) -> tuple[str, Read]:
        """The CLIP's."""
        clip = self.clip()
        return clip.id, clip.image_features


@dataclass(config={"extra": "forbid"})
class LeakDino(ComparesLooks, UsesDino, kind="leak_dino"):
    """Mean over frames of the cosine between a generated frame's and the reference frame's DINO features.

    DINO's see layout where CLIP's see content. Fields as in ``UsesDino``.
    """

    version: ClassVar[str] = "1"
    column = Column("Leak (DINO)", higher_is_better=False, primary=False, beside_motion=True)

    def reader(self) -> tuple[str, Read]:
        """DINO's."""
        model = self.dino()
        return model.id, model.features


def _cosines(generated: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (T,) of unit vectors (T, D); the longer is cut to the shorter."""
    frames = min(len(generated), len(reference))
    return np.asarray((generated[:frames] * reference[:frames]).sum(1))
