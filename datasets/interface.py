"""What a dataset hands over: clips, their prompts, and the clips it left out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
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
    cell id. ``caption`` describes the reference itself, or is None.
    """

    name: str
    content: str
    prompts: tuple[Prompt, ...]
    caption: str | None = None
    fps: float = 24.0


@dataclass(frozen=True)
class LeftOut:
    """A clip that is not run, and why, in one line."""

    clip: str
    reason: str


class Listing(NamedTuple):
    """The clips that will run and those that will not."""

    clips: tuple[ClipInfo, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Clip:
    """A decoded reference clip.

    ``frames``: (T, H, W, 3) uint8 RGB. ``mask``: (H, W) bool of the object in
    frame 0, or None. ``truth``: what only a rendered world knows (for sprites a
    ``datasets.sprites.world.Truth``), or None.
    """

    info: ClipInfo
    frames: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None = None
    truth: Any = None


class Dataset(Plugin):
    """A dataset plug-in. ``version`` changes when its code changes the frames.

    ``real_footage`` is False for rendered worlds.
    """

    real_footage: ClassVar[bool] = True

    @abstractmethod
    def listing(self) -> Listing:
        """The clips to run. Raises InputError when the source is missing or empty."""

    @abstractmethod
    def load(self, name: str) -> Clip:
        """Decode one clip of the listing."""

    def asked_for(self) -> Sequence[str]:
        """Names of the clips that the user asked for one by one; none where all are run."""
        return ()
