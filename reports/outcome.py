"""What a command of the harness shows when its cells have ended. The harness calls ``show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.command.terminal import tell
from harness.records import store
from reports.formats import print_plans

if TYPE_CHECKING:
    from harness.cells.job import Job
    from harness.cells.score import Outcome
    from harness.records.record import Plan, Record


def show(ended: Sequence[tuple[Job, Plan, Outcome]]) -> None:
    """Print the table with its notes, where the videos are and what failed. Jobs may share a plan."""
    plans: dict[Path, list[Plan]] = {}
    for job, plan, _ in ended:
        of_results = plans.setdefault(job.results, [])
        if not any(plan is known for known in of_results):
            of_results.append(plan)
    for results, of_results in plans.items():
        print_plans(results, of_results)
    for line in _videos(plans):
        tell(line)
    for _, _, outcome in ended:
        for record in outcome.failed:
            tell(_failure(record))


def _videos(plans: dict[Path, list[Plan]]) -> Iterator[str]:
    """Where the videos are, a line a folder of cells, and the first sheet of frames."""
    folders: dict[Path, None] = {}
    sheets: list[Path] = []
    for results, of_results in plans.items():
        for cell in (cell for plan in of_results for variant in plan.variants for cell in variant.cells):
            folder = results / cell.path
            if (folder / store.VIDEO).exists():
                folders[folder.parent] = None
            if not sheets and (folder / store.SHEET).exists():
                sheets.append(folder / store.SHEET)
    for parent in folders:
        yield f"videos: {parent}/*/{store.VIDEO}"
    for sheet in sheets:
        yield f"reference over generation: {sheet}"


def _failure(record: Record) -> str:
    words = (record.error.message if record.error is not None else "").split()
    reason = " ".join(words)[:300] or "no message"
    which = f'{record.method.name}, {record.clip}, seed {record.seed}, "{record.prompt}"'
    return f"{record.status}: {which}: {reason}"
