"""Adapters on a small random Wan: no effect at first, what their formula says later, gone afterwards."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

from methods.backbones.adapters import Sites, adapted
from methods.backbones.diffusers_config import Architecture
from methods.backbones.interface import Grid, LowRank, MotionEmbedding, TemporalConvolution
from methods.backbones.wan import WanBackbone

GRID = Grid(3, 4, 6)
TIMESTEP = torch.tensor(613.0)
LORA = LowRank(("self_attention", "feed_forward"), 4, 0.1)
EVERYWHERE = LowRank(("self_attention", "cross_attention", "feed_forward"), 2)
ADAPTERS = [LORA, EVERYWHERE, MotionEmbedding(), MotionEmbedding(value_frames=True), TemporalConvolution(5)]


def backbone(**changes):
    keys = {
        "name": "tiny",
        "model": "nobody/nothing",
        "weights": "random",
        "height": 32,
        "width": 48,
        "steps": 4,
        "shift": 3.0,
        "guidance_scale": 4.0,
        "negative_prompt": "",
        "max_tokens": 12,
        "architecture": Architecture(
            transformer={
                "patch_size": (1, 2, 2),
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "in_channels": 8,
                "out_channels": 8,
                "text_dim": 16,
                "freq_dim": 32,
                "ffn_dim": 48,
                "num_layers": 2,
            },
            vae={
                "base_dim": 8,
                "z_dim": 8,
                "dim_mult": [1, 2, 4],
                "num_res_blocks": 1,
                "temperal_downsample": [True, True],
                "scale_factor_spatial": 4,
                "scale_factor_temporal": 4,
                "latents_mean": [0.0] * 8,
                "latents_std": [1.0] * 8,
            },
            text_encoder={},
        ),
    }
    return WanBackbone(**{**keys, **changes})


@pytest.fixture(scope="module")
def wan():
    return backbone().load("cpu")


@pytest.fixture
def latent():
    return torch.randn(1, 8, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def velocity(wan, latent, grad=False):
    return wan.velocity(latent, TIMESTEP, wan.embed(["a"]), grad=grad)


def state(wan):
    """Everything of a transformer that an adapter could leave a trace in."""
    return {
        "modules": {name: (type(module), id(module)) for name, module in wan.transformer.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in wan.transformer.named_modules()},
        "hooks": [
            len(m._forward_pre_hooks) + len(m._forward_hooks) + len(m._forward_hooks_with_kwargs)
            for m in wan.transformer.modules()
        ],
        "gradients": [p.requires_grad for p in wan.transformer.parameters()],
        "training": [module.training for module in wan.transformer.modules()],
    }


def shaken(parameters, size=0.3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(p.shape, generator=generator) for name, p in parameters.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", ADAPTERS, ids=repr)
def test_a_fresh_adapter_changes_nothing_and_leaves_nothing(wan, latent, adapter, dtype):
    if dtype == "bfloat16":
        wan = backbone(dtype=dtype).load("cpu")
    before = state(wan)
    weights = {name: value.clone() for name, value in wan.transformer.state_dict().items()}
    plain = velocity(wan, latent)
    with warnings.catch_warnings(), wan.adapted(adapter, GRID) as inside:
        warnings.simplefilter("error")
        assert all(p.dtype == torch.float32 and p.requires_grad for p in inside.parameters.values())
        assert torch.equal(velocity(wan, latent), plain)
        for parameter, value in zip(
            inside.parameters.values(), shaken(inside.parameters).values(), strict=True
        ):
            parameter.data.copy_(value)
        assert not torch.allclose(velocity(wan, latent), plain, atol=1e-3)
        inside.scale = 0.0
        assert torch.equal(velocity(wan, latent), plain)
    assert state(wan) == before
    after = wan.transformer.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
    assert torch.equal(velocity(wan, latent), plain)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=repr)
def test_weights_given_are_the_adapter_that_was_trained(wan, latent, adapter):
    with wan.adapted(adapter, GRID) as inside:
        weights = shaken(inside.parameters)
        for name, parameter in inside.parameters.items():
            parameter.data.copy_(weights[name])
        inside.scale = 0.7
        # Dropout is active only while training: not part of what is compared.
        if not getattr(adapter, "dropout", 0):
            trained = velocity(wan, latent)
    with wan.adapted(adapter, GRID, weights) as inside:
        assert not any(p.requires_grad for p in inside.parameters.values())
        inside.scale = 0.7
        found = velocity(wan, latent)
        again = velocity(wan, latent)
    assert torch.equal(found, again)
    if not getattr(adapter, "dropout", 0):
        assert torch.equal(found, trained)
    with (
        pytest.raises(ValueError, match="another adapter"),
        wan.adapted(LowRank(("feed_forward",), 3), GRID, weights),
    ):
        pass
    assert torch.equal(velocity(wan, latent), velocity(wan, latent))


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS[1:], ids=repr)
def test_the_gradient_of_the_adapter_is_that_of_finite_differences(latent, adapter, checkpoint):
    wan = backbone(checkpoint=checkpoint).load("cpu")
    target = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    with wan.adapted(adapter, GRID) as inside:
        for name, value in shaken(inside.parameters).items():
            inside.parameters[name].data.copy_(value)
        parameters = list(inside.parameters.values())
        directions = list(shaken(inside.parameters, 1.0, seed=6).values())

        def loss(step=0.0):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.data.add_(step * direction)
            found = (velocity(wan, latent, grad=True) - target).square().sum()
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.data.sub_(step * direction)
            return found

        gradients = torch.autograd.grad(loss(), parameters)
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        with torch.no_grad():
            numerical = (loss(2e-3) - loss(-2e-3)) / 4e-3
    torch.testing.assert_close(slope, numerical.detach(), rtol=1e-2, atol=0.3)
    assert all(p.grad is None for p in wan.transformer.parameters())


def test_loras_nest_and_each_keeps_its_own(wan, latent):
    plain = velocity(wan, latent)
    before = state(wan)
    with wan.adapted(EVERYWHERE, GRID) as outer:
        weights = shaken(outer.parameters)
        for name, parameter in outer.parameters.items():
            parameter.data.copy_(weights[name])
        alone = velocity(wan, latent)
        with wan.adapted(LORA, GRID) as inner:
            assert not {id(p) for p in inner.parameters.values()} & {id(p) for p in outer.parameters.values()}
            assert all(p.requires_grad for p in (*inner.parameters.values(), *outer.parameters.values()))
            assert torch.equal(velocity(wan, latent), alone)
            outer.scale = 0.0
            assert torch.equal(velocity(wan, latent), plain)
            outer.scale = 1.0
        assert all(p.requires_grad for p in outer.parameters.values())
        assert torch.equal(velocity(wan, latent), alone)
        with wan.adapted(MotionEmbedding(), GRID):
            assert torch.equal(velocity(wan, latent), alone)
    assert state(wan) == before


def test_a_frozen_lora_stays_frozen_under_another(wan):
    with wan.adapted(EVERYWHERE, GRID) as outer:
        weights = shaken(outer.parameters)
    with wan.adapted(EVERYWHERE, GRID, weights) as outer, wan.adapted(LORA, GRID) as inner:
        assert not any(p.requires_grad for p in outer.parameters.values())
        assert all(p.requires_grad for p in inner.parameters.values())


def test_a_lora_is_on_the_parts_it_names_and_on_nothing_else(wan):
    def sites(parts):
        with wan.adapted(LowRank(parts, 2), GRID) as inside:
            return {name.split(".", 2)[2].split(".lora")[0] for name in inside.parameters}

    attention = {"to_q", "to_k", "to_v", "to_out.0"}
    assert sites(("self_attention",)) == {f"attn1.{name}" for name in attention}
    assert sites(("cross_attention",)) == {f"attn2.{name}" for name in attention}
    assert sites(("feed_forward",)) == {"ffn.net.0.proj", "ffn.net.2"}


def test_a_lora_can_be_saved_and_loaded_by_diffusers(wan, latent, tmp_path):
    with wan.adapted(EVERYWHERE, GRID) as inside:
        weights = shaken(inside.parameters)
        for name, parameter in inside.parameters.items():
            parameter.data.copy_(weights[name])
        ours = velocity(wan, latent)
        wan.transformer.save_lora_adapter(tmp_path, adapter_name="adapter0")
    other = backbone().load("cpu")
    other.transformer.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    torch.testing.assert_close(velocity(other, latent), ours, rtol=1e-5, atol=1e-6)


def attention_io(wan, latent, block=0):
    """Inputs of the projections of a block's self-attention, its own input, and its output."""
    found = {}
    attention = wan.transformer.blocks[block].attn1
    hooks = [
        getattr(attention, name).register_forward_hook(lambda m, x, y, name=name: found.update({name: x[0]}))
        for name in ("to_q", "to_k", "to_v")
    ]
    # Registered last, so that it sees the output that goes on.
    hooks.append(attention.register_forward_hook(lambda m, x, y: found.update(input=x[0], output=y)))
    try:
        velocity(wan, latent)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@pytest.mark.parametrize("value_frames", [False, True])
def test_embeddings_are_added_to_the_inputs_of_queries_keys_and_values(wan, latent, value_frames):
    with wan.adapted(MotionEmbedding(value_frames), GRID) as inside:
        weights = shaken(inside.parameters)
        assert weights["blocks.1.queries_keys"].shape == (3, 24)
        assert weights["blocks.1.values"].shape == ((3, 4, 6, 24) if value_frames else (4, 6, 24))
    with wan.adapted(MotionEmbedding(value_frames), GRID, weights):
        found = attention_io(wan, latent)
    for frame in range(3):
        for row in range(4):
            for column in range(6):
                token = (frame * 4 + row) * 6 + column
                plain = found["input"][0, token]
                at = (frame, row, column) if value_frames else (row, column)
                motion, value = weights["blocks.0.queries_keys"][frame], weights["blocks.0.values"][at]
                for name, added in (("to_q", motion), ("to_k", motion), ("to_v", value)):
                    torch.testing.assert_close(found[name][0, token], plain + added)


def test_convolutions_run_along_time_at_each_place_beside_self_attention(wan, latent):
    adapter = TemporalConvolution(5, kernel=3)
    with wan.adapted(adapter, GRID) as inside:
        weights = shaken(inside.parameters)
    plain = attention_io(wan, latent)
    with wan.adapted(adapter, GRID, weights):
        found = attention_io(wan, latent)
    down, up = weights["blocks.0.down"], weights["blocks.0.up"]
    torch.testing.assert_close(found["input"], plain["input"])
    video = found["input"][0].unflatten(0, (3, 24))

    def convolved(kernel, frames, at):
        total = 0
        for tap in range(3):
            if 0 <= at + tap - 1 < 3:
                total = total + kernel[:, :, tap] @ frames[at + tap - 1]
        return total

    for place in range(24):
        hidden = [F.gelu(convolved(down, video[:, place], at)) for at in range(3)]
        for frame in range(3):
            token = frame * 24 + place
            added = found["output"][0, token] - plain["output"][0, token]
            torch.testing.assert_close(added, convolved(up, hidden, frame), rtol=1e-4, atol=1e-5)


class Joint(torch.nn.Module):
    """Joint attention as in CogVideoX: called by keyword, text first inside, video first outside."""

    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(4, 4) for _ in range(3))

    def forward(self, hidden_states, encoder_hidden_states):
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        mixed = self.to_q(tokens) + self.to_k(tokens) + self.to_v(tokens)
        text = encoder_hidden_states.shape[1]
        return mixed[:, text:], mixed[:, :text]


@pytest.mark.parametrize("adapter", [MotionEmbedding(), TemporalConvolution(3)], ids=repr)
def test_text_tokens_of_joint_attention_are_left_alone(adapter):
    block = torch.nn.ModuleDict({"attn1": Joint()})
    network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([block])})
    sites = Sites("blocks", "attn1", None, "ff")
    video, text = torch.randn(2, 2 * 6, 4), torch.randn(2, 5, 4)
    grid, device = Grid(2, 2, 3), torch.device("cpu")
    plain = block["attn1"](hidden_states=video, encoder_hidden_states=text)
    with adapted(network, sites, adapter, grid, device) as inside:
        for name, value in shaken(inside.parameters).items():
            inside.parameters[name].data.copy_(value)
        found = block["attn1"](hidden_states=video, encoder_hidden_states=text)
        with pytest.raises(ValueError, match="latent of 6 tokens"):
            block["attn1"](hidden_states=video[:, :6], encoder_hidden_states=text[:, :0])
    assert torch.equal(found[1], plain[1])
    assert not torch.allclose(found[0], plain[0])


def test_compiled_blocks_run_uncompiled_inside(wan, latent, monkeypatch):
    def compiled(*args, **kwargs):
        raise AssertionError("compiled code does not see the adapter")

    block = wan.transformer.blocks[0]
    monkeypatch.setattr(block, "_compiled_call_impl", compiled)
    with wan.adapted(MotionEmbedding(), GRID):
        velocity(wan, latent)
    assert block._compiled_call_impl is compiled


def test_single_frames_go_through_a_lora(wan, latent):
    with wan.adapted(EVERYWHERE, GRID) as inside:
        one = wan.velocity(latent[:, :, 1:2], TIMESTEP, wan.embed(["a"]), grad=True)
        assert one.shape == (1, 8, 1, 8, 12)
        gradients = torch.autograd.grad(one.sum(), list(inside.parameters.values()), allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
