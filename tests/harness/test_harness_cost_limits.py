"""What bounds a cell beside its FLOPs: bytes saved for a backward pass, and the time by roofline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_harness_cost import BLOCKS, FRAMES, PATCH, TINY, TOKENS, WIDTH, Toy

from harness.cost import cards
from harness.cost import model as cost
from harness.cost.calls import Call
from harness.cost.meta import saved_bytes
from methods.backbones.memory import counting_saved


@pytest.mark.parametrize("output, block", [("queries_keys", 2), ("hidden_states", 1), ("queries_keys", 0)])
def test_saved_bytes_are_those_of_a_real_run(output, block):
    wan = TINY.load("cpu")
    latent = torch.randn(TINY.latent_shape(FRAMES)).requires_grad_()
    with counting_saved(wan.transformer) as real:
        held = getattr(wan, output)(latent, torch.tensor(500.0), wan.embed(["a"]), block, grad=True)
    assert held is not None
    on_meta = saved_bytes(TINY, FRAMES, Call("", "gradient", block, output))
    assert on_meta.whole == pytest.approx(real.bytes, rel=0.02)


def test_recomputed_blocks_keep_their_input_and_one_block_at_a_time():
    both = [saved_bytes(TINY, FRAMES, Call("", "gradient", b, "queries_keys")) for b in range(3)]
    saved = [one.whole for one in both]
    one = saved[1] - saved[0]
    assert one == saved[2] - saved[1] > 0
    assert both[0].recomputed == saved[0]
    assert both[2].recomputed == saved[0] + one + 2 * TOKENS * WIDTH * 4


def test_a_velocity_s_gradient_passes_through_every_block_and_the_head():
    velocity = cost.unit_cost(TINY, FRAMES, Call("", "gradient", None, "velocity"))
    last = cost.unit_cost(TINY, FRAMES, Call("", "gradient", BLOCKS - 1, "hidden_states"))
    assert velocity.model - last.model == 2 * PATCH
    saved = saved_bytes(TINY, FRAMES, Call("", "gradient", None, "velocity"))
    assert saved.whole > saved_bytes(TINY, FRAMES, Call("", "gradient", BLOCKS - 1, "queries_keys")).whole
    assert saved.recomputed < saved.whole


def test_no_gpu_beats_its_own_rate():
    limits = cost.limits(Toy(), TINY, FRAMES)
    executed = cost.cost_report(Toy(), TINY, FRAMES)[-1]["executed_flops"]
    assert 0 < limits.saved_checkpointed < limits.saved
    assert set(limits.seconds) == set(cards.GPUS)
    for name, gpu in cards.GPUS.items():
        assert gpu.float32 <= gpu.tf32 <= gpu.bfloat16
        assert limits.seconds[name] >= executed / gpu.tf32


def test_recomputed_blocks_take_longer_by_roofline_too():
    plain, recomputed = (
        cost.roofline(Toy(), replace(TINY, checkpoint=checkpoint), FRAMES)["H100 SXM"]
        for checkpoint in (False, True)
    )
    assert recomputed["guide"] > plain["guide"]
    assert {stage: seconds for stage, seconds in recomputed.items() if stage != "guide"} == {
        stage: seconds for stage, seconds in plain.items() if stage != "guide"
    }
    assert cost.limits(Toy(), replace(TINY, checkpoint=True), FRAMES).saved
