"""Finished videos, whatever made them: listed in a manifest and scored like any other method's."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from datasets.errors import InputError
from datasets.hashing import file_sha256
from methods.interface import VideoMethod, VideoRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("clip", "prompt", "seed", "file")
GIF_ROUNDED = 0.005
"""Seconds by which a GIF's delays, whole hundredths, may be off."""


@dataclass(frozen=True)
class Entry:
    """A finished video: its file and, where they are told, the seconds it took and its frames a second."""

    file: Path
    seconds: float | None
    fps: float | None = None


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Precomputed(VideoMethod, kind="precomputed"):
    """Videos from a CSV manifest with the columns clip, prompt, seed, file and, optionally, seconds and fps.

    ``file`` is relative to the manifest's folder. One row a video; clip, prompt and seed must be
    those of the plan. ``fps`` is what to take for the rate that the file states: a video made frame by frame
    for a clip has the clip's, whatever its export says. ``other_rate``: a video at another rate than its clip
    is compared by time, or refused. Every method below raises InputError when the manifest cannot be used.
    """

    name: str
    manifest: str | None = None
    other_rate: Literal["time", "refuse"] = "time"

    version: ClassVar[str] = "2"
    outside_id: ClassVar[Sequence[str]] = ("manifest",)
    made_here = False
    uncounted = "the video was made elsewhere"

    def listed(self) -> list[tuple[str, str, int]]:
        """Clip, prompt and seed of every row of the manifest."""
        return list(self._entries())

    def missing(self, clip: str, prompt: str, seed: int) -> str | None:
        """Why there is no video for this cell, or None when there is one."""
        return self._why_missing(self._entries().get((clip, prompt, seed)), clip, prompt, seed)

    def content(self, clip: str, prompt: str, seed: int) -> str:
        """sha256 hex digest of the video file, and the rate it is taken at if that is told."""
        entry = self._entry(clip, prompt, seed)
        return file_sha256(entry.file) + ("" if entry.fps is None else f" at {entry.fps:g}")

    def video(self, request: VideoRequest) -> tuple[NDArray[np.uint8], float | None]:
        """Frames (T, H, W, 3) uint8 RGB up to the reference's end, and the seconds they took, if known."""
        from datasets.video import read_video

        entry = self._entry(request.clip, request.prompt, request.seed)
        times = self.times(request)
        count = min(len(times), _up_to_end(request, times))
        frames, _ = read_video(entry.file, count=count)
        if len(frames) < count:
            raise InputError(
                f"{entry.file}: only {len(frames)} of {len(times)} frames can be decoded; replace it"
            )
        return frames, entry.seconds

    def times(self, request: VideoRequest) -> NDArray[np.float64]:
        """Times (T,) of all frames in seconds, by the manifest's fps or by the file, which is not decoded.

        A GIF whose delay agrees with the clip's but for rounding has the clip's. InputError for another
        rate (by 1 % and more) than the clip's with ``other_rate`` ``refuse``.
        """
        import numpy as np

        from datasets.video import frame_times

        entry = self._entry(request.clip, request.prompt, request.seed)
        times, fps = frame_times(entry.file)
        rounded = entry.file.suffix.lower() == ".gif" and abs(1 / fps - 1 / request.fps) <= GIF_ROUNDED
        told = entry.fps or (request.fps if rounded else None)
        if self.other_rate == "refuse" and abs((told or fps) / request.fps - 1) > 0.01:
            raise InputError(
                f"{entry.file}: {told or fps:.4g} frames a second, its clip {request.fps:.4g}; give it the "
                f"clip's, or its true rate in a column fps of {self.manifest}, or set method.other_rate=time"
            )
        return np.arange(len(times)) / told if told else times

    def _entry(self, clip: str, prompt: str, seed: int) -> Entry:
        entry = self._entries().get((clip, prompt, seed))
        reason = self._why_missing(entry, clip, prompt, seed)
        if entry is None or reason:
            raise InputError(f"method.manifest: {reason}; add it or leave the cell out")
        return entry

    def _why_missing(self, entry: Entry | None, clip: str, prompt: str, seed: int) -> str | None:
        if entry is None:
            return f"no row in {self.manifest} for clip {clip!r}, prompt {prompt!r}, seed {seed}"
        if entry.file.is_dir():
            return f"{entry.file} (named in {self.manifest}) is a folder; make a video of its frames"
        return None if entry.file.is_file() else f"{entry.file} (named in {self.manifest}) does not exist"

    def _entries(self) -> dict[tuple[str, str, int], Entry]:
        if not self.manifest:
            raise InputError(
                "method.manifest is not set; name a CSV file with the columns " + ",".join(COLUMNS)
            )
        path = Path(self.manifest).expanduser()
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                table = csv.DictReader(file)
                rows = list(table)
                columns = table.fieldnames or []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"method.manifest: cannot read {path} ({error}); name a CSV file") from None
        absent = [column for column in COLUMNS if column not in columns]
        if absent:
            raise InputError(
                f"method.manifest: {path} lacks the columns {', '.join(absent)}; its first line must name "
                f"{','.join(COLUMNS)} and may add seconds and fps"
            )
        entries: dict[tuple[str, str, int], Entry] = {}
        for number, row in enumerate(rows, start=1):
            where = f"method.manifest: row {number} of {path}"
            key = (row["clip"], row["prompt"], _whole_number(row["seed"], where))
            if not row["file"]:
                raise InputError(f"{where} names no file; fill its column file")
            if key in entries:
                raise InputError(f"{where} repeats clip, prompt and seed of an earlier row; keep one")
            fps = _number(row.get("fps"), where, "fps", least=0.01)
            seconds = _number(row.get("seconds"), where, "seconds")
            entries[key] = Entry(path.parent / row["file"], seconds, fps)
        if not entries:
            raise InputError(f"method.manifest: {path} has no rows; list at least one video")
        return entries


def _up_to_end(request: VideoRequest, times: NDArray[np.float64]) -> int:
    """How many frames at these times may stand beside one of the reference's."""
    if request.times is None:
        return len(request.reference)
    last = float(request.times[-1])
    step = last / max(1, len(request.times) - 1)
    # One more: the frame nearest to the reference's last may come after it.
    return int((times <= last + step).sum()) + 1


def _whole_number(text: str | None, where: str) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise InputError(f"{where} has seed {text!r}; write a whole number") from None


def _number(text: str | None, where: str, column: str, least: float = 0) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        raise InputError(f"{where} has {column} {text!r}; write a number or leave it empty")
    return number


__all__ = ["Precomputed"]
