"""What a run shows when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cells.job import Job
from harness.cells.score import Outcome
from harness.command.terminal import say
from harness.records.record import Plan, Record
from reports import wandb_mirror


def show(ended: Sequence[tuple[Job, Plan, Outcome]]) -> None:
    """The table, where the videos are, what failed; then the mirror."""
    print_outcome([(job, plan) for job, plan, _ in ended], [r for _, _, o in ended for r in o.failed])
    mirrored: dict[int, tuple[Job, Plan]] = {}
    for job, plan, outcome in ended:
        if outcome.records:
            mirrored.setdefault(id(plan), (job, plan))
    for warning in wandb_mirror.mirror(list(mirrored.values())):
        say(warning)


def print_outcome(jobs: Sequence[tuple[Job, Plan]], failed: Sequence[Record]) -> None:
    """The table with its notes (left out, null), then where the videos are and what failed."""
    from reports.formats import print_plans

    plans: dict[Path, list[Plan]] = {}
    for job, plan in jobs:
        of_job = plans.setdefault(job.results, [])
        if not any(plan is known for known in of_job):
            of_job.append(plan)
    folders: dict[Path, None] = {}
    sheets: list[Path] = []
    for results, of_results in plans.items():
        print_plans(results, of_results)
        for plan in of_results:
            for cell in (cell for variant in plan.variants for cell in variant.cells):
                folder = results / cell.path
                if (folder / "video.mp4").exists():
                    folders[folder.parent] = None
                if not sheets and (folder / "sheet.png").exists():
                    sheets.append(folder / "sheet.png")
    for folder in folders:
        print(f"videos: {folder}/*/video.mp4")
    for sheet in sheets:
        print(f"reference over generation: {sheet}")
    for record in failed:
        words = (record.error.message if record.error is not None else "").split()
        reason = " ".join(words)[:300] or "no message"
        which = f'{record.method.name}, {record.clip}, seed {record.seed}, "{record.prompt}"'
        print(f"{record.status}: {which}: {reason}")
