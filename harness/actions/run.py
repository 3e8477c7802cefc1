"""action=run: the cells that have no record yet, then the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets.errors import InputError
from harness.cells import run
from harness.cells.generate import Loaded
from harness.cells.job import Needs
from harness.cells.score import Outcome
from harness.command.interface import Action, Ended, Prepared, plans_of
from harness.command.terminal import say, say_left_out
from harness.execute.here import Here
from harness.records import store


@dataclass
class Run(Action):
    """Runs the jobs' cells, by the workers of their engine, then shows what became of them."""

    name: str
    needs = Needs(device=True, metrics=True)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        for plan, _ in plans_of(prepared):
            say_left_out(plan)
        store.begin_plans([(parts[0][0].results, plan) for plan, parts in plans_of(prepared)], say)
        if all(isinstance(one.job.engine, Here) for one in prepared):
            ended, code = self.work(prepared)
        else:
            from harness.execute import fleet

            ended, code = fleet.work(prepared, arguments)
        if ended:
            from reports.outcome import show

            show(ended)
        return code

    def work(self, prepared: Sequence[Prepared]) -> tuple[list[Ended], int]:
        """The jobs that ended, with what became of their cells, and the exit code."""
        ended: list[Ended] = []
        loaded = Loaded()
        code = 0
        for one in prepared:
            if one.plan is None:
                continue
            try:
                outcome = self.outcome(one, loaded)
            except InputError as error:
                # Found late (a download that failed): the other jobs go on.
                say(one.job.hidden.secrets(str(error)))
                code = 2
                continue
            store.save_plan(one.job.results, one.plan)
            ended.append((one.job, one.plan, outcome))
            if outcome.failed:
                code = max(code, 1)
                if one.job.engine.on_error == "stop":
                    break
        return ended, code

    def outcome(self, one: Prepared, loaded: Loaded) -> Outcome:
        """What becomes of one job's cells."""
        assert one.plan is not None
        return run.run(one.job, one.plan, one.cells, loaded)


__all__ = ["Run"]
