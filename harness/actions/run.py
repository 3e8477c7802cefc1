"""action=run: the cells that have no record yet, then the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets.errors import InputError
from harness.cells.job import Needs
from harness.command.interface import Action, Prepared, plans_of
from harness.command.terminal import say, say_left_out
from harness.records import store


@dataclass
class Run(Action):
    """Has the jobs' engine compute their cells, then shows what became of them."""

    name: str
    needs = Needs(device=True, metrics=True)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        engine = prepared[0].job.engine
        if any(one.job.engine != engine for one in prepared):
            raise InputError(
                "execute: the jobs of a grid have one engine; give execute and its keys one value"
            )
        for plan, _ in plans_of(prepared):
            say_left_out(plan)
        store.begin_plans([(parts[0][0].results, plan) for plan, parts in plans_of(prepared)], say)
        from reports.outcome import show
        from reports.wandb_mirror import mirrored

        with mirrored([(parts[0][0], plan) for plan, parts in plans_of(prepared)]):
            ended, code = engine.work(prepared, arguments)
            if ended:
                show(ended)
        return code


__all__ = ["Run"]
