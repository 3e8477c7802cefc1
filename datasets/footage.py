"""What datasets of real footage share: which frames of a clip are used, at what size, and who is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from datasets import images
from datasets.errors import InputError
from datasets.hashing import named_files_sha256
from datasets.interface import ClipInfo, Dataset, LeftOut, Listing

# Clips asked for by name: a list, or one name (``dataset.names=lucia``).
Names = Annotated[
    list[str] | None, BeforeValidator(lambda names: [names] if isinstance(names, str) else names)
]


@dataclass(config={"extra": "forbid"})
class Footage(Dataset):
    """A folder of clips, some of whose frames are used.

    ``root`` is the folder. ``names`` asks for clips by name. The frames used are ``start``,
    ``start + stride``, ...: ``frames`` of them, brought to ``height`` x ``width`` by
    ``datasets.images.resize_crop``. ``clip_model`` and ``default_frames`` are what other parts of the
    configuration take from a dataset.
    """

    height: PositiveInt
    width: PositiveInt
    root: str | None = None
    names: Names = None
    frames: PositiveInt = 49
    start: NonNegativeInt = 0
    stride: PositiveInt = 1
    clip_model: str = "ViT-B-32-quickgelu/openai"
    default_frames: PositiveInt = 49

    def asked_for(self) -> Sequence[str]:
        """``names``, or none."""
        return self.names or ()

    @property
    def used(self) -> slice:
        """The frames of a clip that are used."""
        return slice(self.start, self.start + (self.frames - 1) * self.stride + 1, self.stride)

    def shortfall(self, available: int) -> str | None:
        """Why a clip of ``available`` frames is too short, or None when it is long enough."""
        needed = self.used.stop
        if available >= needed:
            return None
        setting = f"frames={self.frames}, start={self.start}, stride={self.stride}"
        return f"has {available} frames, {needed} needed ({setting})"

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
        """Frames (T, H, W, 3) at the dataset's size."""
        return images.resize_crop(frames, self.height, self.width)

    def resized_masks(self, paths: Mapping[int, Path], frames: images.Frames) -> images.Mask | None:
        """Masks (T, H, W) of ``frames``, cropped as they are, from ``paths`` by frame; None if all are empty.

        A frame without one has an empty mask: where the object is then, nobody has said, and another
        frame's mask would lie where it no longer is. InputError when one cannot be read or has other
        proportions than ``frames``.
        """
        masks = np.zeros((len(frames), self.height, self.width), bool)
        for frame, path in paths.items():
            mask = images.read_mask(path)
            if not images.proportional(mask.shape, frames.shape[1:3]):
                sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, frames.shape[1:3])]
                raise InputError(f"{path}: is {sizes[0]}, its clip {sizes[1]}; give it the clip's size")
            masks[frame] = images.resize_crop(mask, self.height, self.width)
        return masks if masks.any() else None

    @staticmethod
    def masks_sha256(paths: Mapping[int, Path]) -> str:
        """Digest of the masks by frame, as ``ClipInfo.masks`` has it; empty without any."""
        return named_files_sha256({str(frame): path for frame, path in paths.items()}) if paths else ""
