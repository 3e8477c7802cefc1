"""What methods share that steer a video by its rotary position embeddings (``Backbone.rotary``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from methods.guidance.latent_guidance import Optimiser
from methods.guidance.loop import SamplingRun

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def descend(
    run: SamplingRun,
    index: int,
    options: Optimiser,
    adam: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    rotated: Callable[[], AbstractContextManager[object]],
    losses: Callable[[], dict[str, Tensor]],
) -> None:
    """Inner iterations of guided step ``index`` on ``parameters``, which ``adam`` holds.

    In each, ``rotated`` makes the context from the parameters in which ``losses`` and their gradients
    are computed: named terms (0-d) whose sum is minimised. A row of the trace has them, their total
    and the norm of its gradient. What ``adam`` holds beside ``parameters`` stays as it is.
    """
    import torch

    for iteration in range(options.iterations):
        with torch.enable_grad(), rotated():
            terms = losses()
            total = torch.stack(list(terms.values())).sum()
            gradients = torch.autograd.grad(total, parameters)
        adam.zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in adam.param_groups:
            group["lr"] = options.learning_rate(index, run.steps, iteration)
        adam.step()
        run.observer.trace(
            step=index,
            iteration=iteration,
            true_gradient=True,
            gradient_norm=float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))),
            **{name: float(value.detach()) for name, value in terms.items()},
            total=float(total.detach()),
        )


__all__ = ["descend"]
