"""action=plan: what would run, what is done, what is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.cells.job import Job
from harness.cells.plan import Cell
from harness.command.interface import Action, Prepared, plans_of
from harness.command.terminal import say, tell
from harness.records import store
from harness.records.record import Plan, left_out_lines


@dataclass
class PrintPlan(Action):
    """Prints and writes the plans."""

    name: str

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        for plan, parts in plans_of(prepared):
            store.save_plan(parts[0][0].results, plan, say)
            print_plan(plan, parts)
        return 0


def print_plan(plan: Plan, parts: Sequence[tuple[Job, Sequence[Cell]]]) -> None:
    """What would run, what is done, what is left out; ``parts`` are the jobs of the plan's variants."""
    for job, cells in parts:
        done = [_done(job, cell) for cell in cells]
        tell(
            f"{plan.name}: {job.label} on {job.backbone.name}, {job.dataset.name}: {len(cells)} cells, "
            f"{sum(done)} done, {len(cells) - sum(done)} to run"
        )
        for cell, finished in zip(cells, done, strict=True):
            tell(f'  {"done" if finished else "todo"}  {cell.path}  seed {cell.seed}  "{cell.prompt.text}"')
    for line in dict.fromkeys(line for _, cells in parts for line in _masks(plan, cells)):
        tell(line)
    for out in plan.variants_out:
        tell(f"variant left out: {out.label}: {out.reason}")
    for line in left_out_lines(plan.left_out):
        tell(f"left out: {line}")
    for line in left_out_lines(plan.remarks):
        tell(f"note: {line}")
    tell(f"plan: {store.plan_path(parts[0][0].results, plan.name)}")


def _masks(plan: Plan, cells: Sequence[Cell]) -> Iterator[str]:
    """Where motion is read, by clip: within the objects' masks or over the whole frame."""
    ids = {cell.id for cell in cells}
    clips: dict[str, dict[str, None]] = {}
    for planned in (cell for variant in plan.variants for cell in variant.cells if cell.id in ids):
        clips.setdefault(planned.masks or "whole frame", {})[planned.clip] = None
    for region, names in clips.items():
        few = ", ".join(list(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        yield f"motion is measured in: {region} ({few if len(clips) > 1 else 'all clips'})"


def _done(job: Job, cell: Cell) -> bool:
    record = store.read_record(job.results / cell.path)
    return record is not None and record.status == "ok"


__all__ = ["PrintPlan", "print_plan"]
