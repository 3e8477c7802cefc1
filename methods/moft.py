"""MOFT: motion features, the time-centred block output in the channels that vary most over time.

Video Diffusion Models are Training-free Motion Interpreter and Controller (Xiao et al., NeurIPS 2024,
arXiv:2405.14864; xizaoqu/MOFT), in the form the DiTFlow authors gave it for diffusion transformers
(ditflow/ditflow:motion_guidance.py, ``load_features`` and ``compute_moft_loss``;
configs/guidance_config.yaml). Where ours differs:

* From the port: it runs on Wan, with the backbone's own sampler, and none of the port's injected
  keys and values of block 0. The singular vector comes from the features' Gram matrix, which
  is the same vector.
* From the original, as the port does: channels are chosen on the reference itself, not on synthetic clips
  of known direction; the loss is a cosine over channels of all tokens, not the mean square in a mask;
  the reference is read at timestep 0, not inverted; no keys and values are shared with an unguided
  latent.
* Ours alone: ``reframing`` (``methods/reframe.py``) warps the reference's features first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Grid
from methods.guidance.gradient_reuse import Reuse
from methods.guidance.latent_guidance import LatentGuidance, Optimiser, ReferenceNoise
from methods.guidance.loop import Hook, SampledMethod
from methods.interface import check_block, check_frames
from methods.motion_flow.reframing import Reframing, check_reframing, warp_features

if TYPE_CHECKING:
    from torch import Tensor


class Features(NamedTuple):
    """Block output of a video. Of the reference: time-centred, in the motion channels alone.

    ``values`` (F, S, C), of the reference (F, S, n); ``channels`` (n,) int64, and ``valid`` (S,) bool,
    the tokens that have a reference after reframing. Both are None for the generated video.
    """

    values: Tensor
    channels: Tensor | None = None
    valid: Tensor | None = None


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class MOFT(SampledMethod, kind="moft"):
    """Guidance by motion features; ``conf/method/moft.yaml`` says what each key is."""

    block: Annotated[int, Field(ge=0)]
    channels: Annotated[float, Field(gt=0, le=1)]
    reframing: Reframing
    optimiser: Optimiser
    reference: ReferenceNoise

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError for a block there is not, a single latent frame, or an empty reframing."""
        check_block(self.block, num_blocks)
        check_frames(grid)
        check_reframing(self.reframing, grid, self.start)

    def hook(self) -> Hook:
        return LatentGuidance(self, self.optimiser, Reuse(interval=1), self.reference)

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> Features:
        """The block's output; of the reference (without ``grad``) its reframed motion features."""
        features = backbone.hidden_states(latent, timestep, prompt, self.block, grad=grad)
        if grad:
            return Features(features)
        grid = backbone.grid(latent)
        motion = time_centred(features)
        channels = motion_channels(motion, self.channels)
        warped, valid = warp_features(motion[..., channels], self.reframing, grid.height, grid.width)
        return Features(warped, channels, valid)

    def losses(self, generated: Features, reference: Features) -> dict[str, Tensor]:
        motion = time_centred(generated.values[..., reference.channels])
        return {"moft": moft_loss(motion[:, reference.valid], reference.values[:, reference.valid])}


def time_centred(features: Tensor) -> Tensor:
    """(F, S, C) less its mean over frames, in float32 or better."""
    import torch

    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features - features.mean(0)


def motion_channels(motion: Tensor, share: float) -> Tensor:
    """The ``share`` of channels (rounded down, at least one) largest in the first right-singular vector.

    ``motion`` (F, S, C), time-centred; the vector is that of its (F S, C) matrix, its entries count
    without their sign. Returns int64 (n,), the largest entry first.
    """
    import torch

    rows = motion.flatten(0, 1)
    # Eigenvectors of the Gram matrix are the right-singular vectors; eigenvalues ascend.
    first: Tensor = torch.linalg.eigh((rows.mT @ rows).double()).eigenvectors[:, -1]
    count = max(1, int(share * rows.shape[1] + 1e-9))
    return first.abs().argsort(descending=True)[:count]


def moft_loss(generated: Tensor, reference: Tensor) -> Tensor:
    """Mean over frames and tokens of 1 - cos over channels, of motion features (F, S, n) each; 0 to 2."""
    import torch

    return (1 - torch.cosine_similarity(generated, reference, dim=-1)).mean()


__all__ = ["MOFT", "Features", "moft_loss", "motion_channels", "time_centred"]
