"""Cells in this very process: for a debugger. A cell that ends the process ends the command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from harness.cells import run
from harness.cells.generate import Loaded
from harness.command.terminal import say
from harness.execute.interface import Engine
from harness.records import store

if TYPE_CHECKING:
    from harness.command.interface import Ended, Prepared


@dataclass(config={"extra": "forbid"})
class Here(Engine):
    """One cell after another, one job after another."""

    def work(self, prepared: Sequence[Prepared], arguments: Sequence[str]) -> tuple[list[Ended], int]:
        """The loaded backbone goes from job to job."""
        ended: list[Ended] = []
        loaded = Loaded()
        code = 0
        for one in prepared:
            if one.plan is None:
                continue
            try:
                outcome = run.run(one.job, one.plan, one.cells, loaded)
            except InputError as error:
                # Found late (a download that failed): the other jobs go on.
                say(one.job.hidden.secrets(str(error)))
                code = 2
                continue
            store.save_plan(one.job.results, one.plan)
            ended.append((one.job, one.plan, outcome))
            code = 2 if outcome.fault else code
            if outcome.failed:
                code = max(code, 1)
                if self.on_error == "stop":
                    break
        return ended, code


__all__ = ["Here"]
