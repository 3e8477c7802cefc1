"""What a method promises the harness."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, TypeVar

from datasets.errors import InputError
from datasets.plugin import Plugin
from methods.backbones.interface import Backbone, Grid

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Value = TypeVar("Value")


class Observer:
    """What a method tells whoever watches it. This one listens to nothing.

    The harness passes a subclass that times stages, draws a progress bar and
    writes ``trace.json``.
    """

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Time what happens inside. Names: text, encode, train, extract, guide, denoise, decode.

        Stages do not nest.
        """
        return nullcontext()

    def step(self, index: int, total: int) -> None:
        """Step ``index`` (0-based) of ``total`` is about to start: of denoising, or of training."""

    def shared(self, name: str, compute: Callable[[], Value]) -> Value:
        """What depends on the reference and the method's options alone, by a name of its own.

        The harness may compute it once and hand it to all cells of a clip.
        """
        return compute()

    def trace(self, **values: float | int | str | bool) -> None:
        """Append one row to the trace (losses, gradient norms and similarities)."""


class Method(Plugin):
    """A method plug-in, whatever it makes its videos from; derive from one of the two classes below.

    ``uses_backbone``: it works on the backbone's latents (``LatentMethod``) or without one (``VideoMethod``).
    ``made_here`` is False where its videos come finished, so that no time of theirs belongs to this machine.
    ``needs``: the operations of ``Backbone`` it uses that not every backbone offers (``rotary``).
    """

    made_here: ClassVar[bool] = True
    needs: ClassVar[Sequence[str]] = ()

    @property
    @abstractmethod
    def uses_backbone(self) -> bool:
        """True for a ``LatentMethod``, False for a ``VideoMethod``."""

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError when it cannot work on this token grid."""

    def at_most(self) -> Self:
        """This method where what depends on the data costs the most: an upper bound for the cost model."""
        return self

    def identity(self) -> dict[str, str] | None:
        """What, beside the configuration, determines its videos; it enters the cell's id.

        Raises InputError when it cannot be run at all.
        """
        return None

    def listed(self) -> list[tuple[str, str, int]]:
        """Clip, prompt and seed of every video there should be, where they are listed beforehand."""
        return []

    def methods(self) -> list[str]:
        """Of all methods whose finished videos it lists; each becomes a row of its own."""
        return []

    def missing(self, clip: str, prompt: str, seed: int) -> str | None:
        """Why it has no video for this cell, or None when it has one or can make one."""
        return None

    def content(self, clip: str, prompt: str, seed: int) -> str | None:
        """What a finished video is, such as its file's sha256: it enters the cell's id. None if made."""
        return None


class LatentMethod(Method):
    """A method that works on a backbone's latents."""

    uses_backbone = True

    @abstractmethod
    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From the reference's clean latent and the initial noise to the final latent."""

    def with_steps(self, steps: int) -> Self | None:
        """This method with so many denoising steps; None where its configuration has no key ``steps``."""
        if is_dataclass(self) and "steps" in {field.name for field in fields(self)}:
            return replace(self, steps=steps)
        return None


class VideoMethod(Method):
    """A method that needs no backbone: it hands over a video that is there, or makes one from pixels."""

    uses_backbone = False

    @property
    @abstractmethod
    def uncounted(self) -> str:
        """Why its operations are not known; as a rule a class attribute."""

    @abstractmethod
    def video(self, request: VideoRequest) -> tuple[NDArray[np.uint8], float | None]:
        """Frames (T, H, W, 3) uint8 RGB, and the seconds they took, if known.

        A finished video may end where the reference does (``times`` goes on).
        Raises TimeoutError when it took too long, any other exception when it failed.
        """

    def times(self, request: VideoRequest) -> NDArray[np.float64] | None:
        """Times (T,) of that video's frames, in seconds since the first; None: those of the reference's.

        Where they are at another rate the two are compared by time.
        """
        return None


class VideoRequest(NamedTuple):
    """One video that a ``VideoMethod`` is asked for.

    ``reference``: frames (T, H, W, 3) uint8 RGB, ``fps`` of them a second, ``caption`` what they
    show, if known. ``device``: the harness's (``cpu``, ``cuda``, ``cuda:1``). ``folder``: where the
    program's files of this cell belong; it need not exist. ``times``: (T,) seconds of the reference's
    frames since the first, where something says when they were taken.
    """

    clip: str
    reference: NDArray[np.uint8]
    fps: float
    caption: str | None
    prompt: str
    seed: int
    device: str
    folder: Path
    times: NDArray[np.float64] | None = None


def check_block(block: int, num_blocks: int, key: str = "block") -> None:
    """InputError where the backbone has no such block; ``key`` is the method's."""
    if block >= num_blocks:
        raise InputError(
            f"method.{key}={block}: the backbone has blocks 0 to {num_blocks - 1}; lower method.{key}"
        )


def check_frames(grid: Grid) -> None:
    """InputError for a single latent frame, which has no motion."""
    if grid.frames < 2:
        raise InputError(
            f"frames: motion needs at least 2 latent frames, not {grid.frames}; ask for more frames"
        )


__all__ = [
    "LatentMethod",
    "Method",
    "Observer",
    "VideoMethod",
    "VideoRequest",
    "check_block",
    "check_frames",
]
