"""The transformer and the text encoder of ``backbone=sprites``, trained together.

Rectified flow, shifted logit-normal sigmas, dropped captions, an exponential moving average of the weights;
images first, since in the noise of a clip its shapes are seen before they need be read from the caption; then
a second course in which half of each batch has two objects, which are rare and harder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.backbones.training import report
from methods.backbones.training.data import encode_latents, object_masks, statistics
from methods.backbones.training.networks import (
    FRAMES,
    SHIFT,
    SIDE,
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    embed,
    look_at_neighbours,
)
from methods.backbones.training.optimiser import Average, Muon, trapezoid_lr
from methods.backbones.training.run import Run
from methods.backbones.training.settings import Settings

SHAPES_FROM = 700
"""Step of the DiT from which less noise than the sampler's is drawn (``training_shift``)."""
FOCUS_FROM = 800
"""Step of the DiT from which errors on objects weigh more (``importance``)."""
BIND_FROM = 4300
"""Step of the DiT from which the text encoder's attention starts anew (``look_at_neighbours``)."""
TEXT_RATE = 0.1
"""The text encoder's share of the learning rate from then on: its scores are not scaled, and saturate."""
SAMPLE_EVERY = 400
"""Steps of the DiT between two rows of ``samples.png``."""


class Course(NamedTuple):
    """Steps of the DiT with one rise and fall of the learning rate; ``images`` of them on images alone."""

    start: int
    steps: int
    images: int
    two: bool = False
    """Whether half of each batch has two objects."""

    def is_image_step(self, step: int) -> bool:
        """Images only at first, then every fourth step, so that what they taught is not lost."""
        return step - self.start < self.images or step % 4 == 3

    def learning_rate(self, step: int) -> float:
        """``trapezoid_lr`` over its own steps, up to 2e-3."""
        return trapezoid_lr(step - self.start, self.steps, 2e-3)


def course_of(step: int, settings: Settings) -> Course:
    """Which course a step of the DiT belongs to."""
    first = Course(0, settings.dit_steps, settings.image_steps)
    if step < first.steps:
        return first
    return Course(first.steps, settings.pair_steps, settings.pair_image_steps, two=True)


def training_shift(step: int, image_step: bool) -> float:
    """Shift of the logit-normal sigmas: in much noise where objects are is learnt, in less their shapes.

    A clip shows in more noise what an image shows in less.
    """
    if step < SHAPES_FROM:
        return SHIFT
    return 1.5 if image_step else 2.5


def importance(masks: Tensor, sigma: Tensor) -> Tensor:
    """Weight of each latent pixel's error: objects are a tenth of the frame, and their outlines still less.

    In much noise, where no pixel is surely an object's, weights would bias the mean that is learnt.
    """
    return 1 + 5 * (1 - sigma) * masks


class Encoded(NamedTuple):
    """A pool: latents (n, C, F, h, w), captions, and where objects are (n, 1, F, h, w)."""

    latents: Tensor
    captions: list[str]
    masks: Tensor


class Batch(NamedTuple):
    """Normalised latents, captions, masks, noise levels (n,) and noise of one step."""

    clean: Tensor
    captions: list[str]
    masks: Tensor
    sigma: Tensor
    noise: Tensor


def draw_batch(data: dict[str, Encoded], mean: Tensor, std: Tensor, settings: Settings, step: int) -> Batch:
    """The batch of a step: ``batch`` clips, or images of as many tokens; every tenth caption is empty."""
    rng = np.random.default_rng([settings.seed, step])
    course = course_of(step, settings)
    image_step = course.is_image_step(step)
    kind = "images" if image_step else "clips"
    names = [kind, f"pair_{kind}"] if course.two else [kind]
    size = settings.batch * (data["clips"].latents.shape[2] if image_step else 1) // len(names)
    batch = [
        (data[name], int(i)) for name in names for i in rng.integers(len(data[name].captions), size=size)
    ]
    clean = (torch.stack([pool.latents[i] for pool, i in batch]).float() - mean) / std
    captions = ["" if rng.random() < 0.1 else pool.captions[i] for pool, i in batch]
    shift = training_shift(step, image_step)
    u = 1 / (1 + np.exp(-rng.standard_normal(len(batch))))
    sigma = torch.from_numpy(shift * u / (1 + (shift - 1) * u)).float()
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    return Batch(clean, captions, torch.stack([pool.masks[i] for pool, i in batch]), sigma, noise)


def train_dit(work: Path, vae: Any, settings: Settings, compile_: bool) -> Average:
    """Transformer and text encoder together, by ``Muon`` and AdamW."""
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer()
    modules = {"transformer": build_transformer(), "text_encoder": build_text_encoder(len(tokenizer))}
    for module in modules.values():
        module.train()
    average = Average(modules)
    matrices = [p for p in modules["transformer"].blocks.parameters() if p.ndim == 2]
    taken = {id(p) for p in matrices}
    others = [p for p in modules["transformer"].parameters() if id(p) not in taken]
    words = list(modules["text_encoder"].parameters())
    adamw = torch.optim.AdamW([{"params": others}, {"params": words}], betas=(0.9, 0.98))
    optimisers = {"muon": Muon(matrices), "adamw": adamw}
    run = Run(work, "dit", {**modules, **optimisers, "average": average})
    steps = settings.dit_steps + settings.pair_steps
    if run.step >= steps:
        return average
    data = {
        name: Encoded(*encode_latents(work, vae, pool), object_masks(pool))
        for name, pool in settings.pools().items()
    }
    mean, std = statistics(data["clips"].latents)
    forward: Callable[..., Any] = (
        torch.compile(modules["transformer"], dynamic=False) if compile_ else modules["transformer"]
    )
    for step in run.steps(steps):
        if step % SAMPLE_EVERY == 0:
            write_samples(work, step, build_pipeline(vae, average, mean, std))
        if step == BIND_FROM:
            look_at_neighbours(modules["text_encoder"])
        batch = draw_batch(data, mean, std, settings, step)
        sigma = batch.sigma.view(-1, 1, 1, 1, 1)
        velocity = forward(
            hidden_states=(1 - sigma) * batch.clean + sigma * batch.noise,
            timestep=batch.sigma * 1000,
            encoder_hidden_states=embed(modules["text_encoder"], tokenizer, batch.captions),
            return_dict=False,
        )[0]
        error = (velocity - (batch.noise - batch.clean)).square()
        loss = error.mean()
        if step >= FOCUS_FROM:
            error = error * importance(batch.masks, sigma)
        error.mean().backward()
        norm = nn.utils.clip_grad_norm_(matrices + others + words, 1.0)
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = course_of(step, settings).learning_rate(step)
        if step >= BIND_FROM:
            adamw.param_groups[1]["lr"] *= TEXT_RATE
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad()
        average.update(step)
        run.note(20, loss=float(loss.detach()), gradient_norm=float(norm))
    write_samples(work, steps, build_pipeline(vae, average, mean, std))
    return average


def write_samples(work: Path, step: int, pipeline: Any) -> None:
    """``work/samples/STEP.png``: what a pipeline makes of ``report.CAPTIONS``."""
    from PIL import Image

    folder = work / "samples"
    folder.mkdir(exist_ok=True)
    Image.fromarray(report.strip(report.sample(pipeline, FRAMES, SIDE))).save(folder / f"{step:05d}.png")
