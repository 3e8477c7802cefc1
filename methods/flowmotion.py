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

from methods.backbones.interface import Grid
from methods.guidance.latent_guidance import Optimiser
from methods.guidance.loop import Hook, SampledMethod, SamplingRun, fixed_noise
from methods.interface import check_frames

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class FlowMotionLoss:
    """Weights of the two terms: the predictions themselves, and their absolute frame differences."""

    latent_weight: Annotated[float, Field(ge=0)]
    difference_weight: Annotated[float, Field(ge=0)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class FlowMotion(SampledMethod, kind="flowmotion"):
    """Guidance by predicted clean latents; ``conf/method/flowmotion.yaml`` says what each key is."""

    source: Literal["latent_prediction", "clean_latent"]
    loss: FlowMotionLoss
    regularise: Annotated[float, Field(ge=0, le=1)]
    optimiser: Optimiser

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError for a single latent frame."""
        check_frames(grid)

    def hook(self) -> Hook:
        return PredictionGuidance(self)


class PredictionGuidance(Hook):
    """Moves the latent so that the clean latent predicted from it becomes like the source's."""

    def __init__(self, method: FlowMotion) -> None:
        self._method = method
        self._empty: Tensor

    def guided_steps(self, steps: int) -> int:
        return self._method.optimiser.guided_steps(steps)

    def begin(self, run: SamplingRun) -> None:
        self._empty = run.embed_empty()

    def before(self, run: SamplingRun, index: int, latent: Tensor) -> Tensor:
        """The latent, moved in the inner iterations of guided step ``index``."""
        source = run.reference
        if self._method.source == "latent_prediction":
            with run.observer.stage("extract"):
                predict = partial(self._source_prediction, run, index)
                source = run.observer.shared(f"reference {index}", predict)
        with run.observer.stage("guide"):
            return self._moved(run, index, latent, source)

    def _source_prediction(self, run: SamplingRun, index: int) -> Tensor:
        """The clean latent that the noised reference predicts at step ``index``, with the empty prompt."""
        sigma = run.sigma(index)
        noised = run.backbone.add_noise(run.reference, fixed_noise(run.reference, seed=index), sigma)
        velocity = run.backbone.predict(noised, run.timestep(index), self._empty, None, 1.0)
        return noised - sigma * velocity

    def _moved(self, run: SamplingRun, index: int, latent: Tensor, source: Tensor) -> Tensor:
        """The latent after the inner iterations of guided step ``index``; each adds a row to the trace."""
        import torch

        method, options, sigma = self._method, self._method.optimiser, run.sigma(index)
        # Where the latent has been heading on average since the start; nowhere yet at the first step.
        heading = None
        if index > 0:
            heading = (latent - run.start) / (sigma - run.sigma(0))
        moved = latent.detach().to(options.dtype, copy=True).requires_grad_()
        adam = torch.optim.AdamW([moved], lr=0.0, weight_decay=options.weight_decay)
        for iteration in range(options.iterations):
            velocity = run.backbone.predict(
                moved.detach().float(), run.timestep(index), run.prompt, run.negative, run.guidance_scale
            )
            if heading is not None:
                velocity = regularised(velocity, heading, method.regularise)
            with torch.enable_grad():
                losses = flow_losses(moved.float() - sigma * velocity, source, method.loss)
                total = torch.stack(list(losses.values())).sum()
            (moved.grad,) = torch.autograd.grad(total, moved)
            adam.param_groups[0]["lr"] = options.learning_rate(index, run.steps, iteration)
            adam.step()
            run.observer.trace(
                step=index,
                iteration=iteration,
                gradient_norm=float(moved.grad.norm()),
                total=float(total.detach()),
                **{name: float(value.detach()) for name, value in losses.items()},
            )
        return moved.detach().float()


def regularised(velocity: Tensor, heading: Tensor, share: float) -> Tensor:
    """``velocity`` along ``heading``, plus ``share`` of what is orthogonal to it.

    Latents (1, C, F, h, w); the projection is over channels, cell by cell.
    """
    along = (velocity * heading).sum(1, keepdim=True) / (heading.square().sum(1, keepdim=True) + 1e-8)
    parallel = along * heading
    return parallel + share * (velocity - parallel)


def flow_losses(generated: Tensor, source: Tensor, weights: FlowMotionLoss) -> dict[str, Tensor]:
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


__all__ = ["FlowMotion", "FlowMotionLoss", "flow_losses", "regularised"]
