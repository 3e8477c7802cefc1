"""Finished videos, whatever made them: listed in a manifest and scored like any other method's."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pydantic

from datasets.errors import InputError
from datasets.hashing import file_sha256
from methods.interface import VideoMethod, VideoRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("clip", "prompt", "seed", "file")


@dataclass(frozen=True)
class Entry:
    """A finished video: its file, and the seconds it took to make, if known."""

    file: Path
    seconds: float | None


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Precomputed(VideoMethod, kind="precomputed"):
    """Videos from a CSV manifest with the columns clip, prompt, seed, file and, if known, seconds.

    ``file`` is relative to the manifest's folder. One row a video; clip, prompt and seed must be
    those of the plan. Every method below raises InputError when the manifest cannot be used.
    """

    name: str
    manifest: str | None = None

    version: ClassVar[str] = "1"
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
        """sha256 hex digest of the video file."""
        return file_sha256(self._entry(clip, prompt, seed).file)

    def video(self, request: VideoRequest) -> tuple[NDArray[np.uint8], float | None]:
        """Frames (T, H, W, 3) uint8 RGB as stored, and the seconds they took, if known."""
        from datasets.video import read_video

        entry = self._entry(request.clip, request.prompt, request.seed)
        frames, _ = read_video(entry.file)
        return frames, entry.seconds

    def _entry(self, clip: str, prompt: str, seed: int) -> Entry:
        entry = self._entries().get((clip, prompt, seed))
        reason = self._why_missing(entry, clip, prompt, seed)
        if entry is None or reason:
            raise InputError(f"method.manifest: {reason}; add it or leave the cell out")
        return entry

    def _why_missing(self, entry: Entry | None, clip: str, prompt: str, seed: int) -> str | None:
        if entry is None:
            return f"no row in {self.manifest} for clip {clip!r}, prompt {prompt!r}, seed {seed}"
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
                f"{','.join(COLUMNS)} and may add seconds"
            )
        entries: dict[tuple[str, str, int], Entry] = {}
        for number, row in enumerate(rows, start=1):
            where = f"method.manifest: row {number} of {path}"
            key = (row["clip"], row["prompt"], _whole_number(row["seed"], where))
            if not row["file"]:
                raise InputError(f"{where} names no file; fill its column file")
            if key in entries:
                raise InputError(f"{where} repeats clip, prompt and seed of an earlier row; keep one")
            entries[key] = Entry(path.parent / row["file"], _seconds(row.get("seconds"), where))
        if not entries:
            raise InputError(f"method.manifest: {path} has no rows; list at least one video")
        return entries


def _whole_number(text: str | None, where: str) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise InputError(f"{where} has seed {text!r}; write a whole number") from None


def _seconds(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{where} has seconds {text!r}; write a number or leave it empty")
    return seconds


__all__ = ["Precomputed"]
