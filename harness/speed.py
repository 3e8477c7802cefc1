"""``action=speed``: what finished cells took, stage by stage, beside what they had to take.

The records say how long each stage took and what memory it needed; the cost model (``harness/cost.py``)
says how many operations a fused program executes there and, for a GPU of ``cost.GPUS``, the time by
roofline that no program can beat. Runs nothing; a processor has no roofline here, only its rate.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import cost
from harness.records import RECOMPUTED, Record, load_record, write_whole

if TYPE_CHECKING:
    from harness.config import Job
    from harness.plan import Cell
    from harness.records import Plan

VAE = ("encode", "decode")


@dataclass(frozen=True)
class Stage:
    """One stage of a cell; ``total`` is the last one. None where it is not known or there is none.

    ``seconds``: median over cells. ``executed_flops``, ``roofline`` (seconds): of one cell, predicted; the
    total's FLOPs are those of the calls that were really made. ``flop_rate``: executed FLOPs a second.
    ``of_peak``: its share of the GPU's dense peak rate, in TF32 for the VAE, which computes in float32, and
    in the backbone's precision elsewhere; the total, which has both, has none. ``memory``: most bytes, of the
    allocator on a GPU, of the process otherwise.
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

    ``at_most``: the number of calls depends on the data, and FLOPs and roofline of the stages are the most
    there can be. ``reason``: why there is no prediction.
    """

    label: str
    backbone: str
    device: str
    gpu: str | None
    cells: int
    repeats: int
    frames: int
    at_most: bool
    reason: str | None
    stages: list[Stage]


def finished(job: Job, cells: Sequence[Cell]) -> list[Record]:
    """The records of the cells that are done; the others are no error."""
    found = []
    for cell in cells:
        try:
            record = load_record(job.results / cell.path / "record.json")
        except (OSError, ValueError):
            continue
        if record.status == "ok":
            found.append(record)
    return found


def speeds(job: Job, records: Sequence[Record]) -> list[Speed]:
    """One for each device that the cells of ``records`` ran on; they have stages."""
    label = job.part.label if job.part else job.method.name
    by_device: dict[str, list[Record]] = {}
    for record in records:
        by_device.setdefault(str(record.environment.get("device", "unknown")), []).append(record)
    return [_speed(job, label, device, those) for device, those in by_device.items()]


def _predicted(job: Job, records: list[Record], gpu: str | None) -> tuple[dict[str, float], dict[str, float]]:
    """Executed FLOPs and the GPU's roofline by stage, without stages that cells shared; no GPU has none."""
    backbone: Any = job.backbone
    if any(RECOMPUTED in record.notes for record in records):
        backbone = replace(backbone, checkpoint=True)
    shared = {stage for record in records for stage in record.timing.amortised}
    executed: dict[str, float] = {}
    for row in cost.cost_report(job.method, backbone, job.frames)[:-1]:
        if row["stage"] not in shared:
            executed[row["stage"]] = executed.get(row["stage"], 0.0) + row["executed_flops"]
    least = cost.roofline(job.method, backbone, job.frames)[gpu] if gpu else {}
    return executed, {stage: seconds for stage, seconds in least.items() if stage not in shared}


def _speed(job: Job, label: str, device: str, records: list[Record]) -> Speed:
    gpu = cost.gpu_named(device)
    reason, at_most = None, False
    executed: dict[str, float] = {}
    least: dict[str, float] = {}
    try:
        executed, least = _predicted(job, records, gpu)
        at_most = cost.at_most(job.method) != job.method
    except Exception as error:
        # As in a record: what cannot be counted has its seconds all the same.
        reason = f"no cost model: {' '.join(str(error).split())}"
    precision = getattr(job.backbone, "dtype", "bfloat16")
    stages = [
        _stage(
            name,
            [record.timing.stages[name] for record in records if name in record.timing.stages],
            executed.get(name),
            cost.peak_rate(gpu, "tf32" if name in VAE else precision) if gpu and name in least else None,
            least.get(name),
            _memory(records, name),
        )
        for name in dict.fromkeys(name for record in records for name in record.timing.stages)
    ]
    counted = [one.flops.executed_flops for one in records if one.flops.executed_flops is not None]
    stages.append(
        _stage(
            "total",
            [record.timing.total for record in records if record.timing.total is not None],
            statistics.median(counted) if counted else None,
            None,
            sum(least.values()) if least else None,
            _memory(records, "total"),
        )
    )
    repeats = min(record.timing.repeats for record in records)
    return Speed(
        label,
        job.backbone.name,
        device,
        gpu,
        len(records),
        repeats,
        job.frames,
        at_most,
        reason,
        stages,
    )


def _stage(
    name: str,
    times: Sequence[float],
    flops: float | None,
    peak: float | None,
    roofline: float | None,
    memory: int | None,
) -> Stage:
    seconds = statistics.median(times)
    rate = flops / seconds if flops and seconds else None
    return Stage(name, seconds, flops, rate, rate / peak if rate and peak else None, roofline, memory)


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
    known = f" (roofline: {speed.gpu})" if speed.stages[-1].roofline else ""
    text = [
        f"{speed.label} on {speed.backbone}, {speed.frames} frames, {speed.device}{known}: "
        f"{speed.cells} cells, {speed.repeats} runs each",
        f"  {'stage':<9} {'seconds':>10} {'TFLOPs':>12} {'TFLOP/s':>9} {'of peak':>8} "
        f"{'roofline s':>11} {'x roofline':>10} {'memory GB':>10}",
    ]
    if speed.at_most:
        text.insert(1, "  the calls depend on the data: FLOPs of the stages, and roofline, are at most these")
    if speed.reason:
        text.insert(1, f"  {speed.reason}")
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
        label = f"{plan.name}: {job.part.label if job.part else job.method.name}"
        records = finished(job, cells)
        timed = [record for record in records if record.timing.stages and record.timing.total is not None]
        if not records:
            missing.append(f"{label}: no finished cell; run the same command with action=run first")
        elif not timed:
            print(f"{label}: its videos were made elsewhere and have no stages")
        found += speeds(job, timed)
    if found:
        print(f"{plan.name}, medians over cells:")
        for speed in found:
            print("\n".join(lines(speed)))
        path = parts[0][0].results / "speed" / f"{plan.name}.json"
        write_whole(path, json.dumps([asdict(speed) for speed in found], indent=1).encode() + b"\n")
        print(f"as JSON: {path}")
    return missing


__all__ = ["Speed", "Stage", "finished", "lines", "print_speed", "speeds"]
