"""Guidance by optimisation: in the first steps the latent moves towards a reference's motion.

Methods that guide this way bring an ``Objective``; ``LatentGuidance`` is the hook that all of them share.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, Generic, Literal, Protocol, TypeVar

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone
from methods.guidance.gradient_reuse import GradientReuse, Reuse
from methods.guidance.loop import Hook, SamplingRun, fixed_noise

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Signal = TypeVar("Signal")
ReferenceNoise = Literal["clean", "renoised"]


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

    @property
    def dtype(self) -> torch.dtype:
        """``precision``, as torch has it."""
        import torch

        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

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


class LatentGuidance(Hook, Generic[Signal]):
    """Optimises the latent in the first steps, towards the reference's signal.

    ``reuse``: how many inner iterations a gradient serves. ``reference``: ``clean`` takes the
    reference's signal once, from its clean latent at timestep 0; ``renoised`` takes it at each
    guided step from the latent noised to that step's sigma with one fixed noise.
    Both use the empty prompt.
    """

    def __init__(
        self, objective: Objective[Signal], optimiser: Optimiser, reuse: Reuse, reference: ReferenceNoise
    ) -> None:
        self._objective = objective
        self._optimiser = optimiser
        self._reuse = GradientReuse(reuse)
        self._reference = reference
        self._clean: Signal
        self._empty: Tensor

    def guided_steps(self, steps: int) -> int:
        return self._optimiser.guided_steps(steps)

    def begin(self, run: SamplingRun) -> None:
        """Reads the clean reference."""
        import torch

        self._empty = run.embed_empty()
        if self._reference == "clean":
            with run.observer.stage("extract"):
                at_zero = torch.zeros_like(run.timestep(0))
                read = partial(self._read, run, run.reference, at_zero)
                self._clean = run.observer.shared("reference", read)

    def before(self, run: SamplingRun, index: int, latent: Tensor) -> Tensor:
        """The latent, moved in the inner iterations of guided step ``index``."""
        if self._reference == "clean":
            signal = self._clean
        else:
            with run.observer.stage("extract"):
                noise = fixed_noise(run.reference)
                renoised = run.backbone.add_noise(run.reference, noise, run.sigma(index))
                read = partial(self._read, run, renoised, run.timestep(index))
                signal = run.observer.shared(f"reference {index}", read)
        with run.observer.stage("guide"):
            return self._moved(run, index, latent, signal)

    def _read(self, run: SamplingRun, latent: Tensor, timestep: Tensor) -> Signal:
        return self._objective.extract(run.backbone, latent, timestep, self._empty, grad=False)

    def _moved(self, run: SamplingRun, index: int, latent: Tensor, signal: Signal) -> Tensor:
        """The latent after the inner iterations of guided step ``index``.

        Gradients use the target prompt without classifier-free guidance. Each inner iteration adds a
        row to the trace; losses and similarity stand only in rows whose gradient is a true one, what the
        adaptive reuse measured (``moved``, ``turned``) wherever it did.
        """
        import torch

        options, reuse = self._optimiser, self._reuse
        optimised = latent.detach().to(options.dtype, copy=True).requires_grad_()
        learning_rate = options.learning_rate(index, run.steps)
        adam = torch.optim.AdamW([optimised], lr=learning_rate, weight_decay=options.weight_decay)
        reuse.start_step(learning_rate)
        losses: dict[str, Tensor] = {}

        def true_gradient() -> Tensor:
            with torch.enable_grad():
                generated = self._objective.extract(
                    run.backbone, optimised.float(), run.timestep(index), run.prompt, grad=True
                )
                terms = self._objective.losses(generated, signal)
                total = torch.stack(list(terms.values())).sum()
            losses.update(terms, total=total)
            return torch.autograd.grad(total, optimised)[0]

        for iteration in range(options.iterations):
            gradient = reuse(optimised, true_gradient)
            optimised.grad = gradient
            adam.param_groups[0]["lr"] = options.learning_rate(index, run.steps, iteration)
            adam.step()
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


__all__ = ["LatentGuidance", "Objective", "Optimiser", "ReferenceNoise"]
