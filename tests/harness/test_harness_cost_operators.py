"""Operators on the meta device: FLOPs, bytes, fused attention, and the time by roofline."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import torch
from test_harness_cost import FRAMES, TINY, Toy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.cost import calls as cost_calls
from harness.cost import cards, operators
from harness.cost import model as cost
from harness.cost.calls import Call
from harness.cost.meta import on_meta

# What moves no bytes though PyTorch calls it no view.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach", "lift_fresh"}


@pytest.mark.parametrize("tokens", [64, 96])
def test_attention_is_counted_by_the_textbook_formula_on_the_meta_device(tokens):
    shape = (1, 4, tokens, 16)
    work = operators.executed(
        lambda: torch.nn.functional.scaled_dot_product_attention(
            *(torch.empty(shape, device="meta") for _ in range(3))
        )
    )
    assert work.flops == 4 * 4 * tokens**2 * 16


def test_bytes_moved_are_operands_and_results_and_views_are_free():
    a, b = torch.empty(30, 40, device="meta"), torch.empty(40, 50, device="meta")
    work = operators.executed(lambda: (a @ b).t().reshape(-1).view(50, 30))
    assert work.operators["float32", 2 * 30 * 40 * 50, 4 * (30 * 40 + 40 * 50 + 30 * 50)] == 1
    half = operators.executed(lambda: a.bfloat16() @ b.bfloat16())
    assert ("bfloat16", 2 * 30 * 40 * 50, 2 * (30 * 40 + 40 * 50 + 30 * 50)) in half.operators


def test_an_operator_on_other_values_of_the_same_shape_is_another():
    x = torch.empty(4, 6, device="meta")
    shapes = []
    operators.executed(lambda: shapes.extend(part.sum(dim).shape for part in (x, x) for dim in (0, 1)))
    assert shapes == [(6,), (4,), (6,), (4,)]


def test_an_operator_on_another_device_is_another():
    real, devices = torch.zeros(4, 6), []
    operators.executed(lambda: devices.extend((one + one).device.type for one in (real.to("meta"), real)))
    assert devices == ["meta", "cpu"]


@pytest.mark.parametrize(
    "call",
    [Call("", "encode"), Call("", "decode"), Call("", "gradient", 2, "queries_keys")],
    ids=cost_calls.describe,
)
def test_operators_whose_results_are_known_already_count_like_the_first(call):
    """Against every operator run one by one, however often it comes."""
    backbone = on_meta(TINY, FRAMES)
    moved: Counter[int] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **kwargs or {})
            if not func.is_view and func._overloadpacket.__name__ not in FREE:
                leaves = tree_leaves((args, kwargs, result))
                each = {id(leaf): leaf for leaf in leaves if isinstance(leaf, torch.Tensor)}.values()
                sizes = (min(leaf.numel() * leaf.itemsize, leaf.untyped_storage().nbytes()) for leaf in each)
                moved[sum(sizes)] += 1
            return result

    with operators.fused_attention(), Watch():
        backbone.run(call)
    found: Counter[int] = Counter()
    for (_, _, size), times in operators.executed(lambda: backbone.run(call)).operators.items():
        found[size] += times
    assert found == moved


def test_a_roofline_is_the_longer_of_computing_and_moving():
    gpu = cards.Gpu(bfloat16=100.0, tf32=50.0, float32=10.0, bandwidth=20.0)
    each = {("bfloat16", 1000, 20): 2, ("float32", 1000, 20): 1, ("tf32", 0, 60): 3}
    work = operators.Work(Counter({operators.Operator(*one): times for one, times in each.items()}))
    assert work.seconds(gpu) == pytest.approx(2 * 10 + 100 + 3 * 3)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled, monkeypatch):
    inside = []
    monkeypatch.setattr(cost, "unit_cost", lambda *_: inside.append(gc.isenabled()) or cost.Cost(1, 1))
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        cost.cost_report(Toy(), TINY, FRAMES)
        assert gc.isenabled() is enabled
        assert set(inside) == {False}
    finally:
        (gc.enable if before else gc.disable)()


def test_float16_has_the_rate_of_bfloat16():
    gpu = cards.Gpu(bfloat16=100.0, tf32=50.0, float32=10.0, bandwidth=20.0)
    assert [gpu.rate(one) for one in ("bfloat16", "float16", "tf32", "float32")] == [100, 100, 50, 10]
