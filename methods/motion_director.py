"""MotionDirector (ECCV 2024, arXiv 2310.08465): one LoRA for a clip's appearance, one for its motion.

Source: showlab/MotionDirector, MotionDirector_train.py (``finetune_unet``) and
configs/config_single_video.yaml. Each step trains a spatial LoRA on one random frame, then a temporal LoRA
on the clip while the spatial one, active but not trained, explains the appearance (at one step in five it
is off). The temporal loss is the plain one plus the same one with the appearance that frames share taken
out (``without_appearance``). Only the temporal LoRA is sampled with.

Where we differ, and why:

* Its U-Net has spatial and temporal layers, a diffusion transformer has one full attention: both LoRAs are
  on self-attention and feed-forward of every block, and only what they are trained on tells them apart.
* Velocities instead of noise, at the backbone's noise levels; the empty prompt
  (``methods/training/adapter_training.py``).
* The spatial LoRA's step is taken before the temporal loss is computed, which spares a second graph.
* Sampling starts from the noise every method starts from: the authors' configuration blends in the
  reference's inverted noise (noise prior 0.5), their command line does not.
* Classifier-free guidance is the backbone's, not 12.
* A latent frame after the first stands for several frames; it is used as a single frame all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, LowRank
from methods.interface import Observer
from methods.training.adapter_training import AdapterMethod, Trainer, copied, drawing, examples

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class MotionDirector(AdapterMethod, kind="motion_director"):
    """MotionDirector; ``conf/method/motion_director.yaml`` says what each key is."""

    rank: Annotated[int, Field(ge=1)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    spatial_off: Annotated[float, Field(ge=0, le=1)]
    debiased_weight: Annotated[float, Field(ge=0)]

    version: ClassVar[str] = "1"

    def adapter(self) -> LowRank:
        """Both LoRAs are of this form."""
        return LowRank(("self_attention", "feed_forward"), self.rank, self.dropout)

    def train(self, backbone: Backbone, clean: Tensor, observer: Observer) -> dict[str, Tensor]:
        """The temporal LoRA's weights after training on the clean latent (1, C, F, h, w), float32.

        A trace row a step: ``spatial_loss``, where that LoRA was trained, ``temporal_loss`` and its two
        parts.
        """
        import torch

        grid = backbone.grid(clean)
        adapter = self.adapter()
        with (
            drawing(self.training.seed, clean.device),
            backbone.adapted(adapter, grid) as spatial,
            backbone.adapted(adapter, grid) as temporal,
        ):
            prompt = backbone.embed([""])
            appearance, motion = (
                Trainer(self.training, lora.parameters.values()) for lora in (spatial, temporal)
            )
            for example in examples(backbone, clean, self.training, observer):
                off = float(torch.rand((), generator=example.choices)) < self.spatial_off
                one, anchor = torch.randint(clean.shape[2], (2,), generator=example.choices).tolist()
                row: dict[str, float] = {"train_step": example.step, "sigma": example.sigma}
                if not off:
                    spatial.scale, temporal.scale = 1.0, 0.0
                    frame = slice(one, one + 1)
                    predicted = backbone.velocity(
                        example.noisy[:, :, frame], example.timestep, prompt, grad=True
                    )
                    loss = (predicted - example.velocity[:, :, frame]).square().mean()
                    row["spatial_loss"] = appearance.update(loss)
                spatial.scale, temporal.scale = float(not off), 1.0
                predicted = backbone.velocity(example.noisy, example.timestep, prompt, grad=True)
                plain = (predicted - example.velocity).square().mean()
                debiased = debiased_loss(predicted, example.velocity, anchor)
                row["temporal_loss"] = motion.update(plain + self.debiased_weight * debiased)
                row |= {"plain": float(plain.detach()), "debiased": float(debiased.detach())}
                observer.trace(**row)
            return copied(temporal.parameters)


def debiased_loss(predicted: Tensor, target: Tensor, anchor: int) -> Tensor:
    """Mean squared difference of the two, (1, C, F, h, w) each, ``without_appearance`` (0-d)."""
    return (without_appearance(predicted, anchor) - without_appearance(target, anchor)).square().mean()


def without_appearance(velocity: Tensor, anchor: int) -> Tensor:
    """sqrt(2) y - y_anchor over the frames of (1, C, F, h, w): MotionDirector's equation 6 with beta 1.

    showlab/MotionDirector:MotionDirector_train.py, ``model_pred_decent``.
    """
    return 2**0.5 * velocity - velocity[:, :, anchor : anchor + 1]


__all__ = ["MotionDirector", "debiased_loss", "without_appearance"]
