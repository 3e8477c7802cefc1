"""What datasets of real footage share: which frames of a clip are used, at what size, and who is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from datasets.hashing import named_files_sha256
from datasets.interface import ClipInfo, Dataset, LeftOut, Listing
from datasets.media import images
from datasets.tables import clip_name

# Clips asked for by name: a list, or one name (``dataset.names=lucia``).
Names = Annotated[
    list[Annotated[str, AfterValidator(clip_name)]] | None,
    BeforeValidator(lambda names: [names] if isinstance(names, str) else names),
]

FPS = 24.0
"""Frames a second of a folder of pictures, which says nothing of it."""
FEWEST = 5
"""Frames of the shortest clip that ``frames=auto`` uses: a backbone makes two latent frames of them."""


class Taken(NamedTuple):
    """Which frames of a clip are used: every ``stride``-th from ``start``, at ``fps`` a second or its own."""

    start: int
    stride: int
    fps: float | None

    def available(self, frames: int, rate: float) -> int:
        """How many frames, at the rate wanted, pictures have that follow each other at ``rate`` a second."""
        return frames if self.fps is None else math.ceil(frames * self.fps / rate - 1e-6)

    def places(self, count: int, rate: float) -> list[int]:
        """The places of the ``count`` pictures used."""
        step = 1.0 if self.fps is None else rate / self.fps
        return [int((self.start + n * self.stride) * step + 1e-6) for n in range(count)]

    def rate(self, own: float) -> float:
        """Frames used a second, of a clip with ``own``."""
        return (self.fps or own) / self.stride


@dataclass(config={"extra": "forbid"})
class Footage(Dataset):
    """A folder of clips, some of whose frames are used.

    ``root`` is the folder. ``names`` asks for clips by name. The frames used are ``start``,
    ``start + stride``, ...: ``frames`` of them. With ``fps`` those are frames of a clip at that rate, each
    the one shown at its time. ``frames`` ``auto``: of each clip the longest 4k+1, up to ``most_frames``. They
    are brought to ``height`` x ``width`` by ``media.images.resize_crop``; without these a clip keeps its own
    size. ``clip_model`` and ``default_frames`` are what other parts of the configuration take from a
    dataset.
    """

    height: PositiveInt | None = None
    width: PositiveInt | None = None
    root: str | None = None
    names: Names = None
    frames: PositiveInt | Literal["auto"] = 49
    start: NonNegativeInt = 0
    stride: PositiveInt = 1
    fps: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    clip_model: str = "ViT-B-32-quickgelu/openai"
    default_frames: PositiveInt = 49
    most_frames: PositiveInt | None = None

    # What ``fps`` changes stands in a clip's content.
    outside_id: ClassVar[Sequence[str]] = (
        "root",
        "names",
        "fps",
        "clip_model",
        "default_frames",
        "most_frames",
    )

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            given, other = ("width", "height") if self.height is None else ("height", "width")
            raise InputError(
                f"dataset.{given}: set dataset.{other} too, or neither to keep each clip's own size"
            )

    def asked_for(self) -> Sequence[str]:
        """``names``, or none."""
        return self.names or ()

    def taken(self, stride: int | None = None, fps: float | None = None) -> Taken:
        """The frames used of a clip that may have a ``stride`` and ``fps`` of its own."""
        return Taken(self.start, stride or self.stride, fps or self.fps)

    def count(self, available: int, taken: Taken) -> int:
        """How many frames are used of a clip that has ``available`` at the rate wanted; 0 when too few."""
        most = -(-(available - taken.start) // taken.stride)
        if self.frames == "auto":
            most = min(most, self.most_frames or most)
            return most - (most - 1) % 4 if most >= FEWEST else 0
        return self.frames if most >= self.frames else 0

    def shortfall(self, available: int, taken: Taken) -> str:
        """Why a clip of ``available`` frames is too short."""
        least = FEWEST if self.frames == "auto" else self.frames
        at = f" at {taken.fps:g} a second" if taken.fps else ""
        return (
            f"has {available} frames{at}, {taken.start + (least - 1) * taken.stride + 1} needed "
            f"(frames={self.frames}, start={taken.start}, stride={taken.stride})"
        )

    def content(self, sha256: str, taken: Taken, looks: Sequence[str] = ()) -> str:
        """A clip's content: what its files hold, and where it is read in a way of its own, that way.

        ``looks``: what was done to its pixels (``datasets.media.video.looks``).
        """
        own = f" at {taken.fps:g} a second" if taken.fps else ""
        own += f" stride {taken.stride}" if taken.stride != self.stride else ""
        return "; ".join([sha256 + own, *looks])

    def settle(
        self, clips: Sequence[ClipInfo], left_out: Sequence[LeftOut], source: str, remedy: str
    ) -> Listing:
        """The listing, once it is sure that it can be run.

        InputError when no clip remains, when a clip asked for by name was left out, and when an only clip or
        one asked for by name cannot be decoded. One clip among many that cannot be decoded stays in the
        listing and fails on its own.
        """
        for out in left_out:
            if out.clip in self.asked_for():
                raise InputError(f"dataset.names: {out.clip} {out.reason}")
        if not clips:
            shown = [f"{out.clip} {out.reason}" for out in left_out[:3]]
            if len(left_out) > len(shown):
                shown.append(f"and {len(left_out) - len(shown)} more")
            reasons = f": {'; '.join(shown)}" if shown else ""
            raise InputError(f"{source}: no clip remains{reasons}. {remedy}")
        if self.names or len(clips) == 1:
            for clip in clips:
                self.load(clip.name)
        return Listing(tuple(clips), tuple(left_out))

    def resized(self, frames: images.Frames) -> images.Frames:
        """Frames (T, H, W, 3) at the dataset's size, or their own."""
        return images.resize_crop(frames, *self._size(frames))

    def read_mask(self, path: Path) -> images.Mask:
        """A mask (H, W) as the dataset has it: what is not 0."""
        return images.read_mask(path)

    def _size(self, frames: images.Frames) -> tuple[int, int]:
        return self.height or frames.shape[1], self.width or frames.shape[2]

    def resized_masks(self, paths: Mapping[int, Path], frames: images.Frames) -> images.Mask | None:
        """Masks (T, H, W) of ``frames``, cropped as they are, from ``paths`` by frame; None if all are empty.

        A frame without one has an empty mask: where the object is then, nobody has said, and another
        frame's mask would lie where it no longer is. InputError when one cannot be read or has other
        proportions than ``frames``.
        """
        masks = np.zeros((len(frames), *self._size(frames)), bool)
        for frame, path in paths.items():
            mask = self.read_mask(path)
            if not images.proportional(mask.shape, frames.shape[1:3]):
                sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, frames.shape[1:3])]
                raise InputError(f"{path}: is {sizes[0]}, its clip {sizes[1]}; give it the clip's size")
            masks[frame] = images.resize_crop(mask, *self._size(frames))
        return masks if masks.any() else None

    @staticmethod
    def masks_sha256(paths: Mapping[int, Path]) -> str:
        """Digest of the masks by frame, as ``ClipInfo.masks`` has it; empty without any."""
        return named_files_sha256({str(frame): path for frame, path in paths.items()}) if paths else ""
