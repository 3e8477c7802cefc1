"""Finished videos, whatever made them: listed in a manifest and scored like any other method's."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from datasets.errors import InputError, nearest
from datasets.hashing import file_sha256
from datasets.tables import Row, clip_name, find_file, read_table, same_text
from methods.interface import VideoMethod, VideoRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("clip", "file")
MORE = ("prompt", "seed", "method", "seconds", "fps")
GIF_ROUNDED = 0.005
"""Seconds by which a GIF's delays, whole hundredths, may be off."""


@dataclass(frozen=True)
class Entry:
    """A finished video: its file, its row and, where they are told, the seconds it took and its rate."""

    file: Path
    seconds: float | None
    fps: float | None
    row: Row


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Precomputed(VideoMethod, kind="precomputed"):
    """Videos from a CSV manifest with the columns clip and file and, optionally, more.

    ``file`` is relative to the manifest's folder. One row a video; ``clip``, ``prompt`` and ``seed`` must be
    those of the plan. Without a prompt it is for the clip's only one, without a seed for 0. ``method``: whose
    it is; rows of other methods than ``name`` are not read. ``seconds``: what it took. ``fps``: what to take
    for the rate that the file states: a video made frame by frame for a clip has the clip's, whatever its
    export says. ``other_rate``: a video at another rate than its clip is compared by time, or refused. Every
    method below raises InputError when the manifest cannot be used.
    """

    name: str
    manifest: str | None = None
    other_rate: Literal["time", "refuse"] = "time"

    version: ClassVar[str] = "2"
    outside_id: ClassVar[Sequence[str]] = ("manifest",)
    made_here = False
    uncounted = "the video was made elsewhere"

    def listed(self) -> list[tuple[str, str, int]]:
        """Clip, prompt and seed of every row of the manifest; the prompt is empty where none is written."""
        return list(self._entries())

    def methods(self) -> list[str]:
        """Whose videos the manifest lists, in its order; none without a column ``method``."""
        path = self._path()
        rows = _rows(path, path.stat().st_mtime_ns)
        names = list(dict.fromkeys(row["method"] for row in rows))
        if "" in names and len(names) > 1:
            line = next(row for row in rows if not row["method"])
            raise InputError(f"method.manifest: {path}, {line}: names no method, other rows do; fill it")
        return [name for name in names if name]

    def missing(self, clip: str, prompt: str, seed: int) -> str | None:
        """Why there is no video for this cell, or None when there is one."""
        return self._why_missing(self._find(clip, prompt, seed), clip, prompt, seed)

    def content(self, clip: str, prompt: str, seed: int) -> str:
        """sha256 hex digest of the video file, its rate if told, and what is done to its pixels."""
        from datasets.media.video import looks

        entry = self._entry(clip, prompt, seed)
        own = file_sha256(entry.file) + ("" if entry.fps is None else f" at {entry.fps:g}")
        # A video that cannot be read fails where it is read.
        with contextlib.suppress(InputError):
            return "; ".join([own, *looks(entry.file)])
        return own

    def video(self, request: VideoRequest) -> tuple[NDArray[np.uint8], float | None]:
        """Frames (T, H, W, 3) uint8 RGB up to the reference's end, and the seconds they took, if known."""
        from datasets.media.video import read_video

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

        from datasets.media.video import frame_times

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
        entry = self._find(clip, prompt, seed)
        reason = self._why_missing(entry, clip, prompt, seed)
        if entry is None or reason:
            raise InputError(f"method.manifest: {reason}; add it or leave the cell out")
        return entry

    def _find(self, clip: str, prompt: str, seed: int) -> Entry | None:
        """The row of a cell; one without a prompt is for the clip's only one."""
        entries = self._entries()
        for name in (clip_name(clip), self._otherwise(clip)):
            for text in (same_text(prompt), ""):
                if (name, text, seed) in entries:
                    return entries[name, text, seed]
        return None

    def _otherwise(self, clip: str) -> str:
        """The name of a clip that differs from a row's only in case."""
        name = clip_name(clip)
        return next((key[0] for key in self._entries() if key[0].casefold() == name.casefold()), name)

    def _why_missing(self, entry: Entry | None, clip: str, prompt: str, seed: int) -> str | None:
        if entry is None:
            entries = self._entries()
            name = clip_name(clip)
            close = difflib.get_close_matches(clip, {key[0] for key in entries}, n=1)
            near = [row for key, row in entries.items() if key[0] in (name, self._otherwise(clip), *close)]
            near.sort(
                key=lambda row: (clip_name(row.row["clip"]) == name, row.row["prompt"] == prompt),
                reverse=True,
            )
            hint = f"; the nearest is {near[0].row}" if near else ""
            whose = f" of method {self.name}" if self.methods() else ""
            return f"no row{whose} in {self.manifest} for clip {clip!r}, prompt {prompt!r}, seed {seed}{hint}"
        if entry.file.is_dir():
            return f"{entry.file} (named in {self.manifest}) is a folder; make a video of its frames"
        return None if entry.file.is_file() else f"{entry.file} (named in {self.manifest}) does not exist"

    def _entries(self) -> dict[tuple[str, str, int], Entry]:
        path = self._path()
        names = self.methods()
        if names and self.name not in names:
            raise InputError(
                f"method.name={self.name}: {path} lists none of that name; "
                f"{nearest(self.name, names, 'method.name=')}"
            )
        entries: dict[tuple[str, str, int], Entry] = {}
        for row in _rows(path, path.stat().st_mtime_ns):
            if names and row["method"] != self.name:
                continue
            where = f"method.manifest: {path}, line {row.line}"
            key = (clip_name(row["clip"]), same_text(row["prompt"]), _whole_number(row["seed"] or "0", where))
            for column in ("clip", "file"):
                if not row[column]:
                    raise InputError(f"{where} names no {column}; fill its column {column}")
            if key in entries:
                raise InputError(
                    f"{where} repeats clip, prompt and seed of line {entries[key].row.line}; keep one"
                )
            fps = _number(row["fps"], where, "fps", least=0.01)
            seconds = _number(row["seconds"], where, "seconds")
            entries[key] = Entry(find_file(path.parent, row["file"]), seconds, fps, row)
        return entries

    def _path(self) -> Path:
        if not self.manifest:
            raise InputError(
                f"method.manifest is not set; name a CSV file with the columns {','.join(COLUMNS)} and, if "
                f"wanted, {','.join(MORE)}"
            )
        path = Path(self.manifest).expanduser()
        if not path.is_file():
            raise InputError(f"method.manifest: cannot read {path} (no such file); name a CSV file")
        return path


def _up_to_end(request: VideoRequest, times: NDArray[np.float64]) -> int:
    """How many frames at these times may stand beside one of the reference's."""
    if request.times is None:
        return len(request.reference)
    last = float(request.times[-1])
    step = last / max(1, len(request.times) - 1)
    # One more: the frame nearest to the reference's last may come after it.
    return int((times <= last + step).sum()) + 1


@lru_cache(maxsize=8)
def _rows(path: Path, changed: int) -> tuple[Row, ...]:
    """The manifest's rows, read again only when the file has ``changed``: every cell asks for them."""
    rows = read_table(path, COLUMNS, MORE, "method.manifest")
    if not rows:
        raise InputError(f"method.manifest: {path} has no rows; list at least one video")
    return tuple(rows)


def _whole_number(text: str, where: str) -> int:
    with contextlib.suppress(ValueError):
        return int(text)
    # A spreadsheet's or a data frame's 0.0.
    with contextlib.suppress(ValueError):
        if float(text).is_integer():
            return int(float(text))
    raise InputError(f"{where} has seed {text!r}; write a whole number")


def _number(text: str, where: str, column: str, least: float = 0) -> float | None:
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
