"""FlowMotion: guidance by the predicted clean latent, without a backward pass of the transformer.

FlowMotion: Training-Free Flow Guidance for Video Motion Transfer (Wang et al., 2026, arXiv:2603.06289).
Source: HKUST-LongGroup/FlowMotion:run.py. At each guided step the reference, noised to the step's level,
and the latent each predict their clean video, and Adam moves the latent so that the predictions and
their changes between frames become alike. The velocity counts as constant in the latent, so that
the gradient needs no transformer. Where ours differs:

* The source's velocity is one pass with the empty prompt. The original runs classifier-free guidance
  between two empty prompts, whose second pass changes nothing.
* The noise of the noised reference is drawn step by step as there, but from fixed seeds, so that
  every cell of a clip has the same.
* Shift, guidance scale, negative prompt and size are the backbone's (there: the scheduler's own shift
  whatever is asked for, 6, none, 480x720); latents are float32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Grid
from methods.guidance.latent_guidance import Optimiser
from methods.guidance.loop import Run, Sampling, Start, Steer, fixed_noise, sample
from methods.interface import LatentMethod, Observer, check_frames

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Weights:
    """Weights of the two terms: the predictions themselves, and their absolute frame differences."""

    latent_weight: Annotated[float, Field(ge=0)]
    difference_weight: Annotated[float, Field(ge=0)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class FlowMotion(LatentMethod, kind="flowmotion"):
    """Guidance by predicted clean latents; ``conf/method/flowmotion.yaml`` says what each key is."""

    name: str
    source: Literal["latent_prediction", "clean_latent"]
    loss: Weights
    regularise: Annotated[float, Field(ge=0, le=1)]
    optimiser: Optimiser
    start: Start
    steps: Annotated[int, Field(ge=1)]
    guidance_scale: float
    negative_prompt: str

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError for a single latent frame."""
        check_frames(grid)

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From the reference's clean latent and noise, (1, C, F, h, w) each, to the final latent."""
        sampling = Sampling(self.steps, self.guidance_scale, self.negative_prompt, self.start)
        guided = self.optimiser.guided_steps(self.steps)
        return sample(
            backbone, reference, prompt, noise, observer, sampling, guided=guided, prepare=self.flow_guidance
        )

    def flow_guidance(self, run: Run) -> Steer:
        """Returns the optimised latent of each guided step."""

        def optimised(index: int, latent: Tensor) -> tuple[Tensor, None]:
            source = run.reference
            if self.source == "latent_prediction":
                with run.observer.stage("extract"):
                    predict = partial(source_prediction, run, index)
                    source = run.observer.shared(f"reference {index}", predict)
            with run.observer.stage("guide"):
                return self.optimise(run, index, latent, source), None

        return optimised

    def optimise(self, run: Run, index: int, latent: Tensor, source: Tensor) -> Tensor:
        """The latent after the inner iterations of guided step ``index``; each adds a row to the trace."""
        import torch

        options, sigma = self.optimiser, float(run.schedule.sigmas[index])
        # Where the latent has been heading on average since the start; nowhere yet at the first step.
        heading = None
        if index > 0:
            heading = (latent - run.start) / (sigma - float(run.schedule.sigmas[0]))
        moved = latent.detach().to(getattr(torch, options.precision), copy=True).requires_grad_()
        optimiser = torch.optim.AdamW([moved], lr=0.0, weight_decay=options.weight_decay)
        for iteration in range(options.iterations):
            velocity = run.backbone.predict(
                moved.detach().float(),
                run.schedule.timesteps[index],
                run.prompt,
                run.negative,
                run.guidance_scale,
            )
            if heading is not None:
                velocity = regularised(velocity, heading, self.regularise)
            with torch.enable_grad():
                losses = flow_losses(moved.float() - sigma * velocity, source, self.loss)
                total = torch.stack(list(losses.values())).sum()
            (moved.grad,) = torch.autograd.grad(total, moved)
            optimiser.param_groups[0]["lr"] = options.learning_rate(index, self.steps, iteration)
            optimiser.step()
            run.observer.trace(
                step=index,
                iteration=iteration,
                gradient_norm=float(moved.grad.norm()),
                total=float(total.detach()),
                **{name: float(value.detach()) for name, value in losses.items()},
            )
        return moved.detach().float()


def source_prediction(run: Run, index: int) -> Tensor:
    """The clean latent that the noised reference predicts at step ``index``, with the empty prompt."""
    sigma = float(run.schedule.sigmas[index])
    noised = run.backbone.add_noise(run.reference, fixed_noise(run.reference, seed=index), sigma)
    velocity = run.backbone.predict(noised, run.schedule.timesteps[index], run.empty, None, 1.0)
    return noised - sigma * velocity


def regularised(velocity: Tensor, heading: Tensor, share: float) -> Tensor:
    """``velocity`` along ``heading``, plus ``share`` of what is orthogonal to it.

    Latents (1, C, F, h, w); the projection is over channels, cell by cell.
    """
    along = (velocity * heading).sum(1, keepdim=True) / (heading.square().sum(1, keepdim=True) + 1e-8)
    parallel = along * heading
    return parallel + share * (velocity - parallel)


def flow_losses(generated: Tensor, source: Tensor, weights: Weights) -> dict[str, Tensor]:
    """The weighted terms ``latent`` and ``difference`` of two predictions (1, C, F, h, w).

    ``latent``: mean squared difference. ``difference``: the same of absolute differences between
    frames, averaged over F + 1 groups of F - 1: successive frames, and each frame with all others.
    """
    frames = generated.shape[2]
    latent = (generated - source).square().mean()
    total = generated.new_zeros(())
    for distance in range(1, frames):
        here, there = (
            (video[:, :, distance:] - video[:, :, :-distance]).abs() for video in (generated, source)
        )
        # Each pair is met from both its frames, and a successive one once more.
        total = total + (3 if distance == 1 else 2) * (here - there).square().sum()
    difference = total / ((frames + 1) * (frames - 1) * generated[:, :, 0].numel())
    return {
        "latent": weights.latent_weight * latent,
        "difference": weights.difference_weight * difference,
    }


__all__ = ["FlowMotion", "Weights", "flow_losses", "regularised", "source_prediction"]
