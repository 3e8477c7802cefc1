"""What a worker is told: the command, and which of its cells are to be done; a file, for any host to read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from datasets.files import write_whole
from harness.cells.locks import Locks
from harness.records import store
from harness.records.runs import Run

FILE = "run.json"


class Orders(BaseModel):
    """``arguments``: the command line's; ``folder`` and ``path``: its working folder and ``sys.path``.

    ``todo``: ids of the cells without a finished record when the command began. ``ids``: what the engine
    calls its workers; ``devices``: where they work, if that is known. ``workers``: so many of them share a
    processor; ``scoring``: each has a second process that scores the videos of the first.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    results: Path
    arguments: list[str]
    folder: Path
    path: list[str]
    todo: list[str]
    plans: list[str]
    engine: str
    devices: list[str]
    retries: int
    cell_timeout: float | None
    locks: Locks
    began: str
    workers: int = 1
    scoring: bool = False
    ids: list[str] = []

    @property
    def run(self) -> Run:
        """The run that it is about."""
        return Run(self.results, self.retries, self.id)

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return self.run.folder / FILE

    def save(self) -> Path:
        """Write it; its path."""
        write_whole(self.file, self.model_dump_json(indent=1).encode() + b"\n")
        # The command's words may hold a secret.
        self.file.chmod(0o600)
        return self.file

    @staticmethod
    def load(path: Path) -> Orders:
        """Raises OSError and ValueError."""
        return Orders.model_validate_json(path.read_bytes())


def kept(results: Path) -> list[Orders]:
    """Those of a results folder that can be read, the newest first."""
    found = []
    for path in (results / store.RUNS).glob(f"*/{FILE}"):
        try:
            found.append(Orders.load(path))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda orders: orders.began, reverse=True)


def modules() -> list[str]:
    """This process's ``sys.path``, absolute."""
    return [os.path.abspath(place) for place in sys.path]  # noqa: PTH100


__all__ = ["FILE", "Orders", "kept", "modules"]
