"""DiTFlow, by the latent and by rotary tables: formula, gradients, injection, reuse, and no effect at 0."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from harness.cells.measure import Meter, Shared
from harness.cost.calls import Call, method_calls
from methods.backbones.interface import Grid
from methods.ditflow import DiTFlow, displacements, masked_loss
from methods.ditflow_rope import DiTFlowRope
from methods.none import Plain

SAMPLING = {"steps": 5, "guidance_scale": 3.0, "negative_prompt": "blurry", "start": {"strength": None}}
OPTIMISER = {"lr_start": 0.03, "lr_end": 0.02, "iterations": 6, "guided_fraction": 0.4}
STILL = {**OPTIMISER, "lr_start": 0.0, "lr_end": 0.0}


VALUES = {
    "name": "ditflow",
    "block": 1,
    "temperature": 2.0,
    "injection": 0,
    "optimiser": OPTIMISER,
    **SAMPLING,
}


def ditflow(**changes):
    return DiTFlow(**{**VALUES, **changes})


def rope(**changes):
    return DiTFlowRope(**{**VALUES, "tables": "own", "source_prompt": "", **changes})


def latents(frames=3, height=4, width=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, frames, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None, prompt="a red fox"):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, prompt, noise, observer or Recorder())


# --- the formula ---


def loop_displacements(queries, keys, height, width, temperature, soft):
    """As the paper says it, one token at a time, with every head's logits."""
    frames, tokens, heads, size = queries.shape
    found = []
    for i in range(frames):
        for j in range(frames):
            for s in range(tokens):
                logits = [
                    sum(float(queries[i, s, h] @ keys[j, t, h]) / size**0.5 for h in range(heads)) / heads
                    for t in range(tokens)
                ]
                shares = torch.softmax(temperature * torch.tensor(logits, dtype=torch.float64), 0)
                if not soft:
                    best = max(range(tokens), key=lambda t: logits[t])
                    shares = torch.nn.functional.one_hot(torch.tensor(best), tokens).double()
                row = sum(float(shares[t]) * (t // width) for t in range(tokens)) - s // width
                column = sum(float(shares[t]) * (t % width) for t in range(tokens)) - s % width
                found.append([row, column])
    return torch.tensor(found, dtype=torch.float64).view(frames * frames, tokens, 2)


@pytest.mark.parametrize("soft", [True, False])
def test_displacements_are_those_of_a_plain_loop(soft):
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, 6, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    ours = displacements(queries, keys, 2, 3, 2.0, soft=soft)
    torch.testing.assert_close(ours, loop_displacements(queries, keys, 2, 3, 2.0, soft))
    if not soft:
        assert torch.equal(ours, ours.round())
        assert not ours.requires_grad


def test_the_loss_is_over_displaced_tokens_alone():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randint(-1, 2, (4, 6, 2), generator=generator).double()
    generated = torch.randn(4, 6, 2, generator=generator, dtype=torch.float64)
    terms = [
        (float(generated[p, s, axis]) - float(reference[p, s, axis])) ** 2
        for p in range(4)
        for s in range(6)
        for axis in range(2)
        if float(reference[p, s].abs().sum()) > 0
    ]
    assert 0 < len(terms) < generated.numel()
    torch.testing.assert_close(float(masked_loss(generated, reference)), sum(terms) / len(terms))


def test_a_reference_that_displaces_nothing_asks_for_nothing():
    generated = torch.randn(4, 6, 2).requires_grad_()
    loss = masked_loss(generated, torch.zeros(4, 6, 2))
    loss.backward()
    assert loss == 0
    assert not generated.grad.any()


# --- the latent ---


@pytest.mark.parametrize("injection", [None, 0])
def test_latent_gradients_equal_finite_differences(injection):
    method, backbone = ditflow(), FakeBackbone(dtype=torch.float64)
    reference, latent = latents(dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)
    both = backbone.keys_values(reference, timestep, prompt, 0, grad=False)

    def loss(at):
        if injection is None:
            return method.losses(method.extract(backbone, at, timestep, prompt, grad=True), signal)["amf"]
        with backbone.injected(injection, *both):
            return method.losses(method.extract(backbone, at, timestep, prompt, grad=True), signal)["amf"]

    latent.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latent), latent)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(latent + 1e-6 * direction) - loss(latent - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def plain():
    return Plain(name="none", **SAMPLING)


@pytest.mark.parametrize("make", [ditflow, rope])
@pytest.mark.parametrize(
    "off",
    [
        {"injection": None, "optimiser": STILL},
        {"optimiser": {**OPTIMISER, "guided_fraction": 0.0}},
    ],
)
def test_without_strength_it_is_plain_sampling_to_the_last_bit(make, off):
    assert torch.equal(run(make(**off)), run(plain()))


def test_shared_tables_without_strength_are_plain_sampling_too():
    assert torch.equal(run(rope(tables="shared", injection=None, optimiser=STILL)), run(plain()))


@pytest.mark.parametrize("make", [ditflow, rope])
def test_both_ingredients_change_the_result(make):
    results = [
        run(make(injection=injection, optimiser=optimiser))
        for injection in (None, 0)
        for optimiser in (OPTIMISER, STILL)
    ]
    for index, one in enumerate(results):
        assert all(not torch.equal(one, other) for other in results[index + 1 :])
    assert torch.equal(run(make()), run(make()))


@pytest.mark.parametrize("make", [ditflow, rope])
def test_the_loss_falls_within_every_guided_step(make):
    observer = Recorder()
    run(make(), observer=observer)
    for step in range(2):
        losses = [row["amf"] for row in observer.rows if row["step"] == step]
        assert len(losses) == 6
        assert all(b < a for a, b in pairwise(losses))
    assert {row["step"] for row in observer.rows} == {0, 1}
    assert all(row["true_gradient"] for row in observer.rows)


@pytest.mark.parametrize("make", [ditflow, rope])
def test_the_noised_reference_s_keys_are_injected_in_guided_steps_only(make):
    seen = []

    class Watched(FakeBackbone):
        def keys_values(self, latent, timestep, prompt, block, *, grad):
            assert not grad
            seen.append((latent, float(timestep), float(prompt.mean()), block))
            return super().keys_values(latent, timestep, prompt, block, grad=grad)

        def predict(self, latent, timestep, *others):
            seen.append((float(timestep), sorted(self.injections)))
            return super().predict(latent, timestep, *others)

    backbone = Watched()
    run(make(), backbone)
    reference, noise = latents()
    schedule = backbone.schedule(5)
    wanted = []
    for index in range(5):
        timestep = float(schedule.timesteps[index])
        if index < 2:
            noised = backbone.add_noise(reference, noise, float(schedule.sigmas[index]))
            wanted.append((noised, timestep, float(backbone.embed(["a red fox"]).mean()), 0))
        wanted.append((timestep, [0] if index < 2 else []))
    assert len(seen) == len(wanted)
    for ours, expected in zip(seen, wanted, strict=True):
        if len(expected) == 4:
            torch.testing.assert_close(ours[0], expected[0])
            ours, expected = ours[1:], expected[1:]
        assert ours == expected
    assert not backbone.injections


def test_gradient_passes_attend_to_the_injected_keys():
    class Watched(FakeBackbone):
        def queries_keys(self, latent, timestep, prompt, block, *, grad):
            assert sorted(self.injections) == ([0] if grad else [])
            return super().queries_keys(latent, timestep, prompt, block, grad=grad)

    for make in (ditflow, rope):
        run(make(), Watched())


@pytest.mark.parametrize("make", [ditflow, rope])
def test_the_reference_is_read_once_at_timestep_0_with_the_empty_prompt(make):
    backbone = FakeBackbone()
    run(make(), backbone)
    empty = float(backbone.embed([""]).mean())
    assert [row for row in backbone.seen if row[0] == "reference"] == [("reference", 0.0, empty)]


# --- tables ---


class Tabled(FakeBackbone):
    """Notes the tables of every pass that is not differentiated."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def predict(self, latent, timestep, *others):
        self.noted.append(self.tables)
        return super().predict(latent, timestep, *others)


def test_tables_are_carried_through_guided_steps_and_then_dropped():
    backbone = Tabled()
    run(rope(), backbone)
    first, second, *later = backbone.noted
    assert later == [None] * 3
    own = backbone.rotary(latents()[0])
    (query, key), (query_2, key_2) = first, second
    for table in (0, 1):
        assert not torch.equal(query[table], key[table])
        # Adam moves each entry by at most about the learning rate in an iteration.
        assert 0 < (query[table] - own[table]).abs().max() <= 6.1 * 0.03
        assert 0 < (query_2[table] - query[table]).abs().max() <= 6.1 * 0.02
        assert not query[table].requires_grad
    assert (query_2[0] - own[0]).abs().max() > 6.1 * 0.03 or (key_2[0] - own[0]).abs().max() > 6.1 * 0.03


def test_gradients_of_the_tables_equal_finite_differences():
    method, backbone = rope(), FakeBackbone(dtype=torch.float64)
    reference, latent = latents(dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)
    own = [table.double() for table in backbone.rotary(latent)]

    def loss(flat):
        with backbone.rotated((flat[0], flat[1]), (flat[2], flat[3])):
            generated = method.extract(backbone, latent, timestep, prompt, grad=True)
        return method.losses(generated, signal)["amf"]

    flat = [table.clone().requires_grad_() for table in (*own, *own)]
    gradients = torch.autograd.grad(loss(flat), flat)
    generator = torch.Generator().manual_seed(5)
    for index, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            ends = [
                loss([t + sign * 1e-6 * direction if i == index else t for i, t in enumerate(flat)])
                for sign in (1, -1)
            ]
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope.abs() > 1e-6
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_shared_tables_do_not_know_prompt_or_noise():
    first, second = Tabled(), Tabled()
    run(rope(tables="shared"), first)
    reference, noise = latents()
    rope(tables="shared").transfer(second, reference, "a blue hen", noise.flip(3), Recorder())
    # Beside the passes of the cell's own sampling there are those that the tables are optimised along.
    assert len(first.noted) == len(second.noted) == 2 + 5
    for one, other in zip(first.noted[:4], second.noted[:4], strict=True):
        for pair, again in zip(one, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(pair, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.noted[0][0], first.noted[2][0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.noted[1][1], first.noted[3][1], strict=True))
    assert first.noted[4:] == [None] * 3


def test_further_prompts_pay_only_for_sampling_where_tables_are_shared():
    method, backbone, shared = rope(tables="shared"), FakeBackbone(), Shared()
    alone = run(method, prompt="a blue hen")
    calls = []
    for prompt in ("a red fox", "a blue hen"):
        backbone.calls.clear()
        result = run(method, backbone, Meter(shared=shared, calls=backbone.calls), prompt)
        calls.append(Counter(backbone.calls))
    assert calls[0] == calls[1] == {"forward": 10, "partial": 2}
    assert shared.calls == {"gradient": 12, "partial": 3, "forward": 4}
    assert torch.equal(result, alone)


# --- what it costs, and bad input ---


def test_calls_by_stage():
    partial = Call("extract", "partial", 1, "queries_keys")
    gradient = Call("guide", "gradient", 1, "queries_keys")
    injected = Call("extract", "partial", 0, "keys_values")
    calls = method_calls(ditflow(), Grid(5, 8, 8), 4)
    assert (calls[partial], calls[gradient], calls[injected]) == (1, 12, 2)
    assert calls[Call("denoise", "forward")] == 10
    assert method_calls(rope(), Grid(5, 8, 8), 4) == calls
    assert method_calls(ditflow(injection=None), Grid(5, 8, 8), 4).get(injected) is None
    shared = method_calls(rope(tables="shared"), Grid(5, 8, 8), 4)
    assert shared[gradient] == 12
    assert shared[Call("guide", "forward")] == 4


@pytest.mark.parametrize(
    "changes, grid, word",
    [
        ({"block": 4}, Grid(3, 4, 5), "method.block=4"),
        ({"injection": 4}, Grid(3, 4, 5), "method.injection=4"),
        ({}, Grid(1, 4, 5), "frames"),
    ],
)
def test_bad_input_names_its_key(changes, grid, word):
    with pytest.raises(InputError, match=word):
        ditflow(**changes).check(grid, 4)
    ditflow().check(Grid(2, 1, 1), 4)


@pytest.mark.parametrize("make", [ditflow, rope])
def test_a_latent_that_is_no_longer_finite_is_an_error(make):
    reference, noise = latents()
    with pytest.raises(FloatingPointError, match="NaN latents"):
        make().transfer(FakeBackbone(), reference, "a", noise * float("nan"), Recorder())
