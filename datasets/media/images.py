"""Pictures: reading them, bringing frames to a size, and contact sheets.

Frames are (T, H, W, 3) uint8 RGB throughout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import whole

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# Formats that Pillow has names for and that are no pictures: documents, drawings, films, icons, measurements,
# and Photo CD, whose suffix is mostly that of point clouds today.
_NO_PICTURES = frozenset(
    ("BUFR", "CUR", "EPS", "FLI", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "PCD", "PDF", "WMF")
)
# Formats whose further pictures are parts of the first: its layers, its depth, its preview.
_PARTS = ("MPO", "PSD")
# Formats in which a mask's 0 need not come back as 0.
_LOSSY = ("AVIF", "JPEG", "JPEG2000", "MPO", "WEBP")
# What Pillow raises on broken files, over all formats.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, RuntimeError, struct.error)


def checked(frames: Frames) -> Frames:
    """The frames; ValueError unless they are (T, H, W, 3) uint8."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    return frames


def enlarged(frames: Frames, min_side: int) -> Frames:
    """Repeat pixels by the smallest integer that brings the shorter side to ``min_side``."""
    factor = -(-min_side // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2) if factor > 1 else frames


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the pictures that Pillow reads here; JPEG XL where its plug-in is."""
    from PIL import Image

    with suppress(ImportError):
        import pillow_jxl  # noqa: F401
    suffixes = Image.registered_extensions()
    return frozenset(
        suffix for suffix, kind in suffixes.items() if kind in Image.OPEN and kind not in _NO_PICTURES
    )


def pages(path: Path) -> int:
    """How many pictures a file holds one after the other; 1 where it cannot be read."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as image:
            return 1 if image.format in _PARTS else sum(1 for _ in ImageSequence.Iterator(image))
    except (*_BROKEN, Image.DecompressionBombError):
        return 1


def _open_image(path: Path) -> Any:
    from PIL import Image, ImageOps

    picture_suffixes()  # Registers every format.
    try:
        with Image.open(path) as image:
            _refuse_pages(path, image)
            image.load()
            turned = ImageOps.exif_transpose(image)
            turned.format = image.format
            return turned
    except InputError:
        raise
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: cannot be read as a picture ({error}); replace, convert or remove it"
        ) from error


def _refuse_pages(path: Path, image: Any) -> None:
    if image.format in _PARTS:
        return
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return
    raise InputError(f"{path}: holds several pictures; save each frame as a file of its own")


def _pixels(path: Path) -> NDArray[Any]:
    """A picture as (H, W, 3) uint8 RGB or, where only the folder tells its white, (H, W) int32 or float32."""
    from PIL import Image

    image = _open_image(path)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0:
            raise InputError(f"{path}: holds values below 0 or not finite; write it with values from 0 to 1")
        return values
    try:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise InputError(f"{path}: its colours cannot be read ({error}); convert it to png") from error


def _white(peaks: Iterable[float]) -> float:
    """The value that is white, given the largest of each picture.

    It is 1, 255 or 65535, the least that none exceeds. Where all stay below a
    sixteenth of that (12 of 16 bits, light above 1), it is the largest value.
    """
    peak = max(peaks)
    scale = next((scale for scale in (1.0, 255.0, 65535.0) if peak <= scale), peak)
    return scale if scale == 1 or 16 * peak > scale else peak


def looks(path: Path) -> tuple[str, ...]:
    """What is done to the pixels of the folder that this picture is of; none where it cannot be read."""
    with suppress(InputError):
        image = _open_image(path)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return ("pictures of more than 8 bits: scaled to 8",)
    return ()


def read_image(path: Path | str) -> Frames:
    """One picture as ``read_images`` reads it: (H, W, 3) uint8 RGB."""
    (picture,) = read_images([Path(path)])
    return np.asarray(picture)


def read_images(paths: Sequence[Path]) -> Frames:
    """Pictures of one size as (T, H, W, 3) uint8 RGB, transparency over white.

    Grey of 16 bits is divided by 257. Float values and integers of 32 bits are scaled alike in all the
    pictures: up to 1, 255 or 65535 is black to white, whichever is the least that holds them all. Where they
    stay below a sixteenth of it, or exceed 65535, the largest value is white.
    InputError names the file that cannot be read, has another size, or holds negative values.
    """
    frames: Frames = np.empty((0, 0, 0, 3), np.uint8)
    peaks: dict[int, float] = {}
    for place, path in enumerate(paths):
        pixels = _pixels(path)
        if place == 0:
            frames = np.empty((len(paths), *pixels.shape[:2], 3), np.uint8)
        if pixels.shape[:2] != frames.shape[1:3]:
            raise InputError(
                f"{path}: differs in size from {paths[0].name} ({pixels.shape[1]}x{pixels.shape[0]}, "
                f"{frames.shape[2]}x{frames.shape[1]}); give all the same size"
            )
        if pixels.ndim == 2:
            peaks[place] = float(pixels.max())
        else:
            frames[place] = pixels
    if peaks:
        white = _white(peaks.values())
        for place in peaks:
            frames[place] = np.rint(_pixels(paths[place]) * (255.0 / white)).astype(np.uint8)[..., None]
    return frames


def read_mask(path: Path | str) -> Mask:
    """A picture's non-zero pixels as (H, W) bool: palette index, grey value or any colour above 0.

    Lossy kinds (jpg, webp...) blur the edge of an object: there it is what exceeds half of the largest value.
    """
    image = _open_image(Path(path))
    if image.mode in ("RGBA", "LA"):
        image = image.convert(image.mode[:-1])
    pixels = np.atleast_3d(np.asarray(image))
    if image.format in _LOSSY:
        return np.asarray((pixels > max(int(pixels.max()) // 2, 31)).any(axis=2))
    return np.asarray((pixels > 0).any(axis=2))


def palette_ids(path: Path) -> frozenset[int] | None:
    """Ids above 0 in a picture of palette indices, as DAVIS numbers its objects; None of other pictures."""
    with suppress(InputError):
        image = _open_image(path)
        if image.mode == "P":
            return frozenset(index for _, index in image.getcolors(256) if index)
    return None


def proportional(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two sizes (H, W) are one picture's, up to rounding to a pixel at the smaller of them."""
    small, large = sorted((tuple(one), tuple(other)))
    return abs(small[1] - large[1] * small[0] / large[0]) < 1


def crop_box(rows: int, columns: int, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the largest centred rectangle with the proportions of a target.

    Of a picture of ``rows`` x ``columns`` pixels, for one of ``height`` x ``width``; in pixels from the
    picture's corner.
    """
    scale = min(rows / height, columns / width)
    top, left = (rows - scale * height) / 2, (columns - scale * width) / 2
    return max(left, 0.0), max(top, 0.0), min(columns - left, columns), min(rows - top, rows)


def resize_crop_points(
    points: NDArray[np.float32], size: tuple[int, int], height: int, width: int
) -> NDArray[np.float32]:
    """Where points (..., 2) of pictures of ``size`` (H, W) are after ``resize_crop``: x, y in pixels.

    Whole numbers are centres of pixels, as in trackers. Points of what was cropped away lie outside.
    """
    left, top, right, bottom = crop_box(*size, height, width)
    scale = np.array([width / (right - left), height / (bottom - top)])
    return np.asarray((points + 0.5 - [left, top]) * scale - 0.5, np.float32)


def resize_crop(frames: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Bring frames (T, H, W, 3) uint8, or one mask (H, W) bool, to ``height`` x ``width``.

    The rule: take the largest centred rectangle of the source that has the
    target's aspect ratio (``crop_box``; so the picture is scaled alike in both directions,
    covers the target and loses the same amount on either side), and resample it
    to the target in one step: bicubic, antialiased when shrinking (Pillow's), for
    frames; nearest neighbour for masks. The right size comes back unchanged.
    """
    from PIL import Image

    mask = frames.dtype == np.bool_
    rows, columns = frames.shape[:2] if mask else frames.shape[1:3]
    if (rows, columns) == (height, width):
        return frames
    box = crop_box(rows, columns, height, width)

    def fit(image: NDArray[np.uint8], filter_: Image.Resampling) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(image).resize((width, height), filter_, box))

    if mask:
        return fit(frames.astype(np.uint8), Image.Resampling.NEAREST) > 0
    return np.stack([fit(image, Image.Resampling.BICUBIC) for image in frames])


def line(text: str, width: int, size: int = 14) -> Frames:
    """(H, width, 3) uint8: a line of black text on white, cut where it is longer than that."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    shown = text
    while len(text) > 1 and font.getlength(shown) > width - 4:
        text = text[:-1]
        shown = f"{text.rstrip()}..."
    picture = Image.new("RGB", (width, round(1.5 * size)), "white")
    ImageDraw.Draw(picture).text((2, 1), shown, fill="black", font=font)
    return np.asarray(picture)


def sheet(
    reference: Frames,
    generated: Frames,
    path: Path | str | None = None,
    columns: int = 8,
    min_side: int = 128,
    max_side: int = 320,
    labels: tuple[str, str] | None = None,
) -> Frames:
    """A contact sheet: evenly spaced frames of the reference over those of the generated video.

    ``labels`` stand above the two, cut where they are longer than the picture is wide.

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
    if labels is not None:
        rows = [part for text, row in zip(labels, rows, strict=True) for part in (line(text, across), row)]
    picture = np.concatenate(rows)[:-gap, :-gap]
    if path is not None:
        with whole(Path(path), picture.nbytes) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
    return picture
