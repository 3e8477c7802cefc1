"""Principled reframing: the reference's motion moved, resized or seen in perspective before the loss.

Principled Reframing in Motion Transfer with Video Diffusion Models
(dg-lee23/principled-reframing:principled_reframing/pipelines/additional_components.py,
``compute_f_loss``): where the reference's features are warped on their grid, the same motion takes
place elsewhere in the frame, larger, smaller, or in perspective. ``warp_features`` does it to features;
``warp_displacement`` to displacement fields, whose vectors the warp changes as well; ``Reframe`` is
FastVMT with a warped reference. Where ours differs:

* The original guides AnimateDiff by features of inverted latents. Here the warp is a part of its own,
  used on FastVMT's displacements (``method=reframe``) and MOFT's features (``method.reframing``).
* Resampling is linear, not bicubic. Shifts are shares of the frame, not one of four presets;
  ``scale`` is a factor of lengths, where the original's is one of areas; corners are free.
* Tokens whose content would come from outside the reference are left out of the loss. The original leaves
  out features up to 1e-3, negative ones with them.

Coordinates are (row, column) in tokens: a token's centre is a whole number, and the frame reaches from
-0.5 to its size less 0.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pydantic

from methods.backbones.interface import Backbone, Grid
from methods.fastvmt import FastVMT
from methods.motion_flow.reframing import Reframing, check_reframing, warp_displacement

if TYPE_CHECKING:
    from torch import Tensor

    from methods.motion_flow.flow import MotionFlow


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Reframe(FastVMT, kind="reframe"):
    """``FastVMT`` towards a reframed reference; ``conf/method/reframe.yaml`` says what each key is.

    The window loss, which needs no reference, stays as it is.
    """

    reframing: Reframing

    version: ClassVar[str] = "2"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """As ``FastVMT.check``, and ``check_reframing``."""
        FastVMT.check(self, grid, num_blocks)
        check_reframing(self.reframing, grid, self.start)

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> MotionFlow:
        """As ``FastVMT.extract``; the reference's, without ``grad``, reframed and NaN where it has none."""
        motion = FastVMT.extract(self, backbone, latent, timestep, prompt, grad=grad)
        if grad:
            return motion
        grid = backbone.grid(latent)
        warped, valid = warp_displacement(motion.displacement, self.reframing, grid.height, grid.width)
        return motion._replace(displacement=warped.masked_fill(~valid[:, None], float("nan")))


__all__ = ["Reframe"]
