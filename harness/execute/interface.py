"""What an engine promises: it starts workers. The queue are the cells, their locks and records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from harness.cells.locks import Locks

Message = dict[str, Any]
Listen = Callable[[int, Message], None]
"""Told what a worker (its number) says."""


@dataclass(config={"extra": "forbid"})
class Engine(ABC):
    """A plug-in of group ``execute``.

    ``on_error``: ``stop`` begins no further cell after one that failed. ``cell_timeout``: seconds that a cell
    may take, and the loading of its backbone as many again. ``retries``: further tries of a cell that ran
    out of memory, took too long or ended its process. ``wait``: false starts the workers and leaves; the same
    command later comes back to them.
    """

    name: str
    on_error: Literal["continue", "stop"] = "continue"
    cell_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    retries: Annotated[int, Field(ge=0)] = 1
    locks: Locks = "auto"
    wait: bool = True

    remote: ClassVar[bool] = False
    """Workers may run where devices differ from this process's."""

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


__all__ = ["Engine", "Listen", "Message"]
