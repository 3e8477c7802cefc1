"""The sampling loop: denoise, with a say before and after the steps that a method steers.

Without steered steps it is plain sampling with classifier-free guidance, to the last bit. Methods that
optimise the latent on features come by ``methods/guidance/latent_guidance.py``; others bring a ``Steer`` of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Schedule
from methods.interface import Observer

if TYPE_CHECKING:
    from torch import Tensor

# The release re-noises the reference with one fixed noise, unrelated to the initial one.
RENOISE_SEED = 0


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Start:
    """Where sampling starts: pure noise (``strength`` null), or the noised reference (SDEdit).

    A start from the reference leaks it into the result whatever the method does; tables state it.
    """

    strength: Annotated[float, Field(gt=0, le=1)] | None = None


class Velocities(Protocol):
    """Makes, for one sampling run, the function (step index, latent) -> guided velocity."""

    def __call__(
        self, backbone: Backbone, schedule: Schedule, prompt: Tensor, negative: Tensor, scale: float
    ) -> Callable[[int, Tensor], Tensor]: ...


def every_pass(
    backbone: Backbone, schedule: Schedule, prompt: Tensor, negative: Tensor, scale: float
) -> Callable[[int, Tensor], Tensor]:
    """Both passes of classifier-free guidance at every step."""

    def velocity(index: int, latent: Tensor) -> Tensor:
        return backbone.predict(latent, schedule.timesteps[index], prompt, negative, scale)

    return velocity


@dataclass(frozen=True)
class Sampling:
    """Denoising steps and classifier-free guidance; ``velocities`` says which passes are run."""

    steps: int
    guidance_scale: float
    negative_prompt: str
    start: Start
    velocities: Velocities = every_pass


class Moment(NamedTuple):
    """A denoising step about to be taken; ``index`` is 0-based, prompts are embedded."""

    index: int
    timestep: Tensor
    sigma: float
    latent: Tensor
    prompt: Tensor
    negative: Tensor


Around = Callable[[Moment], AbstractContextManager[object]]


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


def sample(
    backbone: Backbone,
    reference: Tensor,
    prompt: str,
    noise: Tensor,
    observer: Observer,
    sampling: Sampling,
    *,
    guided: int = 0,
    prepare: Callable[[Run], Steer] | None = None,
    around: Around | None = None,
) -> Tensor:
    """Sample a latent from ``noise``, the first ``guided`` steps steered by what ``prepare`` returns.

    Each step, steered or not, runs inside the context that ``around`` makes for it (it may use the
    observer's stages itself, and nothing in it is differentiated unless it says so).

    ``reference`` and ``noise``: (1, C, F, h, w), the reference's clean normalised latent and
    standard normal noise. Returns the final float32 latent of that shape. FloatingPointError
    when a latent is no longer finite.
    """
    import torch

    steps = sampling.steps
    schedule = compressed_schedule(backbone, steps, sampling.start.strength)
    reference = reference.float()
    latent = noise.to(reference)

    with torch.no_grad(), ExitStack() as surroundings:
        if sampling.start.strength is not None:
            latent = backbone.add_noise(reference, latent, float(schedule.sigmas[0]))
        with observer.stage("text"):
            # Not in one batch with the empty prompt: the same batch gives the same embeddings
            # with and without guidance, to the last bit.
            target, negative = backbone.embed([prompt, sampling.negative_prompt]).split(1)
            # Embedded once: often the negative prompt is the empty one.
            empty = backbone.embed([""]) if guided and sampling.negative_prompt else negative
        steer = None
        if guided and prepare:
            scale = sampling.guidance_scale
            steer = prepare(
                Run(backbone, schedule, reference, latent, target, negative, empty, scale, observer)
            )
        velocity_at = sampling.velocities(backbone, schedule, target, negative, sampling.guidance_scale)
        for index, timestep in enumerate(schedule.timesteps):
            observer.step(index, steps)
            if around is not None:
                surroundings.close()
                sigma = float(schedule.sigmas[index])
                moment = Moment(index, timestep, sigma, latent, target, negative)
                surroundings.enter_context(around(moment))
            correction = None
            if steer and index < guided:
                latent, correction = steer(index, latent)
            with observer.stage("denoise"):
                latent = backbone.step(latent, velocity_at(index, latent), schedule, index)
            if correction is not None:
                latent = latent + correction
            if not torch.isfinite(latent).all():
                raise FloatingPointError(f"NaN latents at step {index + 1} of {steps}")
    return latent


def compressed_schedule(backbone: Backbone, steps: int, strength: float | None) -> Schedule:
    """The backbone's schedule, started at ``strength`` of its way from clean to noise.

    All steps are kept and move closer together, as in the release's SDEdit start
    (mayuelala/FastVMT:diffsynth/pipelines/wan_video.py). ``None`` and 1 leave it as it is.
    """
    import torch

    if strength is None or strength == 1:
        return backbone.schedule(steps)
    # Only the backbone knows its shift, so the sigmas between its own come from a finer schedule,
    # one whose nodes include those of the schedule asked for.
    gaps = max(steps - 1, 1)
    refine = math.ceil(2000 / gaps)
    fine = backbone.schedule(gaps * refine + 1)
    at = (1 - strength) + strength * torch.arange(steps, dtype=torch.float64) / gaps
    at = at.clamp(max=1) * (gaps * refine)
    low = at.floor().long().clamp(max=gaps * refine - 1)
    part = (at - low).float()
    sigmas, timesteps = (
        torch.lerp(values[low], values[low + 1], part) for values in (fine.sigmas, fine.timesteps)
    )
    return Schedule(torch.cat([sigmas, sigmas.new_zeros(1)]), timesteps)


def fixed_noise(like: Tensor, seed: int = RENOISE_SEED) -> Tensor:
    """Standard normal noise of a fixed seed, drawn on the CPU so that every device has the same."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator).to(like)


__all__ = [
    "Around",
    "Moment",
    "Run",
    "Sampling",
    "Start",
    "Steer",
    "Velocities",
    "compressed_schedule",
    "every_pass",
    "fixed_noise",
    "sample",
]
