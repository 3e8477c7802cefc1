"""moft: its channels and its loss, guidance that follows them, and a reframed reference."""

from __future__ import annotations

import itertools

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.moft import MOFT, moft_loss, motion_channels, time_centred
from methods.none import Plain

SAMPLING = {"steps": 5, "guidance_scale": 3.0, "negative_prompt": "blurry", "start": {"strength": None}}
OPTIMISER = {"lr_start": 0.03, "lr_end": 0.02, "iterations": 6, "guided_fraction": 0.4}


def moft(**changes):
    values = {
        "name": "moft",
        "block": 1,
        "channels": 0.5,
        "reframing": {},
        "optimiser": OPTIMISER,
        "reference": "clean",
        **SAMPLING,
    }
    return MOFT(**{**values, **changes})


def latents(frames=4, height=4, width=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, frames, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, "a red fox", noise, observer or Recorder())


def features(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 6, 50, generator=generator, dtype=torch.float64).to(dtype)


def test_features_are_centred_over_time():
    found = time_centred(features())
    torch.testing.assert_close(found.sum(0), torch.zeros(6, 50, dtype=torch.float64))
    torch.testing.assert_close(found[2] - found[0], features()[2] - features()[0])


@pytest.mark.parametrize("share, count", [(0.04, 2), (0.059, 2), (0.06, 3), (0.001, 1), (1.0, 50)])
def test_channels_are_those_of_the_first_right_singular_vector(share, count):
    motion = time_centred(features())
    _, _, right = torch.linalg.svd(motion.reshape(-1, 50), full_matrices=False)
    wanted = sorted(range(50), key=lambda channel: -abs(float(right[0, channel])))[:count]
    assert motion_channels(motion, share).tolist() == wanted


def test_channels_that_move_are_chosen():
    still = features().mean(0, keepdim=True).expand(3, -1, -1).clone()
    still[:, :, [7, 30]] += 5 * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)[:, None, None]
    assert set(motion_channels(time_centred(still), 0.04).tolist()) == {7, 30}


def test_the_loss_is_a_loop_over_frames_and_tokens():
    one, other = features(1), features(2)
    total = 0.0
    for frame in range(3):
        for token in range(6):
            a, b = one[frame, token], other[frame, token]
            total += 1 - float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
    assert float(moft_loss(one, other)) == pytest.approx(total / 18, rel=1e-12)
    assert float(moft_loss(one, 3 * one)) == pytest.approx(0, abs=1e-12)


def test_the_loss_looks_at_the_reference_s_channels_of_centred_features():
    method, backbone = moft(channels=0.25), FakeBackbone(dtype=torch.float64)
    reference, latent = latents(dtype=torch.float64)
    prompt, timestep = backbone.embed([""]), torch.tensor(700.0)
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)
    generated = method.extract(backbone, latent, timestep, prompt, grad=True)
    of_reference, of_latent = (
        time_centred(backbone.hidden_states(video, at, prompt, 1, grad=False))
        for video, at in ((reference, torch.tensor(0.0)), (latent, timestep))
    )
    channels = motion_channels(of_reference, 0.25)
    assert len(channels) == 3
    wanted = moft_loss(of_latent[..., channels], of_reference[..., channels])
    torch.testing.assert_close(method.losses(generated, signal), {"moft": wanted})


@pytest.mark.parametrize("reframing", [{}, {"shift": [0.0, 0.25], "scale": 0.8}])
def test_latent_gradients_equal_finite_differences(reframing):
    method, backbone = moft(reframing=reframing), FakeBackbone(dtype=torch.float64)
    reference, latent = latents(dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)

    def loss(at):
        return method.losses(method.extract(backbone, at, timestep, prompt, grad=True), signal)["moft"]

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
    run(moft(), observer=observer)
    steps = [list(rows) for _, rows in itertools.groupby(observer.rows, key=lambda row: row["step"])]
    assert len(steps) == 2
    for rows in steps:
        assert rows[-1]["total"] < 0.9 * rows[0]["total"]


@pytest.mark.parametrize(
    "off", [{"lr_start": 0, "lr_end": 0}, {"guided_fraction": 0}], ids=["learning rate", "steps"]
)
def test_guidance_of_no_strength_is_plain_sampling_to_the_last_bit(off):
    assert torch.equal(run(moft(optimiser={**OPTIMISER, **off})), run(Plain(name="none", **SAMPLING)))
    assert not torch.equal(run(moft()), run(Plain(name="none", **SAMPLING)))


def test_a_shifted_reference_is_that_of_the_shifted_video():
    """Features are those of tokens by themselves here, so that a shift of the latent is one of them."""
    backbone = FakeBackbone()
    prompt, clean = backbone.embed([""]), torch.tensor(0.0)
    reference, _ = latents()
    shifted = moft(reframing={"shift": [0.0, 0.4]}).extract(backbone, reference, clean, prompt, grad=False)
    moved = moft().extract(backbone, reference.roll(2, dims=4), clean, prompt, grad=False)
    valid = shifted.valid.view(4, 5)
    assert valid.tolist() == [[False, False, True, True, True]] * 4
    torch.testing.assert_close(shifted.channels, moved.channels)
    torch.testing.assert_close(shifted.values[:, shifted.valid], moved.values[:, shifted.valid])


@pytest.mark.parametrize(
    "changes, grid, key",
    [
        ({}, Grid(1, 8, 8), "frames: motion needs at least 2"),
        ({"block": 4}, Grid(5, 8, 8), "method.block=4"),
        ({"reframing": {"shift": [1.0, 0.0]}}, Grid(5, 8, 8), "method.reframing"),
    ],
)
def test_what_it_cannot_use_is_bad_input(changes, grid, key):
    with pytest.raises(InputError, match=key) as error:
        moft(**changes).check(grid, 4)
    assert "\n" not in str(error.value)
    moft().check(Grid(2, 1, 1), 2)
