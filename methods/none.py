"""No motion transfer: what the backbone makes of the prompt and the noise alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Grid
from methods.guidance.loop import Sampling, Start, sample
from methods.interface import LatentMethod, Observer

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Plain(LatentMethod, kind="none"):
    """Sampling with classifier-free guidance, from the noise that every method starts from."""

    name: str
    start: Start
    steps: Annotated[int, Field(ge=1)]
    guidance_scale: float
    negative_prompt: str

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Works on every token grid."""

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From noise (1, C, F, h, w) to the final latent; the reference matters only to an SDEdit start."""
        sampling = Sampling(self.steps, self.guidance_scale, self.negative_prompt, self.start)
        return sample(backbone, reference, prompt, noise, observer, sampling)


__all__ = ["Plain"]
