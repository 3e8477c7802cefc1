"""Gradient reuse: a gradient still points the right way a few iterations later.

Third idea of FastVMT (https://github.com/mayuelala/FastVMT): successive gradients of one
guidance step are alike, so only every ``interval``-th inner iteration computes one; the others
let the optimiser go on with the last. Ours: an adaptive policy, and reuse across guidance steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import Field

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Reuse:
    """How many inner iterations a true gradient serves.

    ``fixed``: ``interval`` of them; 1 means that every gradient is a true one. ``adaptive``: at
    least ``interval`` and at most ``longest``; between the two a new one is computed when

    * the latent has moved: the root mean square of its change since the last true gradient
      exceeds ``move`` learning rates (one iteration of AdamW moves every cell by about one), or
    * the gradient has turned: its angle is predicted to exceed ``turn`` degrees. Prediction: the
      angle between the last two true gradients, per distance between the latents they belong to,
      times the distance moved since. Unknown before the second true gradient.

    Both come from what is at hand; nothing is evaluated for them. With ``across_steps`` the last
    gradient of a guidance step serves on in the next one, which otherwise starts with a true one;
    the denoising step in between counts as movement.
    """

    interval: Annotated[int, Field(ge=1)]
    policy: Literal["fixed", "adaptive"] = "fixed"
    longest: Annotated[int, Field(ge=1)] = 10
    turn: Annotated[float, Field(gt=0)] = 30.0
    move: Annotated[float, Field(gt=0)] = 5.0
    across_steps: bool = False


class GradientReuse:
    """Hands out the gradients of one sampling run, guidance step by guidance step.

    ``true_gradients`` counts those computed. After each call ``is_true`` says whether this one
    was, ``moved`` (learning rates) and ``turned`` (degrees; both None while unknown) what the
    adaptive policy measured before deciding, and ``similarity`` the cosine of the last two true
    gradients of one guidance step, or across steps where gradients are reused across them (None
    before the second).
    """

    def __init__(self, options: Reuse) -> None:
        self.options = options
        self.true_gradients = 0
        self.is_true = False
        self.similarity: float | None = None
        self.moved: float | None = None
        self.turned: float | None = None
        self._gradient: Tensor | None = None
        self._latent: Tensor | None = None
        self._served = 0
        self._learning_rate = 1.0
        self._distance = 0.0
        self._degrees_per_distance: float | None = None

    def start_step(self, learning_rate: float) -> None:
        """A guidance step begins: without ``across_steps`` its first gradient is a true one."""
        self._learning_rate = learning_rate
        if not self.options.across_steps:
            self._gradient = None
            self.similarity = None

    def __call__(self, latent: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """The gradient for the next inner iteration at ``latent``: ``compute()``, or the last one again."""
        import torch

        adaptive = self.options.policy == "adaptive"
        if adaptive:
            self._measure(latent)
        self.is_true = self._gradient is None or self._due()
        if self.is_true:
            gradient = compute()
            self._compare(gradient)
            self._gradient = gradient
            self._latent = latent.detach().to(torch.float32, copy=True) if adaptive else None
            self._served = 0
            self.true_gradients += 1
        self._served += 1
        assert self._gradient is not None
        return self._gradient

    def _measure(self, latent: Tensor) -> None:
        self.moved = self.turned = None
        if self._latent is None:
            return
        self._distance = float((latent.detach().float() - self._latent).square().mean().sqrt())
        self.moved = self._distance / max(self._learning_rate, 1e-12)
        if self._degrees_per_distance is not None:
            self.turned = self._degrees_per_distance * self._distance

    def _due(self) -> bool:
        options = self.options
        if self._served < options.interval:
            return False
        if options.policy == "fixed" or self._served >= options.longest:
            return True
        assert self.moved is not None
        return self.moved > options.move or (self.turned is not None and self.turned > options.turn)

    def _compare(self, gradient: Tensor) -> None:
        if self._gradient is None:
            return
        import torch

        # In float64: of vectors this alike, float32 products say cosines above 1.
        new, last = (one.flatten().double() for one in (gradient, self._gradient))
        self.similarity = float(torch.cosine_similarity(new, last, dim=0))
        if self.moved is not None and self._distance > 0:
            angle = math.degrees(math.acos(min(1.0, max(-1.0, self.similarity))))
            self._degrees_per_distance = angle / self._distance


__all__ = ["GradientReuse", "Reuse"]
