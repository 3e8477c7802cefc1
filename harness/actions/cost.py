"""action=cost: what one cell would cost, counted without weights, data or a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.errors import InputError
from harness.cells.job import Job
from harness.cells.plan import check_operations
from harness.command.interface import Action, Prepared
from harness.command.terminal import tell
from harness.cost.model import cost_report, limit_lines
from methods.interface import LatentMethod, VideoMethod


@dataclass
class PrintCost(Action):
    """Prints FLOPs by stage and the limits beside them."""

    name: str

    def prepare(self, job: Job) -> Prepared:
        check_operations(job)
        rows_of(job)
        return Prepared(job)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        for one in prepared:
            print_cost(one.job, rows_of(one.job))
        return 0


def rows_of(job: Job) -> list[dict[str, Any]]:
    """``cost_report`` of a job; counted once a process. Empty for methods without a backbone."""
    if not isinstance(job.method, LatentMethod):
        return []
    return cost_report(job.method, job.backbone, job.frames)


def print_cost(job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of one cell; ``rows`` are those of ``cost_report``, none of a ``VideoMethod``."""
    method = job.method
    tell(f"{job.label} on {job.backbone.name}, {job.frames} frames of {job.dataset.name}, one cell:")
    if isinstance(method, VideoMethod):
        tell(f"  {method.uncounted}")
    if not isinstance(method, LatentMethod):
        return
    tell(f"  {'stage':<9} {'operation':<50} {'calls':>6} {'TFLOPs':>12} {'executed':>12} {'forwards':>9}")
    for row in rows:
        calls = "" if row["calls"] is None else row["calls"]
        forwards = "" if row["forward_equivalents"] is None else f"{row['forward_equivalents']:.1f}"
        tell(
            f"  {row['stage']:<9} {row['operation']:<50} {calls:>6} {row['flops'] / 1e12:>12.4f} "
            f"{row['executed_flops'] / 1e12:>12.4f} {forwards:>9}"
        )
    for line in limit_lines(method, job.backbone, job.frames):
        tell(f"  {line}")
    try:
        clips = job.dataset.listing().clips[: job.limit]
    except InputError as error:
        tell(f"  cells: unknown ({error})")
        return
    cells = len(job.seeds) * sum(len(clip.prompts) for clip in clips)
    tell(f"  {cells} cells: {cells * rows[-1]['flops'] / 1e12:.4f} TFLOPs")


__all__ = ["PrintCost", "print_cost"]
