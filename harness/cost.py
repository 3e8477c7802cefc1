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
of Wan.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from datasets.errors import InputError
from harness.records import Flops
from methods.interface import Backbone, BackboneConfig, Grid, Method, Observer, Schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Kind = Literal["embed", "encode", "forward", "partial", "gradient", "decode"]
STAGES = ("text", "encode", "extract", "guide", "denoise", "decode")
DIT: tuple[Kind, ...] = ("forward", "partial", "gradient")

# Attention FLOPs of a fused kernel's backward pass over its forward pass: five
# matrix products against two (Dao et al., FlashAttention, 2022).
FUSED_BACKWARD = 2.5


class Call(NamedTuple):
    """One way a method uses the backbone, in the observer's stage where it happens.

    ``block`` and ``output`` (``queries_keys`` or ``hidden_states``) say where a
    partial forward stops; None and empty for the other kinds.
    """

    stage: str
    kind: Kind
    block: int | None = None
    output: str = ""


class Cost(NamedTuple):
    """FLOPs of one call."""

    model: float
    executed: float


class CostableBackbone(BackboneConfig, Protocol):
    """A backbone whose networks can be built without weights."""

    checkpoint: bool
    max_tokens: int

    def grid(self, frames: int) -> Grid: ...

    def latent_shape(self, frames: int) -> tuple[int, int, int, int, int]: ...

    def meta(self) -> Any:
        """The loaded backbone on the meta device, with its ``vae`` and ``text_encoder`` (or None)."""
        ...


class CountingBackbone:
    """A backbone of one channel and one head that computes nothing and notes every call.

    Queries, keys and hidden states are the latent itself, so that gradients exist.
    """

    heads = 1
    head_dim = 1

    def __init__(self, num_blocks: int, stages: StageObserver) -> None:
        self.num_blocks = num_blocks
        self.calls: Counter[str] = Counter()
        self.log: Counter[Call] = Counter()
        self._stages = stages

    def grid(self, latent: Tensor) -> Grid:
        return Grid(*latent.shape[2:])

    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        import torch

        self._note("encode")
        return torch.from_numpy(frames[..., 0]).float()[None, None]

    def decode(self, latent: Tensor) -> NDArray[np.uint8]:
        import numpy as np

        self._note("decode")
        return np.zeros((*latent.shape[2:], 3), np.uint8)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        import torch

        self._note("embed", len(prompts))
        return torch.zeros(len(prompts), 1, 1)

    def schedule(self, steps: int) -> Schedule:
        import torch

        sigmas = torch.linspace(1, 0, steps + 1)
        return Schedule(sigmas, 1000 * sigmas[:-1])

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return (1 - sigma) * clean + sigma * noise

    def predict(
        self,
        latent: Tensor,
        timestep: Tensor,
        prompt: Tensor,
        negative: Tensor | None,
        guidance_scale: float,
    ) -> Tensor:
        passes = 1 if negative is None or guidance_scale == 1 else 2
        self._note("forward", passes * latent.shape[0])
        return latent.detach() * 0

    def step(self, latent: Tensor, velocity: Tensor, schedule: Schedule, index: int) -> Tensor:
        return latent + (schedule.sigmas[index + 1] - schedule.sigmas[index]) * velocity

    def queries_keys(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        tokens = self.hidden_states(latent, timestep, prompt, block, grad=grad, output="queries_keys")
        return tokens.unsqueeze(-1), tokens.unsqueeze(-1)

    def hidden_states(
        self,
        latent: Tensor,
        timestep: Tensor,
        prompt: Tensor,
        block: int,
        *,
        grad: bool,
        output: str = "hidden_states",
    ) -> Tensor:
        self._note("gradient" if grad else "partial", 1, block, output)
        tokens = latent[0, 0].flatten(1).unsqueeze(-1)
        return tokens if grad else tokens.detach()

    def _note(self, kind: Kind, times: int = 1, block: int | None = None, output: str = "") -> None:
        self.log[Call(self._stages.current, kind, block, output)] += times
        if kind in DIT:
            self.calls[kind] += times


class StageObserver(Observer):
    """Knows which stage a method is in."""

    current = "other"

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before, self.current = self.current, name
        try:
            yield
        finally:
            self.current = before


def method_calls(method: Method, grid: Grid, num_blocks: int) -> dict[Call, int]:
    """How often a method calls the backbone, by running it on a ``CountingBackbone``.

    The token grid is the smallest the method accepts, at most ``grid``: methods call
    no more often on a larger one. Raises InputError when it accepts none.
    """
    import torch

    small = _smallest_grid(method, grid, num_blocks)
    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(1, 1, *small, generator=generator) for _ in range(2))
    observer = StageObserver()
    backbone = CountingBackbone(num_blocks, observer)
    with torch.random.fork_rng(devices=[]):
        method.transfer(cast("Backbone", backbone), reference, "", noise, observer)
    harness = {Call("encode", "encode"): 1, Call("decode", "decode"): 1}
    return {**backbone.log, **harness}


def _smallest_grid(method: Method, grid: Grid, num_blocks: int) -> Grid:
    sides = (4, 6, 8, 12, 16, 24, 32)
    smaller = [Grid(min(2, grid.frames), min(s, grid.height), min(s, grid.width)) for s in sides]
    for candidate in smaller:
        with contextlib.suppress(InputError):
            method.check(candidate, num_blocks)
            return candidate
    method.check(grid, num_blocks)
    return grid


def unit_cost(config: BackboneConfig, frames: int, call: Call) -> Cost:
    """FLOPs of one call, of one batch element or one prompt, on clips of ``frames``.

    Counted once a process. InputError when the backbone has no cost model.
    """
    return _unit_cost(_ByText((_costable(config), frames)), call.kind, call.block, call.output)


def _costable(config: BackboneConfig) -> CostableBackbone:
    if not all(hasattr(config, name) for name in ("meta", "grid", "latent_shape")):
        raise InputError(f"backbone.name={config.name}: this backbone has no cost model; use action=run")
    return cast("CostableBackbone", config)


@dataclass(frozen=True)
class _ByText:
    """Hashable by its text, which for plug-ins (dataclasses) holds every key."""

    value: Any

    def __hash__(self) -> int:
        return hash(repr(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByText) and repr(self.value) == repr(other.value)


@lru_cache(maxsize=256)
def _unit_cost(key: _ByText, kind: Kind, block: int | None, output: str) -> Cost:
    config, frames = key.value
    wan = _meta(_ByText(config))
    if kind in ("partial", "gradient"):
        return _partial_cost(config, frames, wan, kind, cast("int", block), output)
    run = {"forward": _forward, "embed": _embed, "encode": _encode, "decode": _decode}[kind]
    total = sum(_count(lambda: run(config, frames, wan)))
    return Cost(total, total)


@lru_cache(maxsize=4)
def _meta(config: _ByText) -> Any:
    return config.value.meta()


def _partial_cost(
    config: CostableBackbone, frames: int, wan: Any, kind: Kind, block: int, output: str
) -> Cost:
    attention, other = _count(lambda: _partial(config, frames, wan, block, output, grad=False))
    if kind == "partial":
        return Cost(attention + other, attention + other)
    plain = _meta(_ByText(replace(cast("Any", config), checkpoint=False)))
    both, rest = _count(lambda: _partial(config, frames, plain, block, output, grad=True))
    model = both + rest
    executed = model - (both - attention) + FUSED_BACKWARD * attention
    if config.checkpoint:
        executed += sum(_count(lambda: _partial(config, frames, wan, block, output, grad=True))) - model
    return Cost(model, executed)


def _count(run: Callable[[], None]) -> tuple[float, float]:
    """FLOPs of the attention products (the only batched ones) and of everything else.

    Attention is pinned to its unfused form, which the counter sees product by
    product; of a fused kernel it counts what the kernel executes, or nothing.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    by_operator = counter.get_flop_counts().get("Global", {})
    batched = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
    attention = sum(by_operator.get(operator, 0) for operator in batched)
    return float(attention), float(counter.get_total_flops() - attention)


def _inputs(config: CostableBackbone, frames: int, wan: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Latent, timestep and one prompt's embedding on the meta device."""
    import torch

    latent = torch.empty(config.latent_shape(frames), device="meta")
    prompt = torch.empty(1, config.max_tokens, wan.text_width, device="meta")
    return latent, torch.empty((), device="meta"), prompt


def _forward(config: CostableBackbone, frames: int, wan: Any) -> None:
    wan.predict(*_inputs(config, frames, wan), None, 1.0)


def _partial(config: CostableBackbone, frames: int, wan: Any, block: int, output: str, *, grad: bool) -> None:
    import torch

    latent, timestep, prompt = _inputs(config, frames, wan)
    latent.requires_grad_(grad)
    captured = getattr(wan, output)(latent, timestep, prompt, block, grad=grad)
    if grad:
        tensors = captured if isinstance(captured, tuple) else (captured,)
        # Not autograd.grad: the counter's module hooks refuse it where a leaf enters a module.
        torch.autograd.backward(tensors, [torch.empty_like(tensor) for tensor in tensors])


def _embed(config: CostableBackbone, frames: int, wan: Any) -> None:
    import torch

    if wan.text_encoder is None:  # random weights: embeddings are drawn, not computed
        return
    tokens = torch.zeros(1, config.max_tokens, dtype=torch.long, device="meta")
    with torch.no_grad():
        wan.text_encoder(tokens)


def _encode(config: CostableBackbone, frames: int, wan: Any) -> None:
    import torch

    with torch.no_grad():
        wan.vae.encode(torch.empty(1, 3, frames, config.height, config.width, device="meta"))


def _decode(config: CostableBackbone, frames: int, wan: Any) -> None:
    import torch

    with torch.no_grad():
        wan.vae.decode(torch.empty(config.latent_shape(frames), device="meta"))


@lru_cache(maxsize=32)
def _expected(key: _ByText) -> dict[Call, int]:
    config, method, frames = key.value
    return method_calls(method, _costable(config).grid(frames), config.num_blocks)


def cell_flops(config: BackboneConfig, method: Method, frames: int, calls: Mapping[str, int]) -> Flops:
    """FLOPs of one cell from the ``calls`` its backbone counted, with encoding, decoding and text.

    Where a method reads several blocks, a kind's cost is the mean over the calls expected
    of the method. Null with a reason where there is no cost model; it never fails a cell.
    """
    if not method.uses_backbone:
        return Flops(reason="the video was made elsewhere")
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
        if call.kind not in DIT:
            model += times * costs[call].model
            executed += times * costs[call].executed
    return Flops(model_flops=model + dit, executed_flops=executed, forward_equivalents=dit / forward)


def cost_report(method: Method, config: BackboneConfig, frames: int) -> list[dict[str, Any]]:
    """What a cell would cost, one row for each kind of call in each stage, a ``total`` last.

    Columns: ``stage``, ``operation``, ``calls``, ``flops`` (of all calls), ``executed_flops``,
    ``forward_equivalents`` (None outside the transformer). Empty for finished videos.
    Raises InputError for sizes the backbone cannot take or a backbone without a cost model.
    """
    if not method.uses_backbone:
        return []
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


def describe(call: Call) -> str:
    """A call in words."""
    names = {"embed": "prompt embedding", "encode": "VAE encode", "decode": "VAE decode"}
    if call.kind in names:
        return names[call.kind]
    if call.kind == "forward":
        return "DiT forward"
    what = "queries and keys" if call.output == "queries_keys" else "hidden states"
    return f"{'gradient' if call.kind == 'gradient' else 'partial forward'}, {what} of block {call.block}"


__all__ = ["Call", "Cost", "CountingBackbone", "cell_flops", "cost_report", "method_calls", "unit_cost"]
