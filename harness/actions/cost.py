"""``action=cost``: what one cell would cost, and how many there are; needs no weights and no GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from harness.cost.model import limit_lines
from methods.interface import LatentMethod, VideoMethod

if TYPE_CHECKING:
    from harness.cells.job import Job


def print_cost(job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of one cell; ``rows`` are those of ``cost_report``, none of a ``VideoMethod``."""
    method = job.method
    label = job.part.label if job.part else method.name
    print(f"{label} on {job.backbone.name}, {job.frames} frames of {job.dataset.name}, one cell:")
    if isinstance(method, VideoMethod):
        print(f"  {method.uncounted}")
    if not isinstance(method, LatentMethod):
        return
    print(f"  {'stage':<9} {'operation':<50} {'calls':>6} {'TFLOPs':>12} {'executed':>12} {'forwards':>9}")
    for row in rows:
        calls = "" if row["calls"] is None else row["calls"]
        forwards = "" if row["forward_equivalents"] is None else f"{row['forward_equivalents']:.1f}"
        print(
            f"  {row['stage']:<9} {row['operation']:<50} {calls:>6} {row['flops'] / 1e12:>12.4f} "
            f"{row['executed_flops'] / 1e12:>12.4f} {forwards:>9}"
        )
    for line in limit_lines(method, job.backbone, job.frames):
        print(f"  {line}")
    try:
        clips = job.dataset.listing().clips[: job.limit]
    except InputError as error:
        print(f"  cells: unknown ({error})")
        return
    cells = len(job.seeds) * sum(len(clip.prompts) for clip in clips)
    print(f"  {cells} cells: {cells * rows[-1]['flops'] / 1e12:.4f} TFLOPs")


__all__ = ["print_cost"]
