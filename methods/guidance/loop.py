"""The sampling loop, and the one way into it: a ``Hook``.

A method that samples derives from ``SampledMethod``. Without a hook it samples plainly, with classifier-free
guidance. What a method does to the first steps stands in its hook, which is called before the first step,
and around, before and after each step that it guides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Schedule
from methods.interface import LatentMethod, Observer

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


@dataclass(frozen=True)
class SamplingRun:
    """One sampling run, before its first step.

    Latents (1, C, F, h, w) float32: ``reference``, clean; ``noise``, standard normal; ``start``, where
    sampling starts, at ``schedule.sigmas[0]``. Embeddings (1, tokens, width): ``prompt``, ``negative``.
    """

    backbone: Backbone
    observer: Observer
    reference: Tensor
    noise: Tensor
    start: Tensor
    schedule: Schedule
    prompt: Tensor
    negative: Tensor
    negative_prompt: str
    guidance_scale: float

    @property
    def steps(self) -> int:
        return len(self.schedule.timesteps)

    def timestep(self, index: int) -> Tensor:
        """The timestep (0-d) of step ``index`` (0-based)."""
        return self.schedule.timesteps[index]

    def sigma(self, index: int) -> float:
        """The noise level of the latent before step ``index`` (0-based)."""
        return float(self.schedule.sigmas[index])

    def embed_empty(self) -> Tensor:
        """The embedding of the empty prompt, which often is the negative one. Opens the stage ``text``."""
        if not self.negative_prompt:
            return self.negative
        # Not in one batch with the others: with and without guidance their embeddings are the same bits.
        with self.observer.stage("text"):
            return self.backbone.embed([""])


class Hook:
    """What a method does in the first steps of one sampling run. This one does nothing.

    It is called without gradients and opens the observer's stages itself. ``index`` is 0-based.
    """

    def guided_steps(self, steps: int) -> int:
        """How many of ``steps`` it is called for, from the first on. With 0 it is not called at all."""
        return 0

    def begin(self, run: SamplingRun) -> None:
        """Once, before the first step."""

    def around(self, run: SamplingRun, index: int, latent: Tensor) -> AbstractContextManager[object]:
        """The context that step ``index``, from ``latent`` on, runs in, ``before`` and ``after`` included."""
        return nullcontext()

    def before(self, run: SamplingRun, index: int, latent: Tensor) -> Tensor:
        """The latent that step ``index`` denoises in place of ``latent``."""
        return latent

    def after(self, run: SamplingRun, index: int, latent: Tensor) -> Tensor:
        """The latent that sampling goes on with in place of ``latent``, which step ``index`` denoised."""
        return latent


# (step index, latent) -> guided velocity, made for one sampling run.
Velocity: TypeAlias = "Callable[[int, Tensor], Tensor]"
Velocities: TypeAlias = Callable[[SamplingRun], Velocity]


def every_pass(run: SamplingRun) -> Velocity:
    """Both passes of classifier-free guidance at every step."""

    def velocity(index: int, latent: Tensor) -> Tensor:
        return run.backbone.predict(latent, run.timestep(index), run.prompt, run.negative, run.guidance_scale)

    return velocity


def sample(run: SamplingRun, hook: Hook, velocities: Velocities = every_pass) -> Tensor:
    """The final latent, (1, C, F, h, w) float32; ``velocities`` says which passes of the network run.

    FloatingPointError when a latent is no longer finite.
    """
    import torch

    nothing, guided = Hook(), hook.guided_steps(run.steps)
    latent = run.start
    with torch.no_grad():
        if guided:
            hook.begin(run)
        velocity = velocities(run)
        for index in range(run.steps):
            run.observer.step(index, run.steps)
            here = hook if index < guided else nothing
            with here.around(run, index, latent):
                latent = here.before(run, index, latent)
                with run.observer.stage("denoise"):
                    latent = run.backbone.step(latent, velocity(index, latent), run.schedule, index)
                latent = here.after(run, index, latent)
            if not torch.isfinite(latent).all():
                raise FloatingPointError(f"NaN latents at step {index + 1} of {run.steps}")
    return latent


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class SampledMethod(LatentMethod):
    """A method that samples with ``sample``: the keys all of them have, and their ``transfer``.

    ``hook`` says what guides the first steps, ``velocities`` which passes of the network are run.
    """

    name: str
    start: Start
    steps: Annotated[int, Field(ge=1)]
    guidance_scale: float
    negative_prompt: str

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From the reference's clean latent and noise, (1, C, F, h, w) each, to the final latent."""
        import torch

        schedule = compressed_schedule(backbone, self.steps, self.start.strength)
        reference = reference.float()
        noise = start = noise.to(reference)
        with torch.no_grad():
            if self.start.strength is not None:
                start = backbone.add_noise(reference, noise, float(schedule.sigmas[0]))
            with observer.stage("text"):
                target, negative = backbone.embed([prompt, self.negative_prompt]).chunk(2)
        run = SamplingRun(
            backbone,
            observer,
            reference,
            noise,
            start,
            schedule,
            target,
            negative,
            self.negative_prompt,
            self.guidance_scale,
        )
        return sample(run, self.hook(), self.velocities())

    def hook(self) -> Hook:
        """A fresh hook for one sampling run."""
        return Hook()

    def velocities(self) -> Velocities:
        return every_pass


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
    "Hook",
    "SampledMethod",
    "SamplingRun",
    "Start",
    "Velocities",
    "Velocity",
    "compressed_schedule",
    "every_pass",
    "fixed_noise",
    "sample",
]
