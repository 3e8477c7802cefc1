"""FastVMT (ICLR 2026): motion transfer by latent guidance, and its ablations by override.

Three ideas over latent guidance (``methods/guidance/latent_guidance.py``): sliding-window attention motion
flow (``methods/motion_flow/flow.py``), the window loss (``methods/motion_flow/window_loss.py``) and gradient
reuse (``methods/guidance/gradient_reuse.py``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from datasets.errors import InputError
from methods.backbones.interface import Backbone, Grid
from methods.guidance.gradient_reuse import Reuse
from methods.guidance.latent_guidance import LatentGuidance, Optimiser, ReferenceNoise
from methods.guidance.loop import Hook, SampledMethod
from methods.interface import check_block, check_frames

if TYPE_CHECKING:
    from torch import Tensor

    from methods.motion_flow.flow import MotionFlow


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class FastVMTLoss:
    """Weights of the two terms; a term of weight 0 still runs, except the window loss."""

    amf_weight: Annotated[float, Field(ge=0)]
    window_weight: Annotated[float, Field(ge=0)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class FastVMT(SampledMethod, kind="fastvmt"):
    """FastVMT after the paper; ``conf/method/fastvmt.yaml`` says what each key is.

    Source: https://github.com/mayuelala/FastVMT (diffsynth/pipelines/wan_video.py), with the
    places where the release departs from the paper taken from the paper.
    """

    extractor: Literal["window", "dense"]
    reduction: Literal["head_mean", "concat"]
    block: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]
    window: Annotated[int, Field(ge=1)]
    tile: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    span: Annotated[int, Field(ge=1)]
    loss: FastVMTLoss
    reuse: Reuse
    optimiser: Optimiser
    reference: ReferenceNoise

    version: ClassVar[str] = "2"

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

    def hook(self) -> Hook:
        return LatentGuidance(self, self.optimiser, self.reuse, self.reference)

    def at_most(self) -> FastVMT:
        """This method where what depends on the data costs the most: an upper bound for the cost model."""
        return replace(self, reuse=replace(self.reuse, policy="fixed"))

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> MotionFlow:
        """Attention motion flow of a latent; with ``grad`` also window keys, if their loss has a weight."""
        from methods.motion_flow.flow import extract_motion

        queries, keys = backbone.queries_keys(latent, timestep, prompt, self.block, grad=grad)
        grid = backbone.grid(latent)
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
            with_window_keys=grad and self.loss.window_weight > 0,
        )

    def losses(self, generated: MotionFlow, reference: MotionFlow) -> dict[str, Tensor]:
        """The weighted terms ``amf`` and, where it has a weight, ``window``."""
        from methods.motion_flow.flow import amf_loss
        from methods.motion_flow.window_loss import window_loss

        amf = amf_loss(generated.displacement, reference.displacement, generated.pairs.weight)
        terms = {"amf": self.loss.amf_weight * amf}
        if generated.window_keys is not None:
            terms["window"] = self.loss.window_weight * window_loss(generated.window_keys, generated.pairs)
        return terms


__all__ = ["FastVMT", "FastVMTLoss"]
