"""flowmotion: its losses and regularisation against plain loops, and no backward pass of the transformer."""

from __future__ import annotations

import itertools

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.flowmotion import FlowMotion, FlowMotionLoss, flow_losses, regularised
from methods.guidance.loop import fixed_noise
from methods.none import Plain

SAMPLING = {"steps": 5, "guidance_scale": 3.0, "negative_prompt": "blurry", "start": {"strength": None}}
OPTIMISER = {"lr_start": 0.05, "lr_end": 0.05, "iterations": 3, "guided_fraction": 0.4}
WEIGHTS = {"latent_weight": 20.0, "difference_weight": 5.0}


def flowmotion(**changes):
    values = {
        "name": "flowmotion",
        "source": "latent_prediction",
        "loss": WEIGHTS,
        "regularise": 0.1,
        "optimiser": OPTIMISER,
        **SAMPLING,
    }
    return FlowMotion(**{**values, **changes})


def latents(frames=4, height=4, width=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, frames, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, "a red fox", noise, observer or Recorder())


def differences(video):
    """Absolute frame differences, written as a list of maps: successive, then each frame with all others."""
    frames = list(video[0].unbind(1))
    maps = [(later - earlier).abs() for earlier, later in itertools.pairwise(frames)]
    for i, centre in enumerate(frames):
        maps += [(centre - other).abs() for j, other in enumerate(frames) if j != i]
    return torch.stack(maps)


@pytest.mark.parametrize("frames", [2, 3, 5])
def test_the_losses_are_those_of_all_maps_of_differences(frames):
    generated, source = latents(frames=frames, dtype=torch.float64)
    found = flow_losses(generated, source, FlowMotionLoss(**WEIGHTS))
    latent = 20 * (generated - source).square().mean()
    difference = 5 * (differences(generated) - differences(source)).square().mean()
    torch.testing.assert_close(found, {"latent": latent, "difference": difference})


def test_the_velocity_across_its_heading_shrinks_cell_by_cell():
    velocity, heading = latents(dtype=torch.float64)
    found = regularised(velocity, heading, 0.1)
    for frame, row, column in itertools.product(range(4), range(4), range(5)):
        here = (0, slice(None), frame, row, column)
        v, along = velocity[here], heading[here]
        parallel = (v @ along) / (along @ along + 1e-8) * along
        torch.testing.assert_close(found[here], parallel + 0.1 * (v - parallel))
    torch.testing.assert_close(regularised(velocity, heading, 1.0), velocity)
    torch.testing.assert_close(regularised(3 * heading, heading, 0.0), 3 * heading, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("source", ["latent_prediction", "clean_latent"])
def test_it_is_adam_through_a_velocity_held_fixed(source):
    """Against the loop written out here, with the maps of differences above; guided are 2 of 5 steps."""
    backbone = FakeBackbone()
    reference, noise = latents()
    latent = noise
    prompt, negative, empty = backbone.embed(["a red fox", "blurry", ""]).split(1)
    schedule = backbone.schedule(5)
    for index, timestep in enumerate(schedule.timesteps):
        sigma, following = schedule.sigmas[index : index + 2]
        if index < 2:
            wanted = reference
            if source == "latent_prediction":
                noised = (1 - sigma) * reference + sigma * fixed_noise(reference, seed=index)
                wanted = noised - sigma * backbone.predict(noised, timestep, empty, None, 1.0)
            start = latent
            latent = torch.nn.Parameter(latent.clone())
            optimiser = torch.optim.Adam([latent], lr=0.05)
            for _ in range(3):
                with torch.no_grad():
                    velocity = backbone.predict(latent, timestep, prompt, negative, 3.0)
                    if index > 0:
                        heading = (start - noise) / (sigma - schedule.sigmas[0])
                        velocity = regularised(velocity, heading, 0.1)
                predicted = latent - sigma * velocity
                loss = 20 * (predicted - wanted).square().mean()
                loss = loss + 5 * (differences(predicted) - differences(wanted)).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            latent = latent.detach()
        velocity = backbone.predict(latent, timestep, prompt, negative, 3.0)
        latent = latent + (following - sigma) * velocity
    torch.testing.assert_close(run(flowmotion(source=source)), latent, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_losses_equal_finite_differences():
    source, prediction = latents(dtype=torch.float64)
    prediction.requires_grad_()

    def loss(at):
        return sum(flow_losses(at, source, FlowMotionLoss(**WEIGHTS)).values())

    (gradient,) = torch.autograd.grad(loss(prediction), prediction)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction = torch.randn(prediction.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(prediction + 1e-6 * direction) - loss(prediction - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-8)


def test_the_loss_falls_within_a_guidance_step():
    observer = Recorder()
    run(flowmotion(), observer=observer)
    steps = [list(rows) for _, rows in itertools.groupby(observer.rows, key=lambda row: row["step"])]
    assert len(steps) == 2
    for rows in steps:
        assert len(rows) == 3
        assert rows[-1]["total"] < rows[0]["total"]
        assert rows[0]["total"] == pytest.approx(rows[0]["latent"] + rows[0]["difference"], rel=1e-5)


@pytest.mark.parametrize(
    "off",
    [
        {"loss": {"latent_weight": 0.0, "difference_weight": 0.0}},
        {"optimiser": {**OPTIMISER, "lr_start": 0, "lr_end": 0}},
        {"optimiser": {**OPTIMISER, "guided_fraction": 0}},
    ],
)
@pytest.mark.parametrize("strength", [None, 0.75])
def test_guidance_of_no_strength_is_plain_sampling_to_the_last_bit(off, strength):
    start = {"start": {"strength": strength}}
    plain = run(Plain(name="none", **{**SAMPLING, **start}))
    assert torch.equal(run(flowmotion(**off, **start)), plain)
    assert not torch.equal(run(flowmotion(**start)), plain)


@pytest.mark.parametrize("source, passes", [("latent_prediction", 1), ("clean_latent", 0)])
def test_no_pass_is_followed_by_a_backward_pass(source, passes):
    backbone, observer = FakeBackbone(), Recorder()
    run(flowmotion(source=source), backbone, observer)
    assert backbone.calls == {"forward": 2 * 5 + 2 * (passes + 2 * 3)}
    assert observer.stages.count("extract") == 2 * passes
    assert observer.stages.count("guide") == 2


def test_every_cell_of_a_clip_has_the_same_source():
    class Kept(Recorder):
        def __init__(self):
            super().__init__()
            self.signals = {}

        def shared(self, name, compute):
            return self.signals.setdefault(name, compute())

    reference, noise = latents()
    kept = []
    for prompt, start in (("a red fox", noise), ("a blue bird", -noise)):
        observer = Kept()
        flowmotion().transfer(FakeBackbone(), reference, prompt, start, observer)
        kept.append(observer.signals)
    assert set(kept[0]) == {"reference 0", "reference 1"}
    torch.testing.assert_close(kept[0], kept[1])
    assert not torch.equal(fixed_noise(reference, seed=0), fixed_noise(reference, seed=1))


def test_a_single_latent_frame_is_bad_input():
    with pytest.raises(InputError, match="frames: motion needs at least 2") as error:
        flowmotion().check(Grid(1, 8, 8), 4)
    assert "\n" not in str(error.value)
    flowmotion().check(Grid(2, 1, 1), 4)
