"""action=score: the metrics anew from the kept frames; nothing is generated."""

from __future__ import annotations

from dataclasses import dataclass

from harness.actions.run import Run
from harness.cells.generate import Loaded
from harness.cells.job import Needs
from harness.cells.score import Outcome, rescore
from harness.command.interface import Prepared
from harness.command.terminal import say


@dataclass
class Score(Run):
    """Scores the jobs' cells, all metrics of them with ``resume=false``; needs no weights and no GPU."""

    needs = Needs(grid=False, weights=False, metrics=True)

    def outcome(self, one: Prepared, loaded: Loaded) -> Outcome:
        assert one.plan is not None
        return rescore(one.job, one.plan, one.cells, everything=not one.job.resume, note=say)


__all__ = ["Score"]
