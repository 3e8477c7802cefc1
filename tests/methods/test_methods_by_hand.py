"""Every rival's whole ``transfer`` against a second one, written from its paper's loop, step by step.

What is shared is the backbone's own passes and PyTorch's optimisers. Frames are wider than high, the prompt
is neither the negative nor the empty one, and no two weights, rates or sigmas are equal, so that whatever is
taken for something else shows in the final latent.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone, Recorder

from methods.det import DeT
from methods.ditflow import DiTFlow
from methods.ditflow_rope import DiTFlowRope
from methods.fastvmt import FastVMT
from methods.flowmotion import FlowMotion
from methods.moft import MOFT
from methods.motion_director import MotionDirector
from methods.motion_inversion import MotionInversion
from methods.motionclone import MotionClone
from methods.none import Plain
from methods.ropecraft import RoPECraft
from methods.smm import SMM

STEPS, SCALE, SHIFT = 5, 3.0, 3.0
FRAMES, HEIGHT, WIDTH = 3, 4, 5
PROMPT, NEGATIVE = "a red fox", "blurry"
SAMPLING = {"steps": STEPS, "guidance_scale": SCALE, "negative_prompt": NEGATIVE}
# Two of five steps are guided, at .03 and at .02.
RATES, ITERATIONS = (0.03, 0.02), 3
OPTIMISER = {"lr_start": RATES[0], "lr_end": RATES[1], "iterations": ITERATIONS, "guided_fraction": 0.4}


def latents():
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(1, 3, FRAMES, HEIGHT, WIDTH, generator=generator) for _ in range(2))


REFERENCE, NOISE = latents()
# The noise of what is noised once and for all: seed 0.
FIXED = torch.randn(REFERENCE.shape, generator=torch.Generator().manual_seed(0))


def words(backbone, text):
    return backbone.embed([text])


def noised(sigma, noise):
    return (1 - sigma) * REFERENCE + sigma * noise


class Sampler:
    """Euler steps of flow matching with classifier-free guidance; what a method does hangs in its hooks."""

    def __init__(self, strength=None):
        self.backbone = FakeBackbone(shift=SHIFT)
        way = [k / (STEPS - 1) for k in range(STEPS)]
        if strength is not None:
            way = [(1 - strength) + strength * part for part in way]
        base = [1 - part * (1 - 0.001) for part in way]
        self.sigmas = [SHIFT * b / (1 + (SHIFT - 1) * b) for b in base] + [0.0]
        self.start = NOISE if strength is None else noised(self.sigmas[0], NOISE)
        self.prompt, self.negative, self.empty = (words(self.backbone, t) for t in (PROMPT, NEGATIVE, ""))

    def timestep(self, index):
        return torch.tensor(1000 * self.sigmas[index])

    def velocity(self, latent, index, prompt=None):
        prompt = self.prompt if prompt is None else prompt
        with torch.no_grad():
            towards, away = (
                self.backbone.velocity(latent, self.timestep(index), text, grad=False)
                for text in (prompt, self.negative)
            )
        return away + SCALE * (towards - away)

    def run(self, before=None, after=None, around=None, guided=2):
        latent = self.start
        for index in range(STEPS):
            here = around(index, latent) if around and index < guided else nullcontext()
            with here:
                if before and index < guided:
                    latent = before(index, latent)
                step = self.sigmas[index + 1] - self.sigmas[index]
                latent = latent + step * self.velocity(latent, index)
                if after and index < guided:
                    latent = after(index, latent)
        return latent


def adam(parameters, rate, iterations, loss, decay=0.0):
    """AdamW from nothing, on ``loss()``."""
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    for _ in range(iterations):
        gradients = torch.autograd.grad(loss(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()


def moved(latent, rate, loss):
    latent = latent.detach().clone().requires_grad_()
    adam([latent], rate, ITERATIONS, lambda: loss(latent))
    return latent.detach()


def transferred(method, backbone=None):
    backbone = backbone or FakeBackbone(shift=SHIFT)
    return method.transfer(backbone, REFERENCE, PROMPT, NOISE, Recorder())


def alike(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)
    # What is compared is not what sampling alone gives.
    assert not torch.allclose(theirs, Sampler().run(), rtol=1e-2, atol=1e-2)


def cosine(a, b):
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=1e-8)


strengths = pytest.mark.parametrize("strength", [None, 0.7])


# --- sampling ------------------------------------------------------------------------------------


@strengths
def test_none_is_euler_with_classifier_free_guidance(strength):
    ours = transferred(Plain(name="none", start={"strength": strength}, **SAMPLING))
    torch.testing.assert_close(ours, Sampler(strength).run(), rtol=1e-4, atol=1e-4)


# --- guidance by features and attention ----------------------------------------------------------


def read_clean(sampler, read):
    return read(REFERENCE, torch.tensor(0.0), sampler.empty, False)


def read_renoised(sampler, read, index):
    return read(noised(sampler.sigmas[index], FIXED), sampler.timestep(index), sampler.empty, False)


def by_features(sampler, reference, read, loss):
    """Latent guidance: the reference's signal, and descent on the latent under the target prompt."""
    clean = read_clean(sampler, read)

    def before(index, latent):
        signal = clean if reference == "clean" else read_renoised(sampler, read, index)
        return moved(
            latent,
            RATES[index],
            lambda x: loss(read(x, sampler.timestep(index), sampler.prompt, True), signal),
        )

    return sampler.run(before)


references = pytest.mark.parametrize("reference", ["clean", "renoised"])


@references
@strengths
def test_smm_is_its_loop(strength, reference):
    sampler = Sampler(strength)

    def read(latent, timestep, prompt, grad):
        return sampler.backbone.hidden_states(latent, timestep, prompt, 2, grad=grad).mean(1)

    def loss(ours, theirs):
        terms = [
            1 - cosine(ours[j] - ours[i], theirs[j] - theirs[i]) for i in range(FRAMES) for j in range(FRAMES)
        ]
        return torch.stack(terms).mean()

    method = SMM("smm", {"strength": strength}, **SAMPLING, block=2, optimiser=OPTIMISER, reference=reference)
    alike(transferred(method), by_features(sampler, reference, read, loss))


@references
def test_moft_is_its_loop(reference):
    sampler = Sampler()

    def read(latent, timestep, prompt, grad):
        features = sampler.backbone.hidden_states(latent, timestep, prompt, 1, grad=grad)
        return features - features.mean(0, keepdim=True)

    def loss(ours, theirs):
        _, _, axes = torch.linalg.svd(theirs.reshape(-1, theirs.shape[-1]).double(), full_matrices=False)
        size = int(0.5 * theirs.shape[-1])
        channels = sorted(range(theirs.shape[-1]), key=lambda c: -abs(float(axes[0, c])))[:size]
        return (1 - cosine(ours[..., channels], theirs[..., channels])).mean()

    method = MOFT(
        "moft",
        {},
        **SAMPLING,
        block=1,
        channels=0.5,
        reframing={},
        optimiser=OPTIMISER,
        reference=reference,
    )
    alike(transferred(method), by_features(sampler, reference, read, loss))


@references
@pytest.mark.parametrize("interval", [1, 2])
def test_fastvmt_is_its_loop(reference, interval):
    method = FastVMT(
        "fastvmt",
        {},
        **SAMPLING,
        extractor="window",
        reduction="head_mean",
        block=1,
        temperature=1.5,
        window=3,
        tile=(2, 2),
        span=2,
        loss={"amf_weight": 5.0, "window_weight": 0.7},
        reuse={"interval": interval},
        optimiser=OPTIMISER,
        reference=reference,
    )
    sampler = Sampler()

    def read(latent, timestep, prompt, grad):
        return method.extract(sampler.backbone, latent, timestep, prompt, grad=grad)

    clean = read_clean(sampler, read)

    def before(index, latent):
        signal = clean if reference == "clean" else read_renoised(sampler, read, index)
        latent = latent.clone().requires_grad_()
        optimiser = torch.optim.AdamW([latent], lr=RATES[index], weight_decay=0.0)
        for iteration in range(ITERATIONS):
            if iteration % interval == 0:
                generated = read(latent, sampler.timestep(index), sampler.prompt, True)
                loss = sum(method.losses(generated, signal).values())
                (gradient,) = torch.autograd.grad(loss, latent)
            latent.grad = gradient.clone()
            optimiser.step()
        return latent.detach()

    alike(transferred(method), sampler.run(before))


@pytest.mark.parametrize("warm_up, cool_down", [(0.0, 0.0), (0.5, 0.5)])
def test_motionclone_is_its_loop(warm_up, cool_down):
    strength, level, block = 400.0, 0.61, 1
    sampler = Sampler()
    guided = 4  # 0.7 of five steps, rounded up

    def attention(latent, timestep, prompt, grad):
        queries, keys = sampler.backbone.queries_keys(latent, timestep, prompt, block, grad=grad)
        logits = torch.einsum("fshd,gshd->shfg", queries, keys) / math.sqrt(queries.shape[-1])
        return logits.softmax(-1)

    wanted, at = attention(noised(level, FIXED), torch.tensor(1000 * level), sampler.empty, False).max(-1)
    shares = {0: (0.5, 1.0, 1.0, 0.5), 1: (1.0, 1.0, 1.0, 1.0)}[0 if warm_up else 1]
    shift = {}

    def before(index, latent):
        probe = latent.clone().requires_grad_()
        found = attention(probe, sampler.timestep(index), sampler.prompt, True)
        picked = found.gather(-1, at[..., None])[..., 0]
        (gradient,) = torch.autograd.grad((picked - wanted).square().mean(), probe)
        factor = strength * shares[index] * sampler.sigmas[index] * sampler.sigmas[index + 1]
        shift[index] = factor * gradient
        return latent

    method = MotionClone(
        "motionclone",
        {},
        **SAMPLING,
        block=block,
        strength=strength,
        reference_sigma=level,
        guided_fraction=0.7,
        warm_up=warm_up,
        cool_down=cool_down,
    )
    theirs = sampler.run(before, after=lambda index, latent: latent - shift[index], guided=guided)
    alike(transferred(method), theirs)


@strengths
@pytest.mark.parametrize("source", ["latent_prediction", "clean_latent"])
def test_flowmotion_is_its_loop(source, strength):
    sampler = Sampler(strength)
    backbone = sampler.backbone

    def wanted(index):
        if source == "clean_latent":
            return REFERENCE
        noise = torch.randn(REFERENCE.shape, generator=torch.Generator().manual_seed(index))
        given, sigma = noised(sampler.sigmas[index], noise), sampler.sigmas[index]
        velocity = backbone.velocity(given, sampler.timestep(index), sampler.empty, grad=False)
        return given - sigma * velocity

    def loss(ours, theirs):
        groups = [range(FRAMES)[1:]]  # successive frames
        total = sum(
            ((ours[:, :, t] - ours[:, :, t - 1]).abs() - (theirs[:, :, t] - theirs[:, :, t - 1]).abs())
            .square()
            .mean()
            for t in groups[0]
        ) / (FRAMES - 1)
        for i in range(FRAMES):  # each frame with all others
            others = [j for j in range(FRAMES) if j != i]
            total = total + sum(
                ((ours[:, :, j] - ours[:, :, i]).abs() - (theirs[:, :, j] - theirs[:, :, i]).abs())
                .square()
                .mean()
                for j in others
            ) / (FRAMES - 1)
        return 20.0 * (ours - theirs).square().mean() + 5.0 * total / (FRAMES + 1)

    def before(index, latent):
        target, sigma = wanted(index), sampler.sigmas[index]
        start = latent
        latent = latent.clone().requires_grad_()
        optimiser = torch.optim.AdamW([latent], lr=RATES[index], weight_decay=0.0)
        for _ in range(ITERATIONS):
            velocity = sampler.velocity(latent.detach(), index)
            if index > 0:
                heading = (start - sampler.start) / (sigma - sampler.sigmas[0])
                unit = heading / heading.norm(dim=1, keepdim=True)
                along = (velocity * unit).sum(1, keepdim=True) * unit
                velocity = along + 0.1 * (velocity - along)
            (latent.grad,) = torch.autograd.grad(loss(latent - sigma * velocity, target), latent)
            optimiser.step()
        return latent.detach()

    method = FlowMotion(
        "flowmotion",
        {"strength": strength},
        **SAMPLING,
        source=source,
        loss={"latent_weight": 20.0, "difference_weight": 5.0},
        regularise=0.1,
        optimiser=OPTIMISER,
    )
    alike(transferred(method), sampler.run(before))


# --- DiTFlow and its tables ----------------------------------------------------------------------

FLOW = {"block": 2, "temperature": 2.0, "injection": 0, "optimiser": OPTIMISER}


def flow_of(backbone, latent, timestep, prompt, soft):
    """Displacements of every ordered pair of frames, one pair at a time."""
    queries, keys = backbone.queries_keys(latent, timestep, prompt, FLOW["block"], grad=soft)
    tokens = torch.arange(HEIGHT * WIDTH)
    places = torch.stack([tokens // WIDTH, tokens % WIDTH], 1).float()
    found = []
    for query in queries:
        for key in keys:
            logits = torch.einsum("shd,thd->st", query, key) / query.shape[-2] / math.sqrt(query.shape[-1])
            if soft:
                found.append((FLOW["temperature"] * logits).softmax(-1) @ places - places)
            else:
                found.append(places[logits.argmax(-1)] - places)
    return torch.stack(found)


def flow_loss(ours, theirs):
    moves = (theirs != 0).any(-1)
    return (ours - theirs)[moves].square().mean()


def injected(sampler, index, noise=NOISE, prompt=None):
    """Block 0 attends to the reference, noised for this step with the initial noise."""
    prompt = sampler.prompt if prompt is None else prompt
    given = noised(sampler.sigmas[index], noise)
    both = sampler.backbone.keys_values(given, sampler.timestep(index), prompt, 0, grad=False)
    return sampler.backbone.injected(0, *both)


@strengths
def test_ditflow_is_its_loop(strength):
    sampler = Sampler(strength)
    signal = flow_of(sampler.backbone, REFERENCE, torch.tensor(0.0), sampler.empty, False)

    def before(index, latent):
        def loss(x):
            ours = flow_of(sampler.backbone, x, sampler.timestep(index), sampler.prompt, True)
            return flow_loss(ours, signal)

        return moved(latent, RATES[index], loss)

    method = DiTFlow("ditflow", {"strength": strength}, **SAMPLING, **FLOW)
    theirs = sampler.run(before, around=lambda index, latent: injected(sampler, index))
    alike(transferred(method), theirs)


def improved(sampler, tables, index, latent, prompt, signal):
    """Tables (query cos, sin, key cos, sin) after a guided step's descent."""
    tables = [table.detach().clone().requires_grad_() for table in tables]

    def loss():
        with torch.enable_grad(), sampler.backbone.rotated(tuple(tables[:2]), tuple(tables[2:])):
            ours = flow_of(sampler.backbone, latent, sampler.timestep(index), prompt, True)
            return flow_loss(ours, signal)

    adam(tables, RATES[index], ITERATIONS, loss)
    return [table.detach() for table in tables]


@strengths
def test_ditflow_rope_is_its_loop(strength):
    sampler = Sampler(strength)
    signal = flow_of(sampler.backbone, REFERENCE, torch.tensor(0.0), sampler.empty, False)
    tables = [*sampler.backbone.rotary(REFERENCE), *sampler.backbone.rotary(REFERENCE)]

    @contextmanager
    def around(index, latent):
        nonlocal tables
        with injected(sampler, index):
            tables = improved(sampler, tables, index, latent, sampler.prompt, signal)
            with sampler.backbone.rotated(tuple(tables[:2]), tuple(tables[2:])):
                yield

    method = DiTFlowRope(
        "ditflow_rope", {"strength": strength}, **SAMPLING, **FLOW, tables="own", source_prompt=""
    )
    alike(transferred(method), sampler.run(around=around))


@strengths
def test_shared_tables_are_those_of_the_source_prompt_s_own_loop(strength):
    source = Sampler(strength)
    prompt = words(source.backbone, "a fox")
    signal = flow_of(source.backbone, REFERENCE, torch.tensor(0.0), source.empty, False)
    tables = [*source.backbone.rotary(REFERENCE), *source.backbone.rotary(REFERENCE)]
    latent = FIXED if strength is None else noised(source.sigmas[0], FIXED)
    kept = []
    for index in range(2):
        with injected(source, index, FIXED, prompt):
            tables = improved(source, tables, index, latent, prompt, signal)
            with source.backbone.rotated(tuple(tables[:2]), tuple(tables[2:])):
                step = source.sigmas[index + 1] - source.sigmas[index]
                latent = latent + step * source.velocity(latent, index, prompt)
        kept.append(tables)

    sampler = Sampler(strength)

    @contextmanager
    def around(index, latent):
        with (
            injected(sampler, index),
            sampler.backbone.rotated(tuple(kept[index][:2]), tuple(kept[index][2:])),
        ):
            yield

    method = DiTFlowRope(
        "ditflow_rope",
        {"strength": strength},
        **SAMPLING,
        **FLOW,
        tables="shared",
        source_prompt="a fox",
    )
    alike(transferred(method), sampler.run(around=around))


@strengths
def test_ropecraft_is_its_loop(strength):
    sampler, decay = Sampler(strength), 0.3
    backbone = sampler.backbone
    own = backbone.rotary(REFERENCE)
    offsets = [torch.zeros(2, len(own[0]), own[0].shape[1] // 2, requires_grad=True) for _ in range(2)]
    optimiser = torch.optim.AdamW(offsets, weight_decay=decay)

    def phasor(values):
        coefficients = torch.fft.rfftn(values, dim=(-3, -2, -1))
        return coefficients / (coefficients.abs() + 1e-8)

    def tables(count):
        total = sum(offsets[:count])
        return tuple(table + part.repeat_interleave(2, 1) for table, part in zip(own, total, strict=True))

    @contextmanager
    def around(index, latent):
        target = (latent - REFERENCE) / sampler.sigmas[index]
        for _ in range(ITERATIONS):
            with torch.enable_grad():
                cos, sin = tables(index + 1)
                with backbone.rotated((cos, sin), (cos, sin)):
                    velocity = backbone.velocity(latent, sampler.timestep(index), sampler.prompt, grad=True)
                apart = phasor(velocity) - phasor(target)
                phase = apart.real.abs().mean() + apart.imag.abs().mean()
                loss = 0.8 * phase + 0.1 * (velocity - target).square().mean()
                gradients = torch.autograd.grad(loss, offsets[: index + 1])
            optimiser.zero_grad()
            for offset, gradient in zip(offsets, gradients, strict=False):
                offset.grad = gradient
            for group in optimiser.param_groups:
                group["lr"] = RATES[index]
            optimiser.step()
        with torch.no_grad():
            final = tables(index + 1)
        with backbone.rotated(final, final):
            yield

    method = RoPECraft(
        "ropecraft",
        {"strength": strength},
        **SAMPLING,
        warp={"flow": "none", "path": "forward", "divisor": None, "kernel": 3, "sigma": 1.0, "limit": None},
        loss={"phase_weight": 0.8, "velocity_weight": 0.1},
        optimiser={**OPTIMISER, "weight_decay": decay},
    )
    alike(transferred(method), sampler.run(around=around))


# --- trained on the clip -------------------------------------------------------------------------

TRAINING = {
    "steps": 6,
    "learning_rate": 0.2,
    "weight_decay": 0.3,
    "beta2": 0.7,
    "clip_norm": None,
    "seed": 4,
}
ADAPTER_SCALE = 1.7


class Biased:
    """The fake's adapters by hand: a bias for each channel and frame, added to the velocity at its scale."""

    def __init__(self):
        self.backbone = FakeBackbone(shift=SHIFT)
        self.biases = []

    def bias(self):
        self.biases.append(torch.zeros(3, FRAMES, requires_grad=True))
        return self.biases[-1]

    def velocity(self, latent, timestep, prompt, scales):
        added = sum(
            s * b[None, :, : latent.shape[2], None, None] for s, b in zip(scales, self.biases, strict=True)
        )
        return self.backbone.whole(latent, timestep, prompt) + added


def trainer(bias, clip_norm=None):
    optimiser = torch.optim.AdamW([bias], lr=0.2, betas=(0.9, 0.7), weight_decay=0.3)

    def update(loss):
        (bias.grad,) = torch.autograd.grad(loss, bias)
        if clip_norm is not None:
            bias.grad *= min(1.0, clip_norm / (float(bias.grad.norm()) + 1e-6))
        optimiser.step()

    return update


def levels(backbone, clean):
    """Sigma, timestep, noised clip, its velocity, and the generator of further choices, step by step."""
    sigmas, timesteps = backbone.schedule(1000)
    choices, noises = (torch.Generator().manual_seed(4 + offset) for offset in (0, 1))
    for _ in range(6):
        at = int(torch.randint(1000, (), generator=choices))
        noise = torch.randn(clean.shape, generator=noises)
        sigma = float(sigmas[at])
        yield sigma, timesteps[at], (1 - sigma) * clean + sigma * noise, noise - clean, choices


def sampled_with(bias):
    sampler = Sampler()
    plain = sampler.velocity
    # On both sides of classifier-free guidance.
    sampler.velocity = lambda latent, index: (
        plain(latent, index) + ADAPTER_SCALE * bias[None, :, :, None, None]
    )
    return sampler.run()


TUNED = {"start": {}, "training": TRAINING, "scale": ADAPTER_SCALE, **SAMPLING}


def test_motion_inversion_is_its_loop():
    hand = Biased()
    bias = hand.bias()
    update = trainer(bias)
    prompt = words(hand.backbone, "")
    for _, timestep, noisy, velocity, _ in levels(hand.backbone, REFERENCE):
        update((hand.velocity(noisy, timestep, prompt, [1]) - velocity).square().mean())
    method = MotionInversion("motion_inversion", **TUNED, value_frames=True, debias="none")
    alike(transferred(method), sampled_with(bias.detach()))


@pytest.mark.parametrize("off", [0.0, 0.5, 1.0])
def test_motion_director_is_its_loop(off):
    hand = Biased()
    spatial, temporal = hand.bias(), hand.bias()
    appearance, motion = trainer(spatial), trainer(temporal)
    prompt = words(hand.backbone, "")
    for _, timestep, noisy, velocity, choices in levels(hand.backbone, REFERENCE):
        resting = float(torch.rand((), generator=choices)) < off
        frame, anchor = torch.randint(FRAMES, (2,), generator=choices).tolist()
        if not resting:
            # On one frame alone, without the temporal one.
            found = hand.velocity(noisy[:, :, [frame]], timestep, prompt, [1, 0])
            appearance((found - velocity[:, :, [frame]]).square().mean())
        found = hand.velocity(noisy, timestep, prompt, [0 if resting else 1, 1])
        apart = found - velocity
        without = math.sqrt(2) * apart - apart[:, :, [anchor]]
        motion(apart.square().mean() + 0.6 * without.square().mean())
    method = MotionDirector(
        "motion_director", **TUNED, rank=4, dropout=0.1, spatial_off=off, debiased_weight=0.6
    )
    alike(transferred(method), sampled_with(temporal.detach()))


class Crossing:
    """A tracker: two points that cross the frame apart from ten that rest."""

    version = "1"

    def track(self, frames, *_masks, **_named):
        count, height, width = frames.shape[:3]
        points = np.stack(np.meshgrid(np.arange(0, width, width / 4), np.arange(0, height, height / 3)), -1)
        points = points.reshape(1, -1, 2).repeat(count, 0).astype(np.float32)
        step = np.arange(count, dtype=np.float32)[:, None]
        points[:, :2] += np.stack([step * [0.5, 1.0], step * [0.75, 0.5]], -1)
        visible = np.ones(points.shape[:2], bool)
        visible[6:, 1] = False
        return points, visible, np.zeros(points.shape[1], int)


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_det_is_its_loop(clip_norm):
    hand, below, weight = Biased(), 0.6, 3.0
    bias = hand.bias()
    update = trainer(bias, clip_norm)
    prompt = words(hand.backbone, "")
    frames = hand.backbone.decode(REFERENCE)
    points, visible, _ = Crossing().track(frames)
    # A latent cell is 4 x 4 pixels; latent frames are spread evenly over the video's.
    shown = [round(k * (len(frames) - 1) / (FRAMES - 1)) for k in range(FRAMES)]
    seen = set()
    for sigma, timestep, noisy, velocity, _ in levels(hand.backbone, REFERENCE):
        found = hand.velocity(noisy, timestep, prompt, [1])
        loss = (found - velocity).square().mean()
        seen.add(sigma <= below)
        if sigma <= below:
            clean, total = noisy - sigma * found, 0.0
            for point in range(2):
                cells = []
                for t in shown:
                    x, y = points[t, point]
                    column, row = min(int((x + 0.5) // 4), WIDTH - 1), min(int((y + 0.5) // 4), HEIGHT - 1)
                    cells.append((row, column, visible[t, point]))
                for k, ((r0, c0, here), (r1, c1, there)) in enumerate(pairwise(cells)):
                    if here and there:
                        change = clean[0, :, k + 1, r1, c1] - clean[0, :, k, r0, c0]
                        total = total + change.square().sum()
            loss = loss + weight * total / (3 * (FRAMES - 1) * 2)
        update(loss)
    assert seen == {True, False}
    method = DeT(
        "det",
        **{**TUNED, "training": {**TRAINING, "clip_norm": clip_norm}},
        width=8,
        kernel=3,
        tracking={"weight": weight, "points": 2, "below_sigma": below},
        tracker=Crossing(),
    )
    alike(transferred(method), sampled_with(bias.detach()))
