"""Pictures: reading them, bringing frames to a size, and contact sheets.

Frames are (T, H, W, 3) uint8 RGB throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import whole

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def checked(frames: Frames) -> Frames:
    """The frames; ValueError unless they are (T, H, W, 3) uint8."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    return frames


def enlarged(frames: Frames, min_side: int) -> Frames:
    """Repeat pixels by the smallest integer that brings the shorter side to ``min_side``."""
    factor = -(-min_side // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2) if factor > 1 else frames


def _open_image(path: Path) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error}); replace or remove it") from error


def read_image(path: Path | str) -> Frames:
    """One picture as (H, W, 3) uint8 RGB, transparency over white; InputError naming the file."""
    from PIL import Image

    image = _open_image(Path(path))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def read_images(paths: Sequence[Path]) -> Frames:
    """Pictures of one size as (T, H, W, 3) uint8 RGB; InputError naming the one that is no such picture."""
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(f"{path}: differs in size from {paths[0].name}; give all the same size")
    return np.stack(images)


def read_mask(path: Path | str) -> Mask:
    """A picture's non-zero pixels as (H, W) bool: palette index, grey value or any colour above 0."""
    image = _open_image(Path(path))
    if image.mode in ("RGBA", "LA"):
        image = image.convert(image.mode[:-1])
    pixels = np.atleast_3d(np.asarray(image)) > 0
    return np.asarray(pixels.any(axis=2))


def resize_crop(frames: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Bring frames (T, H, W, 3) uint8, or one mask (H, W) bool, to ``height`` x ``width``.

    The rule: take the largest centred rectangle of the source that has the
    target's aspect ratio (so the picture is scaled alike in both directions,
    covers the target and loses the same amount on either side), and resample it
    to the target in one step: bicubic, antialiased when shrinking (Pillow's), for
    frames; nearest neighbour for masks. The right size comes back unchanged.
    """
    from PIL import Image

    mask = frames.dtype == np.bool_
    rows, columns = frames.shape[:2] if mask else frames.shape[1:3]
    if (rows, columns) == (height, width):
        return frames
    scale = min(rows / height, columns / width)
    top, left = (rows - scale * height) / 2, (columns - scale * width) / 2
    box = (max(left, 0.0), max(top, 0.0), min(columns - left, columns), min(rows - top, rows))

    def fit(image: NDArray[np.uint8], filter_: Image.Resampling) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(image).resize((width, height), filter_, box))

    if mask:
        return fit(frames.astype(np.uint8), Image.Resampling.NEAREST) > 0
    return np.stack([fit(image, Image.Resampling.BICUBIC) for image in frames])


def sheet(
    reference: Frames,
    generated: Frames,
    path: Path | str | None = None,
    columns: int = 8,
    min_side: int = 128,
    max_side: int = 320,
) -> Frames:
    """A contact sheet: evenly spaced frames of the reference over those of the generated video.

    Both (T, H, W, 3) uint8 RGB; a generated video of another size is brought to
    the reference's by ``resize_crop``. Tiles with a shorter side below
    ``min_side`` are enlarged by a whole number, pixels repeated; tiles with a
    longer side above ``max_side`` are shrunk. Returns (H', W', 3) uint8 and, with
    ``path``, writes it as PNG.
    """
    from PIL import Image

    height, width = reference.shape[1:3]
    shrink = min(1.0, max_side / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    gap = 4
    rows = []
    for frames in (checked(reference), checked(generated)):
        picks = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
        tiles = enlarged(resize_crop(resize_crop(frames[picks], height, width), *size), min_side)
        padded = np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(padded), axis=1))
    across = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, across - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    picture = np.concatenate(rows)[:-gap, :-gap]
    if path is not None:
        with whole(Path(path), picture.nbytes) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
    return picture
