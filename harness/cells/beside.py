"""A finished video beside its reference: at the same size, and the frames of both at the same times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.interface import Clip
from harness.records.record import Compared, Footage, Record

Times = NDArray[np.float64]


def nearest(reference: Times, generated: Times) -> tuple[list[int], list[int]]:
    """Places of the frames to compare, as many of each, in two videos whose times (T,) are in seconds from 0.

    Over the time that both last, each frame of the slower video (the reference, at equal rates) stands beside
    the other's frame nearest in time. A frame for which the other has none within half a step is left out.
    """
    step, own_step = _step(reference), _step(generated)
    slower, other, reach = (
        (reference, generated, own_step)
        if own_step <= 1.01 * step
        else (
            generated,
            reference,
            step,
        )
    )
    places = np.flatnonzero(slower <= other[-1] + reach / 2 + 1e-6)
    partners = np.abs(other[None] - slower[places, None]).argmin(1)
    both = places.tolist(), partners.tolist()
    return both if slower is reference else both[::-1]


def _step(times: Times) -> float:
    """Mean seconds between frames; 0 for a single one."""
    return float(times[-1] - times[0]) / max(1, len(times) - 1)


def reference_of(clip: Clip) -> Footage:
    """The reference as it is used."""
    frames, height, width = clip.frames.shape[:3]
    return Footage(
        frames=frames, fps=None if clip.times is None else clip.info.fps, width=width, height=height
    )


def brought_beside(
    frames: NDArray[np.uint8], times: Times | None, clip: Clip, record: Record
) -> NDArray[np.uint8]:
    """The frames (T, H, W, 3) uint8 RGB to compare, at the clip's size; the record says what was done.

    Frames nearest in time (``nearest``) where the times (T,) of both are known, else as many of each from the
    first on. ``times`` may go on where ``frames`` end with the reference.
    """
    from datasets.media import images

    height, width = frames.shape[1:3]
    count = len(frames) if times is None else len(times)
    length, target_height, target_width = clip.frames.shape[:3]
    fps = reference_of(clip).fps if times is None else _rate(times)
    record.generated = Footage(frames=count, fps=fps, width=width, height=height)
    if (height, width) != (target_height, target_width):
        record.notes.append(f"resized and cropped from {width}x{height} to {target_width}x{target_height}")
    shared = list(range(min(count, length)))
    if times is None or clip.times is None:
        places, own = shared, shared
        if times is not None:
            record.notes.append("compared frame by frame: nothing says when the clip's were taken")
    else:
        places, own = nearest(clip.times, times)
    if places == own == shared:
        record.compared = Compared(frames=len(own))
        if count != length:
            record.notes.append(
                f"{count} frames against the reference's {length}: the first {len(own)} compared"
            )
    else:
        record.compared = Compared(frames=len(own), by="time", reference=places)
        record.notes.append(
            f"{len(own)} frames compared by time: {count} at {fps:.4g} a second against the reference's "
            f"{length} at {clip.info.fps:.4g}"
        )
    if own != list(range(len(frames))):
        frames = frames[own]
    return images.resize_crop(frames, target_height, target_width)


def _rate(times: Times) -> float | None:
    step = _step(times)
    return 1 / step if step else None


__all__ = ["brought_beside", "nearest", "reference_of"]
