"""One process at a time on a cell, whichever command or launcher started it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import store

if TYPE_CHECKING:
    from harness.cells.plan import Cell


def in_turn(results: Path, cells: Sequence[Cell], note: Callable[[str], None]) -> Iterator[tuple[int, Cell]]:
    """The cells with their places, each while its lock is held; those another process holds come last.

    The locks are empty files in ``results/locks``, which stay. The kernel frees a lock when its process
    ends, however it ends, so that none is ever stale. One line by ``note`` for a cell that is waited for.
    """
    from filelock import FileLock, Timeout

    folder = results / store.LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    busy: list[tuple[int, Cell]] = []
    for index, cell in enumerate(cells):
        lock = FileLock(folder / f"{cell.id}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            busy.append((index, cell))
            continue
        try:
            yield index, cell
        finally:
            lock.release()
    for index, cell in busy:
        note(f"{cell.path}: another process may be working on it; waiting for that one to end")
        with FileLock(folder / f"{cell.id}.lock"):
            yield index, cell
