"""No motion transfer: what the backbone makes of the prompt and the noise alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic
from pydantic import Field

from methods.interface import Backbone, Grid, Observer
from methods.sampling import Sampling, Start, sample

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Plain:
    """Sampling with classifier-free guidance, from the noise that every method starts from."""

    name: str
    start: Start
    steps: Annotated[int, Field(ge=1)]
    guidance_scale: float
    negative_prompt: str

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ()
    uses_backbone: ClassVar[bool] = True

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Works on every token grid."""

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From noise (1, C, F, h, w) to the final latent; the reference matters only to an SDEdit start."""
        sampling = Sampling(self.steps, self.guidance_scale, self.negative_prompt, self.start)
        return sample(backbone, reference, prompt, noise, observer, sampling)


__all__ = ["Plain"]
