"""What methods share that steer a video by its rotary position embeddings (``Backbone.rotary``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from methods.interface import Observer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from methods.guidance.latent_guidance import Optimiser


def descend(
    optimiser: torch.optim.Optimizer,
    parameters: Sequence[Tensor],
    held: Callable[[], AbstractContextManager[object]],
    losses: Callable[[], dict[str, Tensor]],
    options: Optimiser,
    index: int,
    steps: int,
    observer: Observer,
) -> None:
    """Inner iterations of guided step ``index`` of ``steps`` on ``parameters``, which the optimiser holds.

    In each, ``held`` makes the context from the parameters in which ``losses`` and their gradients
    are computed: named terms (0-d) whose sum is minimised. A row of the trace has them, their total
    and the norm of its gradient. What the optimiser holds beside ``parameters`` stays as it is.
    """
    import torch

    for iteration in range(options.iterations):
        with torch.enable_grad(), held():
            terms = losses()
            total = torch.stack(list(terms.values())).sum()
            gradients = torch.autograd.grad(total, parameters)
        optimiser.zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate(index, steps, iteration)
        optimiser.step()
        observer.trace(
            step=index,
            iteration=iteration,
            true_gradient=True,
            gradient_norm=float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))),
            **{name: float(value.detach()) for name, value in terms.items()},
            total=float(total.detach()),
        )


__all__ = ["descend"]
