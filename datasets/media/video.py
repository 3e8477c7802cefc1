"""Reading and writing video: uint8 RGB in, uint8 RGB out.

Frames are (T, H, W, 3) uint8 RGB throughout. Whatever is written is written
whole or not at all (``datasets.files``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import whole
from datasets.media import decode
from datasets.media.images import Frames, checked, enlarged

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = (
    *(".mp4", ".gif", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".vob", ".mxf", ".wmv", ".asf", ".flv", ".ogv", ".3gp", ".apng", ".y4m"),
)

Times = NDArray[np.float64]

_ROUNDED = 0.005
"""Seconds by which a steady rate's times may be off: GIF counts hundredths, Matroska thousandths."""

_LOSSLESS = {"level": "3", "slicecrc": "1"}
_FOR_PEOPLE = {"preset": "medium", "movflags": "+faststart"}


def _stacked(path: Path, images: Iterable[Frames], room: int) -> Frames:
    """Images (H, W, 3) as one array, read into its place; it grows where ``room`` was too small."""
    frames: Frames | None = None
    filled = 0
    for image in images:
        if frames is None:
            frames = np.empty((room, *image.shape), np.uint8)
        if image.shape != frames.shape[1:]:
            raise InputError(f"{path}: its frames differ in size; convert it to one size")
        if filled == len(frames):
            # In place: nobody else has it, and a large array's pages are moved rather than copied.
            frames.resize((filled + filled // 16 + 1, *image.shape), refcheck=False)
        frames[filled] = image
        filled += 1
    if frames is None:
        return np.empty((0, 0, 0, 3), np.uint8)
    frames.resize((filled, *frames.shape[1:]), refcheck=False)
    return frames


def read_video(
    path: Path | str, start: int = 0, count: int | None = None, stride: int = 1, fps: float | None = None
) -> tuple[Frames, float]:
    """Decode frames ``start``, ``start + stride``, ... of a video: at most ``count`` of them.

    Returns frames (T, H, W, 3) uint8 RGB and the file's frames a second (24 when
    it states none). With ``fps`` its frames are first taken by time: frame k is
    the one shown k / fps seconds after the first, so that some are repeated or
    left out, and that is the rate returned.

    Frames are as displayed: transparent pixels over white, non-square pixels
    stretched in their longer direction, turned and mirrored as the file asks,
    interlaced ones deinterlaced, PQ and HLG tone-mapped to BT.709 (``remarks``
    tells). It reads the default stream. Fewer than ``count`` frames come back
    when the video ends before. Takes little more memory than the frames do.
    Raises InputError naming the file when it cannot be decoded, is incomplete or
    holds no frame from ``start`` on.
    """
    frames, _, rate = _read(Path(path), start, count, stride, fps)
    return frames, rate


def read_timed(
    path: Path | str, start: int = 0, count: int | None = None, stride: int = 1, fps: float | None = None
) -> tuple[Frames, Times, float]:
    """As ``read_video``, with the frames' times (T,) in seconds since the first, and *these* frames a second.

    Times are those the file states; where they are a steady rate's but for rounding, and with ``fps``, the
    rate's own.
    """
    frames, stated, rate = _read(Path(path), start, count, stride, fps)
    if fps is not None or None in stated:
        return frames, np.arange(len(frames)) * stride / rate, rate / stride
    times, rate = _settled([time for time in stated if time is not None], rate / stride)
    return frames, times, rate


def _settled(stated: Sequence[float], rate: float) -> tuple[Times, float]:
    """Times (T,) since the first and frames a second, from stated times; the rate's own where steady."""
    steady = np.arange(len(stated)) / rate
    times = np.array(stated) - stated[0]
    if np.abs(times - steady).max() <= _ROUNDED or (np.diff(times) <= 0).any():
        return steady, rate
    return times, (len(times) - 1) / float(times[-1])


def _read(
    path: Path, start: int, count: int | None, stride: int, fps: float | None
) -> tuple[Frames, list[float | None], float]:
    """Frames, the times that the file states, and its frames a second or ``fps``."""
    stop = None if count is None else start + (count - 1) * stride + 1
    times: list[float | None] = []
    with decode.opened(path) as (container, stream):

        def images() -> Iterator[Frames]:
            display = None
            shown = decode.decoded(path, container, stream)
            if fps is not None:
                shown = decode.by_time(shown, stream, fps)
            for frame in islice(shown, start, stop, stride):
                display = display or decode.display_of(stream, frame)
                times.append(frame.time)
                yield decode.rgb(frame, display)

        frames = _stacked(
            path, images(), min(count or 1 << 10, stream.frames // stride + 1 if stream.frames else 16)
        )
        rate = fps or decode.rate_of(stream)
    if not len(frames):
        raise InputError(f"{path}: holds no frame from frame {start} on; replace or remove it")
    return frames, times, rate


class _Probe(NamedTuple):
    """What is known of a video without decoding more than its first frame."""

    packets: decode.Packets
    rate: float
    slack: float
    looks: tuple[str, ...]
    size: tuple[int, int]


def _probed(path: Path | str) -> _Probe:
    """Read through once, as long as the file stays as it is. Raises InputError as ``count_frames``."""
    path = Path(path)
    stat = path.stat() if path.is_file() else None
    return _probe(path, *((stat.st_size, stat.st_mtime_ns) if stat else (0, 0)))


@lru_cache(maxsize=1024)
def _probe(path: Path, size: int, mtime_ns: int) -> _Probe:
    with decode.opened(path) as (container, stream):
        decoder, packets, frame = decode.decoder_of(stream), decode.Packets(), None
        for packet in container.demux(stream):
            packets.add(packet)
            frame = frame or next(iter(decoder.decode(packet)), None)
        display = decode.display_of(stream, frame) if frame else None
        looks = _looks(frame, display) if frame and display else []
        if decoder is not stream.codec_context:
            looks.append("transparent: over white")
        if stream.index != container.streams.video[0].index:
            looks.append("its default video stream is read, not its first")
        shown = decode.rgb(frame, display).shape if frame and display else (0, 0)
        rate, slack = decode.rate_of(stream), decode.slack_of(stream)
    return _Probe(packets, rate, slack, tuple(looks), (shown[0], shown[1]))


def count_frames(path: Path | str, fps: float | None = None) -> int:
    """The number of frames of a video, counted from its packets without decoding; with ``fps``, by time.

    Raises InputError naming the file when its container cannot be read or is incomplete.
    """
    probe = _probed(path)
    if fps is None or not probe.packets.count:
        return probe.packets.count
    return max(1, decode.due(probe.packets.lasts(probe.rate) - 2 * probe.slack, fps))


def frame_times(path: Path | str) -> tuple[Times, float]:
    """Times (T,) and frames a second of a whole video as ``read_timed`` gives them, without decoding.

    Raises InputError as ``count_frames``.
    """
    probe = _probed(path)
    if not probe.packets.times:
        return np.arange(probe.packets.count) / probe.rate, probe.rate
    return _settled(probe.packets.times, probe.rate)


def shown_size(path: Path | str) -> tuple[int, int]:
    """Height and width of a video's frames as displayed. Raises InputError as ``count_frames``."""
    return _probed(path).size


def looks(path: Path | str) -> tuple[str, ...]:
    """What is done to a video's pixels, a line each: interlaced, HDR, mirrored or transparent, not square.

    Or a stream is read that is not the first. Read off the first frame. Raises InputError as
    ``count_frames``.
    """
    return _probed(path).looks


def remarks(path: Path | str) -> tuple[str, ...]:
    """What is not plain about a video, a line each: its ``looks``, and a rate that varies.

    Raises InputError as ``count_frames``.
    """
    probe = _probed(path)
    times = probe.packets.times
    rate = _variable(times, probe.slack) if times else None
    return ((rate,) if rate else ()) + probe.looks


def _looks(frame: av.VideoFrame, display: decode.Display) -> list[str]:
    lines = []
    if frame.interlaced_frame:
        lines.append("interlaced: deinterlaced by bwdif")
    if frame.color_trc in decode.HDR:
        lines.append(f"HDR ({decode.HDR[frame.color_trc]}): tone-mapped to BT.709")
    if (display.mirrored != display.flipped) != display.transposed:
        lines.append("mirrored, as its display matrix says")
    size = frame.width, frame.height
    if (square := decode.squared(*size, display.aspect)) != size:
        lines.append(
            f"pixels of {display.aspect}: stretched from {size[0]}x{size[1]} to {square[0]}x{square[1]}"
        )
    return lines


def _variable(times: Sequence[float], slack: float) -> str | None:
    """The least and the most frames a second, where the times are those of no steady rate."""
    steady = np.linspace(times[0], times[-1], len(times))
    gaps = np.diff(times)
    if np.abs(times - steady).max() <= _ROUNDED + slack or (gaps <= 0).any():
        return None
    least, most = (
        f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}" for rate in (1 / gaps.max(), 1 / gaps.min())
    )
    return f"variable frame rate ({least} to {most} a second)"


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
