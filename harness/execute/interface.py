"""What an engine promises ``action=run``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from harness.cells.locks import Locks

if TYPE_CHECKING:
    from harness.command.interface import Ended, Prepared

Message = dict[str, Any]
Listen = Callable[[int, Message], None]
"""Told what a worker (its number) says."""


@dataclass(config={"extra": "forbid"})
class Engine(ABC):
    """A plug-in of group ``execute``: where ``action=run`` computes its cells.

    ``on_error``: ``stop`` begins no further cell after one that failed. ``retries``: further tries of a cell
    that ran out of memory.
    """

    name: str
    on_error: Literal["continue", "stop"] = "continue"
    retries: Annotated[int, Field(ge=0)] = 1

    remote: ClassVar[bool] = False
    """Cells may be computed where devices differ from this process's."""

    @abstractmethod
    def work(self, prepared: Sequence[Prepared], arguments: Sequence[str]) -> tuple[list[Ended], int]:
        """Compute the cells of all jobs of a command, whose words ``arguments`` are.

        The jobs that ended, with what became of their cells, and the exit code.
        """


@dataclass(config={"extra": "forbid"})
class WorkerEngine(Engine):
    """Starts workers, and knows of no cells: those, their locks and their records are the queue.

    ``cell_timeout``: seconds that a cell may take, and the loading of its backbone as many again.
    ``retries``: of a cell that took too long or ended its process, too. ``wait``: false starts the workers
    and leaves; the same command later comes back to them.
    """

    cell_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    locks: Locks = "auto"
    wait: bool = True

    def work(self, prepared: Sequence[Prepared], arguments: Sequence[str]) -> tuple[list[Ended], int]:
        """By workers, whose records say what became of the cells."""
        from harness.execute import fleet

        return fleet.work(self, prepared, arguments)

    def places(self, device: str) -> list[str]:
        """The devices of its workers for a job of this device, where that is known before they start.

        Raises InputError for devices that cannot be.
        """
        return []

    def codes(self) -> list[int]:
        """The exit codes of the workers that have ended, where they are known."""
        return []

    @abstractmethod
    def start(self, run: Path, listen: Listen) -> list[str]:
        """Start workers on the run whose file this is; ids by which a later process finds them too.

        Raises InputError where none can be started. ``listen`` is told by engines whose workers are near.
        """

    @abstractmethod
    def running(self, ids: Sequence[str]) -> int:
        """How many of them still work, or wait to begin."""

    @abstractmethod
    def stop(self, ids: Sequence[str]) -> list[str]:
        """End them; a line for each thing that goes on elsewhere."""


__all__ = ["Engine", "Listen", "Message", "WorkerEngine"]
