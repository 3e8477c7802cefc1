"""MotionClone: score guidance by where tokens attend to over time.

MotionClone: Training-Free Motion Cloning for Controllable Video Generation (Ling et al., ICLR 2025,
arXiv:2406.05338). Source: LPengYang/MotionClone:motionclone/utils/motionclone_functions.py,
configs/t2v_object.yaml and configs/t2v_camera.yaml. In the original each token of AnimateDiff's
temporal attention attends to the same place in all frames. Of the reference, every row's largest
probability is kept, and the generated video is to give the same entry the same probability; the
gradient of that is added to the predicted noise, so that the latent goes down it.

This is a port to diffusion transformers, which have no temporal attention. Where it differs:

* The attention over frames is made from one block's queries and keys, after RoPE: for each head and place
  the softmax over the keys of all frames at the same place. The original sums over six such layers.
* The shift is the original's written for flow matching: theirs adds strength * (1 - abar_t)^.5 grad L to
  the noise, which subtracts strength * sigma_t * sigma_next * grad L from x_next.
* ``strength`` goes with a loss that is a mean over heads, places and frames, and depends on
  their number and on the network; ``conf/tuned/motionclone`` has it.
* The gradient comes from a pass of its own that stops at the block, not from the conditional pass.
* Warm-up and cool-down are shares of the guided steps: the original has 10 steps each, of 50 guided
  (camera) or 180 (object). Its guided steps lie closer together than the others; ours do not.
* The reference is noised once, to ``reference_sigma``. AnimateDiff's timestep 400 has the
  signal-to-noise ratio of sigma 0.61.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Grid
from methods.guidance.loop import Hook, SampledMethod, SamplingRun, fixed_noise
from methods.interface import check_block, check_frames

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(ge=0, le=1)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class MotionClone(SampledMethod, kind="motionclone"):
    """Score guidance by attention over frames; ``conf/method/motionclone.yaml`` says what each key is."""

    block: Annotated[int, Field(ge=0)]
    strength: Annotated[float, Field(ge=0)]
    reference_sigma: Share
    guided_fraction: Share
    warm_up: Share
    cool_down: Share

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError for a block there is not, and for a single latent frame."""
        check_block(self.block, num_blocks)
        check_frames(grid)

    def hook(self) -> Hook:
        return ScoreGuidance(self)

    def attention(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> Tensor:
        """``frame_attention`` of the block that is read, (S, heads, F, F)."""
        return frame_attention(*backbone.queries_keys(latent, timestep, prompt, self.block, grad=grad))


class ScoreGuidance(Hook):
    """Subtracts from each step's latent the gradient of ``motion_loss``, times the method's strength."""

    def __init__(self, method: MotionClone) -> None:
        self._method = method
        self._wanted: Tensor
        self._at: Tensor
        self._shift: Tensor

    def guided_steps(self, steps: int) -> int:
        """``guided_fraction`` of the steps, rounded up."""
        return math.ceil(self._method.guided_fraction * steps - 1e-9)

    def begin(self, run: SamplingRun) -> None:
        """Reads the noised reference."""
        empty = run.embed_empty()
        with run.observer.stage("extract"):
            read = partial(self._reference_motion, run, empty)
            self._wanted, self._at = run.observer.shared("reference", read)

    def before(self, run: SamplingRun, index: int, latent: Tensor) -> Tensor:
        """The latent as it is; what is taken off after the step comes from its gradient."""
        import torch

        method = self._method
        with run.observer.stage("guide"), torch.enable_grad():
            optimised = latent.detach().requires_grad_()
            attention = method.attention(run.backbone, optimised, run.timestep(index), run.prompt, grad=True)
            loss = motion_loss(attention, self._wanted, self._at)
            (gradient,) = torch.autograd.grad(loss, optimised)
            share = ramp(index, self.guided_steps(run.steps), method.warm_up, method.cool_down)
            sigma, following = run.sigma(index), run.sigma(index + 1)
            self._shift = -(method.strength * share * sigma * following) * gradient
            run.observer.trace(
                step=index,
                iteration=0,
                total=float(loss.detach()),
                gradient_norm=float(gradient.norm()),
                shift=float(self._shift.square().mean().sqrt()),
            )
        return latent

    def after(self, run: SamplingRun, index: int, latent: Tensor) -> Tensor:
        return latent + self._shift

    def _reference_motion(self, run: SamplingRun, empty: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's largest probability, and its frame, (S, heads, F, 1) each, of the noised reference."""
        sigma = self._method.reference_sigma
        noised = run.backbone.add_noise(run.reference, fixed_noise(run.reference), sigma)
        timestep = sigma * run.timestep(0) / run.schedule.sigmas[0]
        attention = self._method.attention(run.backbone, noised, timestep, empty, grad=False)
        wanted, at = attention.max(-1, keepdim=True)
        return wanted, at


def frame_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention of each token to the tokens at its place in all frames, per head.

    Queries and keys (F, S, heads, d) to probabilities (S, heads, F, F), rows summing to 1; the logits are
    scaled by d^-0.5. In float32 or better.
    """
    import torch

    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries, keys = (vectors.to(dtype).permute(1, 2, 0, 3) for vectors in (queries, keys))
    return torch.softmax(queries @ keys.mT / queries.shape[-1] ** 0.5, dim=-1)


def motion_loss(attention: Tensor, wanted: Tensor, at: Tensor) -> Tensor:
    """Mean squared difference of the probabilities ``attention`` (S, heads, F, F) has at frames ``at``.

    ``wanted`` and ``at`` (S, heads, F, 1): the reference's largest probability of each row and its frame.
    """
    return (attention.gather(-1, at) - wanted).square().mean()


def ramp(index: int, guided: int, warm_up: float, cool_down: float) -> float:
    """Share of the strength at guided step ``index``: linear over the first and the last steps, else 1."""
    rising, falling = round(warm_up * guided), round(cool_down * guided)
    share = 1.0
    if index < rising:
        share *= (index + 1) / rising
    if index > guided - falling:
        share *= (guided - index) / falling
    return share


__all__ = ["MotionClone", "frame_attention", "motion_loss", "ramp"]
