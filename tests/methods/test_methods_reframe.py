"""reframe: the warp against a plain loop, no warp is fastvmt, and what is moved is moved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.fastvmt import FastVMT
from methods.guidance.loop import Start
from methods.motion_flow.flow import amf_loss
from methods.motion_flow.reframing import Reframing, check_reframing, warp_displacement, warp_features
from methods.reframe import Reframe

CORNERS = [(0, 0), (0, 1), (1, 1), (1, 0)]
RIGHT_SIDE_FAR = [(0, 0), (0.2, 1), (0.8, 1), (1, 0)]
FASTVMT = {
    "name": "fastvmt",
    "extractor": "window",
    "reduction": "head_mean",
    "block": 1,
    "temperature": 1.0,
    "window": 3,
    "tile": (2, 2),
    "span": 2,
    "loss": {"amf_weight": 5.0, "window_weight": 0.1},
    "reuse": {"interval": 2},
    "optimiser": {"lr_start": 0.03, "lr_end": 0.02, "iterations": 4, "guided_fraction": 0.4},
    "reference": "clean",
    "start": {"strength": None},
    "steps": 5,
    "guidance_scale": 3.0,
    "negative_prompt": "blurry",
}


def reframe(reframing, **changes):
    return Reframe(reframing=reframing, **{**FASTVMT, **changes})


def latents(height=8, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, 3, 3, height, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def run(method, backbone=None, observer=None):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, "a red fox", noise, observer or Recorder())


def field(height, width, *channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, height * width, *channels, generator=generator, dtype=torch.float64)


def read(values, row, column):
    """Linear interpolation of (rows, columns) numbers, written out; beyond the border its nearest value."""
    height, width = len(values), len(values[0])
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = min(int(row), height - 2), min(int(column), width - 2)
    down, right = row - top, column - left
    return (
        values[top][left] * (1 - down) * (1 - right)
        + values[top][left + 1] * (1 - down) * right
        + values[top + 1][left] * down * (1 - right)
        + values[top + 1][left + 1] * down * right
    )


def moved(matrix, row, column):
    r, c, w = matrix @ np.array([row, column, 1.0])
    return r / w, c / w


WARPS = [
    {"shift": (0.25, -0.4)},
    {"scale": 0.6},
    {"scale": 1.7, "shift": (0.1, 0.0)},
    {"corners": RIGHT_SIDE_FAR},
    {"corners": RIGHT_SIDE_FAR, "scale": 0.9, "shift": (0.0, -0.1)},
]


@pytest.mark.parametrize("options", WARPS)
def test_a_frame_is_scaled_about_its_centre_then_cornered_then_shifted(options):
    """Four points fix a perspective: those that scaling takes to the corners of the frame."""
    height, width = 6, 10
    reframing = Reframing(**options)
    matrix, size = reframing.homography(height, width), np.array([height, width])
    for corner, place in zip(CORNERS, reframing.corners or CORNERS, strict=True):
        # In shares of the frame, which reaches from half a token before the first centre.
        scaled_there = 0.5 + (np.array(corner) - 0.5) / reframing.scale
        found = moved(matrix, *(scaled_there * size - 0.5))
        wanted = (np.array(place) + reframing.shift) * size - 0.5
        assert found == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.parametrize("options", WARPS)
def test_the_warp_is_a_loop_over_tokens_that_asks_where_each_came_from(options):
    height, width = 6, 5
    reframing = Reframing(**options)
    forward = reframing.homography(height, width)
    back = np.linalg.inv(forward)
    features, displacement = field(height, width), field(height, width, 2, seed=1)
    warped, seen = warp_features(features, reframing, height, width)
    vectors, also = warp_displacement(displacement, reframing, height, width)
    assert torch.equal(seen, also)
    assert seen.any()
    for frame in range(2):
        values = features[frame].view(height, width).tolist()
        fields = [displacement[frame, :, axis].view(height, width).tolist() for axis in (0, 1)]
        for token in range(height * width):
            row, column = divmod(token, width)
            was = moved(back, row, column)
            inside = all(
                -1e-6 <= at + 0.5 <= size + 1e-6 for at, size in zip(was, (height, width), strict=True)
            )
            assert bool(seen[token]) == inside
            if not inside:
                continue
            assert float(warped[frame, token]) == pytest.approx(read(values, *was), abs=1e-6)
            went = moved(forward, *(at + read(f, *was) for at, f in zip(was, fields, strict=True)))
            went = [min(max(at, 0), size - 1) for at, size in zip(went, (height, width), strict=True)]
            wanted = [went[0] - row, went[1] - column]
            assert vectors[frame, token].tolist() == pytest.approx(wanted, abs=1e-5)


def blob(height, width, row, column, vector):
    """Displacements (1, S, 2): one token moves, the others rest."""
    displacement = torch.zeros(1, height, width, 2)
    displacement[0, row, column] = torch.tensor(vector)
    return displacement.flatten(1, 2)


def test_a_shift_moves_what_moves_and_leaves_its_vector():
    found, seen = warp_displacement(blob(8, 8, 5, 3, (1.5, 1.0)), Reframing(shift=(-0.25, 0.5)), 8, 8)
    wanted = blob(8, 8, 3, 7, (1.5, 0.0))  # at the border already: it cannot go on to the right
    torch.testing.assert_close(found[:, seen], wanted[:, seen])
    assert seen.view(8, 8)[:6, 4:].all()
    assert int(seen.sum()) == 6 * 4
    inner, _ = warp_displacement(blob(8, 8, 5, 3, (1.5, -1.0)), Reframing(shift=(-0.25, 0.25)), 8, 8)
    assert inner.view(8, 8, 2)[3, 5].tolist() == [1.5, -1.0]


def test_a_scale_moves_what_moves_towards_the_centre_and_shrinks_its_vector():
    found, seen = warp_displacement(blob(9, 9, 6, 2, (2.0, 1.0)), Reframing(scale=0.5), 9, 9)
    assert found.view(9, 9, 2)[5, 3].tolist() == [1.0, 0.5]
    assert seen.view(9, 9)[2:7, 2:7].all()
    assert int(seen.sum()) == 25


def test_a_perspective_shrinks_vectors_where_the_frame_gets_far():
    still = torch.zeros(1, 64, 2)
    still[..., 0] = 0.5
    found, seen = warp_displacement(still, Reframing(corners=RIGHT_SIDE_FAR), 8, 8)
    down = found.view(8, 8, 2)[..., 0]
    middle = down[3, seen.view(8, 8)[3]]
    assert (middle.diff() < 0).all()
    assert 0.5 > float(middle[0]) > float(middle[-1]) > 0.25


@pytest.mark.parametrize("options", [{}, {"shift": (0, 0), "scale": 1.0}])
def test_no_reframing_is_fastvmt_to_the_last_bit(options):
    assert torch.equal(run(reframe(options)), run(FastVMT(**FASTVMT)))


def test_the_frame_s_own_corners_change_nothing():
    found, seen = warp_displacement(field(6, 5, 2).clamp(-0.4, 0.4), Reframing(corners=CORNERS), 6, 5)
    assert seen.all()
    inner = torch.zeros(6, 5, dtype=torch.bool)
    inner[1:-1, 1:-1] = True  # at the border, displacements are cut there
    wanted = field(6, 5, 2).clamp(-0.4, 0.4)
    torch.testing.assert_close(found[:, inner.flatten()], wanted[:, inner.flatten()], atol=1e-5, rtol=0)


def test_a_reframing_changes_the_result_and_costs_nothing():
    plain, shifted = FakeBackbone(), FakeBackbone()
    result = run(reframe({"shift": [0.0, 0.25]}), shifted)
    assert not torch.equal(result, run(FastVMT(**FASTVMT), plain))
    assert plain.calls == shifted.calls


def test_tokens_without_a_reference_are_left_out_of_the_loss():
    method, backbone = reframe({"shift": [0.0, 0.25]}, loss={"amf_weight": 1.0, "window_weight": 0.0}), None
    backbone = FakeBackbone()
    reference, latent = latents()
    prompt = backbone.embed([""])
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)
    motion = method.extract(backbone, latent, torch.tensor(500.0), prompt, grad=True)
    missing = signal.displacement.isnan().any(-1).view(-1, 8, 8)
    assert missing[:, :, :2].all()
    assert not missing[:, :, 2:].any()
    elsewhere = motion.displacement.detach().clone().view(-1, 8, 8, 2)
    elsewhere[:, :, :2] += 5
    loss = method.losses(motion, signal)["amf"]
    assert loss > 0
    assert amf_loss(elsewhere.flatten(1, 2), signal.displacement, motion.pairs.weight) == loss
    elsewhere[:, :, 2:] += 5
    assert amf_loss(elsewhere.flatten(1, 2), signal.displacement, motion.pairs.weight) != loss


def test_latent_gradients_equal_finite_differences():
    method, backbone = (
        reframe({"corners": RIGHT_SIDE_FAR}, extractor="dense"),
        FakeBackbone(dtype=torch.float64),
    )
    reference, latent = latents(4, 5, dtype=torch.float64)
    prompt, timestep = backbone.embed(["a red fox"]), torch.tensor(700.0)
    signal = method.extract(backbone, reference, torch.tensor(0.0), prompt, grad=False)

    def loss(at):
        return method.losses(method.extract(backbone, at, timestep, prompt, grad=True), signal)["amf"]

    latent.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(latent), latent)
    direction = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        slope = (loss(latent + 1e-6 * direction) - loss(latent - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_the_loss_falls_towards_a_reframed_reference():
    observer = Recorder()
    run(reframe({"shift": [0.0, 0.25]}, reuse={"interval": 1}), observer=observer)
    first = [row["amf"] for row in observer.rows if row["step"] == 0]
    assert first[-1] < 0.9 * first[0]


@pytest.mark.parametrize(
    "options, start, key",
    [
        ({"shift": (0, 1.0)}, None, "method.reframing moves the whole"),
        ({"corners": [(0, 0), (1, 1), (0, 1), (1, 0)]}, None, "method.reframing.corners"),
        ({"corners": [(0, 0), (0, 1), (0, 0.5), (1, 0)]}, None, "method.reframing.corners"),
        ({"scale": 2.0}, 0.5, "method.start.strength=0.5"),
    ],
)
def test_what_cannot_be_reframed_is_bad_input(options, start, key):
    with pytest.raises(InputError, match=key) as error:
        check_reframing(Reframing(**options), Grid(3, 8, 8), Start(start))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=key):
        reframe(options, start={"strength": start}).check(Grid(3, 8, 8), 4)


def test_a_mirrored_frame_is_a_quadrilateral_too():
    mirror = Reframing(corners=[(0, 1), (0, 0), (1, 0), (1, 1)])
    check_reframing(mirror, Grid(3, 8, 8), Start())
    found, seen = warp_displacement(blob(8, 8, 5, 2, (1.0, 2.0)), mirror, 8, 8)
    assert seen.all()
    assert found.view(8, 8, 2)[5, 5].tolist() == pytest.approx([1.0, -2.0], abs=1e-5)


def test_the_identity_is_accepted_with_any_start():
    reframe({}, start={"strength": 0.5}).check(Grid(3, 8, 8), 4)
    assert math.isclose(Reframing(scale=3).homography(9, 9)[0, 2], -8)
