"""Does a clip show what its prompt asks for? Told from the pixels of the rendered world, without any network.

``datasets/sprites/read.py`` says how. It shares nothing with the tiny CLIP: each checks the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.sprites.read import Reading, read
from datasets.sprites.world import parse
from metrics.interface import Column, Sample, Score
from metrics.position import NOT_THE_GRAMMAR, UsesDetector

Attribute = Literal["objects", "background", "count"]


@dataclass(config={"extra": "forbid"})
class PromptRead(UsesDetector, kind="prompt_read"):
    """Share of clips whose pixels show what the prompt asks for: 1 or 0 a clip.

    ``attribute``: ``objects`` (every asked shape in its colour), ``background``, or ``count`` (as many
    objects as asked). Each frame is read by itself; the clip counts when more than half of its frames are
    right, an object's shape being the one most frames read. Rendered worlds only. Other fields as in
    ``UsesDetector``.
    """

    attribute: Attribute = "objects"
    area: Annotated[float, Field(ge=0, lt=1)] = 0.01

    version: ClassVar[str] = "2"

    @property
    def column(self) -> Column:
        return Column(f"{self.attribute.capitalize()} right", primary=False)

    def score(self, sample: Sample) -> Score:
        """1.0 or 0.0; ``per_frame`` whether each frame is right."""
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


def _vote(readings: Sequence[Reading], colour: str) -> str | None:
    """The shape that most frames read in objects of a colour."""
    votes = Counter(shape for reading in readings for shape, c in reading.objects if c == colour)
    return votes.most_common(1)[0][0] if votes else None


__all__ = ["PromptRead"]
