"""smm: the original's formula, guidance that follows it, and input it cannot use."""

from __future__ import annotations

import itertools

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.none import Plain
from methods.smm import SMM, smm_loss, spatial_mean

SAMPLING = {"steps": 5, "guidance_scale": 3.0, "negative_prompt": "blurry", "start": {"strength": None}}
OPTIMISER = {"lr_start": 0.03, "lr_end": 0.02, "iterations": 6, "guided_fraction": 0.4}


def smm(**changes):
    values = {"name": "smm", "block": 1, "optimiser": OPTIMISER, "reference": "clean", **SAMPLING}
    return SMM(**{**values, **changes})


def latents(frames=4, height=4, width=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, frames, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, "a red fox", noise, observer or Recorder())


def test_the_loss_is_the_original_s_loop_over_anchors_and_frames():
    generator = torch.Generator().manual_seed(0)
    generated, reference = torch.randn(2, 4, 6, 7, generator=generator, dtype=torch.float64)
    means = [[frame.sum(0) / 6 for frame in video] for video in (generated, reference)]
    anchors = []
    for i in range(4):
        cosines = []
        for j in range(4):
            one, other = (video[j] - video[i] for video in means)
            length = one.norm() * other.norm()
            cosines.append(float(one @ other / length) if i != j else 0.0)
        anchors.append(1 - sum(cosines) / 4)
    found = smm_loss(spatial_mean(generated), spatial_mean(reference))
    assert float(found) == pytest.approx(sum(anchors) / 4, rel=1e-12)


def test_only_changes_of_the_spatial_mean_matter():
    """A video moved within its frame, or brighter in every frame, has the same signal; time reversed not."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(4, 6, 7, generator=generator)
    same = spatial_mean(features)
    for other in (features.roll(2, dims=1), features + 3, 2 * features):
        assert float(smm_loss(spatial_mean(other), same)) == pytest.approx(1 / 4, abs=1e-5)
    assert float(smm_loss(same.flip(0), same)) > 0.5


def test_latent_gradients_equal_finite_differences():
    method, backbone = smm(), FakeBackbone(dtype=torch.float64)
    reference, latent = latents(dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)

    def loss(at):
        return method.losses(method.extract(backbone, at, timestep, prompt, grad=True), signal)["smm"]

    latent.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latent), latent)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(latent + 1e-6 * direction) - loss(latent - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_the_loss_falls_within_a_guidance_step():
    observer = Recorder()
    run(smm(), observer=observer)
    steps = [list(rows) for _, rows in itertools.groupby(observer.rows, key=lambda row: row["step"])]
    assert len(steps) == 2
    for rows in steps:
        # 1 / F of the loss is there whatever the latent.
        assert rows[-1]["total"] - 0.25 < 0.8 * (rows[0]["total"] - 0.25)


@pytest.mark.parametrize(
    "off", [{"lr_start": 0, "lr_end": 0}, {"guided_fraction": 0}], ids=["learning rate", "steps"]
)
def test_guidance_of_no_strength_is_plain_sampling_to_the_last_bit(off):
    assert torch.equal(run(smm(optimiser={**OPTIMISER, **off})), run(Plain(name="none", **SAMPLING)))
    assert not torch.equal(run(smm()), run(Plain(name="none", **SAMPLING)))


def test_the_reference_is_read_once_and_clean():
    backbone, observer = FakeBackbone(), Recorder()
    run(smm(), backbone, observer)
    assert backbone.calls == {"partial": 1, "gradient": 2 * 6, "forward": 10}
    empty = float(backbone.embed([""]).mean())
    assert backbone.seen[0] == ("reference", 0.0, empty)
    assert observer.stages[:3] == ["text", "text", "extract"]


@pytest.mark.parametrize(
    "grid, blocks, key",
    [(Grid(1, 8, 8), 4, "frames: motion needs at least 2"), (Grid(5, 8, 8), 1, "method.block=1")],
)
def test_what_it_cannot_use_is_bad_input(grid, blocks, key):
    with pytest.raises(InputError, match=key) as error:
        smm().check(grid, blocks)
    assert "\n" not in str(error.value)
    smm().check(Grid(2, 1, 1), 2)


def test_two_latent_frames_are_enough():
    reference, noise = latents(frames=2)
    result = smm().transfer(FakeBackbone(), reference, "a red fox", noise, Recorder())
    assert torch.isfinite(result).all()
