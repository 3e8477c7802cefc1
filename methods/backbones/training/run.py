"""A stage of training that can be interrupted."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


class Run:
    """State of one stage on disk: weights, optimiser, step and the log of losses."""

    def __init__(self, work: Path, stage: str, modules: dict[str, Any], save_every: int = 100) -> None:
        self.state, self.log = work / f"{stage}.pt", work / f"{stage}_losses.csv"
        self.modules, self.save_every = modules, save_every
        self.step, self.started = 0, time.monotonic()
        self.rows: list[dict[str, float]] = []
        if self.state.exists():
            saved = torch.load(self.state, weights_only=True)
            self.step, self.rows = saved["step"], saved["rows"]
            for name, module in modules.items():
                module.load_state_dict(saved[name])

    def steps(self, total: int) -> Iterator[int]:
        """Remaining steps; the state is saved after every ``save_every`` of them and at the end."""
        while self.step < total:
            yield self.step
            self.step += 1
            if self.step % self.save_every == 0 or self.step == total:
                self.save()

    def note(self, every: int, **values: float) -> None:
        """Log a row every ``every`` steps."""
        if self.step % every == 0:
            row = {"step": self.step, **{k: round(v, 6) for k, v in values.items()}}
            self.rows.append(row)
            print({**row, "seconds": round(time.monotonic() - self.started)}, flush=True)

    def save(self) -> None:
        data = {"step": self.step, "rows": self.rows}
        data |= {name: module.state_dict() for name, module in self.modules.items()}
        temporary = self.state.with_suffix(".tmp")
        torch.save(data, temporary)
        temporary.replace(self.state)
        with self.log.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]) if self.rows else ["step"])
            writer.writeheader()
            writer.writerows(self.rows)
