"""RoPECraft: flow to positions, phases, offsets, gradients, and no effect at 0."""

from __future__ import annotations

import cmath
import math
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from datasets.media.flow import raft_weights
from harness.cost.calls import Call, method_calls
from methods.backbones.interface import Grid, token_positions
from methods.none import Plain
from methods.ropecraft import RoPECraft, Warp, latent_flow, phase_loss, token_shift

SAMPLING = {"steps": 5, "guidance_scale": 3.0, "negative_prompt": "blurry", "start": {"strength": None}}
OPTIMISER = {"lr_start": 0.02, "lr_end": 0.02, "iterations": 6, "guided_fraction": 0.4, "weight_decay": 0.01}
WARP = {"flow": "dis", "path": "forward", "divisor": None, "kernel": 3, "sigma": 1.0, "limit": 1.0}
FLAT = {**WARP, "flow": "none"}


def ropecraft(**changes):
    values = {
        "name": "ropecraft",
        "warp": WARP,
        "loss": {"phase_weight": 1.0, "velocity_weight": 0.1},
        "optimiser": OPTIMISER,
        **SAMPLING,
    }
    return RoPECraft(**{**values, **changes})


def pattern(height=64, width=64, seed=0):
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def moving(rows, columns, frames=9):
    """A textured video (frames, 64, 64, 3) uint8 whose content moves by (rows, columns) pixels a frame."""
    image = pattern(160, 160)
    image = (image - image.min()) * 255 / (image.max() - image.min())
    video = []
    for t in range(frames):
        matrix = np.float32([[1, 0, columns * t - 48], [0, 1, rows * t - 48]])
        video.append(cv2.warpAffine(image, matrix, (64, 64), flags=cv2.INTER_LINEAR))
    return np.stack(video).astype(np.uint8)


class Filmed(FakeBackbone):
    """Decodes to a video that moves one row down and half a column left a frame, four frames a latent one."""

    def decode(self, latent):
        return moving(1.0, -0.5, 4 * (latent.shape[2] - 1) + 1)


def latents(frames=3, height=4, width=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, frames, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None):
    reference, noise = latents()
    return method.transfer(backbone or Filmed(), reference, "a red fox", noise, observer or Recorder())


# --- flow and positions ---


def test_flow_is_in_pixels_from_one_latent_frame_to_the_next():
    flow = latent_flow(moving(1.0, -0.5), Grid(3, 4, 4), "dis", "cpu")
    assert flow.shape == (2, 64, 64, 2)
    inside = flow[:, 12:-12, 12:-12].flatten(0, 2)
    torch.testing.assert_close(inside.median(0).values, torch.tensor([4.0, -2.0]), rtol=0, atol=0.3)


def test_a_video_of_one_colour_has_no_flow():
    still = np.full((5, 16, 16, 3), 90, np.uint8)
    assert not latent_flow(still, Grid(2, 4, 4), "dis", "cpu").any()


@pytest.mark.parametrize("divisor, side", [(None, 16.0), (32.0, 32.0)])
def test_uniform_flow_moves_every_token_by_as_much(divisor, side):
    flow = torch.tensor([8.0, -4.0]).expand(3, 64, 64, 2)
    shift = token_shift(flow, Grid(4, 4, 4), Warp(**{**WARP, "divisor": divisor}))
    for frame in range(4):
        expected = torch.tensor([8.0, -4.0]) * frame / side
        torch.testing.assert_close(shift[frame], expected.expand(4, 4, 2))


def loop_shift(flow, grid, kernel, sigma, limit):
    """The same, token by token."""
    rows, columns = flow.shape[1] // grid.height, flow.shape[2] // grid.width
    mean = np.zeros((len(flow), grid.height, grid.width, 2))
    for k in range(len(flow)):
        for r in range(grid.height):
            for c in range(grid.width):
                cells = flow[k, r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
                mean[k, r, c] = cells.reshape(-1, 2).mean(0) / [rows, columns]
    smooth = np.zeros_like(mean)
    half = kernel // 2
    for k in range(len(flow)):
        for r in range(grid.height):
            for c in range(grid.width):
                weights = 0.0
                for a in range(r - half, r + half + 1):
                    for b in range(c - half, c + half + 1):
                        if 0 <= a < grid.height and 0 <= b < grid.width:
                            weight = math.exp(-((a - r) ** 2 + (b - c) ** 2) / (2 * sigma**2))
                            smooth[k, r, c] += weight * mean[k, a, b]
                            weights += weight
                smooth[k, r, c] /= weights
    shift, total = [np.zeros_like(smooth[0])], np.zeros_like(smooth[0])
    for k in range(len(flow)):
        if limit is not None and k + 1 < len(flow):
            apart = ((smooth[k + 1] - smooth[k]) ** 2).sum(-1).mean() ** 0.5
            total = total + smooth[k] * min(1.0, limit / apart)
        else:
            total = total + smooth[k]
        shift.append(total)
    return np.stack(shift)


@pytest.mark.parametrize("limit", [None, 0.3])
def test_the_shift_is_that_of_a_plain_loop(limit):
    # Tokens of four rows and three columns of pixels.
    flow = np.random.default_rng(1).normal(0, 6, (3, 24, 15, 2)).astype(np.float32)
    grid = Grid(4, 6, 5)
    options = Warp(**{**WARP, "sigma": 0.8, "limit": limit})
    ours = token_shift(torch.from_numpy(flow), grid, options)
    expected = loop_shift(flow, grid, 3, 0.8, limit)
    torch.testing.assert_close(ours, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)


def test_positions_follow_the_decoded_reference_and_frames_stay():
    positions = ropecraft().positions(Filmed(), latents()[0])
    moved = (positions - token_positions(Grid(3, 4, 4))).view(3, 4, 4, 3)
    assert not moved[..., 0].any()
    assert not moved[0].any()
    # Four pixels down and two to the left a latent frame; a token's side is sixteen.
    centre = moved[:, 1:3, 1:3, 1:].mean((1, 2))
    torch.testing.assert_close(centre[1], torch.tensor([0.25, -0.125]), rtol=0, atol=0.04)
    torch.testing.assert_close(centre[2], 2 * centre[1], rtol=0, atol=0.04)


def test_traced_positions_are_where_the_content_was_at_first():
    traced = ropecraft(warp={**WARP, "path": "traced"}).positions(Filmed(), latents(5, 8, 8)[0])
    moved = (traced - token_positions(Grid(5, 8, 8))).view(5, 8, 8, 3)
    for frame in range(5):
        # A token's side is eight pixels; four pixels down and two to the left a latent frame.
        expected = torch.tensor([0.0, -0.5 * frame, 0.25 * frame])
        centre = moved[frame, 3:5, 3:5].mean((0, 1))
        torch.testing.assert_close(centre, expected, rtol=0, atol=0.06 * max(frame, 1))


def test_a_path_is_traced_through_a_flow_that_differs_from_place_to_place():
    # Each token came from the one above it, but the top row from itself.
    flow = torch.zeros(3, 4, 4, 2)
    flow[:, 1:, :, 0] = -1.0
    options = Warp(**{**WARP, "path": "traced", "kernel": 1, "limit": None})
    shift = token_shift(flow, Grid(4, 4, 4), options)
    for frame in range(4):
        rows = [-float(min(row, frame)) for row in range(4)]
        torch.testing.assert_close(shift[frame, :, 0, 0], torch.tensor(rows))
    assert not shift[..., 1].any()


# --- the loss ---


def loop_phase_loss(velocity, target):
    """By the definition of the Fourier transform."""
    _, channels, frames, height, width = velocity.shape
    differences = []
    for c in range(channels):
        for f in range(frames):
            for h in range(height):
                for w in range(width // 2 + 1):
                    phasors = []
                    for values in (velocity, target):
                        total = sum(
                            float(values[0, c, t, y, x])
                            * cmath.exp(-2j * math.pi * (f * t / frames + h * y / height + w * x / width))
                            for t in range(frames)
                            for y in range(height)
                            for x in range(width)
                        )
                        phasors.append(total / abs(total))
                    apart = phasors[0] - phasors[1]
                    differences.append((abs(apart.real), abs(apart.imag)))
    return sum(real + imaginary for real, imaginary in differences) / len(differences)


def test_phases_are_those_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(1, 2, 2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    assert float(phase_loss(one, other)) == pytest.approx(loop_phase_loss(one, other), rel=1e-5)
    assert float(phase_loss(one, 5 * one)) == pytest.approx(0, abs=1e-6)


def test_gradients_of_an_offset_equal_finite_differences():
    method, backbone = ropecraft(), FakeBackbone(dtype=torch.float64)
    target, latent = latents(dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    own = [table.double() for table in backbone.rotary(latent)]

    def loss(offset):
        tables = tuple(t + part.repeat_interleave(2, dim=1) for t, part in zip(own, offset, strict=True))
        with backbone.rotated(tables, tables):
            velocity = backbone.velocity(latent, timestep, prompt, grad=True)
        return sum(method.losses(velocity, target).values())

    offset = torch.zeros(2, *own[0][:, ::2].shape, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(offset), offset)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction = torch.randn(offset.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(offset + 1e-6 * direction) - loss(offset - 1e-6 * direction)) / 2e-6
        assert slope.abs() > 1e-5
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


# --- a run ---


@pytest.mark.parametrize(
    "off",
    [
        {"warp": FLAT, "optimiser": {**OPTIMISER, "lr_start": 0.0, "lr_end": 0.0}},
        {"warp": FLAT, "loss": {"phase_weight": 0.0, "velocity_weight": 0.0}},
        {"optimiser": {**OPTIMISER, "guided_fraction": 0.0}},
    ],
)
def test_without_strength_it_is_plain_sampling(off):
    torch.testing.assert_close(run(ropecraft(**off)), run(Plain(name="none", **SAMPLING)))


def test_both_ingredients_change_the_result():
    still = {**OPTIMISER, "lr_start": 0.0, "lr_end": 0.0}
    results = [
        run(ropecraft(warp=warp, optimiser=optimiser))
        for warp in (WARP, FLAT)
        for optimiser in (OPTIMISER, still)
    ]
    for index, one in enumerate(results):
        assert all(not torch.allclose(one, other) for other in results[index + 1 :])
    assert torch.equal(run(ropecraft()), run(ropecraft()))


def test_the_loss_falls_within_every_guided_step():
    observer = Recorder()
    run(ropecraft(), observer=observer)
    for step in range(2):
        totals = [row["total"] for row in observer.rows if row["step"] == step]
        assert len(totals) == 6
        assert all(b < a for a, b in pairwise(totals))
    assert {"phase", "velocity", "gradient_norm"} <= set(observer.rows[0])


class Watched(Filmed):
    """Notes the tables of passes with gradient and of sampling, and the latents of the former."""

    def __init__(self):
        super().__init__()
        self.optimising, self.sampling, self.at = [], [], []

    def velocity(self, latent, timestep, prompt, *, grad):
        assert grad
        self.optimising.append([table.detach().clone() for table in self.tables[0]])
        self.at.append((latent, float(timestep), float(prompt.mean())))
        return super().velocity(latent, timestep, prompt, grad=grad)

    def predict(self, latent, *others):
        self.sampling.append(None if self.tables is None else [t.clone() for t in self.tables[0]])
        return super().predict(latent, *others)


def test_offsets_add_up_over_steps_and_later_steps_have_the_backbone_s_tables():
    backbone, method = Watched(), ropecraft()
    run(method, backbone)
    reference, noise = latents()
    warped = backbone.rotary(reference, method.positions(backbone, reference))
    for ours, expected in zip(backbone.optimising[0], warped, strict=True):
        torch.testing.assert_close(ours, expected)
    # The last update of a step is sampled with, and the next step starts from there.
    for ours, expected in zip(backbone.optimising[6], backbone.sampling[0], strict=True):
        assert torch.equal(ours, expected)
    assert not torch.equal(backbone.optimising[5][0], backbone.sampling[0][0])
    # Adam moves an offset by the learning rate; in the second step there are two, with one gradient.
    first, second = (backbone.optimising[i + 1][0] - backbone.optimising[i][0] for i in (0, 6))
    torch.testing.assert_close(first.abs().median(), torch.tensor(0.02), rtol=0, atol=1e-3)
    assert 0.022 < second.abs().median() <= 0.0405
    assert backbone.sampling[2:] == [None] * 3
    assert torch.equal(backbone.at[0][0], noise)
    target = float(backbone.embed(["a red fox"]).mean())
    assert {prompt for _, _, prompt in backbone.at} == {target}


def test_the_target_is_the_velocity_that_leads_to_the_reference(monkeypatch):
    targets = []
    losses = RoPECraft.losses

    def watched(self, velocity, target):
        targets.append(target)
        return losses(self, velocity, target)

    monkeypatch.setattr(RoPECraft, "losses", watched)
    reference, noise = latents()
    run(ropecraft())
    # At the first step, where sigma is 1, noise minus reference; a step of sigma along it arrives.
    assert FakeBackbone().schedule(5).sigmas[0] == 1
    torch.testing.assert_close(targets[0], noise - reference)


# --- what it costs, and bad input ---


def test_calls_by_stage():
    calls = method_calls(ropecraft(), Grid(5, 8, 8), 4)
    assert calls[Call("guide", "gradient", None, "velocity")] == 12
    assert calls[Call("extract", "decode")] == 1
    assert calls[Call("denoise", "forward")] == 10
    assert method_calls(ropecraft(warp=FLAT), Grid(5, 8, 8), 4).get(Call("extract", "decode")) is None


@pytest.fixture
def hub(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path
    torch.hub.set_dir(before)


def test_raft_needs_its_weights_and_says_where(hub):
    from torchvision.models.optical_flow import raft_small

    raft = ropecraft(warp={**WARP, "flow": "raft"})
    with pytest.raises(InputError, match=r"raft_small.*method\.warp\.flow=dis"):
        raft.check(Grid(3, 4, 4), 4)
    raft_weights().parent.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = raft_small(weights=None)
    torch.save(network.state_dict(), raft_weights())
    raft.check(Grid(3, 4, 4), 4)
    frames = moving(1.0, -0.5, 5)[:, :, :48]
    flow = latent_flow(frames, Grid(2, 4, 3), "raft", "cpu")
    assert flow.shape == (1, 64, 48, 2)
    # What the network says of the frames enlarged to 176 x 128, made smaller: the factors differ by axis.
    pixels = torch.from_numpy(frames[::4]).permute(0, 3, 1, 2).float() / 127.5 - 1
    large = torch.nn.functional.interpolate(pixels, size=(176, 128), mode="bilinear")
    with torch.no_grad():
        there = network.eval()(large[:1], large[1:])[-1][0]
    expected = torch.stack([there[1].mean() * 64 / 176, there[0].mean() * 48 / 128])
    torch.testing.assert_close(flow.mean((0, 1, 2)), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "changes, grid, word",
    [
        ({"warp": {**WARP, "kernel": 4}}, Grid(3, 4, 4), r"method\.warp\.kernel=4"),
        ({}, Grid(1, 4, 4), "frames"),
    ],
)
def test_bad_input_names_its_key(changes, grid, word):
    with pytest.raises(InputError, match=word):
        ropecraft(**changes).check(grid, 4)
    ropecraft().check(Grid(2, 4, 4), 4)


def test_a_latent_that_is_no_longer_finite_is_an_error():
    reference, noise = latents()
    with pytest.raises(FloatingPointError, match="NaN latents"):
        ropecraft().transfer(Filmed(), reference, "a", noise * float("nan"), Recorder())
