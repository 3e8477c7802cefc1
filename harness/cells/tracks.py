"""Tracks that were made before: a generated video's in its cell, a reference's once for all cells.

``tracks.npz`` in a cell's folder is of its own video. ``results/tracks/`` holds those of references, named by
what they depend on: the tracker's version, the frames and the masks. Files are written whole, so that other
processes and killed runs find all of one or none.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.files import write_whole
from harness.records import store
from metrics.interface import Sample, Tracks

IN_MEMORY = 8
"""References whose tracks are held in memory, the last ones used."""

_held: OrderedDict[Path, Tracks] = OrderedDict()


def key(tracker_version: str, frames: NDArray[np.uint8], masks: NDArray[np.bool_] | None) -> str:
    """What tracks depend on: sha256 hex digest of tracker, frames (T, H, W, 3) and masks (T, H, W)."""
    from datasets.media import video

    parts = [tracker_version, video.frames_sha256(frames)]
    if masks is not None:
        parts += [repr(masks.shape), hashlib.sha256(np.packbits(masks).tobytes()).hexdigest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read(path: Path, wanted: str) -> Tracks | None:
    """The tracks in a file; None unless it is whole and its tracks are those of the key ``wanted``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != wanted:
                return None
            return Tracks(file["points"], file["visible"], file["start"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def write(path: Path, tracks: Tracks, made_of: str, **beside: Any) -> None:
    """Write tracks and the key of what they were ``made_of``, whole or not at all.

    ``beside``: arrays for those who draw them, ``size`` (height and width of the frames) and, in a cell,
    ``reference`` (the key of its reference's tracks). Files of earlier versions have neither.
    """
    data = io.BytesIO()
    np.savez_compressed(data, key=np.array(made_of), **tracks._asdict(), **beside)
    write_whole(path, data.getvalue())


def of_reference(results: Path, made_of: str) -> Path:
    """Where the tracks of a reference are kept, by their key."""
    return results / store.REFERENCE_TRACKS / f"{made_of[:32]}.npz"


class KeptTracks:
    """The tracks kept for one sample of a cell in ``folder`` of a results folder."""

    def __init__(self, results: Path, folder: Path, sample: Sample, tracker_version: str) -> None:
        generated = key(tracker_version, sample.generated, sample.masks)
        reference = key(tracker_version, sample.reference, sample.masks)
        self.places = {
            "generated": (folder / store.TRACKS, generated),
            "reference": (of_reference(results, reference), reference),
        }
        self.sample = sample
        self.known: set[str] = set()

    def recall(self) -> None:
        """Give the sample the tracks that are kept."""
        for name, (path, wanted) in self.places.items():
            tracks = _held.get(path) if name == "reference" else None
            tracks = tracks or read(path, wanted)
            if tracks is not None:
                self.sample.tracks[name] = tracks
                self.known.add(name)

    def keep(self) -> None:
        """Keep the tracks that the sample has made since."""
        for name, (path, made_of) in self.places.items():
            if name not in self.sample.tracks:
                continue
            tracks = self.sample.tracks[name]
            if name not in self.known:
                beside = {"size": getattr(self.sample, name).shape[1:3]}
                if name == "generated":
                    beside["reference"] = self.places["reference"][1]
                write(path, tracks, made_of, **beside)
            if name == "reference":
                _held[path] = tracks
                _held.move_to_end(path)
                while len(_held) > IN_MEMORY:
                    _held.popitem(last=False)
