"""What code executes on the meta device: its operators with their FLOPs and bytes, attention fused."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.cost.cards import Gpu, Precision

if TYPE_CHECKING:
    from torch import Tensor

# Attention FLOPs of a fused kernel's backward pass over its forward pass: five
# matrix products against two (Dao et al., FlashAttention, 2022).
FUSED_BACKWARD = 2.5

# Operators that move no bytes though PyTorch calls them no views.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach", "lift_fresh"}


class Operator(NamedTuple):
    """One operator: the precision it computes in, its FLOPs, the bytes of its operands and results."""

    precision: Precision
    flops: int
    bytes: int


class Work(NamedTuple):
    """What some code executes: how often each operator comes.

    ``repeated``: FLOPs that the backward passes of fused attention do beyond what their gradients need.
    """

    operators: Counter[Operator]
    repeated: int = 0

    @property
    def flops(self) -> int:
        return sum(times * operator.flops for operator, times in self.operators.items())

    def seconds(self, gpu: Gpu) -> float:
        """The shortest time by roofline: for each operator, the longer of computing and moving."""
        return sum(
            times * max(operator.flops / gpu.rate(operator.precision), operator.bytes / gpu.bandwidth)
            for operator, times in self.operators.items()
        )


class _Known(NamedTuple):
    """An operator that has run; ``result`` makes tensors like those it gave."""

    operator: Operator
    repeated: int
    result: Callable[[], Any]


def executed(run: Callable[[], object]) -> Work:
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
    operators: Counter[Operator] = Counter()
    repeated = 0
    known: dict[Any, _Known] = {}

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal repeated
            kwargs = kwargs or {}
            packet = func._overloadpacket
            if func.is_view or packet.__name__ in FREE:
                return func(*args, **kwargs)
            tensors: list[Tensor] = []
            call = func, _described((args, kwargs), tensors)
            one = known.get(call)
            # Most shapes of a network come again, and PyTorch takes its time to find the result's.
            if one is not None:
                result = one.result()
            else:
                with counter:
                    result = func(*args, **kwargs)
                flops = counter.get_total_flops()
                _described(result, tensors)
                operator = Operator(_precision(packet.__name__, tensors), flops, _moved(tensors))
                more = flops - _gradient_flops(*args[1:4]) if packet is attention_backward else 0
                one = _Known(operator, more, _maker(result))
                written = any(returned.alias_info for returned in func._schema.returns)
                if not written and all(tensor.is_meta for tensor in tensors):
                    known[call] = one
            operators[one.operator] += 1
            repeated += one.repeated
            return result

    with fused_attention(), Watch():  # type: ignore[no-untyped-call]
        run()
    return Work(operators, repeated)


def _precision(operator: str, tensors: Sequence[Tensor]) -> Precision:
    import torch

    if any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in tensors):
        return "bfloat16"
    return "tf32" if "convolution" in operator else "float32"


def _moved(tensors: Sequence[Tensor]) -> int:
    """Bytes of the tensors, each once; an expanded one reads no more than it holds."""
    return sum(min(one.numel() * one.itemsize, one.untyped_storage().nbytes()) for one in tensors)


def _described(value: Any, tensors: list[Tensor]) -> Any:
    """Arguments as a key that is equal where results have the same shapes; ``tensors`` grows by theirs."""
    import torch

    if isinstance(value, torch.Tensor):
        place = next((at for at, known in enumerate(tensors) if known is value), len(tensors))
        if place == len(tensors):
            tensors.append(value)
        held = value.untyped_storage().nbytes()
        return place, value.shape, value.stride(), value.dtype, value.device, value.requires_grad, held
    if isinstance(value, tuple | list):
        return tuple([_described(one, tensors) for one in value])
    if isinstance(value, dict):
        return tuple([(name, _described(one, tensors)) for name, one in value.items()])
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
def fused_attention() -> Iterator[None]:
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


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """No garbage is looked for inside: that is a tenth of the time of importing and counting, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


__all__ = ["Operator", "Work", "executed", "fused_attention", "gc_paused"]
