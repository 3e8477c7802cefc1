"""What the records of a results folder hold, in one file that is read in place of thousands.

It says nothing that they do not, and is made anew where they changed: it may be removed at any time.
``index.jsonl``: its format and a checksum; the parts that many records share; then a line for each record,
with its cell's folder, its file's state, its data, and which shared parts stand in it where.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from datasets.files import sweep, write_whole
from harness.records import store
from harness.records.identity import PARTS

Data = dict[str, Any]
State = list[int]
"""Of a file: when it was last written and last changed in nanoseconds, its size in bytes, its inode.

A copy may keep the time of writing (``cp -p``, ``rsync -t``), but no program sets that of the change.
"""

FORMAT = 2
FEWEST = 100
"""New records for which the index is written anew: that takes as long as reading as many."""
YOUNG = 2_000_000_000
"""Nanoseconds in which a file may change twice and keep its time (FAT counts two seconds)."""
SHARED = (*PARTS, "environment", "config")


class Index:
    """Reads the records of a results folder, each from its own file only where that has changed."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self._shared: list[Data] = []
        self._lines: dict[bytes, bytes] = {}
        self._new: dict[bytes, tuple[State, Data]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            head, _, body = (results / store.INDEX).read_bytes().partition(b"\n")
            if head == _head(body):
                shared, *lines = body.split(b"\n")
                self._shared = from_json(shared)
                self._lines = dict(line.split(b"\t", 1) for line in lines)

    def read(self, cell: str) -> Any:
        """What ``store.read_json`` gives of the record in a cell's folder, relative to the results folder."""
        # Thousands of Path take as long as what they name.
        now, path = time.time_ns(), os.path.join(self.results, cell, store.RECORD)  # noqa: PTH118
        name, state = os.fsencode(cell), None
        with contextlib.suppress(OSError, ValueError):
            state = _state(path)
        # An index of other hands may hold anything.
        with contextlib.suppress(ValueError, TypeError, LookupError):
            known, numbers, data = from_json(self._lines[name])
            if known == state:
                for (holder, key), number in zip(_places(data), numbers, strict=True):
                    if number is not None:
                        holder[key] = self._shared[number]
                return data
        # What a record said before is not kept: a secret may have been taken out.
        self._changed |= self._lines.pop(name, None) is not None
        data = store.read_json(Path(path))
        # What changed just now may change again and look the same.
        if state is not None and state[0] + YOUNG < now and isinstance(data, dict):
            self._new[name] = state, data
        return data

    def save(self) -> None:
        """Write the index anew where records changed or many are new, and the folder can be written."""
        if len(self._new) < FEWEST and not self._changed:
            return
        lines = {name: line for name, line in self._lines.items() if self._there(name)}
        used = self._used(lines.values())
        # What no record holds any longer is overwritten by its own number, so that the others keep theirs.
        shared = {
            _json(part) if number in used else b"%d" % number: number
            for number, part in enumerate(self._shared)
        }
        for name, (state, data) in self._new.items():
            # A name or text that no line can hold stays with its record alone.
            with contextlib.suppress(PydanticSerializationError):
                if b"\n" not in name and b"\t" not in name:
                    lines[name] = _line(state, data, shared)
        body = b"\n".join([b"[%s]" % b",".join(shared), *map(b"\t".join, lines.items())])
        with contextlib.suppress(OSError):
            sweep(self.results)
            write_whole(self.results / store.INDEX, _head(body) + b"\n" + body)

    def _used(self, lines: Iterable[bytes]) -> set[int]:
        """The numbers of the shared parts that stand in some line."""
        if not self._changed:
            return set(range(len(self._shared)))
        used: set[int] = set()
        for line in lines:
            # A line of other hands is read by nobody.
            with contextlib.suppress(ValueError, TypeError, LookupError):
                used.update(number for number in from_json(line)[1] if number is not None)
        return used

    def _there(self, name: bytes) -> bool:
        return (self.results / os.fsdecode(name) / store.RECORD).exists()


def _head(body: bytes) -> bytes:
    return b"%d %d" % (FORMAT, zlib.crc32(body))


def _state(path: str) -> State:
    found = os.stat(path)  # noqa: PTH116
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]


def _places(data: Data) -> list[tuple[Data, str]]:
    """Where a record may hold what others hold too."""
    identity = data.get("identity")
    held = identity if isinstance(identity, dict) else {}
    return [*((data, key) for key in SHARED), *((held, key) for key in PARTS)]


def _line(state: State, data: Data, shared: dict[bytes, int]) -> bytes:
    """``shared``: JSON of what is shared -> its number; it grows by what this record brings."""
    less = {**data}
    if isinstance(data.get("identity"), dict):
        less["identity"] = {**data["identity"]}
    numbers: list[int | None] = []
    for holder, key in _places(less):
        if isinstance(holder.get(key), dict):
            numbers.append(shared.setdefault(_json(holder[key]), len(shared)))
            # In its place, so that the order of keys stays.
            holder[key] = None
        else:
            numbers.append(None)
    return _json([state, numbers, less])


def _json(data: Any) -> bytes:
    return to_json(data, inf_nan_mode="constants")


__all__ = ["Index"]
