"""action=score: the metrics anew from the kept frames; nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness.cells.batch import score_together
from harness.cells.job import Needs
from harness.cells.score import Outcome, rescore
from harness.command.interface import Action, Ended, Prepared, plans_of
from harness.command.terminal import say, say_left_out
from harness.records import store
from harness.records.record import Plan


@dataclass
class Score(Action):
    """Scores the jobs' cells in this process, all metrics of them with ``resume=false``.

    Needs no weights and no GPU.
    """

    name: str
    needs = Needs(grid=False, weights=False, metrics=True)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        for plan, _ in plans_of(prepared):
            say_left_out(plan)
        store.begin_plans([(parts[0][0].results, plan) for plan, parts in plans_of(prepared)], say)
        from reports.outcome import show
        from reports.wandb_mirror import mirrored

        with mirrored([(parts[0][0], plan) for plan, parts in plans_of(prepared)]):
            ended = [_rescored(one, one.plan) for one in prepared if one.plan is not None]
            if ended:
                show(ended)
        codes = [2 if outcome.fault else int(bool(outcome.failed)) for _, _, outcome in ended]
        return max(codes, default=0)


def _rescored(one: Prepared, plan: Plan) -> Ended:
    began = datetime.now(UTC).isoformat(timespec="microseconds")
    everything = not one.job.resume
    outcome = rescore(one.job, plan, one.cells, everything, note=say)
    together = score_together(one.job, one.cells, say, again=True, everything=everything)
    records = [together.changed.get(record.id, record) for record in outcome.records]
    rescored = sum(record.scored >= began for record in records)
    reused = len(records) - rescored
    return one.job, plan, Outcome(records, reused=reused, rescored=rescored, fault=together.fault)


__all__ = ["Score"]
