"""A video's frames as they are meant to be shown, one after the other, and what its packets say of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.media.container import AGAIN, check_whole
from datasets.media.images import Frames

if TYPE_CHECKING:
    import av

SQUARE = 0.01
"""Pixels this near to square are square: encoders state 400:401 where they rounded a size to even numbers."""
HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics of ITU-T H.273, table 3."""

_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave their alpha out."""
_DEINTERLACE = "mode=send_frame:deint=interlaced"
_TONE = "out_primaries=bt709:out_transfer=bt709:intent=perceptual"


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its main video stream; whatever goes wrong inside is an InputError."""
    import av

    def unreadable(reason: object) -> InputError:
        return InputError(f"{path}: cannot be read as a video ({reason}); replace or remove it")

    try:
        check_whole(path)
        with av.open(str(path)) as container:
            stream = _main(path, container)
            stream.thread_type = "AUTO"
            yield container, stream
    except InputError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise unreadable(error.strerror or error) from error
    except ValueError as error:
        raise unreadable(error) from error


def _main(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The default video stream, else the first; pictures that belong to the file are none."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        other = ", only a cover picture" if container.streams.video else ""
        if not other and container.streams.audio:
            other = ", only sound"
        raise InputError(f"{path}: holds no video{other}; replace or remove it")
    return next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """The stream's decoder, or one that knows its alpha."""
    from av.video.codeccontext import VideoCodecContext

    own = stream.codec_context
    if own.name not in _ALPHA or stream.metadata.get("alpha_mode") != "1":
        return own
    decoder = VideoCodecContext.create(_ALPHA[own.name], "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata = own.extradata
    return decoder


def decoded(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """All frames in the order they are shown, progressive and of standard range."""
    import av

    decoder, filters, count = decoder_of(stream), None, 0
    try:
        for packet in container.demux(stream):
            for frame in decoder.decode(packet):
                count += 1
                filters = filters or _filters(frame)
                yield from _pulled(filters, frame) if filters else [frame]
        if filters:
            yield from _pulled(filters, None)
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: cannot be read as a video beyond {count} frames ({error.strerror}); "
            f"it is damaged or incomplete: {AGAIN}"
        ) from error


def _filters(frame: av.VideoFrame) -> av.filter.Graph | None:
    """What this frame and those after it go through; None where it can be shown as it is.

    Interlaced ones through bwdif, which leaves progressive frames among them alone; PQ and HLG through
    swscale's perceptual tone mapping to BT.709.
    """
    from av.filter import Graph

    wanted = [("bwdif", _DEINTERLACE)] if frame.interlaced_frame else []
    if frame.color_trc in HDR:
        wanted += [("scale", _TONE), ("format", "rgb24")]
    if not wanted:
        return None
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, *(graph.add(*filter_) for filter_ in wanted), graph.add("buffersink"))
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """What comes out for a frame that goes in; None ends it."""
    import av

    graph.push(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


class Display(NamedTuple):
    """How a video's frames are to be shown.

    ``aspect``: the width of a pixel over its height. Where ``transposed``, rows and columns change places;
    then left and right do where ``mirrored``, top and bottom where ``flipped``.
    """

    aspect: Fraction | None
    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False


def display_of(stream: av.VideoStream, frame: av.VideoFrame) -> Display:
    """The stream's pixels, and the frame's display matrix (FFmpeg's libavutil/display.h): one is enough.

    A frame whose side data was asked for is only freed by the garbage collector.
    """
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    sides: Any = frame.side_data
    if (matrix := sides.get("DISPLAYMATRIX")) is None:
        return Display(aspect)
    # A pixel at (x, y) is shown at (a x + c y, b x + d y); frame.rotation knows no mirror.
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Display(aspect, True, c < 0, b < 0)
    return Display(aspect, False, a < 0, d < 0)


def rgb(frame: av.VideoFrame, display: Display) -> Frames:
    """One frame (H, W, 3) as displayed: transparency over white, pixels made square, turned and mirrored."""
    transparent = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
    image: NDArray[Any] = frame.to_ndarray(format="rgba" if transparent else "rgb24")
    if transparent:
        colour, alpha = image[..., :3].astype(np.uint16), image[..., 3:].astype(np.uint16)
        image = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    height, width = image.shape[:2]
    if (size := squared(width, height, display.aspect)) != (width, height):
        from PIL import Image

        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    if display.transposed:
        image = image.transpose(1, 0, 2)
    return image[:: -1 if display.flipped else 1, :: -1 if display.mirrored else 1]


def squared(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height with square pixels: the direction in which they are long grows."""
    if not aspect or aspect < 0 or abs(aspect - 1) < SQUARE:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def rate_of(stream: av.VideoStream) -> float:
    """Frames a second as the file states them, 24 where it states none."""
    return float(stream.average_rate or stream.guessed_rate or 24)


class Packets:
    """What packets tell of frames without decoding: how many, when each is shown, how long the last is."""

    def __init__(self) -> None:
        self._stated: list[tuple[float | None, float]] = []
        self._first_key: float | None = None

    def add(self, packet: av.Packet[av.VideoStream]) -> None:
        """Take the next packet; those without a frame, or with one that is not shown, count nothing."""
        tick = float(packet.time_base or 0)
        time = None if packet.pts is None else packet.pts * tick
        if packet.is_keyframe and self._first_key is None:
            self._first_key = time
        if packet.size and not packet.is_discard:
            self._stated.append((time, (packet.duration or 0) * tick))

    @property
    def _shown(self) -> list[tuple[float | None, float]]:
        """Where a recording starts amid a scene, what comes before its first key frame cannot be decoded."""
        first = self._first_key
        return [
            (time, duration)
            for time, duration in self._stated
            if first is None or time is None or time >= first
        ]

    @property
    def count(self) -> int:
        """How many frames."""
        return len(self._shown)

    @property
    def times(self) -> list[float] | None:
        """Seconds at which each is shown, ascending; None where one's is not stated."""
        times = [time for time, _ in self._shown if time is not None]
        return sorted(times) if len(times) == self.count else None

    def lasts(self, rate: float) -> float:
        """Seconds from the first frame's time to the end of the last."""
        if not (times := self.times):
            return self.count / rate
        time, duration = max((time, duration) for time, duration in self._shown if time is not None)
        return time - times[0] + (duration or 1 / rate)


def due(seconds: float, fps: float) -> int:
    """How many of the times 0, 1 / fps, 2 / fps, ... come before ``seconds``."""
    return math.ceil(seconds * fps - 1e-9)


def slack_of(stream: av.VideoStream) -> float:
    """Seconds by which a frame's time may be rounded."""
    tick = float(stream.time_base or 0)
    # A tick as long as a frame rounds nothing.
    return max(tick / 2 if tick * rate_of(stream) < 0.5 else 0.0, 0.0005) + 1e-6


def by_time(frames: Iterable[av.VideoFrame], stream: av.VideoStream, fps: float) -> Iterator[av.VideoFrame]:
    """The frame shown at each of the times 0, 1 / fps, ... after the first; the last one lasts as stated."""
    rate, slack = rate_of(stream), slack_of(stream)
    held, first, time, given = None, 0.0, 0.0, 0
    for index, frame in enumerate(frames):
        stated = index / rate if frame.time is None else frame.time
        if held is None:
            first = time = stated
        else:
            # Where clips were joined, the clock may start again.
            first -= time + 1 / rate - stated if stated <= time else 0.0
            time = stated
            for _ in range(given, now := due(time - first - slack, fps)):
                yield held
            given = max(given, now)
        held = frame
    if held is not None:
        lasts = held.duration * float(held.time_base or 0) or 1 / rate
        for _ in range(given, max(1, due(time - first + lasts - 2 * slack, fps))):
            yield held


__all__ = [
    "Display",
    "HDR",
    "Packets",
    "by_time",
    "decoded",
    "decoder_of",
    "display_of",
    "due",
    "opened",
    "rate_of",
    "rgb",
    "slack_of",
    "squared",
]
