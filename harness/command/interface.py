"""What an action promises the command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from harness.cells.job import Job, Needs
from harness.cells.plan import Cell, make_plan
from harness.cells.score import Outcome
from harness.records.record import Plan


@dataclass
class Prepared:
    """A checked job, and what is planned of it: nothing for actions that need no cells.

    The variants of an experiment share one plan.
    """

    job: Job
    plan: Plan | None = None
    cells: list[Cell] = field(default_factory=list)


Ended = tuple[Job, Plan, Outcome]


class Action(ABC):
    """An action plug-in of group ``action``: what a command does with its jobs.

    ``needs``: what is checked before it begins.
    """

    name: str
    needs: ClassVar[Needs] = Needs()

    def prepare(self, job: Job) -> Prepared:
        """Check one job, and plan it. Raises InputError; nothing has been done by then."""
        return Prepared(job, *make_plan(job))

    @abstractmethod
    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        """Do it with all jobs of the command. The exit code: 0, 1 (some cell failed) or 2 (bad input).

        ``arguments``: the command line's, for workers who do a part of it.
        """


def plans_of(prepared: Sequence[Prepared]) -> list[tuple[Plan, list[tuple[Job, list[Cell]]]]]:
    """Each plan once, with the jobs and cells of its variants."""
    found: dict[int, tuple[Plan, list[tuple[Job, list[Cell]]]]] = {}
    for one in prepared:
        if one.plan is not None:
            found.setdefault(id(one.plan), (one.plan, []))[1].append((one.job, one.cells))
    return list(found.values())


__all__ = ["Action", "Ended", "Prepared", "plans_of"]
