"""fastvmt_turbo: every ingredient off is fastvmt; on, each does what it says and costs what it says."""

from __future__ import annotations

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.fastvmt import FastVMT
from methods.fastvmt_turbo import Coarse, Turbo, coarsen
from methods.guidance.loop import SamplingRun
from methods.guidance.passes import Caching, Unconditional, passes, predicted_change

VALUES = {
    "name": "fastvmt",
    "extractor": "window",
    "reduction": "head_mean",
    "block": 1,
    "temperature": 1.0,
    "window": 4,
    "tile": (2, 4),
    "span": 2,
    "loss": {"amf_weight": 5.0, "window_weight": 1.0},
    "reuse": {"interval": 3},
    "optimiser": {"lr_start": 0.03, "lr_end": 0.02, "iterations": 4, "guided_fraction": 0.2},
    "reference": "clean",
    "start": {"strength": None},
    "steps": 10,
    "guidance_scale": 3.0,
    "negative_prompt": "blurry",
}


def turbo(coarse=None, unconditional=None, caching=None, **changes):
    own = {"coarse": coarse or {}, "unconditional": unconditional or {}, "caching": caching or {}}
    return Turbo(**{**VALUES, **changes}, **own)


def latents(frames=5, height=8, width=8):
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(1, 3, frames, height, width, generator=generator) for _ in range(2))


def run(method, backbone=None):
    reference, noise = latents()
    return method.transfer(backbone or FakeBackbone(), reference, "a red fox", noise, Recorder())


def test_with_every_ingredient_off_it_is_fastvmt_to_the_last_bit():
    ours, theirs = FakeBackbone(), FakeBackbone()
    assert torch.equal(run(turbo(), ours), run(FastVMT(**VALUES), theirs))
    assert ours.calls == theirs.calls
    assert ours.seen == theirs.seen


# --- skipped unconditional passes ---------------------------------------------------------------


class Spoken(FakeBackbone):
    """Notes every single pass: whether with the prompt, and at which timestep."""

    def __init__(self):
        super().__init__()
        self.negative = float(self.embed(["blurry"]).mean())
        self.passes: list[tuple[str, float]] = []
        self.velocities: dict[tuple[str, float], torch.Tensor] = {}

    def predict(self, latent, timestep, prompt, negative, guidance_scale):
        assert negative is None
        name = "negative" if float(prompt.mean()) == self.negative else "prompt"
        self.passes.append((name, float(timestep)))
        self.velocities[self.passes[-1]] = super().predict(latent, timestep, prompt, None, 1.0)
        return self.velocities[self.passes[-1]]


def velocities(unconditional=None, caching=None, scale=3.0, backbone=None, steps=10):
    """The backbone, its schedule, and the velocities along Euler steps from fixed noise."""
    backbone = backbone or Spoken()
    schedule = backbone.schedule(steps)
    prompt, negative = backbone.embed(["a red fox", "blurry"]).split(1)
    reference, latent = latents()
    made = passes(Unconditional(**(unconditional or {})), Caching(**(caching or {})))
    velocity_at = made(
        SamplingRun(
            *(backbone, Recorder(), reference, latent, latent, schedule, prompt, negative, "blurry", scale)
        )
    )
    found = []
    for index in range(steps):
        found.append(velocity_at(index, latent))
        latent = backbone.step(latent, found[-1], schedule, index)
    return backbone, schedule, found


def test_a_skipped_unconditional_pass_reuses_the_last_difference():
    backbone, schedule, found = velocities({"every": 3, "first": 0.2})
    times = schedule.timesteps.tolist()
    at = [times.index(when) for name, when in backbone.passes if name == "negative"]
    assert at == [0, 1, 4, 7]
    assert sum(name == "prompt" for name, _ in backbone.passes) == 10
    seen = backbone.velocities
    for index, last in [(1, 1), (2, 1), (3, 1), (4, 4), (9, 7)]:
        difference = seen["prompt", times[last]] - seen["negative", times[last]]
        torch.testing.assert_close(found[index], seen["prompt", times[index]] + 2 * difference)


def test_every_pass_computed_apart_is_classifier_free_guidance():
    # With first=1 nothing is skipped, but the passes run one by one.
    _, _, apart = velocities({"every": 2, "first": 1.0})
    _, _, joint = velocities(backbone=FakeBackbone())
    for one, other in zip(apart, joint, strict=True):
        torch.testing.assert_close(one, other)


def test_outside_its_noise_levels_guidance_is_left_out():
    backbone, schedule, found = velocities({"within": [0.3, 0.9]})
    inside = [0.3 <= sigma <= 0.9 for sigma in schedule.sigmas[:-1].tolist()]
    assert 0 < sum(inside) < 10
    times = schedule.timesteps.tolist()
    assert [("negative", when) in backbone.passes for when in times] == inside
    for index, guided in enumerate(inside):
        if not guided:
            assert torch.equal(found[index], backbone.velocities["prompt", times[index]])


def test_a_scale_of_one_needs_no_unconditional_pass():
    backbone, _, _ = velocities({"every": 2}, scale=1.0)
    assert {name for name, _ in backbone.passes} == {"prompt"}


# --- reused velocities --------------------------------------------------------------------------


def computed_steps(caching, **more):
    backbone, schedule, found = velocities({"every": 100}, caching, **more)
    times = schedule.timesteps.tolist()
    return [times.index(when) for name, when in backbone.passes if name == "prompt"], schedule, found


def test_fixed_caching_runs_every_nth_step_between_its_shares():
    assert computed_steps({"every": 2, "first": 0.4, "last": 0.9})[0] == [0, 1, 2, 3, 5, 7, 9]
    assert computed_steps({"every": 3, "first": 0.4, "last": 1.0})[0] == [0, 1, 2, 3, 6, 9]
    assert computed_steps({"every": 3, "first": 0.0, "last": 0.0})[0] == list(range(10))


def test_holding_a_velocity_is_one_longer_euler_step():
    """Every 2nd step of twice the steps, held: the schedule of half the steps, where that is linear."""
    backbone = FakeBackbone(shift=1.0)
    fine = backbone.schedule(10)
    _, _, found = velocities(caching={"every": 2, "order": 0}, backbone=backbone)
    prompt, negative = backbone.embed(["a red fox", "blurry"]).split(1)
    latent = latents()[1]
    for index in range(0, 10, 2):
        velocity = backbone.predict(latent, fine.timesteps[index], prompt, negative, 3.0)
        torch.testing.assert_close(found[index], velocity)
        assert found[index + 1] is found[index]
        latent = latent + (fine.sigmas[index + 2] - fine.sigmas[index]) * velocity


def test_the_first_order_is_exact_for_a_velocity_linear_in_sigma():
    class Linear(Spoken):
        def predict(self, latent, timestep, prompt, negative, guidance_scale):
            super().predict(latent, timestep, prompt, negative, guidance_scale)
            return torch.full_like(latent, 3.0) - 2e-3 * timestep

    for order, exact in [(1, True), (0, False)]:
        _, schedule, found = velocities(
            {"every": 100}, {"every": 3, "first": 0.2, "order": order}, backbone=Linear()
        )
        wanted = [3 - 2 * sigma for sigma in schedule.sigmas[:-1].tolist()]
        got = [float(velocity.mean()) for velocity in found]
        assert (got == pytest.approx(wanted, abs=1e-4)) is exact


def test_adaptive_caching_computes_when_the_predicted_change_is_large():
    tight, _, _ = computed_steps({"every": 5, "first": 0.2, "threshold": 1e-9})
    loose, _, _ = computed_steps({"every": 5, "first": 0.2, "threshold": 1e9})
    assert tight == list(range(10))
    assert loose == [0, 1, 6]
    between = [len(computed_steps({"every": 9, "threshold": t})[0]) for t in (0.02, 0.1, 0.5)]
    assert between == sorted(between, reverse=True)
    assert between[0] > between[-1]


def test_the_predicted_change_is_that_of_a_linear_map():
    """v = 2 x: where x has moved by 3 since x = 4, the velocity has changed by 6 of 8."""
    one = torch.ones(2, 3)
    assert predicted_change((one, 2 * one), (4 * one, 8 * one), 7 * one) == pytest.approx(6 / 8)
    assert predicted_change((one, one), (one, one), one) == float("inf")


# --- coarse guidance ----------------------------------------------------------------------------


def test_a_pooled_latent_is_a_noised_pooled_clean_latent_of_a_lower_level():
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(1, 2, 3, 1, 1, generator=generator).expand(-1, -1, -1, 128, 128)
    noise = torch.randn(clean.shape, generator=generator)
    backbone = FakeBackbone()
    for sigma in (1.0, 0.7, 0.2):
        noised = backbone.add_noise(clean, noise, sigma)
        small, timestep = coarsen(Coarse(pool=2), backbone, noised, torch.tensor(1000 * sigma))
        level = float(timestep) / 1000
        assert level == pytest.approx((sigma / 2) / (1 - sigma / 2), rel=1e-5)
        rest = small - (1 - level) * clean[..., :64, :64]
        assert float(rest.std()) == pytest.approx(level, rel=0.02)
    small, timestep = coarsen(Coarse(pool=2), backbone, clean, torch.tensor(0.0))
    assert timestep == 0
    torch.testing.assert_close(small, clean[..., :64, :64])


def test_left_out_frames_get_the_gradient_of_the_frame_read_before_them():
    latent = latents(frames=5)[0].requires_grad_()
    small, timestep = coarsen(Coarse(stride=2), FakeBackbone(), latent, torch.tensor(300.0))
    assert timestep == 300
    assert torch.equal(small, latent[:, :, ::2])
    weight = torch.randn(small.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((small * weight).sum(), latent)
    torch.testing.assert_close(gradient, weight.repeat_interleave(2, dim=2)[:, :, :5])


class Sized(FakeBackbone):
    def __init__(self):
        super().__init__()
        self.sizes = set()

    def queries_keys(self, latent, timestep, prompt, block, *, grad):
        self.sizes.add(tuple(latent.shape[2:]))
        return super().queries_keys(latent, timestep, prompt, block, grad=grad)


@pytest.mark.parametrize(
    "coarse, size",
    [({"pool": 2}, (5, 4, 4)), ({"stride": 2}, (3, 8, 8)), ({"pool": 2, "stride": 3}, (2, 4, 4))],
)
def test_guidance_and_reference_are_read_at_the_coarse_size(coarse, size):
    backbone = Sized()
    result = run(turbo(coarse), backbone)
    assert backbone.sizes == {size}
    assert result.shape == (1, 3, 5, 8, 8)
    assert torch.isfinite(result).all()
    assert not torch.equal(result, run(turbo()))


@pytest.mark.parametrize("pool, stride", [(2, 1), (1, 2), (2, 2), (3, 3)])
def test_coarse_guidance_is_fastvmt_with_its_windows_tiles_and_span_in_coarse_tokens(pool, stride):
    """Window 12, tile 6x12 and span 6 cover as much of the small latent as of the large one."""
    latent = latents(frames=13, height=12, width=24)[0]
    large = turbo({"pool": pool, "stride": stride}, window=12, tile=(6, 12), span=6)
    small = FastVMT(**{**VALUES, "window": 12 // pool, "tile": (6 // pool, 12 // pool), "span": 6 // stride})
    backbone, timestep = FakeBackbone(), torch.tensor(400.0)
    prompt = backbone.embed(["a red fox"])
    ours = large.extract(backbone, latent, timestep, prompt, grad=True)
    # Averaging pool x pool cells divides independent noise by pool: a lower level than .4, at length 1.
    noise = 0.4 / pool
    pooled = torch.nn.functional.avg_pool3d(latent[:, :, ::stride], (1, pool, pool)) / (0.6 + noise)
    theirs = small.extract(backbone, pooled, 1000 * torch.tensor(noise / (0.6 + noise)), prompt, grad=True)
    torch.testing.assert_close(ours.displacement, theirs.displacement, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.window_keys, theirs.window_keys, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.pairs.weight, theirs.pairs.weight)


def test_every_cell_of_the_latent_is_moved_by_coarse_guidance():
    class First(FakeBackbone):
        def predict(self, latent, *rest):
            self.first = getattr(self, "first", latent)
            return super().predict(latent, *rest)

    for coarse in ({"pool": 2}, {"stride": 2}):
        backbone = First()
        # Dense: with windows, a target frame's keys outside all of them have no gradient anyway.
        run(turbo(coarse, extractor="dense"), backbone)
        assert ((backbone.first - latents()[1]).abs() > 1e-6).float().mean() > 0.99


@pytest.mark.parametrize(
    "coarse, grid, key",
    [
        ({"pool": 2}, Grid(5, 8, 9), "method.coarse.pool=2.*8x9"),
        ({"stride": 5}, Grid(5, 8, 8), "method.coarse.stride=5.*5 latent frames"),
        ({"pool": 4}, Grid(5, 4, 8), "method.tile"),
        ({}, Grid(1, 8, 8), "frames"),
    ],
)
def test_what_does_not_fit_the_coarse_grid_is_bad_input(coarse, grid, key):
    method = turbo(coarse, window=1, tile=(8, 8) if "tile" in key else (2, 4))
    with pytest.raises(InputError, match=key) as error:
        method.check(grid, num_blocks=8)
    assert "\n" not in str(error.value)


def test_a_fitting_grid_passes():
    turbo({"pool": 2, "stride": 2}).check(Grid(5, 8, 8), num_blocks=8)


def test_the_upper_bound_leaves_out_what_depends_on_the_data():
    method = turbo(caching={"every": 3, "threshold": 0.1}, reuse={"interval": 2, "policy": "adaptive"})
    bound = method.at_most()
    assert (bound.caching.every, bound.reuse.policy, bound.reuse.interval) == (1, "fixed", 2)
    fixed = turbo(caching={"every": 3})
    assert fixed.at_most() == fixed


@pytest.mark.parametrize(
    "wrong", [{"coarse": {"pool": 0}}, {"unconditional": {"evry": 2}}, {"caching": {"order": 2}}]
)
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=r"pool|evry|order"):
        turbo(**wrong)
