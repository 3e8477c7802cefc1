"""Gradient reuse: a gradient still points the right way a few iterations later.

Third idea of FastVMT (https://github.com/mayuelala/FastVMT): successive gradients of one
guidance step are alike, so only every ``interval``-th inner iteration computes one; the others
let the optimiser go on with the last. Nothing is reused across guidance steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class GradientReuse:
    """Hands out the gradients of one guidance step; make a new one for each step.

    ``true_gradients`` counts the gradients computed. ``similarity`` is the cosine (0-d tensor)
    between the last two of them, None before the second. ValueError for an interval below 1.
    """

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1, not {interval}")
        self.interval = interval
        self.true_gradients = 0
        self.similarity: Tensor | None = None
        self._gradient: Tensor | None = None

    def is_true(self, iteration: int) -> bool:
        """Whether this inner iteration (0-based) computes its gradient."""
        return iteration % self.interval == 0

    def __call__(self, iteration: int, compute: Callable[[], Tensor]) -> Tensor:
        """The gradient for an inner iteration: ``compute()``, or the last one again."""
        if self._gradient is None or self.is_true(iteration):
            gradient = compute()
            if self._gradient is not None:
                self.similarity = torch.cosine_similarity(gradient.flatten(), self._gradient.flatten(), dim=0)
            self._gradient = gradient
            self.true_gradients += 1
        return self._gradient


__all__ = ["GradientReuse"]
