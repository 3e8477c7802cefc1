"""What an engine promises a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass


@dataclass(config={"extra": "forbid"})
class Engine(ABC):
    """An engine plug-in of group ``execute``: where workers run."""

    name: str
    on_error: Literal["continue", "stop"] = "continue"
    cell_timeout: float | None = None
    retries: int = 1
    locks: Literal["auto", "flock", "lease"] = "auto"
    wait: bool = True

    @abstractmethod
    def start(self, run: Path, logs: Path) -> list[str]:
        """Start the workers; ids by which they can be found again, also by a later process."""

    @abstractmethod
    def running(self, ids: Sequence[str]) -> int:
        """How many of them still work (or wait to begin)."""

    @abstractmethod
    def stop(self, ids: Sequence[str]) -> list[str]:
        """End them; a line for each thing that goes on elsewhere."""
