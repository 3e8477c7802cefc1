"""Reading and writing video: uint8 RGB in, uint8 RGB out.

Frames are (T, H, W, 3) uint8 RGB throughout. Whatever is written is written
whole or not at all (``datasets.files``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import whole
from datasets.images import Frames, checked, enlarged

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = (".mp4", ".gif", ".webm", ".mkv", ".mov", ".avi")

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


def write_h264(path: Path | str, frames: Frames, fps: float, min_side: int = 256, crf: int = 18) -> None:
    """Write an H.264 yuv420p video for people to watch: (T, H, W, 3) uint8 RGB.

    Videos whose shorter side is below ``min_side`` pixels are enlarged by a whole
    number, pixels repeated, so that 64x64 can be watched (1 keeps the size). An
    odd side grows by one repeated row or column, as yuv420p asks. ``crf``: x264's constant rate factor, 0
    (lossless) to 51.
    """
    frames = enlarged(checked(frames), min_side)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    _encode(Path(path), frames, fps, "libx264", "yuv420p", {**_FOR_PEOPLE, "crf": str(crf)})


def write_ffv1(path: Path | str, frames: Frames, fps: float) -> None:
    """Write a lossless FFV1 video (``.mkv``): ``read_video`` gives back the same bytes."""
    _encode(Path(path), checked(frames), fps, "ffv1", "bgr0", _LOSSLESS)


def frames_sha256(frames: Frames) -> str:
    """sha256 hex digest over the shape and the bytes of (T, H, W, 3) uint8 frames."""
    digest = hashlib.sha256(repr(tuple(map(int, frames.shape))).encode())
    digest.update(np.ascontiguousarray(frames).tobytes())
    return digest.hexdigest()
