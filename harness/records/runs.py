"""A run: one command's work on its cells. What its processes tell each other lies in its folder."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets.files import write_whole
from harness.records import store

STOP, SCORING, MADE = "stop", "scoring", "made"


@dataclass(frozen=True)
class Death:
    """How a cell's process ended. ``kind``: ``Killed`` or ``Timeout``; ``output``: its last lines."""

    kind: str = "Killed"
    message: str = "the process that worked on it ended without a word"
    output: str = ""


@dataclass(frozen=True)
class Run:
    """``id`` stands in the records that the run writes. ``retries``: further tries of a cell that ran out of
    memory or ended its process. ``results``: where its folder ``runs/ID`` lies.
    """

    results: Path
    retries: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def folder(self) -> Path:
        """``runs/ID``: the command, the workers' output, how cells ended their processes."""
        return self.results / store.RUNS / self.id

    def death(self, cell_id: str) -> Death:
        """How the cell last ended its process, as far as somebody saw it."""
        try:
            return Death(**json.loads(self._death(cell_id).read_text()))
        except (OSError, ValueError, TypeError):
            return Death()

    def died(self, cell_id: str) -> bool:
        """Whether somebody saw it end its process."""
        return self._death(cell_id).exists()

    def note_death(self, cell_id: str, death: Death) -> None:
        """Keep how a cell ended its process, for whoever writes its record."""
        store.write_json(self._death(cell_id), asdict(death))

    def begin_scoring(self, cell_id: str) -> int:
        """Count, in a file that outlives a kill, how often this run began to score a cell."""
        begun = self.scoring(cell_id) + 1
        write_whole(self.folder / SCORING / cell_id, str(begun).encode())
        return begun

    def scoring(self, cell_id: str) -> int:
        """How often it was begun."""
        try:
            return int((self.folder / SCORING / cell_id).read_text())
        except (OSError, ValueError):
            return 0

    def _death(self, cell_id: str) -> Path:
        return self.folder / "deaths" / f"{cell_id}.json"

    def all_made(self, worker: str) -> None:
        """A worker makes no further video; its scorer ends when none is left."""
        write_whole(self.folder / MADE / worker, b"")

    def is_all_made(self, worker: str) -> bool:
        """Whether it has said so."""
        return (self.folder / MADE / worker).exists()

    @property
    def stopped(self) -> bool:
        """True once a worker has said that no further cell shall begin."""
        return (self.folder / STOP).exists()

    def stop(self) -> None:
        """No worker shall begin another cell (``execute.on_error=stop``)."""
        write_whole(self.folder / STOP, b"")
