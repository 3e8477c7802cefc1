"""Guidance by optimisation: in the first steps the latent moves towards a reference's motion.

Methods that guide this way share it and bring an ``Objective``; the loop is ``methods/guidance/loop.py``'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Generic, Literal, Protocol, TypeVar

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone
from methods.guidance.gradient_reuse import GradientReuse, Reuse
from methods.guidance.loop import Around, Run, Sampling, Steer, fixed_noise, sample
from methods.interface import Observer

if TYPE_CHECKING:
    from torch import Tensor

Signal = TypeVar("Signal")
Reference = Literal["clean", "renoised"]


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


class Objective(Protocol[Signal]):
    """What a guidance method brings to the loop."""

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> Signal:
        """The motion signal of a latent; with ``grad`` what ``losses`` makes it from, differentiable."""
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


def guided_sample(
    backbone: Backbone,
    reference: Tensor,
    prompt: str,
    noise: Tensor,
    observer: Observer,
    sampling: Sampling,
    guidance: Guidance[Signal],
    around: Around | None = None,
) -> Tensor:
    """``sample``, its first steps guided by the reference's motion; arguments and result as there."""
    import torch

    def prepare(run: Run) -> Steer:
        extract = partial(guidance.objective.extract, backbone, grad=False)
        reuse = GradientReuse(guidance.reuse)
        clean: Signal
        if guidance.reference == "clean":
            with observer.stage("extract"):
                at_zero = torch.zeros_like(run.schedule.timesteps[0])
                clean = observer.shared("reference", partial(extract, run.reference, at_zero, run.empty))

        def steer(index: int, latent: Tensor) -> tuple[Tensor, None]:
            timestep = run.schedule.timesteps[index]
            if guidance.reference == "clean":
                signal = clean
            else:
                with observer.stage("extract"):
                    sigma = float(run.schedule.sigmas[index])
                    renoised = backbone.add_noise(run.reference, fixed_noise(run.reference), sigma)
                    read = partial(extract, renoised, timestep, run.empty)
                    signal = observer.shared(f"reference {index}", read)
            with observer.stage("guide"):
                moved = guide(run, latent, timestep, signal, guidance, reuse, index)
            return moved, None

        return steer

    guided = guidance.optimiser.guided_steps(sampling.steps)
    return sample(
        backbone, reference, prompt, noise, observer, sampling, guided=guided, prepare=prepare, around=around
    )


def guide(
    run: Run,
    latent: Tensor,
    timestep: Tensor,
    signal: Signal,
    guidance: Guidance[Signal],
    reuse: GradientReuse,
    index: int,
) -> Tensor:
    """One guidance step: the latent after the inner iterations of guided step ``index``.

    Gradients use the target prompt without classifier-free guidance. Each inner iteration adds a
    row to the trace; losses and similarity stand only in rows whose gradient is a true one, what the
    adaptive reuse measured (``moved``, ``turned``) wherever it did.
    """
    import torch

    options, steps = guidance.optimiser, len(run.schedule.timesteps)
    precision = getattr(torch, options.precision)
    optimised = latent.detach().to(precision, copy=True).requires_grad_()
    learning_rate = options.learning_rate(index, steps)
    optimiser = torch.optim.AdamW([optimised], lr=learning_rate, weight_decay=options.weight_decay)
    reuse.start_step(learning_rate)
    losses: dict[str, Tensor] = {}

    def true_gradient() -> Tensor:
        with torch.enable_grad():
            generated = guidance.objective.extract(
                run.backbone, optimised.float(), timestep, run.prompt, grad=True
            )
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
        run.observer.trace(**row)
    return optimised.detach().float()


__all__ = ["Guidance", "Objective", "Optimiser", "Reference", "guided_sample"]
