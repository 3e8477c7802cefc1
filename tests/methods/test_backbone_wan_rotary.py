"""Rotary tables and injected keys and values in Wan, against its own attention and plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from test_backbone_wan import TEXT, TIMESTEP, TRANSFORMER, VAE, backbone

from methods.backbones.diffusers_config import Architecture
from methods.backbones.interface import token_positions

SHAPE = (1, 8, 3, 8, 12)
TOKENS = 3 * 4 * 6


def load(**changes):
    sizes = Architecture(transformer=TRANSFORMER, vae=VAE, text_encoder=TEXT)
    return backbone("nobody/nothing", weights="random", architecture=sizes, **changes).load("cpu")


@pytest.fixture(scope="module")
def wan():
    return load()


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENT, OTHER = drawn(1, *SHAPE), drawn(2, *SHAPE)


def some_tables(wan, seed):
    return tuple(table + 0.3 * drawn(seed, *table.shape) for table in wan.rotary(LATENT))


def attended(wan, run):
    """Queries, keys and values that reach the kernel of every block's self-attention while ``run`` runs."""
    from diffusers.models import attention_dispatch
    from diffusers.models.transformers import transformer_wan

    seen = []
    original = attention_dispatch.dispatch_attention_fn

    def recording(query, key, value, **options):
        if key.shape[1] == TOKENS:
            seen.append((query, key, value))
        return original(query, key, value, **options)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for module in (attention_dispatch, transformer_wan):
            patch.setattr(module, "dispatch_attention_fn", recording)
        run()
    return seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_own_tables_and_its_own_keys_change_no_bit(dtype):
    wan = load(dtype=dtype)
    prompt, negative = wan.embed(["a red square"]), wan.embed(["a blue circle"])
    own = wan.rotary(LATENT)
    block_1 = wan.keys_values(LATENT, TIMESTEP, prompt, 1, grad=False)

    def outputs():
        return [
            wan.predict(LATENT, TIMESTEP, prompt, None, 1.0),
            wan.velocity(LATENT, TIMESTEP, prompt, grad=True).detach(),
            *wan.queries_keys(LATENT, TIMESTEP, prompt, 2, grad=False),
            wan.hidden_states(LATENT, TIMESTEP, prompt, 2, grad=False),
        ]

    plain, both = outputs(), wan.predict(LATENT, TIMESTEP, prompt, negative, 3.0)
    with wan.rotated(own, own):
        rotated, both_rotated = outputs(), wan.predict(LATENT, TIMESTEP, prompt, negative, 3.0)
    with wan.injected(1, *block_1):
        injected = outputs()
    for one, two, three in zip(plain, rotated, injected, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    assert torch.equal(both, both_rotated)


def test_tables_are_those_of_the_positions(wan):
    own = wan.rotary(LATENT)
    positions = token_positions(wan.grid(LATENT))
    for one, other in zip(own, wan.rotary(LATENT, positions), strict=True):
        assert one.shape == (TOKENS, wan.head_dim)
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    moved = positions + drawn(3, *positions.shape)
    cos, sin = wan.rotary(LATENT, moved)
    # Head width 12: two pairs an axis, which turn by position and by position / 100.
    for token in (0, 29, TOKENS - 1):
        angles = [float(position) / divisor for position in moved[token] for divisor in (1, 1, 100, 100)]
        torch.testing.assert_close(cos[token], torch.tensor(angles).cos(), rtol=0, atol=1e-5)
        torch.testing.assert_close(sin[token], torch.tensor(angles).sin(), rtol=0, atol=1e-5)


def test_positions_are_differentiable(wan):
    positions = token_positions(wan.grid(LATENT)).requires_grad_()
    sum(table.sum() for table in wan.rotary(LATENT, positions)).backward()
    assert positions.grad.abs().min(0).values.max() > 0


def test_queries_and_keys_are_turned_pair_by_pair(wan):
    prompt = wan.embed(["a"])
    ones, zeros = torch.ones(TOKENS, wan.head_dim), torch.zeros(TOKENS, wan.head_dim)
    with wan.rotated((ones, zeros), (ones, zeros)):
        unturned = wan.queries_keys(LATENT, TIMESTEP, prompt, 0, grad=False)
    tables = some_tables(wan, 4), some_tables(wan, 5)
    with wan.rotated(*tables):
        ours = wan.queries_keys(LATENT, TIMESTEP, prompt, 0, grad=False)
    for plain, turned, (cos, sin) in zip(unturned, ours, tables, strict=True):
        plain, turned = plain.flatten(0, 1), turned.flatten(0, 1)
        for token, head, pair in [(0, 0, 0), (17, 1, 3), (TOKENS - 1, 1, 5)]:
            a, b = plain[token, head, 2 * pair : 2 * pair + 2]
            c, s = cos[token, 2 * pair : 2 * pair + 2], sin[token, 2 * pair : 2 * pair + 2]
            expected = torch.stack([a * c[0] - b * s[0], b * c[1] + a * s[1]])
            torch.testing.assert_close(turned[token, head, 2 * pair : 2 * pair + 2], expected)


@pytest.mark.parametrize("way", ["predict", "velocity"])
def test_every_block_of_a_pass_has_the_tables(wan, way):
    prompt, negative = wan.embed(["a"]), wan.embed(["red"])
    tables = some_tables(wan, 4), some_tables(wan, 5)
    with wan.rotated(*tables):
        if way == "predict":
            seen = attended(wan, lambda: wan.predict(LATENT, TIMESTEP, prompt, negative, 3.0))
        else:
            seen = attended(wan, lambda: wan.velocity(LATENT, TIMESTEP, prompt, grad=True))
        partial = [wan.queries_keys(LATENT, TIMESTEP, prompt, b, grad=False) for b in range(3)]
    assert len(seen) == 3
    for (query, key, _), ours in zip(seen, partial, strict=True):
        torch.testing.assert_close(query[0], ours[0].flatten(0, 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(key[0], ours[1].flatten(0, 1), rtol=1e-4, atol=1e-5)
    plain = wan.queries_keys(LATENT, TIMESTEP, prompt, 2, grad=False)
    assert not torch.allclose(plain[0], partial[2][0], atol=1e-3)


def test_injected_keys_and_values_reach_one_block_on_both_sides(wan):
    prompt, negative = wan.embed(["a"]), wan.embed(["red"])
    both = wan.keys_values(OTHER, TIMESTEP, prompt, 1, grad=False)
    assert all(x.shape == (3, 24, wan.heads, wan.head_dim) for x in both)
    (of_other,) = attended(wan, lambda: wan.velocity(OTHER, TIMESTEP, prompt, grad=False))[1:2]
    torch.testing.assert_close(both[0].flatten(0, 1), of_other[1][0])
    torch.testing.assert_close(both[1].flatten(0, 1), of_other[2][0])
    run = lambda: wan.predict(LATENT, TIMESTEP, prompt, negative, 3.0)  # noqa: E731
    plain = attended(wan, run)
    with wan.injected(1, *both):
        seen = attended(wan, run)
        inside = wan.queries_keys(LATENT, TIMESTEP, prompt, 1, grad=False)
    for side in range(2):
        assert torch.equal(seen[1][1][side], both[0].flatten(0, 1))
        assert torch.equal(seen[1][2][side], both[1].flatten(0, 1))
    torch.testing.assert_close(seen[0], plain[0])
    torch.testing.assert_close(seen[1][0], plain[1][0])
    assert not torch.allclose(seen[2][1], plain[2][1], atol=1e-3)
    torch.testing.assert_close(inside[1].flatten(0, 1), plain[1][1][0])


def test_contexts_nest_and_put_back_what_they_found(wan):
    prompt = wan.embed(["a"])
    before = [block.attn1.processor for block in wan.transformer.blocks]
    both = wan.keys_values(OTHER, TIMESTEP, prompt, 0, grad=False)
    tables = some_tables(wan, 4), some_tables(wan, 5)
    plain = wan.velocity(LATENT, TIMESTEP, prompt, grad=False)
    with wan.injected(0, *both), wan.rotated(*tables):
        one = wan.velocity(LATENT, TIMESTEP, prompt, grad=False)
    with wan.rotated(*tables), wan.injected(0, *both):
        other = wan.velocity(LATENT, TIMESTEP, prompt, grad=False)
    assert torch.equal(one, other)
    assert not torch.allclose(one, plain, atol=1e-3)
    with pytest.raises(ZeroDivisionError), wan.rotated(*tables):
        raise ZeroDivisionError
    assert [block.attn1.processor for block in wan.transformer.blocks] == before
    assert torch.equal(wan.velocity(LATENT, TIMESTEP, prompt, grad=False), plain)


def loss_of(wan, flat, output):
    prompt = wan.embed(["a red circle"])
    with wan.rotated((flat[0], flat[1]), (flat[2], flat[3])):
        if output == "velocity":
            loss = wan.velocity(LATENT, TIMESTEP, prompt, grad=True).square().sum()
        else:
            query, key = wan.queries_keys(LATENT, TIMESTEP, prompt, 2, grad=True)
            loss = (query * key).sum() + query.square().sum()
        return loss, torch.autograd.grad(loss, [t for t in flat if t.requires_grad], allow_unused=True)


@pytest.mark.parametrize("output", ["velocity", "queries_keys"])
def test_gradients_reach_the_tables_and_are_right(wan, output):
    flat = [table.requires_grad_() for seed in (4, 5) for table in some_tables(wan, seed)]
    _, gradients = loss_of(wan, flat, output)
    step = 1e-2
    for index, gradient in enumerate(gradients):
        direction = drawn(7 + index, *gradient.shape)
        ends = []
        for sign in (1, -1):
            moved = [t.detach().clone().requires_grad_() for t in flat]
            moved[index] = (flat[index].detach() + sign * step * direction).requires_grad_()
            ends.append(loss_of(wan, moved, output)[0].detach())
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-2, atol=2e-2)
    assert all(p.grad is None for p in wan.transformer.parameters())


def test_recomputed_blocks_have_the_tables_too(wan):
    flat = [table.requires_grad_() for seed in (4, 5) for table in some_tables(wan, seed)]
    plain = loss_of(wan, flat, "velocity")[1]
    again = loss_of(load(checkpoint=True), flat, "velocity")[1]
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
