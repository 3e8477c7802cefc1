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
from harness.protocol.stated import stated_tables
from methods.interface import LatentMethod, VideoMethod

RATE = 45.08e15 / 89.78
"""Executed FLOPs a second of an H200: ``fastvmt``, Wan-1.3B, 81 frames (reports/measured/speed_wan.txt)."""
SOURCE = "an H200 (extrapolated: at the rate of fastvmt on Wan2.1-1.3B, 81 frames, docs/cost.md)"


@dataclass
class PrintCost(Action):
    """Prints FLOPs by stage and the limits beside them."""

    name: str

    def prepare(self, job: Job) -> Prepared:
        check_operations(job)
        rows_of(job)
        return Prepared(job)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        rows: dict[str, list[tuple[int, float]]] = {}
        for one in prepared:
            job, counted = one.job, rows_of(one.job)
            print_cost(job, counted)
            if job.variant is not None and counted:
                cells = cells_of(job)
                rows.setdefault(job.variant.experiment, []).append((cells or 0, hours(job, counted) or 0.0))
        for experiment, of_rows in rows.items():
            cells = sum(count for count, _ in of_rows)
            took = sum(count * one for count, one in of_rows)
            if took:
                count = f"{experiment}: {len(of_rows)} rows, {cells} cells"
                tell(f"{count}, about {took:.1f} GPU-hours on {SOURCE}")
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
        cells: int | None = _listed(job)
    except InputError as error:
        cells = _stated(job)
        tell(f"  cells: {'as the protocol states' if cells else 'unknown'} ({error})")
    if cells:
        took = hours(job, rows)
        about = f", about {cells * took:.1f} GPU-hours" if took else ""
        tell(f"  {cells} cells: {cells * rows[-1]['flops'] / 1e12:.4f} TFLOPs{about}")


def cells_of(job: Job) -> int | None:
    """How many cells a job has: of a protocol's experiment also where its data are not at hand."""
    try:
        return _listed(job)
    except InputError:
        return _stated(job)


def _listed(job: Job) -> int:
    clips = job.dataset.listing().clips[: job.limit]
    return len(job.seeds) * sum(len(clip.prompts) for clip in clips)


def _stated(job: Job) -> int | None:
    table = stated_tables().get(job.variant.experiment) if job.variant else None
    if table is None or job.frames != table.frames:
        return None
    return len(list(table.clips)[: job.limit]) * table.prompts_a_clip * len(job.seeds)


def hours(job: Job, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Hours of a cell on an H200, extrapolated by ``RATE``; None of other backbones than Wan in bfloat16."""
    node = job.node("backbone")
    measured = str(node.get("name")).startswith("wan") and node.get("dtype") == "bfloat16"
    return float(rows[-1]["executed_flops"]) / RATE / 3600 if measured else None


__all__ = ["PrintCost", "cells_of", "hours", "print_cost"]
