"""What the datasets of real footage share: the frames used of a clip, and the clips left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator

from datasets import video
from datasets.errors import InputError
from datasets.interface import Clip, ClipInfo, LeftOut, Listing

# Clips asked for by name: a list, or one name (``dataset.names=lucia``).
Names = Annotated[
    list[str] | None, BeforeValidator(lambda names: [names] if isinstance(names, str) else names)
]


def used(frames: int, start: int, stride: int) -> slice:
    """The frames of a clip that are used: ``frames`` of them, ``stride`` apart, from ``start`` on."""
    return slice(start, start + (frames - 1) * stride + 1, stride)


def shortfall(available: int, frames: int, start: int, stride: int) -> str | None:
    """Why a clip of ``available`` frames is too short, or None when it is long enough."""
    needed = used(frames, start, stride).stop
    if available >= needed:
        return None
    return f"has {available} frames, {needed} needed (frames={frames}, start={start}, stride={stride})"


def settle(
    clips: Sequence[ClipInfo],
    left_out: Sequence[LeftOut],
    asked: Sequence[str] | None,
    source: str,
    remedy: str,
    load: Callable[[str], Clip],
) -> Listing:
    """The listing, once it is sure that it can be run.

    InputError when no clip remains, when a clip asked for by name was left out,
    and when an only clip or one asked for by name cannot be decoded. One clip
    among many that cannot be decoded stays in the listing and fails on its own.
    """
    for out in left_out:
        if asked and out.clip in asked:
            raise InputError(f"dataset.names: {out.clip} {out.reason}")
    if not clips:
        shown = [f"{out.clip} {out.reason}" for out in left_out[:3]]
        if len(left_out) > len(shown):
            shown.append(f"and {len(left_out) - len(shown)} more")
        reasons = f": {'; '.join(shown)}" if shown else ""
        raise InputError(f"{source}: no clip remains{reasons}. {remedy}")
    if asked or len(clips) == 1:
        for clip in clips:
            load(clip.name)
    return Listing(tuple(clips), tuple(left_out))


def read_pictures(paths: Sequence[Path]) -> video.Frames:
    """Pictures of one size as (T, H, W, 3) uint8 RGB; InputError naming the one that is no such picture."""
    images = [video.read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(f"{path}: differs in size from {paths[0].name}; give all the same size")
    return np.stack(images)


def fit_mask(path: Path, frames: video.Frames, height: int, width: int) -> video.Mask | None:
    """The mask in ``path``, drawn for ``frames``, cropped as they are; None when nothing of it is left.

    InputError when it cannot be read or has another size than ``frames``.
    """
    mask = video.read_mask(path)
    if mask.shape != frames.shape[1:3]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, frames.shape[1:3])]
        raise InputError(f"{path}: is {sizes[0]}, its clip {sizes[1]}; give it the clip's size")
    mask = video.resize_crop(mask, height, width)
    return mask if mask.any() else None
