"""The guided loop on a fake backbone: exactness, counts, schedules, and what it tells its observer."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.fastvmt import FastVMT
from methods.guidance.latent_guidance import Optimiser
from methods.guidance.loop import Start, compressed_schedule, fixed_noise
from methods.none import Plain

SAMPLING = {"steps": 5, "guidance_scale": 3.0, "negative_prompt": "blurry"}
START = {"strength": None}


def fastvmt(**changes):
    values = {
        "name": "fastvmt",
        "extractor": "window",
        "reduction": "head_mean",
        "block": 1,
        "temperature": 1.0,
        "window": 3,
        "tile": [3, 4],
        "span": 3,
        "loss": {"amf_weight": 5.0, "window_weight": 1.0},
        "reuse": {"interval": 3},
        "optimiser": {"lr_start": 0.03, "lr_end": 0.02, "iterations": 10, "guided_fraction": 0.4},
        "reference": "clean",
        "start": START,
        **SAMPLING,
    }
    return FastVMT(**{**values, **changes})


def plain(start=START):
    return Plain(name="none", start=start, **SAMPLING)


def latents(frames=4, height=5, width=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, frames, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, "a red fox", noise, observer or Recorder())


@pytest.mark.parametrize(
    "off",
    [
        {"loss": {"amf_weight": 0, "window_weight": 0}},
        {"optimiser": {"lr_start": 0, "lr_end": 0, "iterations": 2, "guided_fraction": 0.4}},
        {"optimiser": {"lr_start": 1, "lr_end": 1, "iterations": 2, "guided_fraction": 0}},
    ],
)
@pytest.mark.parametrize("strength", [None, 0.75])
def test_guidance_of_no_strength_is_plain_sampling_to_the_last_bit(off, strength):
    start = {"strength": strength}
    assert torch.equal(run(fastvmt(start=start, **off)), run(plain(start)))


def test_guidance_changes_the_result_and_repeats_exactly():
    assert not torch.equal(run(fastvmt()), run(plain()))
    assert torch.equal(run(fastvmt()), run(fastvmt()))


def test_plain_sampling_is_euler_with_classifier_free_guidance():
    backbone = FakeBackbone()
    _, latent = latents()
    prompt, negative = backbone.embed(["a red fox", "blurry"]).split(1)
    schedule = backbone.schedule(5)
    for index, timestep in enumerate(schedule.timesteps):
        with_prompt = backbone.predict(latent, timestep, prompt, None, 1.0)
        without = backbone.predict(latent, timestep, negative, None, 1.0)
        velocity = without + 3.0 * (with_prompt - without)
        latent = latent + (schedule.sigmas[index + 1] - schedule.sigmas[index]) * velocity
    torch.testing.assert_close(run(plain()), latent)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"extractor": "dense"},
        {"reduction": "concat"},
        {"extractor": "dense", "loss": {"amf_weight": 1.0, "window_weight": 0.0}},
    ],
)
def test_latent_gradients_equal_finite_differences(changes):
    method = fastvmt(**changes)
    backbone = FakeBackbone(dtype=torch.float64)
    reference, latent = latents(frames=3, height=4, width=5, dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)

    def loss(at):
        return sum(method.losses(method.extract(backbone, at, timestep, prompt, grad=True), signal).values())

    latent.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latent), latent)
    generator = torch.Generator().manual_seed(5)
    for _ in range(4):
        direction = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(latent + 1e-6 * direction) - loss(latent - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_the_loss_falls_within_a_guidance_step():
    observer = Recorder()
    run(fastvmt(reuse={"interval": 1}), observer=observer)
    for _, rows in itertools.groupby(observer.rows, key=lambda row: row["step"]):
        totals = [row["total"] for row in rows]
        assert totals[-1] < 0.9 * totals[0]


@pytest.mark.parametrize("interval, true", [(1, 10), (2, 5), (3, 4), (20, 1)])
def test_interval_sets_the_number_of_true_gradients(interval, true):
    backbone, observer = FakeBackbone(), Recorder()
    run(fastvmt(reuse={"interval": interval}), backbone, observer)
    assert backbone.calls == {"gradient": 2 * true, "partial": 1, "forward": 10}
    flags = [row["true_gradient"] for row in observer.rows]
    assert flags == 2 * [j % interval == 0 for j in range(10)]


def test_interval_one_equals_adamw_on_every_gradient():
    """Against a loop written out here, with autograd's own ``backward``."""
    method = fastvmt(reuse={"interval": 1})
    backbone = FakeBackbone()
    reference, latent = latents()
    prompt, negative, empty = backbone.embed(["a red fox", "blurry", ""]).split(1)
    schedule = backbone.schedule(5)
    signal = method.extract(backbone, reference, torch.tensor(0.0), empty, grad=False)
    for index, timestep in enumerate(schedule.timesteps):
        if index < 2:
            latent = torch.nn.Parameter(latent)
            optimiser = torch.optim.AdamW([latent], lr=[0.03, 0.02][index], weight_decay=0)
            for _ in range(10):
                optimiser.zero_grad()
                generated = method.extract(backbone, latent, timestep, prompt, grad=True)
                sum(method.losses(generated, signal).values()).backward()
                optimiser.step()
            latent = latent.detach()
        velocity = backbone.predict(latent, timestep, prompt, negative, 3.0)
        latent = backbone.step(latent, velocity, schedule, index)
    torch.testing.assert_close(run(method), latent)


def test_trace_stages_and_steps():
    observer = Recorder()
    run(fastvmt(), observer=observer)
    assert observer.stages == ["text", "text", "extract"] + 2 * ["guide", "denoise"] + 3 * ["denoise"]
    assert observer.steps == [(i, 5) for i in range(5)]
    assert [(r["step"], r["iteration"]) for r in observer.rows] == [
        (s, j) for s in range(2) for j in range(10)
    ]
    for row in observer.rows:
        assert row["gradient_norm"] > 0
        if row["true_gradient"]:
            assert row["total"] == pytest.approx(row["amf"] + row["window"], rel=1e-5)
            assert ("similarity" in row) == (row["iteration"] > 0)
        else:
            assert "total" not in row


def test_the_reference_is_read_once_at_zero_or_renoised_at_each_guided_step():
    backbone = FakeBackbone()
    empty, target = (float(e.mean()) for e in backbone.embed(["", "a red fox"]))
    run(fastvmt(), backbone)
    assert [seen for seen in backbone.seen if seen[0] == "reference"] == [("reference", 0.0, empty)]
    assert {seen[2] for seen in backbone.seen if seen[0] == "grad"} == {target}

    renoised, observer = FakeBackbone(), Recorder()
    run(fastvmt(reference="renoised"), renoised, observer)
    timesteps = renoised.schedule(5).timesteps[:2].tolist()
    assert [seen for seen in renoised.seen if seen[0] == "reference"] == [
        ("reference", timestep, empty) for timestep in timesteps
    ]
    assert observer.stages[:5] == ["text", "text", "extract", "guide", "denoise"]
    reference, noise = latents()
    assert torch.equal(fixed_noise(reference), fixed_noise(reference))
    assert not torch.equal(fixed_noise(reference), noise)


def test_nan_latents_stop_the_cell_and_name_the_step():
    class Broken(FakeBackbone):
        def step(self, latent, velocity, schedule, index):
            return super().step(latent, velocity, schedule, index) * (float("nan") if index == 2 else 1)

    with pytest.raises(FloatingPointError, match="NaN latents at step 3 of 5"):
        run(plain(), Broken())


@pytest.mark.parametrize(
    "fraction, steps, guided",
    [(0.2, 50, 10), (0.2, 7, 2), (0.07, 100, 7), (0, 50, 0), (1, 3, 3), (0.4, 25, 10)],
)
def test_guided_fraction_is_rounded_up(fraction, steps, guided):
    optimiser = Optimiser(lr_start=3e-3, lr_end=2e-3, iterations=10, guided_fraction=fraction)
    assert optimiser.guided_steps(steps) == guided


def test_learning_rate_is_linear_over_guided_steps():
    optimiser = Optimiser(lr_start=3e-3, lr_end=2e-3, iterations=10, guided_fraction=0.2)
    rates = [optimiser.learning_rate(i, 50) for i in range(10)]
    assert rates == pytest.approx(torch.linspace(3e-3, 2e-3, 10).tolist())
    assert Optimiser(lr_start=1, lr_end=2, iterations=1, guided_fraction=0.2).learning_rate(0, 5) == 1


@pytest.mark.parametrize("strength, first", [(0.92, 0.988), (0.75, 0.955), (0.88, 0.981)])
def test_strength_compresses_the_schedule(strength, first):
    """Initial sigmas of the release at shift 7."""
    backbone = FakeBackbone(shift=7.0)
    schedule = compressed_schedule(backbone, 50, strength)
    assert schedule.sigmas.shape == (51,)
    assert schedule.timesteps.shape == (50,)
    assert float(schedule.sigmas[0]) == pytest.approx(first, abs=6e-4)
    assert (schedule.sigmas.diff() < 0).all()
    assert schedule.sigmas[-1] == 0
    torch.testing.assert_close(schedule.timesteps, 1000 * schedule.sigmas[:-1])


def test_a_strength_close_to_one_approaches_the_whole_schedule():
    backbone = FakeBackbone()
    whole = backbone.schedule(20)
    torch.testing.assert_close(
        compressed_schedule(backbone, 20, 1 - 1e-9).sigmas, whole.sigmas, atol=1e-5, rtol=0
    )
    assert torch.equal(compressed_schedule(backbone, 20, 1.0).sigmas, whole.sigmas)
    assert compressed_schedule(backbone, 1, 0.5).sigmas.tolist() == pytest.approx([0.75, 0], abs=1e-3)


def test_a_start_with_strength_begins_from_the_noised_reference():
    class First(FakeBackbone):
        def predict(self, latent, *rest):
            self.first = getattr(self, "first", latent)
            return super().predict(latent, *rest)

    backbone = First()
    run(plain({"strength": 0.75}), backbone)
    reference, noise = latents()
    sigma = compressed_schedule(backbone, 5, 0.75).sigmas[0]
    torch.testing.assert_close(backbone.first, (1 - sigma) * reference + sigma * noise)


@pytest.mark.parametrize(
    "changes, grid, key",
    [
        ({"window": 9}, Grid(4, 8, 10), r"method\.window=9.*8x10.*at most 8"),
        ({"block": 8}, Grid(4, 8, 8), r"method\.block=8.*0 to 7"),
        ({"tile": [3, 9]}, Grid(4, 8, 8), r"method\.tile"),
        ({}, Grid(1, 8, 8), "frames"),
        ({"window": 9, "extractor": "dense"}, Grid(4, 8, 8), r"method\.window"),
    ],
)
def test_what_does_not_fit_the_grid_is_bad_input(changes, grid, key):
    with pytest.raises(InputError, match=key) as error:
        fastvmt(**changes).check(grid, num_blocks=8)
    assert "\n" not in str(error.value)


def test_dense_attention_without_a_window_loss_needs_no_window():
    dense = fastvmt(extractor="dense", window=21, loss={"amf_weight": 5, "window_weight": 0})
    dense.check(Grid(5, 8, 8), num_blocks=8)
    assert torch.isfinite(run(dense)).all()


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"reuse": {"interval": 0}}, "interval"),
        ({"reuse": {"intervall": 3}}, "intervall"),
        ({"extractor": "sliding"}, "extractor"),
        ({"span": 0}, "span"),
        ({"typo": 1}, "typo"),
        ({"start": {"strength": 0}}, "strength"),
    ],
)
def test_wrong_options_are_named_on_construction(changes, key):
    with pytest.raises(ValueError, match=key):
        fastvmt(**changes)


def test_options_survive_as_plain_values():
    assert dataclasses.asdict(fastvmt())["loss"] == {"amf_weight": 5.0, "window_weight": 1.0}
    assert Start().strength is None
