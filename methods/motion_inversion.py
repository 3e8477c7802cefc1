"""Motion Inversion (arXiv 2403.20193): embeddings of a clip's motion, added to what attention reads.

Source: EnVision-Research/MotionInversion, models/unet/motion_embeddings.py, attn_ctrl.py and
configs/config.yaml; the form for diffusion transformers as in Shi-qingyu/DeT. One vector a latent frame is
added to what self-attention takes its queries and keys from, one a place (or a frame and place) to what it
takes its values from, in every block. They are trained with the plain loss. When sampling, the value
embeddings lose the appearance they hold (``debiased``).

Where we differ, and why:

* The authors' value embeddings have one vector for each frame and place, in the narrowest of the U-Net's
  temporal attentions only. On a transformer's full grid that is a third of the network (Wan 14B at 49
  frames: 4e9 numbers), so ``value_frames`` is false on Wan, as in DeT's port. Such embeddings are all
  appearance, and are dropped.
* Velocities instead of noise, at the backbone's noise levels; the empty prompt
  (``methods/training/adapter_training.py``).
* Sampling starts from the noise every method starts from; the authors blend in the reference's inverted
  noise.
* Classifier-free guidance and steps are the backbone's, not 12 and 30. Gradients are not clipped.
* The authors choose ``debias`` by the kind of motion, known to them; here it is one option for all clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import pydantic

from datasets.errors import InputError
from methods.backbones.interface import Backbone, Grid, MotionEmbedding
from methods.interface import Observer
from methods.training.adapter_training import AdapterMethod, Trainer, copied, drawing, examples

if TYPE_CHECKING:
    from torch import Tensor

Debias = Literal["difference", "drop", "none"]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class MotionInversion(AdapterMethod, kind="motion_inversion"):
    """Motion Inversion; ``conf/method/motion_inversion.yaml`` says what each key is."""

    value_frames: bool
    debias: Debias

    version: ClassVar[str] = "1"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """InputError for clips of a single latent frame, and for debiasing that has nothing to work on."""
        super().check(grid, num_blocks)
        if self.debias == "difference" and not self.value_frames:
            raise InputError(
                "method.debias=difference: embeddings without frames have no difference between frames; "
                "use method.debias=drop, or method.value_frames=true"
            )

    def adapter(self) -> MotionEmbedding:
        return MotionEmbedding(self.value_frames)

    def train(self, backbone: Backbone, clean: Tensor, observer: Observer) -> dict[str, Tensor]:
        """The debiased embeddings after training on the clean latent (1, C, F, h, w), float32.

        A trace row a step: ``loss``.
        """
        grid = backbone.grid(clean)
        with (
            drawing(self.training.seed, clean.device),
            backbone.adapted(self.adapter(), grid) as embedding,
        ):
            prompt = backbone.embed([""])
            trainer = Trainer(self.training, embedding.parameters.values())
            for example in examples(backbone, clean, self.training, observer):
                predicted = backbone.velocity(example.noisy, example.timestep, prompt, grad=True)
                loss = trainer.update((predicted - example.velocity).square().mean())
                observer.trace(train_step=example.step, sigma=example.sigma, loss=loss)
            return debiased(copied(embedding.parameters), self.debias)


def debiased(weights: Mapping[str, Tensor], how: Debias) -> dict[str, Tensor]:
    """Embeddings for sampling: those of the values changed, those of queries and keys as they are.

    ``difference``: each frame's (F, h, w, C) less that of the frame before, frame 0's kept (for objects).
    ``drop``: zeros (for cameras). EnVision-Research/MotionInversion:models/unet/motion_embeddings.py,
    ``forward_frameSubtraction``, and inference.py.
    """
    import torch

    found = dict(weights)
    for name, value in weights.items():
        if not name.endswith(".values"):
            continue
        if how == "drop":
            found[name] = torch.zeros_like(value)
        elif how == "difference":
            found[name] = torch.cat([value[:1], value.diff(dim=0)])
    return found


__all__ = ["MotionInversion", "debiased"]
