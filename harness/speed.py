"""``action=speed``: what finished cells took, stage by stage, beside what they had to take.

The records say how long each stage took and what memory it needed; the cost model (``harness/cost.py``)
says how many operations a fused program executes there and, for a GPU of ``cost.GPUS``, the time by
roofline that no program can beat. Runs nothing; a processor has no roofline here, only its rate.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from datasets.errors import InputError
from harness import cost
from harness.records import Record, load_record, write_whole

if TYPE_CHECKING:
    from harness.config import Job
    from harness.plan import Cell
    from harness.records import Plan


@dataclass(frozen=True)
class Stage:
    """One stage of a cell; ``total`` is the last one. None where it is not known or there is none.

    ``seconds``: median over cells. ``executed_flops``, ``roofline`` (seconds): of one cell, predicted.
    ``flop_rate``: executed FLOPs a second. ``of_peak``: its share of the GPU's dense peak rate in the
    backbone's precision. ``memory``: most bytes, of the allocator on a GPU, of the process otherwise.
    """

    stage: str
    seconds: float
    executed_flops: float | None
    flop_rate: float | None
    of_peak: float | None
    roofline: float | None
    memory: int | None


@dataclass(frozen=True)
class Speed:
    """One variant on one device: ``gpu`` is its name in ``cost.GPUS``, None for others.

    ``at_most``: the number of calls depends on the data, and the FLOPs are the most there can be.
    """

    label: str
    backbone: str
    device: str
    gpu: str | None
    cells: int
    repeats: int
    frames: int
    at_most: bool
    stages: list[Stage]


def finished(job: Job, cells: Sequence[Cell]) -> list[Record]:
    """The records of the cells that are done and were timed by us; the others are no error."""
    found = []
    for cell in cells:
        try:
            record = load_record(job.results / cell.path / "record.json")
        except (OSError, ValueError):
            continue
        if record.status == "ok" and record.timing.stages:
            found.append(record)
    return found


def speeds(job: Job, cells: Sequence[Cell]) -> list[Speed]:
    """One for each device that cells ran on; none when no cell is finished."""
    label = job.part.label if job.part else job.method.name
    records = finished(job, cells)
    devices = dict.fromkeys(str(record.environment.get("device", "unknown")) for record in records)
    return [
        _speed(job, label, [one for one in records if one.environment.get("device", "unknown") == device])
        for device in devices
    ]


def _speed(job: Job, label: str, records: list[Record]) -> Speed:
    device = str(records[0].environment.get("device", "unknown"))
    gpu = cost.gpu_named(device)
    try:
        rows = cost.cost_report(job.method, job.backbone, job.frames)
    except InputError:
        # A backbone without a cost model still has its seconds.
        rows = []
    names = dict.fromkeys(name for record in records for name in record.timing.stages)
    executed: dict[str, float] = dict.fromkeys((row["stage"] for row in rows if row["stage"] in names), 0.0)
    for row in rows:
        if row["stage"] in executed:
            executed[row["stage"]] += row["executed_flops"]
    least = cost.roofline(job.method, job.backbone, job.frames)[gpu] if gpu and rows else {}
    # What cells of a clip shared (measure.amortise) is in no stage, so not in the total either.
    for known in (executed, least):
        if known:
            known["total"] = sum(known[name] for name in names if name in known)
    peak = cost.peak_rate(gpu, getattr(job.backbone, "dtype", "bfloat16")) if gpu else None
    stages = []
    for name in [*names, "total"]:
        times = [
            record.timing.total if name == "total" else record.timing.stages.get(name) for record in records
        ]
        seconds = statistics.median(time for time in times if time is not None)
        flops = executed.get(name)
        rate = flops / seconds if flops and seconds else None
        share = rate / peak if rate and peak else None
        stages.append(Stage(name, seconds, flops, rate, share, least.get(name), _memory(records, name)))
    repeats = min(record.timing.repeats for record in records)
    at_most = bool(rows) and cost.at_most(job.method) != job.method
    return Speed(label, job.backbone.name, device, gpu, len(records), repeats, job.frames, at_most, stages)


def _memory(records: list[Record], stage: str) -> int | None:
    peaks = [
        memory.allocated if memory.allocated is not None else memory.process
        for record in records
        for name, memory in record.memory.items()
        if stage in (name, "total")
    ]
    return max((peak for peak in peaks if peak is not None), default=None)


def lines(speed: Speed) -> list[str]:
    """The table of one variant."""
    known = f" ({speed.gpu}: roofline)" if speed.gpu else ""
    most = "; FLOPs at most" if speed.at_most else ""
    text = [
        f"{speed.label} on {speed.backbone}, {speed.frames} frames, {speed.device}{known}: "
        f"{speed.cells} cells, {speed.repeats} runs each{most}",
        f"  {'stage':<9} {'seconds':>10} {'TFLOPs':>12} {'TFLOP/s':>9} {'of peak':>8} "
        f"{'roofline s':>11} {'x roofline':>10} {'memory GB':>10}",
    ]
    for one in speed.stages:
        rate = "" if one.flop_rate is None else f"{one.flop_rate / 1e12:.3g}"
        share = "" if one.of_peak is None else f"{one.of_peak:.1%}"
        least = "" if one.roofline is None else f"{one.roofline:.4g}"
        slower = f"{one.seconds / one.roofline:.2f}" if one.roofline else ""
        flops = "" if one.executed_flops is None else f"{one.executed_flops / 1e12:.4f}"
        memory = "" if one.memory is None else f"{one.memory / 1e9:.2f}"
        text.append(
            f"  {one.stage:<9} {one.seconds:>10.4g} {flops:>12} {rate:>9} {share:>8} "
            f"{least:>11} {slower:>10} {memory:>10}"
        )
    return text


def print_speed(plan: Plan, parts: Sequence[tuple[Job, Sequence[Cell]]]) -> list[str]:
    """Print the table of each variant of a plan; the same as JSON goes to ``speed/PLAN.json``.

    Returns a line for each variant that has no finished cell.
    """
    found, missing = [], []
    for job, cells in parts:
        mine = speeds(job, cells)
        if not mine:
            label = job.part.label if job.part else job.method.name
            missing.append(f"{label}: no finished cell was timed; run the same command with action=run first")
        found += mine
    for speed in found:
        print("\n".join(lines(speed)))
    path = parts[0][0].results / "speed" / f"{plan.name}.json"
    if found:
        write_whole(path, json.dumps([asdict(speed) for speed in found], indent=1).encode() + b"\n")
        print(f"as JSON: {path}")
    return missing


__all__ = ["Speed", "Stage", "finished", "lines", "print_speed", "speeds"]
