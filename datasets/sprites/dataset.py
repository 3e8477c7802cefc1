"""Rendered clips of the embedded world (``world.py``) as a dataset, with target prompts of its grammar."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import eq
from typing import Annotated, ClassVar, overload

import numpy as np
import pydantic
from pydantic import Field

from datasets.errors import InputError
from datasets.interface import Clip, ClipInfo, Dataset, Listing, Prompt
from datasets.sprites.world import FPS, HELD_OUT, MOTIONS, RENDERER, Motion, caption, draw, render, target

# An experiment's variants load the same clip one after the other; at Wan's size painting takes five seconds.
_last_rendered = lru_cache(maxsize=1)(render)


class _Drawn(Sequence[ClipInfo]):
    """The first ``length`` of endless clips, each drawn when it is asked for."""

    def __init__(self, clips: Iterator[ClipInfo], length: int) -> None:
        self._clips, self._length = clips, length
        self._drawn: list[ClipInfo] = []

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    @overload
    def __getitem__(self, index: int) -> ClipInfo: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ClipInfo]: ...
    def __getitem__(self, index: int | slice) -> ClipInfo | Sequence[ClipInfo]:
        places = range(self._length)[index]
        last = places if isinstance(places, int) else max(places, default=-1)
        self._drawn += itertools.islice(self._clips, max(last + 1 - len(self._drawn), 0))
        return self._drawn[places] if isinstance(places, int) else tuple(self._drawn[i] for i in places)


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Sprites(Dataset, kind="sprites"):
    """Rendered clips of held-out seeds, named after what moves: ``curved-0003``.

    ``clips``: how many. ``first``: number of the first, so that settings can be tuned on
    other clips than those reported. ``motions``: only these kinds, or None for all.
    ``prompts``: target prompts a clip.
    """

    name: str
    frames: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=16)]
    width: Annotated[int, Field(ge=16)]
    default_frames: int
    clip_model: str
    clips: Annotated[int, Field(ge=1, lt=2**63)] = 16
    first: Annotated[int, Field(ge=0)] = 0
    motions: tuple[Motion, ...] | None = None
    prompts: Annotated[int, Field(ge=1)] = 1

    version: ClassVar[str] = RENDERER
    outside_id: ClassVar[Sequence[str]] = (
        "clips",
        "first",
        "motions",
        "prompts",
        "default_frames",
        "clip_model",
    )
    real_footage: ClassVar[bool] = False

    def _infos(self) -> Iterator[ClipInfo]:
        """Clips of the motions asked for, without end."""
        for number in itertools.count(self.first):
            truth = draw(HELD_OUT + number, self.frames, self.height, self.width)
            if self.motions is None or truth.motion in self.motions:
                yield self._info(f"{truth.motion}-{number:04d}", HELD_OUT + number)

    def listing(self) -> Listing:
        """All clips; none is ever left out."""
        if self.motions is not None and not self.motions:
            raise InputError("dataset.motions is empty; name some of " + ", ".join(MOTIONS))
        return Listing(_Drawn(self._infos(), self.clips), ())

    def _info(self, name: str, seed: int) -> ClipInfo:
        truth = draw(seed, self.frames, self.height, self.width)
        attributes = truth.attributes
        rng = np.random.default_rng([seed, 1])
        texts = dict.fromkeys(caption(target(attributes, rng)) for _ in range(8 * self.prompts))
        prompts = tuple(Prompt(text) for text in list(texts)[: self.prompts])
        source = f"sprites {RENDERER} {seed} {self.frames}x{self.height}x{self.width}"
        content = hashlib.sha256(source.encode()).hexdigest()
        strata = {"motion": truth.motion, "moves": truth.kind, "objects": str(len(attributes.objects))}
        return ClipInfo(name, content, prompts, caption(attributes), FPS, strata=strata)

    def load(self, name: str) -> Clip:
        """Render one clip of the listing."""
        seed = HELD_OUT + int(name.rsplit("-", 1)[1])
        frames, truth = _last_rendered(seed, self.frames, self.height, self.width)
        return Clip(self._info(name, seed), frames.copy(), truth=truth, times=np.arange(len(frames)) / FPS)
