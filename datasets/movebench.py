"""MoveBench: Wan-Move's 1018 clips of 81 frames, with captions and tracks.

Chu et al., "Wan-Move" (arXiv:2512.08765). Unpacked ``<language>.tar.gz`` of the hub's Ruihang/MoveBench, as
``ali-vilab/Wan-Move:generate.py`` and ``scripts/visualize.py`` read it: ``single_track.txt`` and
``multi_track.txt`` (``<id>.mp4,<caption>`` a line), ``video/<id>.mp4``,
``track/{single,multi}/<id>_tracks.npy`` and ``<id>_visibility.npy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from datasets.interface import Prompt
from datasets.tables import clip_name
from datasets.tracked import Entry, TrackedFootage, Tracks, checked_tracks


@dataclass(config={"extra": "forbid"})
class MoveBench(TrackedFootage, kind="movebench"):
    """Clips of ``root``, or of ``<language>`` or ``MoveBench/<language>`` in it; at most 81 frames of each.

    A clip's only prompt is its caption: there is no second one, so that videos are reconstructions, and
    transfer needs prompts of one's own (``dataset=folder``). ``objects`` chooses the list and its tracks, of
    a ``single`` object or ``multi``; it is a stratum too. Other fields as in ``Footage``.
    """

    name: str = "movebench"
    language: Literal["en", "zh"] = "en"
    objects: Literal["single", "multi"] = "single"

    outside_id: ClassVar[tuple[str, ...]] = (*TrackedFootage.outside_id, "language", "objects")
    longest: ClassVar[int] = 81
    source: ClassVar[str] = (
        "MoveBench (Chu et al., Wan-Move, arXiv:2512.08765; hub Ruihang/MoveBench): MIT by its card; "
        "footage of Pexels"
    )

    def entries(self) -> Mapping[str, Entry | str]:
        """Every clip of the list; InputError where that is missing or cannot be read."""
        root, listed = self.home(), f"{self.objects}_track.txt"
        homes = [root, root / self.language, root / "MoveBench" / self.language]
        home = next((home for home in homes if (home / listed).is_file()), None)
        if home is None:
            raise InputError(
                f"{homes[1] / listed}: missing, and so in {homes[0]} and {homes[2]}; name the folder of "
                f"MoveBench, with {self.language}.tar.gz unpacked (hub Ruihang/MoveBench)"
            )
        return {name: self._entry(home, name, caption) for name, caption in _captions(home / listed).items()}

    def read_tracks(self, entry: Entry, size: tuple[int, int]) -> Tracks | None:
        """Tracks in pixels, as the files have them."""
        if entry.tracks is None:
            return None
        points, seen = (_array(path) for path in (entry.tracks, _visibility(entry.tracks)))
        if seen.shape != points.shape[:-1]:
            raise InputError(
                f"{_visibility(entry.tracks)}: {seen.shape} does not belong to tracks of {points.shape}; "
                "replace both, or remove both to run the clip without"
            )
        return checked_tracks(entry.tracks, np.concatenate([points, seen[..., None]], -1, dtype=np.float32))

    def strata(self, entry: Entry, size: tuple[int, int]) -> Mapping[str, str]:
        """``objects``: single or multi."""
        return {"objects": self.objects}

    def _entry(self, home: Path, name: str, caption: str) -> Entry | str:
        film = home / "video" / f"{name}.mp4"
        if not film.is_file():
            return f"has no video/{film.name}"
        tracks = home / "track" / self.objects / f"{name}_tracks.npy"
        there = tracks.is_file() and _visibility(tracks).is_file()
        return Entry(film, (Prompt(caption, "caption"),), caption, tracks=tracks if there else None)


def _captions(path: Path) -> dict[str, str]:
    """Captions by clip: what follows a line's first comma; ``#`` begins a comment."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it as UTF-8 text") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, caption = line.partition(",")
        if not name.strip() or not caption.strip():
            raise InputError(f"{path}, line {number}: {line.strip()!r}; write <id>.mp4,<caption>")
        if clip_name(name) in found:
            raise InputError(f"{path}, line {number}: {clip_name(name)} stands there twice; keep one line")
        found[clip_name(name)] = caption.strip()
    return found


def _visibility(tracks: Path) -> Path:
    return tracks.with_name(tracks.name.replace("_tracks.npy", "_visibility.npy"))


def _array(path: Path) -> Tracks:
    """An array without the leading dimension of one clip."""
    try:
        array = np.load(path, allow_pickle=False)
        return np.asarray(array[0] if array.shape[:1] == (1,) else array, np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: cannot be read as tracks ({error}); replace it, or remove it to run the clip without"
        ) from error
