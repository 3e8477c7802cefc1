"""One process at a time on a cell, whichever command or engine started it, on whichever host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from datasets.errors import InputError
from harness.records import store

if TYPE_CHECKING:
    from harness.cells.plan import Cell

Item = TypeVar("Item")
Locks = Literal["auto", "flock", "lease"]

LEASE = 30.0
"""Seconds after which a lease that its holder no longer refreshes may be taken."""
POLL = 0.5
"""Seconds between looks at cells that others hold."""
SHARED = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "ceph", "glusterfs", "orangefs", "9p", "fuse")
"""Beginnings of the names of file systems on which flock may hold on one host only, or not at all."""


class Lost(Exception):
    """A cell's lease went to another worker: what was computed must not be written."""


class CellLock:
    """The lock of one cell. ``flock``: the kernel's, freed when its process ends, however it ends. ``lease``:
    a file with a heartbeat (``filelock.SoftFileLease``), which others may take once ``LEASE`` seconds old.

    The files lie in ``results/locks`` and stay (``flock``), so that none is ever stale.
    """

    def __init__(self, results: Path, cell_id: str, locks: Locks) -> None:
        from filelock import FileLock, SoftFileLease

        folder = results / store.LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        kind = kind_of(folder) if locks == "auto" else locks
        # Any: the two classes share no base that filelock names.
        self._lock: Any = (
            FileLock(folder / f"{cell_id}.lock")
            if kind == "flock"
            else SoftFileLease(folder / f"{cell_id}.lease", lease_duration=LEASE)
        )
        self._lease = kind == "lease"

    def take(self) -> bool:
        """Take it if nobody else holds it."""
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            file, reason = self._lock.lock_file, error.strerror
            raise InputError(f"{file}: cannot be locked ({reason}); use execute.locks=lease") from error
        return True

    def check(self) -> None:
        """Raises Lost when another worker may hold it by now."""
        if self._lease and (self._lock.compromise is not None or not self._lock.is_locked):
            raise Lost("its lease went to another worker while this one was held up")

    def release(self) -> None:
        """Free it."""
        self._lock.release()


def kind_of(folder: Path) -> Literal["flock", "lease"]:
    """``lease`` on a file system that hosts share, else ``flock``."""
    import psutil

    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    system = next((mounts[path] for path in (place, *place.parents) if path in mounts), "")
    return "lease" if system.lower().startswith(SHARED) else "flock"


class Queue(Generic[Item]):
    """Items one after another, each while its hold is taken; those others hold are asked for again.

    ``order`` sorts what is left, anew for every turn. ``waiting`` is told once of an item when nothing but
    held ones is left.
    """

    def __init__(
        self,
        items: Sequence[Item],
        hold: Callable[[Item], CellLock],
        waiting: Callable[[Item], None],
        order: Callable[[list[Item]], list[Item]] = list,
    ) -> None:
        self._open = list(items)
        self._hold, self._waiting, self._order = hold, waiting, order
        self._again = False

    def put_back(self) -> None:
        """The present item is not settled: it comes again."""
        self._again = True

    def drop(self, unwanted: Callable[[Item], bool]) -> None:
        """Leave out items."""
        self._open = [item for item in self._open if not unwanted(item)]

    def __iter__(self) -> Iterator[tuple[Item, CellLock]]:
        # A contender measures a lease's age by its own clock: a hold lives until its item is settled.
        holds: dict[int, CellLock] = {}
        told: set[int] = set()
        while self._open:
            for item in self._order(self._open):
                hold = holds.get(id(item)) or holds.setdefault(id(item), self._hold(item))
                if not hold.take():
                    continue
                self._again = False
                try:
                    yield item, hold
                finally:
                    hold.release()
                if not self._again:
                    self._open = [other for other in self._open if other is not item]
                holds.pop(id(item), None)
                break
            else:
                for item in self._open:
                    if id(item) not in told:
                        told.add(id(item))
                        self._waiting(item)
                time.sleep(POLL)


def in_turn(results: Path, cells: Sequence[Cell], note: Callable[[str], None]) -> Iterator[Cell]:
    """The cells, each while its lock is held; others' come last, with a line by ``note``."""

    def waiting(cell: Cell) -> None:
        note(busy(cell))

    for cell, _ in Queue(cells, lambda cell: CellLock(results, cell.id, "auto"), waiting):
        yield cell


def busy(cell: Cell) -> str:
    """The line for a cell that is waited for."""
    return f"{cell.path}: another process may be working on it; waiting for that one to end"
