"""What methods share that steer a video by its rotary position embeddings (``Backbone.rotary``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from methods.interface import Grid, Observer

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def token_positions(grid: Grid, device: torch.device | str = "cpu") -> Tensor:
    """Frame, row and column of every token, (F * S, 3) float32, frame-major, then row by row."""
    import torch

    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in grid]
    return torch.cartesian_prod(*axes)


def descend(
    optimiser: torch.optim.Optimizer,
    losses: Callable[[], dict[str, Tensor]],
    parameters: Sequence[Tensor],
    iterations: int,
    step: int,
    observer: Observer,
) -> None:
    """Inner iterations of guided ``step`` on ``parameters``, which the optimiser holds.

    ``losses`` gives the named terms (0-d) whose sum is minimised; each iteration adds them to the
    trace, with their total and the norm of its gradient. Parameters of the optimiser that are not
    among ``parameters`` stay as they are.
    """
    import torch

    for iteration in range(iterations):
        with torch.enable_grad():
            terms = losses()
            total = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, parameters)
        optimiser.zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimiser.step()
        observer.trace(
            step=step,
            iteration=iteration,
            true_gradient=True,
            gradient_norm=float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))),
            **{name: float(value.detach()) for name, value in terms.items()},
            total=float(total.detach()),
        )


__all__ = ["descend", "token_positions"]
