"""A page's videos: what their headers say, and smaller ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

SMALL_SIDE = 480
"""Pixels of the longer side of a small video, at most."""
SMALL_CRF = 30
"""x264's constant rate factor of small videos; those of results have 18."""


@dataclass(frozen=True)
class Probe:
    """Frames a second, length in seconds and size in pixels of a video file."""

    fps: float
    seconds: float
    width: int
    height: int


def probe_video(path: Path) -> Probe | None:
    """Length and size of a video, from its header; None when it is not there or not a video."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 24)
            frames = stream.frames or round(float(container.duration or 0) / av.time_base * fps)
            return Probe(fps, max(1, frames) / fps, max(1, stream.width), max(1, stream.height))
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return None


def write_small(source: Path, target: Path, probe: Probe) -> None:
    """Encode a video again in fewer bytes, at most ``SMALL_SIDE`` pixels; a copy where that saves none."""
    from datasets.media.images import resize_crop
    from datasets.media.video import read_video, write_h264

    frames = read_video(source)[0]
    shrink = min(1.0, SMALL_SIDE / max(probe.width, probe.height))
    if shrink < 1:
        frames = resize_crop(frames, round(probe.height * shrink), round(probe.width * shrink))
    write_h264(target, frames, probe.fps, min_side=1, crf=SMALL_CRF)
    if target.stat().st_size >= source.stat().st_size:
        shutil.copyfile(source, target)


__all__ = ["Probe", "probe_video", "write_small"]
