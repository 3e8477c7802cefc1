"""Methods with rotary tables and injected keys: the stub counts what a real network is asked for."""

from __future__ import annotations

import pytest
import torch
from test_harness_cost import BLOCKS, FRAMES, TINY, composed, counted, empty_cache

from harness.cost import calls
from harness.cost import model as cost
from harness.cost.calls import Call
from methods.interface import Observer

__all__ = ["empty_cache"]


@pytest.mark.parametrize("name", ["ditflow", "ditflow_rope", "ropecraft"])
def test_the_stub_counts_as_a_tiny_wan_does(name):
    method, _ = composed(name, "sprites")
    method.steps = 4
    method.optimiser.guided_fraction = 0.5
    if name != "ropecraft":
        method.block = 2
    wan = TINY.load("cpu")
    generator = torch.Generator().manual_seed(0)
    latent, noise = (torch.randn(TINY.latent_shape(FRAMES), generator=generator) for _ in range(2))
    wan.calls.clear()
    result = method.transfer(wan, latent, "a", noise, Observer())
    assert torch.isfinite(result).all()
    expected = calls.method_calls(method, TINY.grid(FRAMES), BLOCKS)
    counted_calls = {
        kind: sum(times for call, times in expected.items() if call.kind == kind) for kind in calls.DIT
    }
    assert {kind: times for kind, times in counted_calls.items() if times} == wan.calls
    assert cost.cell_flops(TINY, method, FRAMES, wan.calls).reason is None


def test_keys_and_values_cost_their_projections():
    wan = TINY.load("cpu")
    latent, prompt = torch.randn(TINY.latent_shape(FRAMES)), wan.embed(["a"])
    unit = cost.unit_cost(TINY, FRAMES, Call("", "partial", 1, "keys_values"))
    real = counted(lambda: wan.keys_values(latent, torch.tensor(500.0), prompt, 1, grad=False))
    assert unit.model == unit.executed == real
    assert real == cost.unit_cost(TINY, FRAMES, Call("", "partial", 1, "queries_keys")).model


# 50 steps with classifier-free guidance are 100. full_attention's 100 gradients up to block 14 add 126.6
# (docs/cost.md); these are 50, or 50 of all blocks: 1 forward, 1 backward of what is linear (0.3 of a
# forward) and 2 of attention (0.7 of it).
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, low, high", [("ditflow", 163, 165), ("ditflow_rope", 163, 165), ("ropecraft", 234, 236)]
)
def test_published_wan_in_forward_equivalents(empty_cache, name, low, high):
    method, backbone = composed(name, "wan2.1-1.3b")
    total = cost.cost_report(method, backbone, 81)[-1]["forward_equivalents"]
    assert low <= total <= high
