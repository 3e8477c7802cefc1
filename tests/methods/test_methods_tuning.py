"""The tuning-based methods: training on the clip, their losses, and that untrained they change nothing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, Recorder
from test_backbone_adapters import backbone
from test_methods_configs import build, resolved

from datasets.errors import InputError
from harness.cells.measure import Shared
from harness.cost.calls import Call, method_calls
from methods.backbones.interface import Grid
from methods.det import DeT, LatentTracks, Tracking, on_latent, tracking_loss
from methods.motion_director import MotionDirector, debiased_loss, without_appearance
from methods.motion_inversion import MotionInversion, debiased
from methods.none import Plain
from methods.training.adapter_training import Training, examples

TRAINING = {
    "steps": 6,
    "learning_rate": 0.05,
    "weight_decay": 0.0,
    "beta2": 0.999,
    "clip_norm": None,
    "seed": 0,
}
SAMPLING = {"start": {"strength": None}, "steps": 4, "guidance_scale": 3.0, "negative_prompt": "blurry"}
GRID = Grid(3, 4, 6)


class Still:
    """A tracker whose points stay where they are."""

    version = "7"

    def track(self, frames, mask=None):
        points = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), -1).reshape(1, -1, 2)
        return points.repeat(len(frames), 0), np.ones((len(frames), 12), bool)


def director(**changes):
    own = {"name": "d", "rank": 4, "dropout": 0.1, "spatial_off": 0.2, "debiased_weight": 1.0}
    return MotionDirector(**{**own, "training": TRAINING, "scale": 1.0, **SAMPLING, **changes})


def inversion(**changes):
    own = {"name": "i", "value_frames": True, "debias": "difference"}
    return MotionInversion(**{**own, "training": TRAINING, "scale": 1.0, **SAMPLING, **changes})


def det(**changes):
    own = {"name": "t", "width": 8, "kernel": 3, "tracker": Still()}
    own["tracking"] = {"weight": 0.1, "points": 5, "below_sigma": 0.9}
    return DeT(**{**own, "training": TRAINING, "scale": 1.0, **SAMPLING, **changes})


METHODS = {"motion_director": director, "motion_inversion": inversion, "det": det}
every = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def latents(channels=3, frames=3, height=8, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    shape = (1, channels, frames, height, width)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for _ in range(2))


@pytest.fixture(scope="module")
def wan():
    return backbone().load("cpu")


def run(method, on, observer=None):
    channels, height, width = (3, 8, 8) if isinstance(on, FakeBackbone) else (8, 8, 12)
    reference, noise = latents(channels, 3, height, width)
    return method.transfer(on, reference, "a red fox", noise, observer or Recorder())


def plain():
    return Plain(name="none", **SAMPLING)


# --- what is trained ----------------------------------------------------------------------------


@every
def test_untrained_or_at_scale_0_it_is_the_plain_backbone(wan, make):
    wanted = run(plain(), wan)
    assert torch.equal(run(make(scale=0.0), wan), wanted)
    assert torch.equal(run(make(training={**TRAINING, "steps": 0}), wan), wanted)
    assert not torch.equal(run(make(), wan), wanted)


def velocity_loss(wan, weights, adapter, clean, noise):
    """Mean over noise levels of the flow-matching loss with an adapter in place."""
    prompt, found = wan.embed([""]), []
    with wan.adapted(adapter, GRID, weights):
        for sigma in (0.3, 0.6, 0.9):
            noisy = wan.add_noise(clean, noise, sigma)
            velocity = wan.velocity(noisy, torch.tensor(1000 * sigma), prompt, grad=False)
            found.append(float((velocity - (noise - clean)).square().mean()))
    return np.mean(found)


@every
def test_training_lowers_the_loss_on_the_clip(wan, make):
    clean, noise = latents(8, 3, 8, 12)
    rates = {director: 0.01, inversion: 0.05, det: 0.005}
    training = {**TRAINING, "steps": 40, "learning_rate": rates[make]}
    method, fresh = make(training=training), make(training={**TRAINING, "steps": 0})
    if make is inversion:
        method, fresh = (replace(one, debias="none") for one in (method, fresh))
    adapter = method.adapter() if make is not inversion else None
    if adapter is None:
        from methods.backbones.interface import MotionEmbedding

        adapter = MotionEmbedding(value_frames=True)
    with torch.no_grad():
        before, after = (
            velocity_loss(wan, one.train(wan, clean, Recorder()), adapter, clean, noise)
            for one in (fresh, method)
        )
    assert after < 0.97 * before


@every
def test_a_training_is_the_same_whatever_was_drawn_before_and_draws_nothing_from_others(wan, make):
    method = make()
    clean = latents(8, 3, 8, 12)[0]
    torch.manual_seed(1)
    first = method.train(wan, clean, Recorder())
    drawn = torch.rand(3)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.rand(3), drawn, rtol=0, atol=0)
    second = method.train(wan, clean, Recorder())
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = replace(method, training=replace(method.training, seed=5)).train(wan, clean, Recorder())
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every
def test_training_is_a_stage_of_its_own_shared_by_the_cells_of_a_clip(make):
    from harness.cells.measure import Meter

    observer = Recorder()
    on = FakeBackbone()
    run(make(), on, observer)
    assert observer.stages[:2] == ["train", "text"]
    assert set(observer.stages) == {"train", "text", "denoise"}
    assert [row["train_step"] for row in observer.rows] == list(range(6))
    assert all(math.isfinite(value) for row in observer.rows for value in row.values())
    shared, calls = Shared(), []
    for _ in range(2):
        on = FakeBackbone()
        run(make(), on, Meter(shared=shared, calls=on.calls))
        calls.append(dict(on.calls))
    assert calls[0] == calls[1] == {"forward": 2 * 4}
    assert shared.seconds["train"] > 0
    assert shared.calls["gradient"] >= 6


@every
def test_a_loss_that_is_not_finite_ends_the_training(make):
    class Broken(FakeBackbone):
        def velocity(self, *args, **kwargs):
            return super().velocity(*args, **kwargs) / 0

    with pytest.raises(FloatingPointError, match="training loss"):
        run(make(), Broken())


@every
def test_one_latent_frame_has_no_motion(make):
    make().check(Grid(2, 4, 4), num_blocks=2)
    with pytest.raises(InputError, match="at least 2 latent frames"):
        make().check(Grid(1, 4, 4), num_blocks=2)


def test_noise_levels_are_those_of_the_backbone_and_the_velocity_is_noise_less_clean():
    on = FakeBackbone(shift=7.0)
    clean = latents()[0]
    training = Training(**{**TRAINING, "steps": 200})
    found = list(examples(on, clean, training, Recorder()))
    schedule = on.schedule(1000)
    for example in found[:20]:
        at = int((schedule.timesteps - example.timestep).abs().argmin())
        assert example.sigma == float(schedule.sigmas[at])
        noise = example.velocity + clean
        torch.testing.assert_close(example.noisy, (1 - example.sigma) * clean + example.sigma * noise)
    mean = np.mean([example.sigma for example in found])
    assert mean == pytest.approx(float(schedule.sigmas[:-1].mean()), abs=0.05)


# --- MotionDirector -----------------------------------------------------------------------------


def test_the_debiased_loss_is_its_formula():
    predicted, target = latents(dtype=torch.float64)
    anchor, total = 1, 0.0
    for channel in range(3):
        for frame in range(3):
            for row in range(8):
                for column in range(8):
                    change = [
                        math.sqrt(2) * float(y[0, channel, frame, row, column])
                        - float(y[0, channel, anchor, row, column])
                        for y in (predicted, target)
                    ]
                    total += (change[0] - change[1]) ** 2
    assert float(debiased_loss(predicted, target, anchor)) == pytest.approx(total / predicted.numel())
    torch.testing.assert_close(
        without_appearance(target, anchor)[:, :, anchor], (2**0.5 - 1) * target[:, :, anchor]
    )


def test_the_gradient_of_the_debiased_loss_is_that_of_finite_differences():
    predicted, target = latents(dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda y: debiased_loss(y, target[..., :2, :2], 2), predicted[..., :2, :2].clone().requires_grad_()
    )


def test_the_spatial_lora_sees_single_frames_and_the_temporal_one_the_clip(wan):
    class Watched(Recorder):
        pass

    seen = []
    velocity = wan.velocity
    clean = latents(8, 3, 8, 12)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            wan,
            "velocity",
            lambda latent, *rest, grad: (seen.append(latent.shape[2]), velocity(latent, *rest, grad=grad))[1],
        )
        observer = Watched()
        director(spatial_off=0.5, training={**TRAINING, "steps": 12}).train(wan, clean, observer)
    spatial = ["spatial_loss" in row for row in observer.rows]
    assert 0 < sum(spatial) < 12
    assert seen == [frames for on in spatial for frames in ([1, 3] if on else [3])]
    for row in observer.rows:
        assert row["temporal_loss"] == pytest.approx(row["plain"] + row["debiased"], rel=1e-5)


def test_only_the_temporal_lora_is_sampled_with(wan):
    clean = latents(8, 3, 8, 12)[0]
    weights = director(training={**TRAINING, "learning_rate": 0.0}).train(wan, clean, Recorder())
    assert all(not value.any() for name, value in weights.items() if "lora_B" in name)
    trained = director().train(wan, clean, Recorder())
    assert trained.keys() == weights.keys()
    assert any(value.any() for name, value in trained.items() if "lora_B" in name)


# --- Motion Inversion ---------------------------------------------------------------------------


def test_debiasing_takes_the_difference_of_successive_frames_of_the_values_only():
    generator = torch.Generator().manual_seed(0)
    weights = {
        "blocks.0.queries_keys": torch.randn(4, 5, generator=generator),
        "blocks.0.values": torch.randn(4, 2, 3, 5, generator=generator),
    }
    found = debiased(weights, "difference")
    for frame in range(4):
        before = weights["blocks.0.values"][frame - 1] if frame else 0
        torch.testing.assert_close(
            found["blocks.0.values"][frame], weights["blocks.0.values"][frame] - before
        )
    assert found["blocks.0.queries_keys"] is weights["blocks.0.queries_keys"]
    assert not debiased(weights, "drop")["blocks.0.values"].any()
    assert debiased(weights, "none") == weights


def test_values_without_frames_have_no_difference():
    with pytest.raises(InputError, match=r"method\.debias=difference") as error:
        inversion(value_frames=False).check(GRID, 2)
    assert "\n" not in str(error.value)
    inversion(value_frames=False, debias="drop").check(GRID, 2)


# --- DeT ----------------------------------------------------------------------------------------


def test_the_tracking_loss_is_its_formula():
    clean = latents(dtype=torch.float64)[0]
    generator = torch.Generator().manual_seed(4)
    rows, columns = (torch.randint(8, (3, 6), generator=generator) for _ in range(2))
    visible = torch.rand(3, 6, generator=generator) < 0.6
    total = 0.0
    for point in range(6):
        for frame in range(2):
            if not visible[frame + 1, point]:
                continue
            for channel in range(3):
                here, there = (
                    clean[0, channel, at, rows[at, point], columns[at, point]] for at in (frame, frame + 1)
                )
                total += float(here - there) ** 2
    tracks = LatentTracks(rows, columns, visible)
    assert float(tracking_loss(clean, tracks)) == pytest.approx(total / (3 * 2 * 6))
    assert torch.autograd.gradcheck(lambda x: tracking_loss(x, tracks), clean.clone().requires_grad_())
    empty = LatentTracks(rows[:, :0], columns[:, :0], visible[:, :0])
    assert float(tracking_loss(clean, empty)) == 0


def test_tracks_on_the_latent_are_those_that_move_apart_from_the_rest():
    points = np.zeros((9, 5, 2), np.float32)
    points[:] = [[2, 2], [10, 4], [20, 12], [30, 14], [6, 6]]
    points[:, :, 0] += 0.25 * np.arange(9)[:, None]  # a camera moves all
    points[:, 2, 1] -= np.arange(9)  # one object moves by itself,
    points[:, 4, 0] += 3 * np.arange(9)  # as does one hidden at first
    visible = np.ones((9, 5), bool)
    visible[0, 4] = visible[8, 2] = False
    latent = torch.zeros(1, 3, 3, 4, 8)
    tracks = on_latent(points, visible, latent, (16, 32), 1)
    assert tracks.rows[:, 0].tolist() == [int((12 - t + 0.5) / 4) for t in (0, 4, 8)]
    assert tracks.columns[:, 0].tolist() == [int((20 + 0.25 * t + 0.5) / 4) for t in (0, 4, 8)]
    assert tracks.visible[:, 0].tolist() == [True, True, False]
    assert on_latent(points, visible, latent, (16, 32), 99).rows.shape == (3, 4)
    assert int(on_latent(points + 100, visible, latent, (16, 32), 99).columns.max()) == 7


def test_tracking_takes_part_at_low_noise_only_and_not_at_weight_0():
    def rows(**tracking):
        options = {"weight": 0.1, "points": 5, "below_sigma": 0.5, **tracking}
        observer = Recorder()
        run(det(tracking=options, training={**TRAINING, "steps": 20}), FakeBackbone(), observer)
        return observer.rows

    found = rows()
    assert {row["sigma"] <= 0.5 for row in found} == {True, False}
    for row in found:
        assert ("tracking" in row) is (row["sigma"] <= 0.5)
        assert row["loss"] == pytest.approx(row["plain"] + 0.1 * row.get("tracking", 0), rel=1e-5)
    assert not any("tracking" in row for row in rows(weight=0.0))


def test_det_names_its_tracker_s_version_and_asks_for_a_tracker():
    assert det().version == "2-7"
    with pytest.raises(InputError, match=r"method\.tracker"):
        det(tracker={"name": "dis"}).check(GRID, 2)
    det(tracker=None, tracking=Tracking(0.0, 5, 0.4)).check(GRID, 2)
    with pytest.raises(InputError, match=r"method\.kernel=4.*use 5"):
        det(kernel=4).check(GRID, 2)


# --- cost ---------------------------------------------------------------------------------------


def calls(name, **changes):
    values = resolved(name)
    if name == "det":
        values["tracker"] = Still()
    method = build({**values, **changes})
    return method_calls(method, Grid(13, 30, 52), 30), method


def test_the_cost_model_counts_every_step_of_training():
    sampling = {Call("denoise", "forward"): 100, Call("text", "embed"): 2}
    for name, steps in (("motion_inversion", 400), ("det", 500)):
        found, _ = calls(name)
        assert found[Call("train", "gradient", None, "velocity")] == steps
        assert sampling.items() <= found.items()
    assert found[Call("train", "decode")] == 1
    found, method = calls("motion_director")
    clip = Call("train", "gradient", None, "velocity")
    frame = clip._replace(grid=Grid(1, 30, 52))
    trained = Counter({call: n for call, n in found.items() if call.kind == "gradient"})
    assert trained.keys() == {clip, frame}
    assert trained[clip] == 150
    assert trained[frame] == pytest.approx(0.8 * 150, abs=15)
    assert sampling.items() <= found.items()
    assert method.training.steps == 150


def test_steps_counted_are_steps_run(wan):
    method = director(training={**TRAINING, "steps": 10})
    wan.calls.clear()
    run(method, wan)
    counted = method_calls(method, Grid(3, 4, 6), 2)
    assert wan.calls["gradient"] == sum(n for call, n in counted.items() if call.kind == "gradient")
    assert wan.calls["forward"] == counted[Call("denoise", "forward")]
