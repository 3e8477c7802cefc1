"""Tracks as a page draws them: some of those that a cell keeps, in few bytes."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cells.tracks import of_reference
from harness.records import store
from harness.records.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = 203
"""Tracks of a video, about: more hide it."""
GRID = 1000
"""Places are whole thousandths of the picture's width and height."""


def tracks_of(results: Path, folder: Path, record: Record) -> dict[str, Any]:
    """The tracks of a cell's video and of its reference, ``own`` and ``reference``, those that are kept.

    Each is a list of tracks: ``xy``, the first place and then each step from it (x, y, x, y, ...) in
    thousandths of the picture, and ``seen``, a 1 or 0 for each frame.
    """
    own = _load(folder / store.TRACKS)
    if own is None:
        return {}
    height, width = (int(side) for side in own.get("size", _size(record)))
    if not height:
        return {}
    found = {"own": _lines(own, height, width)}
    if "reference" in own:
        beside = _load(of_reference(results, str(own["reference"])))
        if beside is not None:
            found["reference"] = _lines(beside, height, width)
    return found


def _load(path: Path) -> dict[str, NDArray[Any]] | None:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _size(record: Record) -> tuple[int, int]:
    """Height and width that an earlier version's tracks are in; zeros where nothing tells."""
    sizes = {(one.height, one.width) for one in (record.generated, record.reference) if one is not None}
    return sizes.pop() if len(sizes) == 1 else (0, 0)


def _lines(file: dict[str, NDArray[Any]], height: int, width: int) -> list[dict[str, Any]]:
    """Tracks that begin in the first frame, evenly from among them."""
    import numpy as np

    first = np.flatnonzero(file["start"] == file["start"].min(initial=0))
    # Of a grid's rows not the same columns: a step of a whole number might take one column alone.
    chosen = first[np.linspace(0, len(first) - 1, min(SHOWN, len(first))).round().astype(int)]
    places = (file["points"][:, chosen] + 0.5) / (width, height) * GRID
    whole = np.rint(np.clip(places, -GRID, 2 * GRID)).astype(int).transpose(1, 0, 2)
    steps = np.diff(whole, axis=1, prepend=0).reshape(len(chosen), -1)
    seen = file["visible"][:, chosen].T
    return [
        {"xy": line.tolist(), "seen": "".join("01"[int(one)] for one in of_track)}
        for line, of_track in zip(steps, seen, strict=True)
    ]


__all__ = ["tracks_of"]
