"""What a cell costs in floating-point operations, counted without weights, data or a GPU.

Two questions are asked apart. *How often* does a method call the backbone? It runs
once on a stub that only counts (``method_calls``). *What does one call cost?* The
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
backward pass, and the time no GPU can beat (``Gpu``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from harness.cost.calls import DIT, STAGES, Call, Kind, describe, method_calls
from harness.cost.cards import GPUS, Gpu
from harness.cost.operators import _fused_attention, _operators, _uncollected, _Work
from harness.records.record import Flops
from methods.backbones.interface import BackboneConfig, Grid
from methods.backbones.memory import counting_saved
from methods.interface import LatentMethod

if TYPE_CHECKING:
    from torch import Tensor


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
    return _unit_cost(_ByText((config, frames)), call.kind, call.block, call.output, call.grid)


@dataclass(frozen=True)
class _ByText:
    """Hashable by its text, which for plug-ins (dataclasses) holds every key."""

    value: Any

    def __hash__(self) -> int:
        return hash(repr(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByText) and repr(self.value) == repr(other.value)


@lru_cache(maxsize=256)
def _unit_cost(key: _ByText, kind: Kind, block: int | None, output: str, grid: Grid | None) -> Cost:
    config, frames = key.value
    executed = _work(key, kind, block, output, grid)
    once = executed
    if kind == "gradient" and config.checkpoint is True:
        once = _work(_ByText((replace(config, checkpoint=False), frames)), kind, block, output, grid)
    return Cost(float(once.flops - once.again), float(executed.flops))


class _Where(NamedTuple):
    """A partial forward: clip length, where it stops, and the token grid if it is not the clip's."""

    frames: int
    block: int | None
    output: str
    grid: Grid | None


def _networks(config: BackboneConfig, recompute: bool = True) -> Any:
    """The networks on the meta device; blocks are recomputed only where the configuration says always."""
    always = recompute and config.checkpoint is True
    return _meta(_ByText(replace(cast("Any", config), checkpoint=always)))


@lru_cache(maxsize=4)
def _meta(config: _ByText) -> Any:
    return config.value.meta()


def _inputs(
    config: BackboneConfig, frames: int, wan: Any, grid: Grid | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, timestep and one prompt's embedding on the meta device."""
    import torch

    shape = config.latent_shape(frames)
    if grid is not None:
        shares = zip(shape[2:], grid, config.grid(frames), strict=True)
        shape = cast("Any", (*shape[:2], *(size * here // full for size, here, full in shares)))
    latent = torch.empty(shape, device="meta")
    prompt = torch.empty(1, config.max_tokens, wan.text_width, device="meta")
    return latent, torch.empty((), device="meta"), prompt


def _forward(config: BackboneConfig, frames: int, wan: Any) -> None:
    wan.predict(*_inputs(config, frames, wan), None, 1.0)


def _captured(config: BackboneConfig, where: _Where, wan: Any, grad: bool) -> tuple[Tensor, ...]:
    latent, timestep, prompt = _inputs(config, where.frames, wan, where.grid)
    latent.requires_grad_(grad)
    at = () if where.block is None else (where.block,)
    captured = getattr(wan, where.output)(latent, timestep, prompt, *at, grad=grad)
    return captured if isinstance(captured, tuple) else (captured,)


def _partial(config: BackboneConfig, where: _Where, wan: Any, *, grad: bool) -> None:
    import torch

    tensors = _captured(config, where, wan, grad)
    if grad:
        torch.autograd.backward(tensors, [torch.empty_like(tensor) for tensor in tensors])


def _embed(config: BackboneConfig, frames: int, wan: Any) -> None:
    import torch

    if wan.text_encoder is None:  # random weights: embeddings are drawn, not computed
        return
    tokens = torch.zeros(1, config.max_tokens, dtype=torch.long, device="meta")
    with torch.no_grad():
        wan.text_encoder(tokens)


def _encode(config: BackboneConfig, frames: int, wan: Any) -> None:
    import torch

    with torch.no_grad():
        wan.vae.encode(torch.empty(1, 3, frames, config.height, config.width, device="meta"))


def _decode(config: BackboneConfig, frames: int, wan: Any) -> None:
    import torch

    with torch.no_grad():
        wan.vae.decode(torch.empty(config.latent_shape(frames), device="meta"))


WHOLE: dict[Kind, Callable[[BackboneConfig, int, Any], None]] = {
    "forward": _forward,
    "embed": _embed,
    "encode": _encode,
    "decode": _decode,
}


# --- limits ------------------------------------------------------------------------------------


@_uncollected()
def limits(method: LatentMethod, config: BackboneConfig, frames: int) -> Limits:
    """Bytes saved for the backward pass, and each GPU's shortest time for one cell (``roofline``).

    Raises InputError as ``cost_report``.
    """
    expected = _expected(_ByText((config, method, frames)))
    saved = [
        _saved_both(config, _Where(frames, call.block, call.output, call.grid))
        for call in expected
        if call.kind == "gradient"
    ]
    plain = max((without for without, _ in saved), default=0)
    checkpointed = max((recomputed for _, recomputed in saved), default=0)
    seconds = {name: sum(stages.values()) for name, stages in roofline(method, config, frames).items()}
    return Limits(plain, checkpointed, seconds)


def roofline(method: LatentMethod, config: BackboneConfig, frames: int) -> dict[str, dict[str, float]]:
    """Each GPU's shortest seconds for one cell, by stage.

    An operator takes at least its executed FLOPs over the GPU's rate in its precision, and at least
    the bytes of its operands and results over the bandwidth, each read or written once; the longer
    of the two, summed over all operators run one by one (attention fused, nothing else), is the
    time. Raises InputError as ``cost_report``.
    """
    expected = _expected(_ByText((config, method, frames)))
    work = {call: _work(_ByText((config, frames)), *call[1:]) for call in expected}
    found: dict[str, dict[str, float]] = {}
    for name, gpu in GPUS.items():
        stages = found.setdefault(name, {})
        for call, times in expected.items():
            stages[call.stage] = stages.get(call.stage, 0.0) + times * _seconds(gpu, work[call])
    return found


def _seconds(gpu: Gpu, work: _Work) -> float:
    return sum(
        times * max(flops / float(getattr(gpu, rate)), moved / gpu.bandwidth)
        for (rate, flops, moved), times in work.operators.items()
    )


@lru_cache(maxsize=256)
def _work(key: _ByText, kind: Kind, block: int | None, output: str, grid: Grid | None) -> _Work:
    config, frames = key.value
    wan = _networks(config)
    if kind in ("partial", "gradient"):
        where = _Where(frames, block, output, grid)
        return _operators(lambda: _partial(config, where, wan, grad=kind == "gradient"))
    return _operators(lambda: WHOLE[kind](config, frames, wan))


def _saved_both(config: BackboneConfig, where: _Where) -> tuple[int, int]:
    """Bytes kept for the backward pass of one gradient, without and with recomputed blocks.

    Recomputed, each block keeps only the tokens that enter it, and one block at a time
    what it would have kept.
    """
    wan = _networks(config, recompute=False)

    def saved(where: _Where) -> int:
        with _fused_attention(), counting_saved(wan.transformer) as found:
            held = _captured(config, where, wan, True)
            total = found.bytes
        del held
        return total

    whole = saved(where)
    blocks = config.num_blocks if where.block is None else where.block + (where.output == "hidden_states")
    if blocks < 2:
        return whole, whole
    first, second = (where._replace(block=block, output="queries_keys") for block in (0, 1))
    one = saved(second) - saved(first)
    frames, height, width = where.grid or config.grid(where.frames)
    tokens = frames * height * width * wan.heads * wan.head_dim * wan.dtype.itemsize
    return whole, whole - (blocks - 1) * one + blocks * tokens


def limit_lines(method: LatentMethod, config: BackboneConfig, frames: int) -> list[str]:
    """``limits`` in words, for the command line. Empty for finished videos."""
    found = limits(method, config, frames)
    lines = []
    if method.at_most() != method:
        lines.append("at most: what depends on the data is counted where it costs the most")
    if found.saved:
        lines.append(
            f"saved for one backward pass: {found.saved / 1e9:.2f} GB; "
            f"with backbone.checkpoint=true {found.saved_checkpointed / 1e9:.2f} GB"
        )
    times = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in found.seconds.items())
    lines.append(f"roofline, no cell is quicker: {times}")
    return lines


@lru_cache(maxsize=32)
def _expected(key: _ByText) -> dict[Call, int]:
    config, method, frames = key.value
    return method_calls(method, config.grid(frames), config.num_blocks)


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
        expected = _expected(_ByText((config, method, frames)))
        costs = {call: unit_cost(config, frames, call) for call in expected}
        forward = unit_cost(config, frames, Call("", "forward")).model
    except Exception as error:
        return Flops(reason=f"no cost model: {' '.join(str(error).split())}")
    model = executed = dit = 0.0
    for kind, wanted in calls.items():
        alike = {call: times for call, times in expected.items() if call.kind == kind}
        if wanted and not alike:
            return Flops(reason=f"no cost model: unexpected calls of kind {kind}")
        for call, times in alike.items():
            share = wanted * times / sum(alike.values())
            dit += share * costs[call].model
            executed += share * costs[call].executed
    for call, times in expected.items():
        if call.kind not in DIT and (encoded or call.kind != "encode"):
            model += times * costs[call].model
            executed += times * costs[call].executed
    return Flops(model_flops=model + dit, executed_flops=executed, forward_equivalents=dit / forward)


@_uncollected()
def cost_report(method: LatentMethod, config: BackboneConfig, frames: int) -> list[dict[str, Any]]:
    """What a cell would cost, one row for each kind of call in each stage, a ``total`` last.

    Columns: ``stage``, ``operation``, ``calls``, ``flops`` (of all calls), ``executed_flops``,
    ``forward_equivalents`` (None outside the transformer). Empty for finished videos.
    Raises InputError for sizes the backbone cannot take or a backbone without a cost model.
    """
    expected = _expected(_ByText((config, method, frames)))
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
    rows.append(
        {
            "stage": "total",
            "operation": "",
            "calls": None,
            **{key: sum(row[key] or 0 for row in rows) for key in ("flops", "executed_flops")},
            "forward_equivalents": sum(row["forward_equivalents"] or 0 for row in rows),
        }
    )
    return rows


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
