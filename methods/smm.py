"""SMM: the change of the spatially averaged features from frame to frame, and nothing of their layout.

Space-Time Diffusion Features for Zero-Shot Text-Driven Motion Transfer (Yatim et al., CVPR 2024,
arXiv:2311.17009). Loss: diffusion-motion-transfer/diffusion-motion-transfer:utilities/guidance_utils.py
(``calculate_losses``). Its setting on a diffusion transformer: ditflow/ditflow:motion_guidance.py
and configs/guidance_config.yaml. Where ours differs:

* Features are the output of one transformer block, as in the DiTFlow authors' port; the original reads
  a U-Net's decoder.
* The loss is the original's. The port takes the generated video's differences from the reference's
  anchor frame, and the cosine over frames instead of channels.
* Reference features come from the clean latent at timestep 0 (the port's way), not from 999 steps of
  inversion; there is no initial latent with the reference's low frequencies, no source prompt, no
  denoise-renoise-denoise step, and none of the port's injected keys and values of block 0.
* Learning rate, iterations and guided steps are the port's. The original: 7e-3 to 4e-3, 10
  iterations, the first 20 of 50 steps, at guidance scale 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Grid
from methods.guidance.gradient_reuse import Reuse
from methods.guidance.latent_guidance import LatentGuidance, Optimiser, ReferenceNoise
from methods.guidance.loop import Hook, SampledMethod
from methods.interface import check_block, check_frames

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class SMM(SampledMethod, kind="smm"):
    """Guidance by differences of spatial marginal means; ``conf/method/smm.yaml`` says what each key is."""

    block: Annotated[int, Field(ge=0)]
    optimiser: Optimiser
    reference: ReferenceNoise

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError for a block there is not, and for a single latent frame."""
        check_block(self.block, num_blocks)
        check_frames(grid)

    def hook(self) -> Hook:
        return LatentGuidance(self, self.optimiser, Reuse(interval=1), self.reference)

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> Tensor:
        """Spatial mean (F, C) of the block's output."""
        return spatial_mean(backbone.hidden_states(latent, timestep, prompt, self.block, grad=grad))

    def losses(self, generated: Tensor, reference: Tensor) -> dict[str, Tensor]:
        return {"smm": smm_loss(generated, reference)}


def spatial_mean(features: Tensor) -> Tensor:
    """(F, S, C) to its mean over tokens (F, C), in float32 or better."""
    import torch

    return features.to(torch.promote_types(features.dtype, torch.float32)).mean(1)


def smm_loss(generated: Tensor, reference: Tensor) -> Tensor:
    """Mean over anchors i and frames j of 1 - cos of the differences mean_j - mean_i, over channels.

    Spatial means (F, C) of both videos. A frame's difference to itself is 0 and its cosine counts
    as 0, so that the loss lies between 1 / F and 2 - 1 / F.
    """
    import torch

    # [i, j] is the difference of frame j to anchor i.
    ours, theirs = (means[None] - means[:, None] for means in (generated, reference))
    return (1 - torch.cosine_similarity(ours, theirs, dim=-1)).mean()


__all__ = ["SMM", "smm_loss", "spatial_mean"]
