"""What a cell costs in floating-point operations, counted without weights, data or a GPU.

Two questions are asked apart. *How often* does a method call the backbone? It runs
once on a stub that only counts (``harness/cost/calls.py``). *What does one call cost?* The
backbone's own code runs on the meta device under torch's FLOP counter (``unit_cost``).

``model`` FLOPs are what the mathematics needs: an attention's backward pass is twice
its forward pass where queries, keys and values all need gradients (in cross-attention
only the queries do), and nothing is recomputed. ``executed`` FLOPs are what fused
kernels do: they recompute the logits, so a backward pass is always 2.5 forward passes,
and ``backbone.checkpoint`` runs blocks twice. One multiply-add is two operations; only
matrix products and convolutions count. The guidance arithmetic outside the backbone
(attention motion flow, losses, the optimiser) is left out: about 0.01 % of a forward
of Wan. Left out too is what adapters add to a pass (the tuning-based methods): a LoRA of
rank 32 some 3 % of a forward of Wan 1.3B. A gradient is counted as one of the latent, also
where rotary tables or adapters take it: tables spare a part of the first block.

Two limits stand beside the FLOPs (``limits``): the bytes that a gradient saves for its
backward pass, and the time no GPU can beat (``roofline``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.cost.caching import cached_by_text
from harness.cost.calls import DIT, STAGES, Call, describe, method_calls
from harness.cost.cards import GPUS
from harness.cost.meta import on_meta, saved_bytes, with_checkpoint
from harness.cost.operators import Work, executed, gc_paused
from harness.records.record import Flops
from methods.backbones.interface import BackboneConfig
from methods.interface import LatentMethod


class Cost(NamedTuple):
    """FLOPs of one call."""

    model: float
    executed: float


class Limits(NamedTuple):
    """What bounds a cell beside its FLOPs.

    ``saved`` and ``saved_checkpointed``: most bytes a gradient keeps for its backward pass, without
    and with recomputed blocks; 0 for methods without gradients. ``seconds``: by GPU of ``GPUS``.
    """

    saved: int
    saved_checkpointed: int
    seconds: dict[str, float]


def unit_cost(config: BackboneConfig, frames: int, call: Call) -> Cost:
    """FLOPs of one call, of one batch element or one prompt, on clips of ``frames``.

    Counted once a process. InputError when the backbone has no cost model.
    """
    work = once = _work(config, frames, call)
    if call.kind == "gradient" and config.checkpoint is True:
        once = _work(with_checkpoint(config, False), frames, call)
    return Cost(float(once.flops - once.repeated), float(work.flops))


def _work(config: BackboneConfig, frames: int, call: Call) -> Work:
    return _counted(config, frames, call._replace(stage=""))


@cached_by_text(maxsize=256)
def _counted(config: BackboneConfig, frames: int, call: Call) -> Work:
    backbone = on_meta(config, frames)
    return executed(lambda: backbone.run(call))


@cached_by_text(maxsize=32)
def _expected(method: LatentMethod, config: BackboneConfig, frames: int) -> dict[Call, int]:
    return method_calls(method, config.grid(frames), config.num_blocks)


@gc_paused()
def limits(method: LatentMethod, config: BackboneConfig, frames: int) -> Limits:
    """Bytes saved for the backward pass, and each GPU's shortest time for one cell (``roofline``).

    Raises InputError as ``cost_report``.
    """
    gradients = [call for call in _expected(method, config, frames) if call.kind == "gradient"]
    saved = [saved_bytes(config, frames, call) for call in gradients]
    whole = max((one.whole for one in saved), default=0)
    recomputed = max((one.recomputed for one in saved), default=0)
    seconds = {name: sum(stages.values()) for name, stages in roofline(method, config, frames).items()}
    return Limits(whole, recomputed, seconds)


def roofline(method: LatentMethod, config: BackboneConfig, frames: int) -> dict[str, dict[str, float]]:
    """Each GPU's shortest seconds for one cell, by stage.

    An operator takes at least its executed FLOPs over the GPU's rate in its precision, and at least
    the bytes of its operands and results over the bandwidth, each read or written once; the longer
    of the two, summed over all operators run one by one (attention fused, nothing else), is the
    time. Raises InputError as ``cost_report``.
    """
    expected = _expected(method, config, frames)
    work = {call: _work(config, frames, call) for call in expected}
    shortest: dict[str, dict[str, float]] = {}
    for name, gpu in GPUS.items():
        stages = shortest.setdefault(name, {})
        for call, times in expected.items():
            stages[call.stage] = stages.get(call.stage, 0.0) + times * work[call].seconds(gpu)
    return shortest


def limit_lines(method: LatentMethod, config: BackboneConfig, frames: int) -> list[str]:
    """``limits`` in words, for the command line."""
    bounds = limits(method, config, frames)
    lines = []
    if method.at_most() != method:
        lines.append("at most: what depends on the data is counted where it costs the most")
    if bounds.saved:
        lines.append(
            f"saved for one backward pass: {bounds.saved / 1e9:.2f} GB; "
            f"with backbone.checkpoint=true {bounds.saved_checkpointed / 1e9:.2f} GB"
        )
    times = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in bounds.seconds.items())
    lines.append(f"roofline, no cell is quicker: {times}")
    return lines


def cell_flops(
    config: BackboneConfig,
    method: LatentMethod,
    frames: int,
    calls: Mapping[str, int],
    encoded: bool = True,
) -> Flops:
    """FLOPs of one cell from the ``calls`` its backbone counted, with encoding, decoding and text.

    ``encoded`` False: its reference's latent was shared by the cells of the clip.

    Where a method reads several blocks, a kind's cost is the mean over the calls expected
    of the method. Null with a reason where there is no cost model; it never fails a cell.
    """
    try:
        # First: a backbone without a cost model is found out before the method runs on the stub.
        forward = unit_cost(config, frames, Call("", "forward")).model
        expected = _expected(method, config, frames)
        costs = {call: unit_cost(config, frames, call) for call in expected}
    except Exception as error:
        return Flops(reason=f"no cost model: {' '.join(str(error).split())}")
    model = done = dit = 0.0
    for kind, wanted in calls.items():
        alike = {call: times for call, times in expected.items() if call.kind == kind}
        if wanted and not alike:
            return Flops(reason=f"no cost model: unexpected calls of kind {kind}")
        for call, times in alike.items():
            share = wanted * times / sum(alike.values())
            dit += share * costs[call].model
            done += share * costs[call].executed
    for call, times in expected.items():
        if call.kind not in DIT and (encoded or call.kind != "encode"):
            model += times * costs[call].model
            done += times * costs[call].executed
    return Flops(model_flops=model + dit, executed_flops=done, forward_equivalents=dit / forward)


@gc_paused()
def cost_report(method: LatentMethod, config: BackboneConfig, frames: int) -> list[dict[str, Any]]:
    """What a cell would cost, one row for each kind of call in each stage, a ``total`` last.

    Columns: ``stage``, ``operation``, ``calls``, ``flops`` (of all calls), ``executed_flops``,
    ``forward_equivalents`` (None outside the transformer).
    Raises InputError for sizes the backbone cannot take or a backbone without a cost model.
    """
    expected = _expected(method, config, frames)
    forward = unit_cost(config, frames, Call("", "forward")).model
    rows: list[dict[str, Any]] = []
    order = {stage: index for index, stage in enumerate(STAGES)}
    for call, times in sorted(expected.items(), key=lambda item: order.get(item[0].stage, len(order))):
        cost = unit_cost(config, frames, call)
        rows.append(
            {
                "stage": call.stage,
                "operation": describe(call),
                "calls": times,
                "flops": times * cost.model,
                "executed_flops": times * cost.executed,
                "forward_equivalents": times * cost.model / forward if call.kind in DIT else None,
            }
        )
    total: dict[str, Any] = {"stage": "total", "operation": "", "calls": None}
    for key in ("flops", "executed_flops", "forward_equivalents"):
        total[key] = sum(row[key] or 0 for row in rows)
    return [*rows, total]


__all__ = [
    "Cost",
    "Limits",
    "cell_flops",
    "cost_report",
    "limit_lines",
    "limits",
    "roofline",
    "unit_cost",
]
