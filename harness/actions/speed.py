"""``action=speed``: what finished cells took, stage by stage, beside what they had to take.

The records say how long each stage took and what memory it needed. The cost model (``harness/cost/model.py``)
says how many operations a fused program executes there and, for a GPU of ``cards.GPUS``, the time by roofline
that no program can beat. Runs nothing; a processor has no roofline here, only its rate. Where only a few
denoising steps were timed, ``measure.full_steps`` multiplies them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.cells.job import Needs
from harness.command.interface import Action, Prepared, plans_of
from harness.command.terminal import say, say_left_out, tell
from harness.cost.cards import GPUS, gpu_named
from harness.cost.meta import with_checkpoint
from harness.cost.model import cost_report, roofline
from harness.records import store
from harness.records.record import RECOMPUTED, Record
from methods.interface import LatentMethod

if TYPE_CHECKING:
    from harness.cells.job import Job
    from harness.cells.plan import Cell
    from harness.records.record import Plan
    from methods.backbones.interface import BackboneConfig

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
class FullLength:
    """What so many denoising ``steps`` would take, from fewer that were timed.

    ``seconds`` and ``roofline`` by stage, ``total`` last: what was measured times the ratio of the FLOPs that
    the cost model counts for either number of steps. A stage without FLOPs is taken as it was. ``flops``:
    executed ones of the whole cell, ``forward_equivalents`` of its transformer.
    """

    steps: int
    seconds: dict[str, float]
    roofline: dict[str, float]
    flops: float
    forward_equivalents: float


@dataclass(frozen=True)
class Speed:
    """One variant on one device: ``gpu`` is its name in ``cards.GPUS``, None for others.

    ``at_most``: the number of calls depends on the data, and FLOPs and roofline of the stages are the most
    there can be. ``reason``: why there is no prediction, or none at full length.
    ``full``: where ``measure.full_steps`` asked for it.
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
    full: FullLength | None = None


def finished(job: Job, cells: Sequence[Cell]) -> list[Record]:
    """The records of the cells that are done; the others are no error."""
    records = []
    for cell in cells:
        try:
            record = store.load_record(job.results / cell.path)
        except (OSError, ValueError):
            continue
        if record.status == "ok":
            records.append(record)
    return records


def speeds(job: Job, method: LatentMethod, records: Sequence[Record]) -> list[Speed]:
    """One for each device that the cells of ``records`` ran on; they have stages. ``method`` is the job's."""
    by_device: dict[str, list[Record]] = {}
    for record in records:
        by_device.setdefault(str(record.environment.get("device", "unknown")), []).append(record)
    return [_speed(job, method, device, those) for device, those in by_device.items()]


def _speed(job: Job, method: LatentMethod, device: str, records: list[Record]) -> Speed:
    backbone = _as_run(job.backbone, records)
    gpu = gpu_named(device)
    reason, at_most = None, False
    executed: dict[str, float] = {}
    shortest: dict[str, float] = {}
    try:
        executed, shortest = (
            _by_stage(cost_report(method, backbone, job.frames)),
            roofline(method, backbone, job.frames)[gpu] if gpu else {},
        )
        at_most = method.at_most() != method
    except Exception as error:
        # As in a record: what cannot be counted has its seconds all the same.
        reason = f"no cost model: {' '.join(str(error).split())}"
    shared = {stage for record in records for stage in record.timing.amortised}
    timed = Speed(
        label=job.label,
        backbone=backbone.name,
        device=device,
        gpu=gpu,
        cells=len(records),
        repeats=min(record.timing.repeats for record in records),
        frames=job.frames,
        at_most=at_most,
        reason=reason,
        stages=_stages(backbone, records, gpu, _without(executed, shared), _without(shortest, shared)),
    )
    if job.full_steps is None or reason:
        return timed
    longer = method.with_steps(job.full_steps)
    if longer is None:
        return replace(timed, reason=f"measure.full_steps: {method.name} has no steps to multiply")
    before, after = (cost_report(one, backbone, job.frames) for one in (method, longer))
    return replace(timed, full=_full_length(timed, job.full_steps, before, after))


def _as_run(backbone: BackboneConfig, records: Sequence[Record]) -> BackboneConfig:
    """The backbone, with blocks recomputed where they were."""
    recomputed = any(RECOMPUTED in record.notes for record in records)
    return with_checkpoint(backbone, True) if recomputed else backbone


def _by_stage(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Executed FLOPs of a cost report by stage."""
    executed: dict[str, float] = {}
    for row in rows[:-1]:
        executed[row["stage"]] = executed.get(row["stage"], 0.0) + row["executed_flops"]
    return executed


def _without(values: dict[str, float], shared: set[str]) -> dict[str, float]:
    """The values by stage, less those of stages that the cells of a clip shared."""
    return {stage: value for stage, value in values.items() if stage not in shared}


def _stages(
    backbone: BackboneConfig,
    records: list[Record],
    gpu: str | None,
    executed: dict[str, float],
    shortest: dict[str, float],
) -> list[Stage]:
    """All stages and their total, beside executed FLOPs and roofline by stage, which may be missing."""
    stages = []
    for name in dict.fromkeys(name for record in records for name in record.timing.stages):
        peak = None
        if gpu and name in shortest:
            peak = GPUS[gpu].rate("tf32" if name in VAE else backbone.dtype)
        times = [record.timing.stages[name] for record in records if name in record.timing.stages]
        stages.append(
            _stage(name, times, executed.get(name), peak, shortest.get(name), _memory(records, name))
        )
    totals = [record.timing.total for record in records if record.timing.total is not None]
    counted = [one.flops.executed_flops for one in records if one.flops.executed_flops is not None]
    flops = statistics.median(counted) if counted else None
    least = sum(shortest.values()) if shortest else None
    return [*stages, _stage("total", totals, flops, None, least, _memory(records, "total"))]


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


def _full_length(
    timed: Speed, steps: int, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> FullLength:
    """``timed`` multiplied to ``steps`` denoising steps, from the cost reports of either number of steps."""
    short, long = _by_stage(before), _by_stage(after)
    times = {stage: long.get(stage, 0.0) / flops for stage, flops in short.items() if flops}
    stages = timed.stages[:-1]
    seconds = {one.stage: one.seconds * times.get(one.stage, 1.0) for one in stages}
    shortest = {
        one.stage: one.roofline * times.get(one.stage, 1.0) for one in stages if one.roofline is not None
    }
    for values in (seconds, shortest):
        values["total"] = sum(values.values())
    total = after[-1]
    return FullLength(steps, seconds, shortest, total["executed_flops"], total["forward_equivalents"])


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
        shortest = "" if one.roofline is None else f"{one.roofline:.4g}"
        slower = f"{one.seconds / one.roofline:.2f}" if one.roofline else ""
        flops = "" if one.executed_flops is None else f"{one.executed_flops / 1e12:.4f}"
        memory = "" if one.memory is None else f"{one.memory / 1e9:.2f}"
        text.append(
            f"  {one.stage:<9} {one.seconds:>10.4g} {flops:>12} {rate:>9} {share:>8} "
            f"{shortest:>11} {slower:>10} {memory:>10}"
        )
    if speed.full:
        multiplied = ", ".join(f"{name} {seconds:.4g}" for name, seconds in speed.full.seconds.items())
        text.append(f"  multiplied to {speed.full.steps} steps, seconds: {multiplied}")
    return text


def ratios(variants: Sequence[Speed], baseline: str | None) -> list[str]:
    """The table of how many times less than the baseline each variant took, and ought to have taken by FLOPs.

    Total time, at full length where that was asked for; a variant without one is left out then, its reason in
    its own table. One table for each device; none for a single variant, or without the baseline's time.
    """
    text = []
    for device in dict.fromkeys(one.device for one in variants):
        here = [one for one in variants if one.device == device]
        against = next((one for one in here if one.label == baseline), None)
        if against is None:
            continue
        here = [one for one in here if bool(one.full) == bool(against.full)]
        if len(here) < 2:
            continue
        rows = [(one.label, *_whole(one)) for one in here]
        base_seconds, base_flops, *_ = _whole(against)
        text.append(f"{device}, beside {baseline}:")
        text.append(
            f"  {'variant':<22} {'seconds':>10} {'times less':>10} {'x roofline':>10} "
            f"{'PFLOPs':>10} {'times less':>10} {'forward eq.':>11}"
        )
        for label, seconds, flops, least, equivalents in rows:
            fewer = f"{base_flops / flops:.2f}" if flops and base_flops else ""
            text.append(
                f"  {label:<22} {seconds:>10.4g} {base_seconds / seconds:>10.2f} "
                f"{'' if not least else f'{seconds / least:.2f}':>10} "
                f"{'' if not flops else f'{flops / 1e15:.4g}':>10} {fewer:>10} "
                f"{'' if equivalents is None else f'{equivalents:.1f}':>11}"
            )
    return text


def _whole(one: Speed) -> tuple[float, float | None, float | None, float | None]:
    if one.full:
        full = one.full
        return full.seconds["total"], full.flops, full.roofline["total"], full.forward_equivalents
    total = one.stages[-1]
    return total.seconds, total.executed_flops, total.roofline, None


def print_speed(plan: Plan, parts: Sequence[tuple[Job, Sequence[Cell]]]) -> list[str]:
    """Print the table of each variant of a plan; the same as JSON goes to ``speed/PLAN.json``.

    Returns a line for each variant that has no finished cell.
    """
    variants: list[Speed] = []
    missing = []
    for job, cells in parts:
        label = f"{plan.name}: {job.label}"
        method, records = job.method, finished(job, cells)
        timed = [record for record in records if record.timing.stages and record.timing.total is not None]
        if not records:
            missing.append(f"{label}: no finished cell; run the same command with action=run first")
        elif not timed or not isinstance(method, LatentMethod):
            tell(f"{label}: its videos were made elsewhere and have no stages")
        else:
            variants += speeds(job, method, timed)
    if variants:
        tell(f"{plan.name}, medians over cells:")
        for speed in variants:
            tell("\n".join(lines(speed)))
        beside = ratios(variants, plan.baseline)
        if beside:
            tell("\n".join(beside))
        path = parts[0][0].results / "speed" / f"{plan.name}.json"
        store.write_json(path, [asdict(speed) for speed in variants])
        tell(f"as JSON: {path}")
    return missing


@dataclass
class PrintSpeed(Action):
    """Prints what finished cells took, stage by stage; reads records alone."""

    name: str
    needs = Needs(weights=False)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        code = 0
        for plan, parts in plans_of(prepared):
            say_left_out(plan)
            for line in print_speed(plan, parts):
                say(line)
                code = 2
        return code


__all__ = [
    "PrintSpeed",
    "FullLength",
    "Speed",
    "Stage",
    "finished",
    "lines",
    "print_speed",
    "ratios",
    "speeds",
]
