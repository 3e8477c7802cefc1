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

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from datasets.errors import InputError
from harness.records import Flops
from methods.backbones.saved import counting_saved
from methods.interface import (
    Adapted,
    Adapter,
    Backbone,
    BackboneConfig,
    Grid,
    Method,
    Observer,
    Rotary,
    Schedule,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Kind = Literal["embed", "encode", "forward", "partial", "gradient", "decode"]
STAGES = ("text", "encode", "train", "extract", "guide", "denoise", "decode")
DIT: tuple[Kind, ...] = ("forward", "partial", "gradient")

# Attention FLOPs of a fused kernel's backward pass over its forward pass: five
# matrix products against two (Dao et al., FlashAttention, 2022).
FUSED_BACKWARD = 2.5


class Call(NamedTuple):
    """One way a method uses the backbone, in the observer's stage where it happens.

    ``output`` (``queries_keys``, ``keys_values``, ``hidden_states`` or ``velocity``) and ``block`` say
    where a pass stops; a velocity has no block. Empty and None for the other kinds. ``grid`` is the
    token grid of a latent smaller than the clip's, else None.
    """

    stage: str
    kind: Kind
    block: int | None = None
    output: str = ""
    grid: Grid | None = None


class Cost(NamedTuple):
    """FLOPs of one call."""

    model: float
    executed: float


class Gpu(NamedTuple):
    """A GPU's data sheet: dense peak rates in FLOP/s, bandwidth in bytes/s, memory in bytes.

    ``float32`` is the rate of matrix products outside the tensor cores, which is what PyTorch
    takes for them; for convolutions in float32 it takes TF32.
    """

    bfloat16: float
    tf32: float
    float32: float
    bandwidth: float
    memory: float


# Dense rates (data sheets print twice as much, with sparsity). Sources: NVIDIA A100 80GB SXM data
# sheet (2021); H100 SXM data sheet and Hopper whitepaper (2023); H200 SXM data sheet (2024); L40S
# data sheet (2023); Ada whitepaper v2, RTX 4090, bfloat16 accumulated in float32 (2022).
GPUS: dict[str, Gpu] = {
    "A100 SXM 80GB": Gpu(312e12, 156e12, 19.5e12, 2.039e12, 80e9),
    "H100 SXM": Gpu(989.4e12, 494.7e12, 66.9e12, 3.35e12, 80e9),
    "H200 SXM": Gpu(989.4e12, 494.7e12, 66.9e12, 4.8e12, 141e9),
    "L40S": Gpu(362e12, 183e12, 91.6e12, 0.864e12, 48e9),
    "RTX 4090": Gpu(165.2e12, 82.6e12, 82.6e12, 1.008e12, 24e9),
}

# What PyTorch calls them. Cards of other forms (PCIe, NVL) have other rates and are not among them.
DEVICES = {
    "NVIDIA A100-SXM4-80GB": "A100 SXM 80GB",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H200": "H200 SXM",
    "NVIDIA L40S": "L40S",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
}


def gpu_named(device: str) -> str | None:
    """The name in ``GPUS`` of what PyTorch calls ``device``; None for any other."""
    return DEVICES.get(device)


def peak_rate(gpu: str, dtype: str) -> float:
    """FLOP/s of a GPU of ``GPUS`` in a backbone's ``dtype``, or in ``tf32``."""
    rates = GPUS[gpu]
    return float(getattr(rates, "bfloat16" if dtype == "float16" else dtype))


class Limits(NamedTuple):
    """What bounds a cell beside its FLOPs.

    ``saved`` and ``saved_checkpointed``: most bytes a gradient keeps for its backward pass, without
    and with recomputed blocks; 0 for methods without gradients. ``seconds``: by GPU of ``GPUS``.
    """

    saved: int
    saved_checkpointed: int
    seconds: dict[str, float]


class CostableBackbone(BackboneConfig, Protocol):
    """A backbone whose networks can be built without weights."""

    checkpoint: bool | Literal["auto"]
    max_tokens: int

    def grid(self, frames: int) -> Grid: ...

    def latent_shape(self, frames: int) -> tuple[int, int, int, int, int]: ...

    def meta(self) -> Any:
        """The loaded backbone on the meta device, with its ``vae`` and ``text_encoder`` (or None)."""
        ...


@dataclass
class _StubAdapted:
    parameters: Mapping[str, Tensor]
    scale: float = 1.0


class CountingBackbone:
    """A backbone of one channel and one head that computes nothing and notes every call.

    Queries, keys and hidden states are the latent itself, so that gradients exist. ``small`` is
    the token grid it is given in place of ``real``; a latent that is smaller still is noted with
    its share of ``real``.
    """

    heads = 1
    head_dim = 1

    def __init__(
        self,
        num_blocks: int,
        stages: StageObserver,
        small: Grid | None = None,
        real: Grid | None = None,
    ) -> None:
        self.num_blocks = num_blocks
        self._small = small
        self._real = real or small
        self.calls: Counter[str] = Counter()
        self.log: Counter[Call] = Counter()
        self._stages = stages
        self._held: list[Tensor] = []

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

    def velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool) -> Tensor:
        if not grad:
            return self.predict(latent, timestep, prompt, None, 1.0)
        self._note("gradient", latent.shape[0], None, "velocity", self._share(latent))
        return self._reached(latent * 1)

    @contextlib.contextmanager
    def adapted(
        self, adapter: Adapter, grid: Grid, weights: Mapping[str, Tensor] | None = None
    ) -> Iterator[Adapted]:
        import torch

        fresh = {"weight": torch.zeros(1, requires_grad=True)}
        adapted = _StubAdapted(dict(weights) if weights else fresh)
        with self._holding(*adapted.parameters.values()):
            yield adapted

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
        self._note("gradient" if grad else "partial", 1, block, output, self._share(latent))
        tokens = latent[0, 0].flatten(1).unsqueeze(-1)
        return self._reached(tokens) if grad else tokens.detach()

    def keys_values(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        tokens = self.hidden_states(latent, timestep, prompt, block, grad=grad, output="keys_values")
        return tokens.unsqueeze(-1), tokens.unsqueeze(-1)

    def injected(self, block: int, keys: Tensor, values: Tensor) -> contextlib.AbstractContextManager[None]:
        return self._holding(keys, values)

    def rotary(self, latent: Tensor, positions: Tensor | None = None) -> Rotary:
        import torch

        tokens = latent[0, 0].numel()
        return torch.ones(tokens, 2), torch.zeros(tokens, 2)

    def rotated(self, query: Rotary, key: Rotary) -> contextlib.AbstractContextManager[None]:
        return self._holding(*query, *key)

    @contextlib.contextmanager
    def _holding(self, *tensors: Tensor) -> Iterator[None]:
        before, self._held = self._held, [*self._held, *tensors]
        try:
            yield
        finally:
            self._held = before

    def _reached(self, values: Tensor) -> Tensor:
        """The values, with a gradient of zero with respect to what passes are given from outside."""
        for tensor in self._held:
            values = values + 0 * tensor.sum()
        return values

    def _share(self, latent: Tensor) -> Grid | None:
        grid = self.grid(latent)
        if self._small is None or self._real is None or grid == self._small:
            return None
        sides = zip(self._real, grid, self._small, strict=True)
        return Grid(*(round(real * here / small) for real, here, small in sides))

    def _note(
        self,
        kind: Kind,
        times: int = 1,
        block: int | None = None,
        output: str = "",
        grid: Grid | None = None,
    ) -> None:
        self.log[Call(self._stages.current, kind, block, output, grid)] += times
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


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is looked for inside: that is a tenth of the time of importing and counting, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def method_calls(method: Method, grid: Grid, num_blocks: int) -> dict[Call, int]:
    """How often a method calls the backbone, by running it on a ``CountingBackbone``.

    The token grid is the smallest the method accepts, at most ``grid``: methods call
    no more often on a larger one. Where calls depend on the data, a method's ``at_most()``
    is counted, the same method where they cost the most. Raises InputError when it accepts
    no grid.
    """
    method = at_most(method)
    log = _run_on_stub(method, _smallest_grid(method, grid, num_blocks), grid, num_blocks)
    if any(call.grid and call.grid.frames != grid.frames for call in log):
        # Of few frames a share says nothing exact: the third of five is not that of twenty-one.
        whole = _smallest_grid(method, grid, num_blocks, (grid.frames,))
        log = _run_on_stub(method, whole, grid, num_blocks)
    harness = {Call("encode", "encode"): 1, Call("decode", "decode"): 1}
    return {**log, **harness}


def at_most(method: Method) -> Method:
    """The method with everything that depends on the data at its most expensive."""
    bound = getattr(method, "at_most", None)
    return method if bound is None else cast("Method", bound())


def _run_on_stub(method: Method, small: Grid, real: Grid, num_blocks: int) -> Counter[Call]:
    import torch

    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(1, 1, *small, generator=generator) for _ in range(2))
    observer = StageObserver()
    backbone = CountingBackbone(num_blocks, observer, small, real)
    with torch.random.fork_rng(devices=[]):
        method.transfer(cast("Backbone", backbone), reference, "", noise, observer)
    return backbone.log


def _smallest_grid(method: Method, grid: Grid, num_blocks: int, frames: Sequence[int] = ()) -> Grid:
    sides = (4, 6, 8, 12, 16, 24, 32)
    for count in frames or (min(2, grid.frames), grid.frames):
        for side in sides:
            candidate = Grid(count, min(side, grid.height), min(side, grid.width))
            with contextlib.suppress(InputError):
                method.check(candidate, num_blocks)
                return candidate
    method.check(grid, num_blocks)
    return grid


def unit_cost(config: BackboneConfig, frames: int, call: Call) -> Cost:
    """FLOPs of one call, of one batch element or one prompt, on clips of ``frames``.

    Counted once a process. InputError when the backbone has no cost model.
    """
    return _unit_cost(_ByText((_costable(config), frames)), call.kind, call.block, call.output, call.grid)


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


def _networks(config: CostableBackbone, recompute: bool = True) -> Any:
    """The networks on the meta device; blocks are recomputed only where the configuration says always."""
    always = recompute and config.checkpoint is True
    return _meta(_ByText(replace(cast("Any", config), checkpoint=always)))


@lru_cache(maxsize=4)
def _meta(config: _ByText) -> Any:
    return config.value.meta()


def _inputs(
    config: CostableBackbone, frames: int, wan: Any, grid: Grid | None = None
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


def _forward(config: CostableBackbone, frames: int, wan: Any) -> None:
    wan.predict(*_inputs(config, frames, wan), None, 1.0)


def _captured(config: CostableBackbone, where: _Where, wan: Any, grad: bool) -> tuple[Tensor, ...]:
    latent, timestep, prompt = _inputs(config, where.frames, wan, where.grid)
    latent.requires_grad_(grad)
    at = () if where.block is None else (where.block,)
    captured = getattr(wan, where.output)(latent, timestep, prompt, *at, grad=grad)
    return captured if isinstance(captured, tuple) else (captured,)


def _partial(config: CostableBackbone, where: _Where, wan: Any, *, grad: bool) -> None:
    import torch

    tensors = _captured(config, where, wan, grad)
    if grad:
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


WHOLE: dict[Kind, Callable[[CostableBackbone, int, Any], None]] = {
    "forward": _forward,
    "embed": _embed,
    "encode": _encode,
    "decode": _decode,
}


# --- limits ------------------------------------------------------------------------------------


@_uncollected()
def limits(method: Method, config: BackboneConfig, frames: int) -> Limits:
    """Bytes saved for the backward pass, and each GPU's shortest time for one cell (``roofline``).

    Raises InputError as ``cost_report``.
    """
    costable = _costable(config)
    expected = _expected(_ByText((config, method, frames)))
    saved = [
        _saved_both(costable, _Where(frames, call.block, call.output, call.grid))
        for call in expected
        if call.kind == "gradient"
    ]
    plain = max((without for without, _ in saved), default=0)
    checkpointed = max((recomputed for _, recomputed in saved), default=0)
    seconds = {name: sum(stages.values()) for name, stages in roofline(method, config, frames).items()}
    return Limits(plain, checkpointed, seconds)


def roofline(method: Method, config: BackboneConfig, frames: int) -> dict[str, dict[str, float]]:
    """Each GPU's shortest seconds for one cell, by stage.

    An operator takes at least its executed FLOPs over the GPU's rate in its precision, and at least
    the bytes of its operands and results over the bandwidth, each read or written once; the longer
    of the two, summed over all operators run one by one (attention fused, nothing else), is the
    time. Raises InputError as ``cost_report``.
    """
    costable = _costable(config)
    expected = _expected(_ByText((config, method, frames)))
    work = {call: _work(_ByText((costable, frames)), *call[1:]) for call in expected}
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


class _Work(NamedTuple):
    """What one call executes.

    ``operators``: how many there are of each (rate, FLOPs, bytes). ``again``: FLOPs of attention's
    backward passes beyond what their gradients need.
    """

    operators: Counter[tuple[str, int, int]]
    again: int = 0

    @property
    def flops(self) -> int:
        return sum(times * flops for (_, flops, _), times in self.operators.items())


@lru_cache(maxsize=256)
def _work(key: _ByText, kind: Kind, block: int | None, output: str, grid: Grid | None) -> _Work:
    config, frames = key.value
    wan = _networks(config)
    if kind in ("partial", "gradient"):
        where = _Where(frames, block, output, grid)
        return _operators(lambda: _partial(config, where, wan, grad=kind == "gradient"))
    return _operators(lambda: WHOLE[kind](config, frames, wan))


def _operators(run: Callable[[], None]) -> _Work:
    """What ``run`` executes on the meta device, with fused attention."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    # PyTorch's own counts of these two are 0 in some versions.
    formulas = {
        attention: lambda *shapes, **_: _attention_flops(*shapes[:3]),
        attention_backward: lambda *shapes, **_: int(FUSED_BACKWARD * _attention_flops(*shapes[1:4])),
    }
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    free = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach", "lift_fresh"}
    found: Counter[tuple[str, int, int]] = Counter()
    again = 0
    known: dict[Any, tuple[tuple[str, int, int], int, Callable[[], Any]]] = {}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal again
            kwargs = kwargs or {}
            packet = func._overloadpacket
            if func.is_view or packet.__name__ in free:
                return func(*args, **kwargs)
            seen: list[Tensor] = []
            call = func, _described((args, kwargs), seen)
            # Most shapes of a network come again, and PyTorch takes its time to find the result's.
            if call in known:
                operator, more, make = known[call]
                result = make()
            else:
                with counter:
                    result = func(*args, **kwargs)
                flops = counter.get_total_flops()
                _described(result, seen)
                # An expanded tensor reads no more than it holds.
                moved = sum(min(one.numel() * one.itemsize, one.untyped_storage().nbytes()) for one in seen)
                half = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in seen)
                single = "tf32" if "convolution" in packet.__name__ else "float32"
                operator = "bfloat16" if half else single, flops, moved
                more = flops - _gradient_flops(*args[1:4]) if packet is attention_backward else 0
                written = any(returned.alias_info for returned in func._schema.returns)
                if not written and all(tensor.is_meta for tensor in seen):
                    known[call] = operator, more, _maker(result)
            found[operator] += 1
            again += more
            return result

    with _fused_attention(), Watch():  # type: ignore[no-untyped-call]
        run()
    return _Work(found, again)


def _described(value: Any, seen: list[Tensor]) -> Any:
    """Arguments as a key that is equal where results have the same shapes; their tensors go to ``seen``."""
    import torch

    if isinstance(value, torch.Tensor):
        place = next((at for at, known in enumerate(seen) if known is value), len(seen))
        if place == len(seen):
            seen.append(value)
        held = value.untyped_storage().nbytes()
        return place, value.shape, value.stride(), value.dtype, value.device, value.requires_grad, held
    if isinstance(value, tuple | list):
        return tuple([_described(one, seen) for one in value])
    if isinstance(value, dict):
        return tuple([(name, _described(one, seen)) for name, one in value.items()])
    return type(value), value


def _maker(result: Any) -> Callable[[], Any]:
    """Makes tensors on the meta device like the results of an operator."""
    import torch

    if isinstance(result, torch.Tensor):
        size, stride, dtype = result.shape, result.stride(), result.dtype
        return lambda: torch.empty_strided(size, stride, dtype=dtype, device="meta")
    if isinstance(result, tuple | list):
        kind, makers = type(result), [_maker(one) for one in result]
        return lambda: kind([make() for make in makers])
    return lambda: result


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    """Two products of operands of shape (batch, heads, tokens, width)."""
    batch, heads, queries, width = query
    return 2 * batch * heads * queries * key[2] * (width + value[3])


def _gradient_flops(query: Tensor, key: Tensor, value: Tensor) -> int:
    """The products that the gradients asked for need: one each, and for the first two one more in common."""
    scores = query.requires_grad + key.requires_grad
    values = value.requires_grad + bool(scores)
    batch, heads, queries, width = query.shape
    return int(2 * batch * heads * queries * key.shape[2] * (scores * width + values * value.shape[3]))


@contextlib.contextmanager
def _fused_attention() -> Iterator[None]:
    """Attention on the meta device as a fused kernel sees it: no S x S matrix, five products backward."""
    import torch
    import torch.nn.functional as F

    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **_: Any,
    ) -> Tensor:
        # The only fused kernel whose shapes, FLOPs and derivative PyTorch knows without a device.
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out: Tensor = kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
        return out

    # Not a TorchFunctionMode, which is off during a backward pass, where blocks may be recomputed.
    plain = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = fused  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


def _saved_both(config: CostableBackbone, where: _Where) -> tuple[int, int]:
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


def limit_lines(method: Method, config: BackboneConfig, frames: int) -> list[str]:
    """``limits`` in words, for the command line. Empty for finished videos."""
    if not method.uses_backbone:
        return []
    found = limits(method, config, frames)
    lines = []
    if at_most(method) != method:
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
    return method_calls(method, _costable(config).grid(frames), config.num_blocks)


def cell_flops(
    config: BackboneConfig,
    method: Method,
    frames: int,
    calls: Mapping[str, int],
    encoded: bool = True,
) -> Flops:
    """FLOPs of one cell from the ``calls`` its backbone counted, with encoding, decoding and text.

    ``encoded`` False: its reference's latent was shared by the cells of the clip.

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
        if call.kind not in DIT and (encoded or call.kind != "encode"):
            model += times * costs[call].model
            executed += times * costs[call].executed
    return Flops(model_flops=model + dit, executed_flops=executed, forward_equivalents=dit / forward)


@_uncollected()
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
    what = {
        "queries_keys": "queries and keys",
        "keys_values": "keys and values",
        "hidden_states": "hidden states",
    }.get(call.output, call.output)
    where = "" if call.block is None else f" of block {call.block}"
    size = f" at {'x'.join(map(str, call.grid))}" if call.grid else ""
    return f"{'gradient' if call.kind == 'gradient' else 'partial'}, {what}{where}{size}"


__all__ = [
    "GPUS",
    "Call",
    "Cost",
    "CountingBackbone",
    "Gpu",
    "Limits",
    "cell_flops",
    "cost_report",
    "gpu_named",
    "limit_lines",
    "limits",
    "method_calls",
    "peak_rate",
    "roofline",
    "unit_cost",
]
