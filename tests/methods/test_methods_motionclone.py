"""motionclone: its attention, its loss, its shift after the Euler step, and input it cannot use."""

from __future__ import annotations

import math

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.guidance.loop import fixed_noise
from methods.motionclone import MotionClone, frame_attention, motion_loss, ramp
from methods.none import Plain

SAMPLING = {"steps": 5, "guidance_scale": 3.0, "negative_prompt": "blurry", "start": {"strength": None}}


def motionclone(**changes):
    values = {
        "name": "motionclone",
        "block": 1,
        "strength": 200.0,
        "reference_sigma": 0.6,
        "guided_fraction": 0.6,
        "warm_up": 0.0,
        "cool_down": 0.0,
        **SAMPLING,
    }
    return MotionClone(**{**values, **changes})


def latents(frames=4, height=4, width=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, frames, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, "a red fox", noise, observer or Recorder())


def test_attention_is_a_loop_over_places_heads_and_frames():
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 3, 5, 2, 4, generator=generator, dtype=torch.float64)
    found = frame_attention(queries, keys)
    assert found.shape == (5, 2, 3, 3)
    for place in range(5):
        for head in range(2):
            for i in range(3):
                logits = [float(queries[i, place, head] @ keys[j, place, head]) / 2 for j in range(3)]
                total = sum(math.exp(logit) for logit in logits)
                wanted = [math.exp(logit) / total for logit in logits]
                assert found[place, head, i].tolist() == pytest.approx(wanted, rel=1e-12)


def test_the_loss_looks_at_the_reference_s_largest_entries():
    generator = torch.Generator().manual_seed(0)
    reference, generated = torch.softmax(
        torch.randn(2, 5, 2, 3, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    wanted, at = reference.max(-1, keepdim=True)
    total = 0.0
    for place in range(5):
        for head in range(2):
            for i in range(3):
                row = reference[place, head, i].tolist()
                best = row.index(max(row))
                total += (float(generated[place, head, i, best]) - row[best]) ** 2
    assert float(motion_loss(generated, wanted, at)) == pytest.approx(total / 30, rel=1e-12)
    assert float(motion_loss(reference, wanted, at)) == 0


def test_the_strength_rises_and_falls_as_in_the_original():
    """Its camera preset: 50 guided steps, 10 of warm-up, 10 of cool-down."""
    for index in range(50):
        wanted = 1.0
        if index < 10:
            wanted = (index + 1) / 10
        if index > 50 - 10:
            wanted = (50 - index) / 10
        assert ramp(index, 50, 0.2, 0.2) == pytest.approx(wanted)
    assert ramp(0, 1, 0.2, 0.2) == 1


def test_it_is_euler_with_a_shift_down_the_gradient():
    """Against the loop written out here; guided are 3 of 5 steps."""
    backbone = FakeBackbone()
    reference, latent = latents()
    prompt, negative, empty = backbone.embed(["a red fox", "blurry", ""]).split(1)
    schedule = backbone.schedule(5)
    noised = 0.4 * reference + 0.6 * fixed_noise(reference)
    wanted, at = frame_attention(
        *backbone.queries_keys(noised, torch.tensor(600.0), empty, 1, grad=False)
    ).max(-1, keepdim=True)
    for index, timestep in enumerate(schedule.timesteps):
        sigma, following = schedule.sigmas[index : index + 2]
        leaf = latent.clone().requires_grad_()
        attention = frame_attention(*backbone.queries_keys(leaf, timestep, prompt, 1, grad=True))
        motion_loss(attention, wanted, at).backward()
        velocity = backbone.predict(latent, timestep, prompt, negative, 3.0)
        latent = latent + (following - sigma) * velocity
        if index < 3:
            latent = latent - 200 * [0.5, 1, 1][index] * sigma * following * leaf.grad
    observer = Recorder()
    # Of 3 guided steps, round(0.6 * 3) = 2 warm up.
    torch.testing.assert_close(run(motionclone(warm_up=0.6), observer=observer), latent, rtol=1e-4, atol=1e-5)
    assert [row["step"] for row in observer.rows] == [0, 1, 2]


def test_latent_gradients_equal_finite_differences():
    method, backbone = motionclone(), FakeBackbone(dtype=torch.float64)
    reference, latent = latents(dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    wanted, at = method.attention(backbone, reference, torch.tensor(0.0), prompt, grad=False).max(
        -1, keepdim=True
    )

    def loss(x):
        return motion_loss(method.attention(backbone, x, timestep, prompt, grad=True), wanted, at)

    latent.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latent), latent)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(latent + 1e-6 * direction) - loss(latent - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-9)


def test_guided_sampling_has_a_lower_loss_than_unguided():
    """The same steps, once without effect: at the last guided one the loss is lower."""
    last = []
    for strength in (0.0, 200.0):
        observer = Recorder()
        run(motionclone(strength=strength, steps=20), observer=observer)
        last.append([row["total"] for row in observer.rows])
    assert last[0][0] == last[1][0]
    assert last[1][-1] < 0.9 * last[0][-1]


@pytest.mark.parametrize("off", [{"strength": 0.0}, {"guided_fraction": 0.0}])
@pytest.mark.parametrize("strength", [None, 0.75])
def test_guidance_of_no_strength_is_plain_sampling_to_the_last_bit(off, strength):
    start = {"start": {"strength": strength}}
    plain = run(Plain(name="none", **{**SAMPLING, **start}))
    assert torch.equal(run(motionclone(**off, **start)), plain)
    assert not torch.equal(run(motionclone(**start)), plain)


def test_one_gradient_a_guided_step_and_one_reading_of_the_reference():
    backbone, observer = FakeBackbone(), Recorder()
    run(motionclone(), backbone, observer)
    assert backbone.calls == {"partial": 1, "gradient": 3, "forward": 10}
    when, timestep, mean = backbone.seen[0]
    assert (when, mean) == ("reference", float(backbone.embed([""]).mean()))
    assert timestep == pytest.approx(600)
    assert observer.stages == ["text", "text", "extract", *(3 * ["guide", "denoise"]), *(2 * ["denoise"])]


def test_latents_that_are_no_numbers_are_told():
    with pytest.raises(FloatingPointError, match="step 1 of 5"):
        run(motionclone(strength=math.inf))


@pytest.mark.parametrize(
    "grid, blocks, key",
    [(Grid(1, 8, 8), 4, "frames: motion needs at least 2"), (Grid(5, 8, 8), 1, "method.block=1")],
)
def test_what_it_cannot_use_is_bad_input(grid, blocks, key):
    with pytest.raises(InputError, match=key) as error:
        motionclone().check(grid, blocks)
    assert "\n" not in str(error.value)
