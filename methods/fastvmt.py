"""FastVMT (ICLR 2026): motion transfer by latent guidance, and its ablations by override.

Three ideas over one guidance loop (``methods/guidance/latent_guidance.py``): sliding-window attention motion
flow (``methods/motion_flow/flow.py``), the window loss (``methods/motion_flow/window_loss.py``) and gradient reuse
(``methods/guidance/gradient_reuse.py``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import pydantic
from pydantic import Field

from datasets.errors import InputError
from methods.backbones.interface import Backbone, Grid
from methods.guidance.gradient_reuse import Reuse
from methods.guidance.latent_guidance import Guidance, Optimiser, Reference, guided_sample
from methods.guidance.loop import Sampling, Start, Velocities, every_pass
from methods.interface import LatentMethod, Observer, check_block, check_frames

if TYPE_CHECKING:
    from torch import Tensor

    from methods.motion_flow.flow import Motion


class Attention(NamedTuple):
    """Queries and keys (F, S, heads, d) of one block, differentiable, and their token grid."""

    queries: Tensor
    keys: Tensor
    grid: Grid


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Loss:
    """Weights of the two terms; a term of weight 0 still runs, except the window loss."""

    amf_weight: Annotated[float, Field(ge=0)]
    window_weight: Annotated[float, Field(ge=0)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class FastVMT(LatentMethod, kind="fastvmt"):
    """FastVMT after the paper; ``conf/method/fastvmt.yaml`` says what each key is.

    Source: https://github.com/mayuelala/FastVMT (diffsynth/pipelines/wan_video.py), with the
    places where the release departs from the paper taken from the paper.
    """

    name: str
    extractor: Literal["window", "dense"]
    reduction: Literal["head_mean", "concat"]
    block: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]
    window: Annotated[int, Field(ge=1)]
    tile: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    span: Annotated[int, Field(ge=1)]
    loss: Loss
    reuse: Reuse
    optimiser: Optimiser
    reference: Reference
    start: Start
    steps: Annotated[int, Field(ge=1)]
    guidance_scale: float
    negative_prompt: str

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError when block, window or tile do not fit the backbone's token grid."""
        size = f"the {grid.height}x{grid.width} token grid"
        check_block(self.block, num_blocks)
        check_frames(grid)
        if self.extractor == "dense" and not self.loss.window_weight:
            return
        if self.window > min(grid.height, grid.width):
            raise InputError(
                f"method.window={self.window} is larger than {size}; "
                f"set method.window to at most {min(grid.height, grid.width)}"
            )
        if self.tile[0] > grid.height or self.tile[1] > grid.width:
            raise InputError(f"method.tile={list(self.tile)} is larger than {size}; lower method.tile")

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        """From the reference's clean latent and noise, (1, C, F, h, w) each, to the final latent."""
        sampling = Sampling(
            self.steps, self.guidance_scale, self.negative_prompt, self.start, self.velocities()
        )
        guidance = Guidance(self, self.optimiser, self.reuse, self.reference)
        return guided_sample(backbone, reference, prompt, noise, observer, sampling, guidance)

    def velocities(self) -> Velocities:
        """Which passes of the transformer denoising runs."""
        return every_pass

    def at_most(self) -> FastVMT:
        """This method where what depends on the data costs the most: an upper bound for the cost model."""
        return replace(self, reuse=replace(self.reuse, policy="fixed"))

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> Motion | Attention:
        """Attention motion flow of a latent; with ``grad`` what it is made of, for ``losses``."""
        queries, keys = backbone.queries_keys(latent, timestep, prompt, self.block, grad=grad)
        attention = Attention(queries, keys, backbone.grid(latent))
        return attention if grad else self.motion(attention)

    def motion(self, attention: Attention, towards: Tensor | None = None) -> Motion:
        """Attention motion flow; with ``towards``, a reference's displacements, its error and window keys."""
        from methods.motion_flow.flow import extract_motion

        queries, keys, grid = attention
        return extract_motion(
            queries,
            keys,
            grid.height,
            grid.width,
            extractor=self.extractor,
            reduction=self.reduction,
            temperature=self.temperature,
            span=self.span,
            window=self.window,
            tile=self.tile,
            with_window_keys=towards is not None and self.loss.window_weight > 0,
            towards=towards,
        )

    def losses(self, generated: Attention, reference: Motion) -> dict[str, Tensor]:
        """The weighted terms ``amf`` and, where it has a weight, ``window``."""
        from methods.motion_flow.window_loss import window_loss

        motion = self.motion(generated, reference.displacement)
        terms = {"amf": self.loss.amf_weight * motion.error}
        if motion.window_keys is not None:
            terms["window"] = self.loss.window_weight * window_loss(motion.window_keys, motion.pairs)
        return terms


__all__ = ["FastVMT", "Loss"]
