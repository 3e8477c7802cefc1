"""What a command of the harness shows when its cells have ended. The harness calls ``show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.errors import InputError
from harness.command.terminal import say, tell
from harness.records import store
from reports import pictures
from reports.table.formats import print_tables
from reports.table.tables import Table, tables

if TYPE_CHECKING:
    from harness.cells.job import Job
    from harness.cells.score import Outcome
    from harness.records.record import Plan, Record

PICTURE = "picture.png"


def show(ended: Sequence[tuple[Job, Plan, Outcome]]) -> None:
    """Print the tables, where the videos are and what failed, and write the page. Jobs may share a plan.

    A picture or page that fails is a line on standard error; nothing is raised for it.
    """
    plans: dict[Path, list[Plan]] = {}
    for job, plan, _ in ended:
        of_results = plans.setdefault(job.results, [])
        if not any(plan is known for known in of_results):
            of_results.append(plan)
    made = {results: tables(results, of_results) for results, of_results in plans.items()}
    for of_table in made.values():
        print_tables(of_table)
    for line in _videos(plans):
        tell(line)
    for _, _, outcome in ended:
        for record in outcome.failed:
            tell(_failure(record))
    for results in dict.fromkeys(job.results for job, _, _ in ended if job.page):
        _page(results, plans[results], made[results])


def _videos(plans: dict[Path, list[Plan]]) -> Iterator[str]:
    """Where the videos are, a line a folder of cells, and a picture of the first clip by all rows."""
    for results, of_results in plans.items():
        cells = [cell for plan in of_results for variant in plan.variants for cell in variant.cells]
        made = [results / cell.path for cell in cells if (results / cell.path / store.VIDEO).exists()]
        for parent in dict.fromkeys(folder.parent for folder in made):
            yield f"videos: {parent}/*/{store.VIDEO}"
        if made:
            try:
                pictures.save(pictures.scenes(results, of_results, clips=1), results / PICTURE)
                yield f"picture: {results / PICTURE}"
            except (InputError, OSError) as error:
                say(str(error))


def _page(results: Path, plans: Sequence[Plan], made: Sequence[Table]) -> None:
    """Write the page of this command; its path is the last line."""
    from reports.page import publish

    try:
        tell(publish(results, plans, made, results / "page", None)[-1])
    except (InputError, OSError) as error:
        say(str(error))


def _failure(record: Record) -> str:
    words = (record.error.message if record.error is not None else "").split()
    reason = " ".join(words)[:300] or "no message"
    which = f'{record.method.name}, {record.clip}, seed {record.seed}, "{record.prompt}"'
    return f"{record.status}: {which}: {reason}"
