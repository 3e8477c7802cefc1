"""The sampling loop: denoise, and in the first steps move the latent towards a reference's motion.

Methods that guide by optimising the latent share it and bring an ``Objective``; without one it
is plain sampling with classifier-free guidance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Generic, Literal, NamedTuple, Protocol, TypeVar

import pydantic
from pydantic import Field

from methods.gradient_reuse import GradientReuse, Reuse
from methods.interface import Backbone, Observer, Schedule

if TYPE_CHECKING:
    from torch import Tensor

Signal = TypeVar("Signal")
Reference = Literal["clean", "renoised"]

# The release re-noises the reference with one fixed noise, unrelated to the initial one.
RENOISE_SEED = 0


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Optimiser:
    """AdamW on the latent, fresh each guided step; without decay unless ``weight_decay`` is given.

    The learning rate goes linearly from ``lr_start`` (first guided step) to ``lr_end`` (last), or,
    with ``lr_over: iterations``, within each guided step; each takes ``iterations`` inner iterations.
    ``guided_count`` sets the number of guided steps whatever their total. ``precision`` is that of
    the latent and of the optimiser's state.
    """

    lr_start: Annotated[float, Field(ge=0)]
    lr_end: Annotated[float, Field(ge=0)]
    iterations: Annotated[int, Field(ge=1)]
    guided_fraction: Annotated[float, Field(ge=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_over: Literal["steps", "iterations"] = "steps"
    guided_count: Annotated[int, Field(ge=0)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"

    def guided_steps(self, steps: int) -> int:
        """How many of ``steps`` are guided: ``guided_fraction`` of them, rounded up, or ``guided_count``."""
        if self.guided_count is not None:
            return min(self.guided_count, steps)
        # The tolerance keeps products such as 0.07 * 100 = 7.000000000000001 at 7.
        return math.ceil(self.guided_fraction * steps - 1e-9)

    def learning_rate(self, index: int, steps: int, iteration: int = 0) -> float:
        """Learning rate of guided step ``index`` and inner ``iteration`` (0-based) of ``steps`` in all."""
        if self.lr_over == "iterations":
            # lr_end is what an iteration after the last would get.
            return self.lr_start + (self.lr_end - self.lr_start) * iteration / self.iterations
        last = max(self.guided_steps(steps) - 1, 1)
        return self.lr_start + (self.lr_end - self.lr_start) * index / last


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


class Objective(Protocol[Signal]):
    """What a guidance method brings to the loop."""

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> Signal:
        """The motion signal of a latent; with ``grad`` differentiable with respect to it."""
        ...

    def losses(self, generated: Signal, reference: Signal) -> dict[str, Tensor]:
        """Named terms (0-d, already weighted) whose sum is minimised."""
        ...


@dataclass(frozen=True)
class Guidance(Generic[Signal]):
    """How the latent is optimised in the first steps.

    ``reuse``: how many inner iterations a gradient serves. ``reference``: ``clean`` takes the
    reference's signal once, from its clean latent at timestep 0; ``renoised`` takes it at each
    guided step from the latent noised to that step's sigma with one fixed noise.
    Both use the empty prompt.
    """

    objective: Objective[Signal]
    optimiser: Optimiser
    reuse: Reuse
    reference: Reference


class Moment(NamedTuple):
    """A denoising step about to be taken; ``index`` is 0-based, prompts are embedded."""

    index: int
    timestep: Tensor
    sigma: float
    latent: Tensor
    prompt: Tensor
    negative: Tensor


Around = Callable[[Moment], AbstractContextManager[object]]


def sample(
    backbone: Backbone,
    reference: Tensor,
    prompt: str,
    noise: Tensor,
    observer: Observer,
    sampling: Sampling,
    guidance: Guidance[Signal] | None = None,
    around: Around | None = None,
) -> Tensor:
    """Sample a latent from ``noise``, guided by the reference's motion.

    Each step, guided or not, runs inside the context that ``around`` makes for it (it may use the
    observer's stages itself, and nothing in it is differentiated unless it says so).

    ``reference`` and ``noise``: (1, C, F, h, w), the reference's clean normalised latent and
    standard normal noise. Returns the final float32 latent of that shape. FloatingPointError
    when a latent is no longer finite.
    """
    import torch

    steps = sampling.steps
    guided = guidance.optimiser.guided_steps(steps) if guidance else 0
    schedule = compressed_schedule(backbone, steps, sampling.start.strength)
    reference = reference.float()
    latent = noise = noise.to(reference)

    with torch.no_grad(), ExitStack() as surroundings:
        if sampling.start.strength is not None:
            latent = backbone.add_noise(reference, noise, float(schedule.sigmas[0]))
        with observer.stage("text"):
            # Not in one batch with the empty prompt: the same batch gives the same embeddings
            # with and without guidance, to the last bit.
            target, negative = backbone.embed([prompt, sampling.negative_prompt]).split(1)
            # Embedded once: often the negative prompt is the empty one.
            empty = backbone.embed([""]) if guided and sampling.negative_prompt else negative

        signal: Signal
        if guidance and guided and guidance.reference == "clean":
            with observer.stage("extract"):
                at_zero = torch.zeros_like(schedule.timesteps[0])
                extract = partial(guidance.objective.extract, backbone, grad=False)
                signal = observer.shared("reference", partial(extract, reference, at_zero, empty))

        reuse = GradientReuse(guidance.reuse) if guidance else None
        velocity_at = sampling.velocities(backbone, schedule, target, negative, sampling.guidance_scale)
        for index, timestep in enumerate(schedule.timesteps):
            observer.step(index, steps)
            if around is not None:
                surroundings.close()
                sigma = float(schedule.sigmas[index])
                moment = Moment(index, timestep, sigma, latent, target, negative)
                surroundings.enter_context(around(moment))
            if guidance and reuse and index < guided:
                if guidance.reference == "renoised":
                    with observer.stage("extract"):
                        sigma = float(schedule.sigmas[index])
                        renoised = backbone.add_noise(reference, fixed_noise(reference), sigma)
                        extract = partial(guidance.objective.extract, backbone, grad=False)
                        signal = observer.shared(
                            f"reference {index}", partial(extract, renoised, timestep, empty)
                        )
                with observer.stage("guide"):
                    latent = guide(
                        backbone, latent, timestep, target, signal, guidance, reuse, index, steps, observer
                    )
            with observer.stage("denoise"):
                latent = backbone.step(latent, velocity_at(index, latent), schedule, index)
            if not torch.isfinite(latent).all():
                raise FloatingPointError(f"NaN latents at step {index + 1} of {steps}")
    return latent


def guide(
    backbone: Backbone,
    latent: Tensor,
    timestep: Tensor,
    prompt: Tensor,
    signal: Signal,
    guidance: Guidance[Signal],
    reuse: GradientReuse,
    index: int,
    steps: int,
    observer: Observer,
) -> Tensor:
    """One guidance step: the latent after the inner iterations of guided step ``index``.

    Gradients use the target prompt without classifier-free guidance. Each inner iteration adds a
    row to the trace; losses and similarity stand only in rows whose gradient is a true one, what the
    adaptive reuse measured (``moved``, ``turned``) wherever it did.
    """
    import torch

    options = guidance.optimiser
    precision = getattr(torch, options.precision)
    optimised = latent.detach().to(precision, copy=True).requires_grad_()
    learning_rate = options.learning_rate(index, steps)
    optimiser = torch.optim.AdamW([optimised], lr=learning_rate, weight_decay=options.weight_decay)
    reuse.start_step(learning_rate)
    losses: dict[str, Tensor] = {}

    def true_gradient() -> Tensor:
        with torch.enable_grad():
            generated = guidance.objective.extract(backbone, optimised.float(), timestep, prompt, grad=True)
            terms = guidance.objective.losses(generated, signal)
            total = torch.stack(list(terms.values())).sum()
        losses.update(terms, total=total)
        return torch.autograd.grad(total, optimised)[0]

    for iteration in range(guidance.optimiser.iterations):
        gradient = reuse(optimised, true_gradient)
        optimised.grad = gradient
        optimiser.param_groups[0]["lr"] = options.learning_rate(index, steps, iteration)
        optimiser.step()
        row: dict[str, float | int | bool] = {"step": index, "iteration": iteration}
        row |= {"true_gradient": reuse.is_true, "gradient_norm": float(gradient.norm())}
        if reuse.is_true:
            row |= {name: float(value.detach()) for name, value in losses.items()}
            if reuse.similarity is not None:
                row["similarity"] = reuse.similarity
        measured = {"moved": reuse.moved, "turned": reuse.turned}
        row |= {name: value for name, value in measured.items() if value is not None}
        observer.trace(**row)
    return optimised.detach().float()


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
    "Guidance",
    "Moment",
    "Objective",
    "Optimiser",
    "Reference",
    "Sampling",
    "Start",
    "every_pass",
    "sample",
]
