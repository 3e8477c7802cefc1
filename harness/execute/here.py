"""Cells in this very process: for a debugger. A cell that ends the process ends the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from harness.execute.interface import Engine, Listen


@dataclass(config={"extra": "forbid"})
class Here(Engine):
    """No worker: ``action=run`` computes the cells itself."""

    def start(self, run: Path, listen: Listen) -> list[str]:
        return []

    def running(self, ids: Sequence[str]) -> int:
        return 0

    def stop(self, ids: Sequence[str]) -> list[str]:
        return []


__all__ = ["Here"]
