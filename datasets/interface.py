"""What a dataset hands over: clips, their prompts, and the clips it left out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.plugin import Plugin


@dataclass(frozen=True)
class Prompt:
    """A target prompt. ``kind`` is ``caption``, ``subject``, ``scene`` or ``target``."""

    text: str
    kind: str = "target"


@dataclass(frozen=True)
class ClipInfo:
    """A clip as planned, before its frames are decoded.

    ``content`` is a sha256 hex digest of whatever determines the frames (file
    bytes of the frames used, or a renderer's version and seed); it enters the
    cell id. ``masks`` is one of the object masks, empty where there are none: values
    depend on them, videos do not. ``caption`` describes the reference itself, or is
    None. ``fps``: frames used a second. ``frames``: how many, where each clip has its own
    number (``frames=auto``). ``remarks``: what a reader should know of how its source was read.
    ``strata``: what kind of clip it is, by name (``motion``, ``objects``); tables can be made of each kind.
    """

    name: str
    content: str
    prompts: tuple[Prompt, ...]
    caption: str | None = None
    fps: float = 24.0
    masks: str = ""
    frames: int | None = None
    remarks: tuple[str, ...] = ()
    strata: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class LeftOut:
    """A clip that is not run, and why, in one line."""

    clip: str
    reason: str


class Listing(NamedTuple):
    """The clips that will run and those that will not. Only the first ``limit`` clips are asked for."""

    clips: Sequence[ClipInfo]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Clip:
    """A decoded reference clip.

    ``frames``: (T, H, W, 3) uint8 RGB. ``masks``: (T, H, W) bool of the objects, or None; a frame without
    an annotation has an empty one. ``times``: (T,) float64 seconds since the first frame, or None where
    nothing says when the frames were taken. ``truth``: what only a rendered world knows (for sprites a
    ``datasets.sprites.world.Truth``), or None. ``tracks``: (T, N, 3) float32 of points that a benchmark
    comes with: x and y in pixels of ``frames`` (whole numbers are centres), and 1 where the point is seen
    in them, else 0; or None.
    """

    info: ClipInfo
    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_] | None = None
    truth: Any = None
    times: NDArray[np.float64] | None = None
    tracks: NDArray[np.float32] | None = None

    def at(self, frames: Sequence[int]) -> Clip:
        """The clip of these frames alone; its truth stays only where they are its first ones."""
        chosen = list(frames)
        return replace(
            self,
            frames=self.frames[chosen],
            masks=None if self.masks is None else self.masks[chosen],
            times=None if self.times is None else self.times[chosen],
            tracks=None if self.tracks is None else self.tracks[chosen],
            truth=self.truth if chosen == list(range(len(chosen))) else None,
        )


class Dataset(Plugin):
    """A dataset plug-in. ``version`` changes when its code changes the frames.

    ``real_footage`` is False for rendered worlds. ``source``: whose it is and under what licence, in one
    line, for a set that others made; it is said before a run and stands in every record.
    """

    real_footage: ClassVar[bool] = True
    source: ClassVar[str] = ""

    @abstractmethod
    def listing(self) -> Listing:
        """The clips to run. Raises InputError when the source is missing or empty."""

    @abstractmethod
    def load(self, name: str) -> Clip:
        """Decode one clip of the listing."""

    def asked_for(self) -> Sequence[str]:
        """Names of the clips that the user asked for one by one; none where all are run."""
        return ()
