"""The cost model against formulas, and against FLOPs counted in real runs on a CPU."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import conf
from datasets.errors import InputError
from harness.cost import calls as cost_calls
from harness.cost import cards
from harness.cost import model as cost
from harness.cost.calls import Call
from harness.cost.meta import on_meta
from methods.backbones.diffusers_config import Architecture
from methods.backbones.interface import Backbone, BackboneConfig, Grid
from methods.backbones.wan import WanBackbone
from methods.interface import LatentMethod, Observer

FRAMES, TEXT_TOKENS, CHANNELS, TEXT_DIM, FFN, HEADS, HEAD_DIM, BLOCKS = 9, 12, 8, 16, 48, 2, 12, 3
WIDTH = HEADS * HEAD_DIM
FREQUENCIES = 32
TOKENS = 3 * 4 * 6

TINY = WanBackbone(
    name="tiny",
    model="nobody/nothing",
    weights="random",
    height=32,
    width=48,
    steps=4,
    shift=3.0,
    guidance_scale=4.0,
    negative_prompt="",
    max_tokens=TEXT_TOKENS,
    architecture=Architecture(
        transformer={
            "patch_size": (1, 2, 2),
            "num_attention_heads": HEADS,
            "attention_head_dim": HEAD_DIM,
            "in_channels": CHANNELS,
            "out_channels": CHANNELS,
            "text_dim": TEXT_DIM,
            "freq_dim": FREQUENCIES,
            "ffn_dim": FFN,
            "num_layers": BLOCKS,
        },
        vae={
            "base_dim": 8,
            "z_dim": CHANNELS,
            "dim_mult": [1, 2, 4],
            "num_res_blocks": 1,
            "temperal_downsample": [True, True],
            "scale_factor_spatial": 4,
            "scale_factor_temporal": 4,
            "latents_mean": [0.0] * CHANNELS,
            "latents_std": [1.0] * CHANNELS,
        },
        text_encoder={
            "vocab_size": 50,
            "d_model": TEXT_DIM,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
        },
    ),
)


@dataclass
class Uncounted(BackboneConfig):
    """A backbone without a cost model."""

    name: str = "uncounted"
    height: int = 32
    width: int = 48
    max_tokens: int = 4
    version = "1"
    num_blocks = BLOCKS

    def grid(self, frames: int) -> Grid:
        return TINY.grid(frames)

    def check(self, frames: int, device: str) -> Grid:
        return self.grid(frames)

    def identity(self) -> str:
        return "none"

    def load(self, device: str) -> Backbone:
        raise NotImplementedError


SELF_ATTENTION = 4 * TOKENS**2 * WIDTH
CROSS_ATTENTION = 4 * TOKENS * TEXT_TOKENS * WIDTH
# Linear maps of video tokens in a block: q, k, v, out; q and out of cross-attention; two of the FFN.
VIDEO_LINEAR = 2 * TOKENS * WIDTH * (6 * WIDTH + 2 * FFN)
TEXT_LINEAR = 2 * TEXT_TOKENS * WIDTH * 2 * WIDTH
BLOCK = SELF_ATTENTION + CROSS_ATTENTION + VIDEO_LINEAR + TEXT_LINEAR
PATCH = 2 * TOKENS * 4 * CHANNELS * WIDTH
CONDITION = (
    2 * FREQUENCIES * WIDTH + 2 * WIDTH**2 + 12 * WIDTH**2 + 2 * TEXT_TOKENS * (TEXT_DIM + WIDTH) * WIDTH
)
PROJECTIONS = 4 * TOKENS * WIDTH**2


@dataclass
class Toy(LatentMethod):
    """A method that uses everything once, and some things more often."""

    name: str = "toy"
    gradients: int = 3
    block: int = 2
    version = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        if min(grid.height, grid.width) < 4:
            raise InputError("too small")

    def transfer(self, backbone, reference, prompt, noise, observer):
        with observer.stage("text"):
            prompts = backbone.embed([prompt, ""])
        schedule = backbone.schedule(4)
        with observer.stage("extract"):
            backbone.queries_keys(reference, schedule.timesteps[0] * 0, prompts[1:], self.block, grad=False)
        latent = noise
        for index, timestep in enumerate(schedule.timesteps):
            with observer.stage("guide"):
                for _ in range(self.gradients if index == 0 else 0):
                    x = latent.detach().requires_grad_()
                    query, key = backbone.queries_keys(x, timestep, prompts[:1], self.block, grad=True)
                    (query.sum() + key.sum()).backward()
                    latent = latent - 1e-3 * x.grad
            with observer.stage("denoise"):
                velocity = backbone.predict(latent, timestep, prompts[:1], prompts[1:], 4.0)
                latent = backbone.step(latent, velocity, schedule, index)
        return latent


def test_one_forward_is_what_the_layers_add_up_to():
    forward = cost.unit_cost(TINY, FRAMES, Call("", "forward"))
    expected = PATCH + CONDITION + BLOCKS * BLOCK + PATCH
    assert forward == (expected, expected)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_partial_forward_is_the_blocks_before_it_and_two_projections(block):
    expected = PATCH + CONDITION + block * BLOCK + PROJECTIONS
    partial = cost.unit_cost(TINY, FRAMES, Call("", "partial", block, "queries_keys"))
    assert partial == (expected, expected)
    hidden = cost.unit_cost(TINY, FRAMES, Call("", "partial", block, "hidden_states"))
    assert hidden.model == expected + BLOCK - PROJECTIONS


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_gradient_doubles_attention_backward_and_needs_none_of_the_text(block):
    partial = cost.unit_cost(TINY, FRAMES, Call("", "partial", block, "queries_keys")).model
    gradient = cost.unit_cost(TINY, FRAMES, Call("", "gradient", block, "queries_keys"))
    linear = PATCH + block * VIDEO_LINEAR + PROJECTIONS
    # Keys and values of the text need no gradient: half of the four products of a backward pass.
    assert gradient.model == partial + linear + block * (2 * SELF_ATTENTION + CROSS_ATTENTION)
    assert gradient.executed == partial + linear + block * 2.5 * (SELF_ATTENTION + CROSS_ATTENTION)


def counted(run) -> int:
    # Before 2.15 PyTorch counts its other fused kernels by these, and that of a processor as 0.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    mapping = {
        fused: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
        fused_backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("output", ["queries_keys", "hidden_states"])
def test_executed_flops_are_those_of_a_real_backward_pass(checkpoint, output):
    config = replace(TINY, checkpoint=checkpoint)
    wan = config.load("cpu")
    latent = torch.randn(config.latent_shape(FRAMES)).requires_grad_()
    prompt = wan.embed(["a"])

    def run() -> None:
        captured = getattr(wan, output)(latent, torch.tensor(500.0), prompt, 2, grad=True)
        tensors = captured if isinstance(captured, tuple) else (captured,)
        sum(tensor.sum() for tensor in tensors).backward()

    unit = cost.unit_cost(config, FRAMES, Call("", "gradient", 2, output))
    assert unit.executed == counted(run)
    assert unit.model == cost.unit_cost(TINY, FRAMES, Call("", "gradient", 2, output)).model


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_the_vae_is_counted_as_it_runs(frames):
    wan = TINY.load("cpu")
    video = np.zeros((frames, 32, 48, 3), np.uint8)
    latent = wan.encode(video)
    encode, decode = (cost.unit_cost(TINY, frames, Call("", kind)) for kind in ("encode", "decode"))
    assert encode.model == encode.executed == counted(lambda: wan.encode(video))
    assert decode.model == decode.executed == counted(lambda: wan.decode(latent))


def test_the_text_encoder_is_counted_only_where_there_is_one():
    from transformers import UMT5Config, UMT5EncoderModel

    assert cost.unit_cost(TINY, FRAMES, Call("", "embed")) == (0, 0)
    encoder = UMT5EncoderModel(UMT5Config(**TINY.architecture.text_encoder)).eval()
    tokens = torch.zeros(1, TEXT_TOKENS, dtype=torch.long)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
        expected = counted(lambda: encoder(tokens))
    unit = cost.unit_cost(replace(TINY, weights="pretrained"), FRAMES, Call("", "embed"))
    assert unit.model == expected > 0


def test_calls_are_counted_by_stage_without_a_backbone():
    calls = cost_calls.method_calls(Toy(gradients=5), Grid(21, 30, 52), 30)
    assert calls == {
        Call("text", "embed"): 2,
        Call("encode", "encode"): 1,
        Call("extract", "partial", 2, "queries_keys"): 1,
        Call("guide", "gradient", 2, "queries_keys"): 5,
        Call("denoise", "forward"): 8,
        Call("decode", "decode"): 1,
    }
    with pytest.raises(InputError, match="too small"):
        cost_calls.method_calls(Toy(), Grid(21, 3, 52), 30)


def test_the_stub_counts_as_the_backbone_does():
    wan, method = TINY.load("cpu"), Toy()
    latent = torch.randn(TINY.latent_shape(FRAMES))
    method.transfer(wan, latent, "a", latent, Observer())
    stub = cost_calls.CountingBackbone(BLOCKS, cost_calls.StageObserver())
    method.transfer(stub, latent[:, :1], "a", latent[:, :1], Observer())
    assert stub.calls == wan.calls == {"forward": 8, "partial": 1, "gradient": 3}


def test_a_cell_s_flops_are_those_of_a_real_run():
    wan, method = TINY.load("cpu"), Toy()
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 48, 3), dtype=np.uint8)
    noise = torch.randn(TINY.latent_shape(FRAMES))
    real = counted(lambda: wan.decode(method.transfer(wan, wan.encode(video), "a", noise, Observer())))
    flops = cost.cell_flops(TINY, method, FRAMES, wan.calls)
    assert flops.reason is None
    assert flops.executed_flops == pytest.approx(real, rel=1e-12)
    forward = cost.unit_cost(TINY, FRAMES, Call("", "forward")).model
    partial = cost.unit_cost(TINY, FRAMES, Call("", "partial", 2, "queries_keys")).model
    gradient = cost.unit_cost(TINY, FRAMES, Call("", "gradient", 2, "queries_keys")).model
    assert flops.forward_equivalents == pytest.approx((8 * forward + partial + 3 * gradient) / forward)
    assert flops.model_flops < flops.executed_flops


def test_the_report_adds_up_to_the_cell():
    rows = cost.cost_report(Toy(), TINY, FRAMES)
    untrained = [stage for stage in cost_calls.STAGES if stage != "train"]
    assert [row["stage"] for row in rows] == [*untrained, "total"]
    flops = cost.cell_flops(TINY, Toy(), FRAMES, {"forward": 8, "partial": 1, "gradient": 3})
    assert rows[-1]["flops"] == pytest.approx(flops.model_flops)
    assert rows[-1]["executed_flops"] == pytest.approx(flops.executed_flops)
    assert rows[-1]["forward_equivalents"] == pytest.approx(flops.forward_equivalents)


def test_calls_count_as_often_as_they_were_made_not_as_often_as_at_most():
    """A method whose calls depend on the data makes fewer of them than are expected."""
    every = {"forward": 8, "partial": 1, "gradient": 3}
    most = cost.cell_flops(TINY, Toy(), FRAMES, every)
    for kind, block in (("forward", None), ("gradient", 2)):
        call = Call("", kind) if block is None else Call("", kind, block, "queries_keys")
        one = cost.unit_cost(TINY, FRAMES, call)
        fewer = cost.cell_flops(TINY, Toy(), FRAMES, {**every, kind: every[kind] - 2})
        assert most.model_flops - fewer.model_flops == pytest.approx(2 * one.model)
        assert most.executed_flops - fewer.executed_flops == pytest.approx(2 * one.executed)


# --- latents smaller than the clip's ---


@dataclass
class Thrifty(Toy):
    """Reads every ``stride``-th frame, averaged ``pool`` x ``pool``."""

    stride: int = 2
    pool: int = 2

    def check(self, grid: Grid, num_blocks: int) -> None:
        if grid.frames <= self.stride:
            raise InputError("too short")

    def transfer(self, backbone, reference, prompt, noise, observer):
        prompts, latent = backbone.embed([prompt]), reference
        with observer.stage("guide"):
            for _ in range(self.gradients):
                x = latent.detach().requires_grad_()
                small = torch.nn.functional.avg_pool3d(x[:, :, :: self.stride], (1, self.pool, self.pool))
                query, key = backbone.queries_keys(small, torch.tensor(0.0), prompts, self.block, grad=True)
                (query.sum() + key.sum()).backward()
                latent = latent - x.grad
        return latent


@pytest.mark.parametrize("frames, stride, pool", [(21, 1, 2), (21, 2, 1), (21, 3, 2), (8, 5, 1)])
def test_calls_on_a_smaller_latent_are_noted_with_their_size(frames, stride, pool):
    calls = cost_calls.method_calls(Thrifty(stride=stride, pool=pool), Grid(frames, 30, 52), 30)
    size = Grid(len(range(0, frames, stride)), 30 // pool, 52 // pool)
    assert calls[Call("guide", "gradient", 2, "queries_keys", size)] == 3


def test_a_call_on_a_smaller_latent_costs_what_it_costs_on_a_smaller_clip():
    small = replace(TINY, height=16, width=24)
    for kind in ("partial", "gradient"):
        there = cost.unit_cost(small, 5, Call("", kind, 2, "queries_keys"))
        here = cost.unit_cost(TINY, FRAMES, Call("", kind, 2, "queries_keys", Grid(2, 2, 3)))
        assert here == there
        assert here.model < cost.unit_cost(TINY, FRAMES, Call("", kind, 2, "queries_keys")).model / 4


def test_the_flops_of_guidance_on_a_smaller_latent_are_those_of_a_real_run():
    wan, method = TINY.load("cpu"), Thrifty()
    video = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 48, 3), dtype=np.uint8)
    noise = torch.randn(TINY.latent_shape(FRAMES))
    real = counted(lambda: wan.decode(method.transfer(wan, wan.encode(video), "a", noise, Observer())))
    flops = cost.cell_flops(TINY, method, FRAMES, wan.calls)
    assert flops.executed_flops == pytest.approx(real, rel=1e-12)


def test_what_depends_on_the_data_is_counted_at_its_most_expensive():
    @dataclass
    class Adaptive(Toy):
        def at_most(self):
            return Toy(gradients=7)

    assert cost_calls.method_calls(Adaptive(), Grid(21, 30, 52), 30) == cost_calls.method_calls(
        Toy(gradients=7), Grid(21, 30, 52), 30
    )
    assert cost.limit_lines(Adaptive(), TINY, FRAMES)[0].startswith("at most")
    assert not cost.limit_lines(Toy(), TINY, FRAMES)[0].startswith("at most")


def test_an_encoding_shared_by_a_clip_s_cells_is_no_cell_s_cost():
    calls = {"forward": 8, "gradient": 3}
    whole, shared = (cost.cell_flops(TINY, Toy(), FRAMES, calls, encoded=e) for e in (True, False))
    encode = cost.unit_cost(TINY, FRAMES, Call("", "encode")).model
    assert whole.model_flops - shared.model_flops == pytest.approx(encode)
    assert whole.forward_equivalents == shared.forward_equivalents


@pytest.mark.parametrize(
    "call",
    [
        *(Call("", kind) for kind in ("forward", "embed", "encode", "decode")),
        Call("", "partial", 1, "queries_keys"),
        *(
            Call("", "gradient", block, output)
            for block, output in [
                (0, "queries_keys"),
                (2, "queries_keys"),
                (1, "hidden_states"),
                (None, "velocity"),
            ]
        ),
    ],
    ids=cost_calls.describe,
)
def test_model_flops_are_what_torch_counts_of_unfused_attention(call):
    backbone = on_meta(TINY, FRAMES)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        counter = FlopCounterMode(display=False)
        with counter:
            backbone.run(call)
    assert cost.unit_cost(TINY, FRAMES, call).model == counter.get_total_flops()


def test_a_backbone_without_a_cost_model_says_so():
    with pytest.raises(InputError, match=r"backbone\.name=uncounted: this backbone has no cost model"):
        cost.cost_report(Toy(), Uncounted(), FRAMES)
    flops = cost.cell_flops(Uncounted(), Toy(), FRAMES, {"forward": 1})
    assert flops.model_flops is None
    assert "uncounted" in flops.reason


def test_calls_that_no_method_makes_have_no_flops():
    assert "hidden" in cost.cell_flops(TINY, Toy(), FRAMES, {"hidden": 1}).reason


def composed(method: str, backbone: str):
    with initialize_config_dir(str(Path(conf.__file__).parent), version_base="1.3"):
        composition = compose("config", [f"method={method}", f"backbone={backbone}", "frames=81"])
    parts = OmegaConf.to_container(composition, resolve=False)
    resolved = OmegaConf.create({name: parts[name] for name in ("method", "backbone")})
    return instantiate(resolved.method, _convert_="object"), instantiate(
        resolved.backbone, _convert_="object"
    )


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


# The promised totals for 50 steps with classifier-free guidance at 480x832 and 81 frames; a floor
# would be undercut by leaving something out of the count.
TOTALS = [
    ("none", "wan2.1-1.3b", 100, 100),
    ("fastvmt", "wan2.1-1.3b", 151, 155),
    ("no_skipping", "wan2.1-1.3b", 227, 232),
    ("full_attention", "wan2.1-1.3b", 227, 232),
    ("fastvmt_released", "wan2.1-1.3b", 185, 206),
    ("fastvmt_turbo", "wan2.1-1.3b", 73.7, 74),
    ("fastvmt", "wan2.1-14b", 136, 140),
    ("no_skipping", "wan2.1-14b", 189, 194),
    ("full_attention", "wan2.1-14b", 189, 194),
    ("fastvmt_turbo", "wan2.1-14b", 66.1, 67),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, wan, low, high", TOTALS)
def test_published_wan_in_forward_equivalents(empty_cache, name, wan, low, high):
    method, backbone = composed(name, wan)
    total = cost.cost_report(method, backbone, 81)[-1]["forward_equivalents"]
    assert low - 0.5 <= total <= high


@pytest.mark.slow
def test_the_largest_wan_needs_no_more_memory_and_time_than_its_network_says(empty_cache):
    method, backbone = composed("fastvmt", "wan2.1-14b")
    rows = cost.cost_report(method, backbone, 81)
    limits = cost.limits(method, backbone, 81)
    forward = next(row for row in rows if row["operation"] == "DiT forward")
    assert forward["flops"] / forward["calls"] == pytest.approx(1.678e15, rel=1e-3)
    assert math.isfinite(rows[-1]["executed_flops"])
    # Guidance of 14B beside its 28 GB of weights does not fit a card of 80 GB unless blocks are recomputed.
    assert limits.saved_checkpointed < 20e9 < 52e9 < limits.saved
    h100 = cards.GPUS["H100 SXM"]
    assert limits.seconds["H100 SXM"] > rows[-1]["flops"] / h100.bfloat16


@pytest.mark.slow
def test_the_largest_wan_is_counted_in_half_a_minute(tmp_path):
    """The whole command, imports and all, in seconds of a processor; a busy one gets half as many more."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "harness",
            "action=cost",
            "method=fastvmt",
            "backbone=wan2.1-14b",
            "frames=81",
        ],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path)},
        cwd=Path(conf.__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 45
    assert "135.8" in done.stdout


def test_flops_of_an_amortised_cell_are_without_the_encoding_that_its_clip_s_cells_share(tmp_path):
    from harness.cells import run
    from harness.cells.plan import make_plan
    from harness.command.config import make_job
    from harness.command.terminal import HOME

    words = [
        "method=none",
        "backbone.steps=1",
        "frames=5",
        "dataset.clips=1",
        "device=cpu",
        "~metrics.metrics",
    ]
    words += ["measure.warmup_steps=0", "keep_frames=false", f"results={tmp_path}", "+metrics.metrics={}"]
    flops = {}
    for amortise in (False, True):
        with initialize_config_dir(str(HOME / "conf"), version_base="1.3"):
            node = OmegaConf.to_container(
                compose("config", [*words, f"measure.amortise={amortise}"]), resolve=True
            )
        node["backbone"].pop("tuned", None)
        job, _ = make_job(node)
        (record,) = run.run(job, *make_plan(job)).records
        flops[amortise] = record.flops
    rows = cost.cost_report(job.method, job.backbone, job.frames)
    (encode,) = (row["flops"] for row in rows if row["operation"] == "VAE encode")
    whole = sum(row["flops"] for row in rows[:-1])
    assert flops[False].model_flops == pytest.approx(whole)
    assert flops[True].model_flops == pytest.approx(whole - encode)
    assert flops[False].forward_equivalents == flops[True].forward_equivalents == 2
