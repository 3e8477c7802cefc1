"""How much the brightness of a video jumps from frame to frame."""

from typing import ClassVar

import numpy as np
import pydantic

from metrics.interface import Column, Metric, Score


def jumps(frames):
    """Absolute change of the mean brightness between successive frames, in grey levels."""
    return np.abs(np.diff(frames.mean(axis=(1, 2, 3))))


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Flicker(Metric):
    """Mean absolute change of the mean brightness between successive frames."""

    name: str

    version: ClassVar[str] = "1"  # change it when the code changes the values
    column = Column("Flicker", "levels", higher_is_better=False, digits=2)

    def score(self, sample):
        found = jumps(sample.generated)
        return Score(float(found.mean()), per_frame=tuple(found.tolist()))

    def levels(self, samples):
        values = [float(jumps(sample.reference).mean()) for sample in samples]
        return {"true": float(np.mean(values)), "pairs": float(len(values))} if values else {}
