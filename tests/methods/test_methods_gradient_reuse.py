"""Gradient reuse: which iterations compute a gradient, and what the adaptive policy measures."""

from __future__ import annotations

import math

import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from methods.fastvmt import FastVMT
from methods.guidance.gradient_reuse import GradientReuse, Reuse


def play(options, latents, gradients=None, rate=1.0):
    """Flags of true gradients, step by step: ``latents`` holds one list of latents for each guidance step."""
    reuse = GradientReuse(Reuse(**options))
    made = iter(gradients or [torch.tensor([1.0, 0.0])] * 1000)
    flags = []
    for step in latents:
        reuse.start_step(rate)
        flags.append([])
        for latent in step:
            reuse(torch.as_tensor(latent, dtype=torch.float32), lambda: next(made))
            flags[-1].append(reuse.is_true)
    return reuse, flags


def still(steps, iterations):
    return [[[0.0, 0.0]] * iterations] * steps


def walk(iterations, by, start=0.0):
    """Latents whose root mean square moves by ``by`` each iteration."""
    return [[start + by * j] * 2 for j in range(iterations)]


@pytest.mark.parametrize("interval", [1, 2, 3, 4, 20])
def test_fixed_takes_every_nth_and_starts_each_step_anew(interval):
    reuse, flags = play({"interval": interval}, still(3, 10))
    assert flags == 3 * [[j % interval == 0 for j in range(10)]]
    assert reuse.true_gradients == sum(map(sum, flags))


def test_across_steps_the_count_goes_on():
    reuse, flags = play({"interval": 4, "across_steps": True}, still(3, 10))
    assert [flag for step in flags for flag in step] == [j % 4 == 0 for j in range(30)]
    assert reuse.true_gradients == 8


def test_the_last_gradient_is_handed_out_and_true_ones_are_compared():
    made = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])]
    reuse = GradientReuse(Reuse(interval=2))
    source = iter(made)
    latent = torch.zeros(2)
    first, again, second = (reuse(latent, lambda: next(source)) for _ in range(3))
    assert again is first is made[0]
    assert second is made[1]
    assert reuse.similarity == pytest.approx(2**-0.5)


def test_adaptive_recomputes_when_the_latent_has_moved():
    options = {"interval": 1, "policy": "adaptive", "move": 0.25, "turn": 1000.0, "longest": 100}
    _, flags = play(options, [walk(10, by=0.1)])
    # 0.3 is the first distance above 0.25.
    assert flags == [[j % 3 == 0 for j in range(10)]]


def test_movement_is_measured_in_learning_rates():
    options = {"interval": 1, "policy": "adaptive", "move": 2.5, "turn": 1000.0, "longest": 100}
    reuse, flags = play(options, [walk(10, by=0.1)], rate=0.1)
    assert flags == [[j % 3 == 0 for j in range(10)]]
    assert reuse.moved == pytest.approx(3.0, rel=1e-3)


def test_adaptive_recomputes_when_the_gradient_has_turned():
    """A gradient that turns by 10 degrees every 0.1: past 35 degrees, that is 0.4, a new one is due."""
    options = {"interval": 1, "policy": "adaptive", "move": 0.15, "turn": 35.0, "longest": 100}
    angles = [0.0, 20.0, 60.0]
    gradients = [torch.tensor([math.cos(math.radians(a)), math.sin(math.radians(a))]) for a in angles]
    reuse = GradientReuse(Reuse(**options))
    source = iter(gradients)
    rows = []
    for j, latent in enumerate(walk(7, by=0.1)):
        if j == 3:  # two true gradients are known; from here only the turn decides
            reuse.options.move = 1000.0
        reuse(torch.tensor(latent), lambda: next(source))
        rows.append((reuse.is_true, reuse.moved, reuse.turned))
    assert [row[0] for row in rows] == [True, False, True, False, False, False, True]
    assert rows[0][1:] == (None, None)
    assert rows[1][2] is None
    moved = [row[1] for row in rows[1:]]
    assert moved == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.3, 0.4], abs=1e-6)
    # 20 degrees in 0.2: 100 degrees per distance.
    assert [row[2] for row in rows[3:]] == pytest.approx([10, 20, 30, 40], abs=1e-3)


def test_adaptive_keeps_between_interval_and_longest():
    fast = {"interval": 3, "policy": "adaptive", "move": 1e-6, "turn": 1e-6, "longest": 100}
    assert play(fast, [walk(9, by=1.0)])[1] == [[j % 3 == 0 for j in range(9)]]
    slow = {"interval": 1, "policy": "adaptive", "move": 1e6, "turn": 1e6, "longest": 4}
    assert play(slow, [walk(9, by=1.0)])[1] == [[j % 4 == 0 for j in range(9)]]


def test_adaptive_across_steps_counts_the_denoising_step_as_movement():
    options = {"interval": 1, "policy": "adaptive", "move": 0.5, "turn": 1e6, "longest": 100}
    near, far = [walk(3, 0.1), walk(3, 0.1, start=0.3)], [walk(3, 0.1), walk(3, 0.1, start=5.0)]
    assert play({**options, "across_steps": True}, near)[1][1] == [False] * 3
    assert play({**options, "across_steps": True}, far)[1][1] == [True, False, False]
    assert play({**options, "across_steps": False}, near)[1][1] == [True, False, False]


def fastvmt(**reuse):
    return FastVMT(
        name="fastvmt",
        extractor="dense",
        reduction="head_mean",
        block=1,
        temperature=1.0,
        window=3,
        tile=(3, 4),
        span=3,
        loss={"amf_weight": 5.0, "window_weight": 0.0},
        reuse=reuse,
        optimiser={"lr_start": 0.03, "lr_end": 0.02, "iterations": 10, "guided_fraction": 0.4},
        reference="clean",
        start={"strength": None},
        steps=5,
        guidance_scale=3.0,
        negative_prompt="blurry",
    )


@pytest.mark.parametrize("across_steps", [False, True])
def test_trace_and_calls_agree_on_the_number_of_true_gradients(across_steps):
    backbone, observer = FakeBackbone(), Recorder()
    generator = torch.Generator().manual_seed(3)
    reference, noise = (torch.randn(1, 3, 4, 5, 6, generator=generator) for _ in range(2))
    options = {"policy": "adaptive", "interval": 1, "move": 2.5, "turn": 40.0, "across_steps": across_steps}
    fastvmt(**options).transfer(backbone, reference, "a red fox", noise, observer)
    true = [row for row in observer.rows if row["true_gradient"]]
    assert len(true) == backbone.calls["gradient"]
    # Nothing is evaluated to decide: two guided steps of ten iterations, one reference, no more.
    assert 2 - across_steps <= len(true) < 20
    assert backbone.calls["partial"] == 1
    assert all("moved" in row for row in observer.rows[1:])
    assert any("turned" in row for row in observer.rows)


def test_the_upper_bound_takes_every_interval():
    method = fastvmt(policy="adaptive", interval=3)
    assert method.at_most().reuse == Reuse(interval=3)
    assert fastvmt(interval=3).at_most() == fastvmt(interval=3)
