"""Reading and writing video and pictures: uint8 RGB in, uint8 RGB out.

Frames are (T, H, W, 3) uint8 RGB throughout. Whatever is written is written
whole or not at all (``datasets.files``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import whole

if TYPE_CHECKING:
    import av

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]

VIDEO_SUFFIXES = (".mp4", ".gif", ".webm", ".mkv", ".mov", ".avi")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

_ROUNDED = 0.005
"""Seconds by which a steady rate's times may be off: GIF counts hundredths, Matroska thousandths."""

_LOSSLESS = {"level": "3", "slicecrc": "1"}
_FOR_PEOPLE = {"preset": "medium", "movflags": "+faststart"}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream; whatever goes wrong inside is an InputError."""
    import av

    def unreadable(reason: object) -> InputError:
        return InputError(f"{path}: cannot be read as a video ({reason}); replace or remove it")

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video stream; give a mp4, gif, webm or mkv video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except InputError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise unreadable(error.strerror or error) from error
    except ValueError as error:
        raise unreadable(error) from error


def _rgb(frame: av.VideoFrame) -> Frames:
    """One decoded frame as displayed: transparency over white, rotation applied."""
    transparent = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    image: NDArray[Any] = frame.to_ndarray(format="rgba" if transparent else "rgb24")
    if transparent:
        colour, alpha = image[..., :3].astype(np.uint16), image[..., 3:].astype(np.uint16)
        image = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.rot90(image, round(frame.rotation / 90))


def read_video(
    path: Path | str, start: int = 0, count: int | None = None, stride: int = 1
) -> tuple[Frames, float]:
    """Decode frames ``start``, ``start + stride``, ... of a video: at most ``count`` of them.

    Returns frames (T, H, W, 3) uint8 RGB and the file's frames a second (24 when
    it states none). Transparent pixels (GIF) are laid over white; a rotation
    stored by a phone is applied. Fewer than ``count`` frames come back when the
    video ends before. Raises InputError naming the file when it cannot be
    decoded or holds no frame from ``start`` on.
    """
    frames, _, rate = _decoded(Path(path), start, count, stride)
    return frames, rate


def read_timed(
    path: Path | str, start: int = 0, count: int | None = None, stride: int = 1
) -> tuple[Frames, NDArray[np.float64], float]:
    """As ``read_video``, with the frames' times (T,) in seconds since the first, and *these* frames a second.

    Times are those the file states; where they are a steady rate's but for rounding, the rate's own.
    """
    frames, stated, rate = _decoded(Path(path), start, count, stride)
    steady = np.arange(len(frames)) * stride / rate
    if any(time is None for time in stated):
        return frames, steady, rate / stride
    times = np.array(stated, float) - float(stated[0] or 0)
    if np.abs(times - steady).max() <= _ROUNDED or (np.diff(times) <= 0).any():
        return frames, steady, rate / stride
    return frames, times, (len(times) - 1) / float(times[-1])


def _decoded(
    path: Path, start: int, count: int | None, stride: int
) -> tuple[Frames, list[float | None], float]:
    """Frames, the times that the file states, and its frames a second."""
    stop = None if count is None else start + (count - 1) * stride + 1
    with _opened(path) as (container, stream):
        chosen = [
            (_rgb(frame), frame.time) for frame in islice(container.decode(stream), start, stop, stride)
        ]
        rate = stream.average_rate or stream.guessed_rate
    if not chosen:
        raise InputError(f"{path}: holds no frame from frame {start} on; replace or remove it")
    if len({frame.shape for frame, _ in chosen}) > 1:
        raise InputError(f"{path}: its frames differ in size; convert it to one size")
    return np.stack([frame for frame, _ in chosen]), [time for _, time in chosen], float(rate or 24)


def count_frames(path: Path | str) -> int:
    """The number of frames of a video, counted from its packets without decoding.

    Raises InputError naming the file when its container cannot be read.
    """
    with _opened(Path(path)) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)


def _encode(path: Path, frames: Frames, fps: float, codec: str, pixels: str, options: dict[str, str]) -> None:
    import av

    # A temporary file has no suffix to tell the format by. Encoded noise is as large as it was.
    form = "matroska" if path.suffix == ".mkv" else path.suffix.removeprefix(".")
    with whole(path, frames.nbytes) as temporary, av.open(str(temporary), "w", form) as container:
        rate = Fraction(float(fps)).limit_denominator(1001)
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for image in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())


def _checked(frames: Frames) -> Frames:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise ValueError(f"frames must be (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")
    return frames


def _enlarged(frames: Frames, min_side: int) -> Frames:
    """Repeat pixels by the smallest integer that brings the shorter side to ``min_side``."""
    factor = -(-min_side // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2) if factor > 1 else frames


def write_h264(path: Path | str, frames: Frames, fps: float, min_side: int = 256, crf: int = 18) -> None:
    """Write an H.264 yuv420p video for people to watch: (T, H, W, 3) uint8 RGB.

    Videos whose shorter side is below ``min_side`` pixels are enlarged by a whole
    number, pixels repeated, so that 64x64 can be watched (1 keeps the size). An
    odd side grows by one repeated row or column, as yuv420p asks. ``crf``: x264's constant rate factor, 0
    (lossless) to 51.
    """
    frames = _enlarged(_checked(frames), min_side)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    _encode(Path(path), frames, fps, "libx264", "yuv420p", {**_FOR_PEOPLE, "crf": str(crf)})


def write_ffv1(path: Path | str, frames: Frames, fps: float) -> None:
    """Write a lossless FFV1 video (``.mkv``): ``read_video`` gives back the same bytes."""
    _encode(Path(path), _checked(frames), fps, "ffv1", "bgr0", _LOSSLESS)


def frames_sha256(frames: Frames) -> str:
    """sha256 hex digest over the shape and the bytes of (T, H, W, 3) uint8 frames."""
    digest = hashlib.sha256(repr(tuple(map(int, frames.shape))).encode())
    digest.update(np.ascontiguousarray(frames).tobytes())
    return digest.hexdigest()


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


def read_pictures(paths: Sequence[Path]) -> Frames:
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
    for frames in (_checked(reference), _checked(generated)):
        picks = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
        tiles = _enlarged(resize_crop(resize_crop(frames[picks], height, width), *size), min_side)
        padded = np.pad(tiles, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(padded), axis=1))
    across = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, across - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    picture = np.concatenate(rows)[:-gap, :-gap]
    if path is not None:
        with whole(Path(path), picture.nbytes) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
    return picture
