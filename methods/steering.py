"""Sampling with a say before and after each guided step, for guidance that is no descent on features.

``methods/guidance.py`` hands an ``Objective`` a latent and a prompt, and its gradient moves the latent
before the step. Methods that need the run's schedule, noise or embeddings as well, or that act
after the step, are steered here. Without guided steps it is plain sampling to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from methods.guidance import Sampling, compressed_schedule
from methods.interface import Backbone, Observer, Schedule

if TYPE_CHECKING:
    from torch import Tensor


class Run(NamedTuple):
    """One sampling run.

    Latents (1, C, F, h, w) float32: ``reference``, clean, and ``start``, where sampling starts, at
    ``schedule.sigmas[0]``. Embeddings (1, tokens, width): of the prompt, the negative and the empty one.
    """

    backbone: Backbone
    schedule: Schedule
    reference: Tensor
    start: Tensor
    prompt: Tensor
    negative: Tensor
    empty: Tensor
    guidance_scale: float
    observer: Observer


Steer = Callable[[int, "Tensor"], tuple["Tensor", "Tensor | None"]]
"""(step index, latent) to the latent that is denoised, and what is added after the Euler step, if anything.

Called without gradients; it opens its own stages.
"""


def steer(
    backbone: Backbone,
    reference: Tensor,
    prompt: str,
    noise: Tensor,
    observer: Observer,
    sampling: Sampling,
    guided: int,
    prepare: Callable[[Run], Steer],
) -> Tensor:
    """Sample a latent from ``noise``, the first ``guided`` steps steered by what ``prepare`` returns.

    Arguments and result otherwise as ``methods.guidance.sample``. FloatingPointError when a latent is
    no longer finite.
    """
    import torch

    steps = sampling.steps
    schedule = compressed_schedule(backbone, steps, sampling.start.strength)
    reference = reference.float()
    latent = noise.to(reference)

    with torch.no_grad():
        if sampling.start.strength is not None:
            latent = backbone.add_noise(reference, latent, float(schedule.sigmas[0]))
        with observer.stage("text"):
            target, negative = backbone.embed([prompt, sampling.negative_prompt]).split(1)
            empty = backbone.embed([""]) if guided and sampling.negative_prompt else negative
        if guided:
            scale = sampling.guidance_scale
            run = Run(backbone, schedule, reference, latent, target, negative, empty, scale, observer)
            steered = prepare(run)
        velocity_at = sampling.velocities(backbone, schedule, target, negative, sampling.guidance_scale)
        for index in range(steps):
            observer.step(index, steps)
            correction = None
            if index < guided:
                latent, correction = steered(index, latent)
            with observer.stage("denoise"):
                latent = backbone.step(latent, velocity_at(index, latent), schedule, index)
            if correction is not None:
                latent = latent + correction
            if not torch.isfinite(latent).all():
                raise FloatingPointError(f"NaN latents at step {index + 1} of {steps}")
    return latent


__all__ = ["Run", "Steer", "steer"]
