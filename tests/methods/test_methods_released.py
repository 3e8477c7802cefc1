"""The release's options: against values its own functions gave, plain loops, and the paper's path."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, Recorder
from omegaconf import OmegaConf
from test_methods_configs import CONF, build, resolved

from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.fastvmt_released import (
    PairOptions,
    WindowOptions,
    released_motion,
    released_pairs,
    released_window_loss,
    summed_amf_loss,
    token_mean,
)
from methods.guidance.latent_guidance import Optimiser
from methods.motion_flow.flow import amf_loss, extract_motion
from methods.motion_flow.window_loss import window_loss

DATA = Path(__file__).parents[1] / "data"
RELEASED = {
    "tile_centre": "half",
    "rounding": "truncated",
    "clamp": "cells",
    "positions": "window",
    "checkerboard": True,
    "self_pairs": True,
    "span_counts_self": True,
    "window_average": "channels",
}
PAPER = {
    "tile_centre": "floor",
    "rounding": "nearest",
    "clamp": "centre",
    "positions": "frame",
    "checkerboard": False,
    "self_pairs": False,
    "span_counts_self": False,
    "window_average": "window",
}


def motion(queries, keys, height, width, options, **others):
    windows, pairs = (
        group(**{field.name: options[field.name] for field in dataclasses.fields(group)})
        for group in (WindowOptions, PairOptions)
    )
    others = {"reduction": "head_mean", "temperature": 1.0, **others}
    return released_motion(
        queries,
        keys,
        height,
        width,
        windows=windows,
        pairs=pairs,
        window_average=options["window_average"],
        **others,
    )


@pytest.mark.parametrize("case", "abc")
def test_amf_losses_and_gradients_are_those_of_the_released_functions(case):
    golden = np.load(DATA / f"released_amf_{case}.npz")
    frames, height, width, channels = golden["q"].shape
    tile = tuple(int(size) for size in golden["tile"])
    settings = {"temperature": float(golden["tau"]), "span": int(golden["span"]), "tile": tile}
    settings["window"] = int(golden["window"])

    def read(*names):
        return [
            torch.from_numpy(golden[name]).reshape(frames, height * width, 1, channels).requires_grad_()
            for name in names
        ]

    queries, keys = read("q", "k")
    reference = motion(*read("q_ref", "k_ref"), height, width, RELEASED, **settings)
    generated = motion(queries, keys, height, width, RELEASED, **settings)
    # The release leaves the tokens of its windowed pairs in the order of its tiles.
    by_tile = torch.arange(height * width).reshape(height // tile[0], tile[0], width // tile[1], tile[1])
    by_tile = by_tile.transpose(1, 2).flatten()
    for ours, name in ((reference, "amf_ref"), (generated, "amf")):
        same = (ours.pairs.source == ours.pairs.target)[:, None, None]
        displacement = torch.where(same, ours.displacement, ours.displacement[:, by_tile])
        torch.testing.assert_close(displacement, torch.from_numpy(golden[name]), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(generated.pairs.weight, torch.from_numpy(golden["weights"]))

    amf = summed_amf_loss(generated.displacement, reference.displacement.detach(), generated.pairs.weight)
    window = released_window_loss(generated.window_keys, generated.pairs, "plain")
    assert amf.item() == pytest.approx(float(golden["amf_loss"]), rel=1e-5)
    assert window.item() == pytest.approx(float(golden["window_loss"]), rel=1e-5)
    assert (5 * amf + window).item() == pytest.approx(float(golden["loss"]), rel=1e-5)
    for gradient, name in zip(
        torch.autograd.grad(5 * amf + window, (queries, keys)), ("grad_q", "grad_k"), strict=True
    ):
        expected = torch.from_numpy(golden[name]).reshape_as(gradient)
        scale = expected.abs().max()
        torch.testing.assert_close(gradient / scale, expected / scale, rtol=0, atol=1e-5)


def test_the_head_mean_is_the_released_one():
    golden = np.load(DATA / "released_head_mean.npz")
    frames, height, width = golden["grid"]
    vectors = torch.from_numpy(golden["q"]).reshape(frames, height * width, int(golden["heads"]), -1)
    expected = torch.from_numpy(golden["released"])
    torch.testing.assert_close(token_mean(vectors).reshape_as(expected), expected)
    with pytest.raises(ValueError, match="token_mean"):
        token_mean(torch.zeros(1, 3, 2, 4))


def plain_motion(q, k, height, width, span, window, tile, options):
    """The definition, one query at a time, from (F, S, C) in float64."""
    o = SimpleNamespace(**options)
    everywhere = torch.tensor([(r, c) for r in range(height) for c in range(width)], dtype=q.dtype)
    half, frames, scale = window // 2, len(q), 1 / math.sqrt(q.shape[-1])
    displacements, window_keys, weights = [], [], []
    for i in range(frames):
        for j in range(i if o.self_pairs else i + 1, frames):
            fall = max(j - i - (0 if o.span_counts_self else 1), 0)
            if j - i > (span - 1 if o.span_counts_self else span):
                continue
            weights.append(1 - 0.2 * fall / (span - 1))
            moved = {}
            if i == j:
                attention = torch.softmax(scale * q[i] @ k[j].T, dim=1)
                displacements.append(attention @ everywhere - everywhere)
                continue
            means = []
            for top in range(0, height, tile[0]):
                for left in range(0, width, tile[1]):
                    within = (tile[0] // 2, tile[1] // 2)
                    if o.tile_centre == "floor":
                        within = ((tile[0] - 1) // 2, (tile[1] - 1) // 2)
                    centre = (top + within[0]) * width + left + within[1]
                    place = torch.softmax(scale * k[j] @ q[i, centre], 0) @ everywhere
                    axes = []
                    for at, size in zip(place.tolist(), (height, width), strict=True):
                        first = (int(at) if o.rounding == "truncated" else round(at)) - half
                        if o.clamp == "centre":
                            first = min(max(first, 0), size - window)
                        cells = [first + n for n in range(window)]
                        if o.clamp == "cells":
                            cells = [min(max(cell, half), size - half - 1) for cell in cells]
                        axes.append(cells)
                    slots = [(r, c) for r in axes[0] for c in axes[1]]
                    inside = k[j][[r * width + c for r, c in slots]]
                    means.append(inside.mean(1 if o.window_average == "channels" else 0))
                    counted = slots
                    if o.positions == "window":
                        counted = [(n // window, n % window) for n in range(window * window)]
                    if o.checkerboard:
                        counted = [(0, 0) if n % 2 else slot for n, slot in enumerate(counted)]
                    counted = torch.tensor(counted, dtype=q.dtype)
                    for r in range(tile[0]):
                        for c in range(tile[1]):
                            token = (top + r) * width + left + c
                            own = (r, c) if o.positions == "window" else (top + r, left + c)
                            attention = torch.softmax(scale * inside @ q[i, token], 0)
                            moved[token] = attention @ counted - torch.tensor(own, dtype=q.dtype)
            displacements.append(torch.stack([moved[token] for token in sorted(moved)]))
            window_keys.append(torch.stack(means))
    return torch.stack(displacements), torch.stack(window_keys), weights


@pytest.mark.parametrize("start", ["released", "paper"])
@pytest.mark.parametrize("flipped", [None, *RELEASED])
def test_every_option_agrees_with_plain_loops(start, flipped):
    options, other = (RELEASED, PAPER) if start == "released" else (PAPER, RELEASED)
    options = options | ({} if flipped is None else {flipped: other[flipped]})
    generator = torch.Generator().manual_seed(5)
    qk = 2 * torch.randn(2, 3, 24, 1, 5, generator=generator, dtype=torch.float64)
    ours = motion(*qk, 4, 6, options, span=2, window=3, tile=(2, 3))
    displacement, window_keys, weights = plain_motion(*qk[:, :, :, 0], 4, 6, 2, 3, (2, 3), options)
    torch.testing.assert_close(ours.displacement, displacement)
    torch.testing.assert_close(ours.window_keys, window_keys)
    assert ours.pairs.weight.tolist() == pytest.approx(weights)


@pytest.mark.parametrize("tile, window", [((2, 3), 3), ((3, 4), 4)])
def test_with_the_papers_options_it_is_the_papers_method(tile, window):
    """Ragged tiles and even windows too."""
    generator = torch.Generator().manual_seed(6)
    qk = torch.randn(2, 4, 30, 2, 5, generator=generator, dtype=torch.float64).requires_grad_()
    settings = {"reduction": "head_mean", "temperature": 2.0, "span": 3, "window": window, "tile": tile}
    paper = extract_motion(*qk, 5, 6, extractor="window", with_window_keys=True, **settings)
    ours = motion(*qk, 5, 6, PAPER, **settings)
    torch.testing.assert_close(ours.displacement, paper.displacement)
    torch.testing.assert_close(ours.window_keys, paper.window_keys)
    totals = [
        amf_loss(one.displacement, torch.zeros_like(one.displacement), one.pairs.weight)
        + window_loss(one.window_keys, one.pairs)
        for one in (ours, paper)
    ]
    gradients = [torch.autograd.grad(total, qk)[0] for total in totals]
    torch.testing.assert_close(*gradients)
    squared = released_window_loss(ours.window_keys, ours.pairs, "squared")
    assert squared == window_loss(ours.window_keys, ours.pairs)


def test_the_plain_window_loss_averages_within_source_frames_first():
    pairs = released_pairs(4, 3, PairOptions(self_pairs=True, span_counts_self=False))
    apart = (pairs.source != pairs.target).nonzero()[:, 0]
    keys = torch.randn(len(apart), 5, 9, generator=torch.Generator().manual_seed(1))
    by_frame = []
    for frame in range(4):
        mine = keys[pairs.source[apart] == frame]
        if len(mine) > 1:
            by_frame.append((mine[1:] - mine[:-1]).norm(dim=-1).mean())
    torch.testing.assert_close(released_window_loss(keys, pairs, "plain"), torch.stack(by_frame).mean())
    alone = released_pairs(2, 3, PairOptions(self_pairs=True, span_counts_self=False))
    assert released_window_loss(keys[:1], alone, "plain") == 0


class Deep(FakeBackbone):
    """Counts the passes that are thrown away."""

    def hidden_states(self, latent, timestep, prompt, block, *, grad):
        assert not grad
        self.calls[f"through {block}"] += 1
        self.seen.append(("thrown away", float(timestep), float(prompt.mean())))


def released(**changes):
    values = resolved("fastvmt_released")
    values |= {"block": 1, "window": 3, "span": 3, "steps": 5, "reuse": {"interval": 3}}
    values |= {
        key: values[key] | change if isinstance(change, dict) else change for key, change in changes.items()
    }
    values["optimiser"] |= {"lr_start": 0.03, "lr_end": 0.02} | changes.get("optimiser", {})
    return build(values)


def run(method, backbone=None, observer=None):
    generator = torch.Generator().manual_seed(3)
    reference, noise = torch.randn(2, 1, 3, 4, 5, 6, generator=generator)
    backbone = backbone or Deep()
    return method.transfer(backbone, reference, "a red fox", noise, observer or Recorder())


def test_passes_go_on_to_the_depth_and_change_nothing():
    options = {"optimiser": {"guided_count": 2}}
    deep, shallow = Deep(), Deep()
    assert torch.equal(run(released(**options), deep), run(released(depth=None, **options), shallow))
    # Two guided steps: the reference once each, and four true gradients each; the fake has four blocks.
    assert deep.calls == {"gradient": 8, "partial": 2, "forward": 10, "through 3": 10}
    assert shallow.calls == {"gradient": 8, "partial": 2, "forward": 10}


def test_timesteps_and_the_final_latent_are_bfloat16_values():
    backbone = Deep()
    final = run(released(), backbone)
    assert final.dtype == torch.float32
    assert torch.equal(final, final.bfloat16().float())
    timesteps = torch.tensor([seen[1] for seen in backbone.seen])
    assert torch.equal(timesteps, timesteps.bfloat16().float())
    exact = run(released(optimiser={"precision": "float32"}))
    assert not torch.equal(exact, exact.bfloat16().float())


@pytest.mark.parametrize("precision, moved", [("bfloat16", False), ("float32", True)])
def test_in_bfloat16_large_entries_do_not_move_at_wans_learning_rate(precision, moved):
    """Half a unit in the last place is 0.0039 from 1 on; the learning rate is 0.003."""
    latents = []

    class Watched(Deep):
        def predict(self, latent, *others):
            latents.append(latent)
            return super().predict(latent, *others)

    guided = {"lr_start": 3e-3, "lr_end": 2e-3, "precision": precision, "guided_count": 1}
    for count in (1, 0):
        run(released(optimiser=guided | {"guided_count": count}), Watched())
    after, before = latents[0], latents[5]
    large = before.abs() > 1
    assert ((after != before)[large].float().mean() > 0.5) == moved


def test_weight_decay_shrinks_a_latent_without_gradient():
    latents = []

    class Watched(Deep):
        def predict(self, latent, *others):
            latents.append(latent)
            return super().predict(latent, *others)

    plain = {"precision": "float32", "guided_count": 1, "lr_end": 0.03}
    for decay in (0.1, 0):
        run(
            released(loss={"amf_weight": 0, "window_weight": 0}, optimiser=plain | {"weight_decay": decay}),
            Watched(),
        )
    torch.testing.assert_close(latents[0], latents[5] * (1 - 0.03 * 0.1) ** 10, rtol=1e-5, atol=0)


def test_the_learning_rate_falls_within_each_guided_step_and_their_count_is_fixed():
    optimiser = Optimiser(
        lr_start=3e-3,
        lr_end=2e-3,
        iterations=10,
        guided_fraction=0.5,
        lr_over="iterations",
        guided_count=10,
    )
    for index in (0, 9):
        rates = [optimiser.learning_rate(index, 50, iteration) for iteration in range(10)]
        assert rates == pytest.approx([3e-3 - 1e-4 * iteration for iteration in range(10)])
    assert [optimiser.guided_steps(steps) for steps in (4, 20, 50)] == [4, 10, 10]


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"window": 4}, r"method\.window=4.*odd.*set 3"),
        ({"span": 1, "pairs": {"self_pairs": False}}, r"method\.span=1"),
        ({"window": 9}, r"method\.window=9"),
    ],
)
def test_options_that_do_not_go_together_are_bad_input(changes, key):
    with pytest.raises(InputError, match=key):
        released(**changes).check(Grid(4, 8, 8), num_blocks=4)


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, tuple(value) if isinstance(value, list) else value


def test_the_walk_from_release_to_paper_changes_one_option_at_a_time():
    variants = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / "release_to_paper.yaml"))[
        "variants"
    ]
    walked = []
    for overrides in variants.values():
        name, *changes = overrides
        assert name == "method=fastvmt_released"
        walked.append(resolved("fastvmt_released", *changes))
        build(walked[-1])
    assert walked[0] == resolved("fastvmt_released")
    # The heads are the backbone's; as those of Wan they are averaged already.
    assert walked[-1] == walked[-2]
    for before, after in itertools.pairwise(walked[:-1]):
        assert len(dict(leaves(before)).items() - dict(leaves(after)).items()) == 1
    last, paper = (dict(leaves(values)) for values in (walked[-1], resolved("fastvmt")))
    assert {key for key in paper if paper[key] != last[key]} == {"name", "_target_"}
    assert {key: value for key, value in last.items() if key not in paper} == {
        **{f"windows.{key}": value for key, value in list(PAPER.items())[:5]},
        **{f"pairs.{key}": value for key, value in list(PAPER.items())[5:7]},
        "loss.amf_reduction": "mean",
        "loss.window_average": "window",
        "loss.window_norm": "squared",
        "depth": None,
        "optimiser.weight_decay": 0,
        "optimiser.lr_over": "steps",
        "optimiser.guided_count": None,
        "optimiser.precision": "float32",
    }
    assert (
        not dict(leaves(walked[0])).items()
        & {key: value for key, value in last.items() if key not in paper}.items()
    )


@pytest.mark.parametrize(("backbone", "reduction"), [("wan2.1-1.3b", "head_mean"), ("sprites", "concat")])
def test_the_end_of_the_walk_runs_as_fastvmt(backbone, reduction):
    experiment = OmegaConf.load(CONF / "experiment" / "release_to_paper.yaml")
    # Unresolved: an override may hold an interpolation.
    *_, overrides = OmegaConf.to_container(experiment.variants).values()
    small = {"block": 1, "window": 3, "span": 3, "steps": 5}
    paper = build(resolved("fastvmt", backbone=backbone) | small)
    walked = build(resolved("fastvmt_released", *overrides[1:], backbone=backbone) | small)
    assert paper.reduction == walked.reduction == reduction
    torch.testing.assert_close(run(walked), run(paper), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_release_costs_what_its_passes_add_up_to(tmp_path, monkeypatch):
    """On Wan 1.3B, 50 steps, 81 frames: passes through 20 blocks, ten readings of the reference."""
    from hydra import compose, initialize_config_dir

    from harness.cost.model import cost_report

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", ["method=fastvmt_released", "backbone=wan2.1-1.3b", "frames=81"])
    parts = OmegaConf.to_container(composed, resolve=False)
    values = OmegaConf.to_container(
        OmegaConf.create({name: parts[name] for name in ("method", "backbone")}), resolve=True
    )
    total = cost_report(build(values["method"]), build(values["backbone"]), 81)[-1]
    assert 185 <= total["forward_equivalents"] <= 206
