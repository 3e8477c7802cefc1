"""DiTFlow: the reference's attention motion flow (AMF), matched by moving the latent.

Pondaven et al., "Video Motion Transfer with Diffusion Transformers", CVPR 2025, arXiv:2412.07776;
code: ditflow/ditflow (``motion_guidance.py``, ``guidance_utils/motion_flow_utils.py``,
``guidance_utils/custom_modules.py``, ``configs/guidance_config.yaml``).

As theirs: one block's self-attention logits are averaged over heads, each frame's queries attend to
every frame (all ordered pairs, a frame with itself too); the reference, read once from its clean
latent at timestep 0 with the empty prompt, displaces each token to its best match, in whole tokens;
the generated video to the expected position; squared differences are averaged over the tokens that
the reference displaces, the others being free; Adam, fresh at each guided step; and in guided steps
block 0 attends to keys and values of the reference noised with the initial noise.

Where this differs:

* The pass that makes keys and values stops at the block they are for, and so does the gradient's at
  the block that is read; theirs run all of the former, and all of the latter's first layers. The
  numbers are the same.
* Wan's blocks have no text in self-attention, so neither the injected keys and values nor the
  features have text tokens to leave out.
* Where the reference displaces no token the loss is 0; theirs is the mean of nothing, NaN.
* Sampling is the backbone's (schedule, classifier-free guidance of one scale, Euler steps). Theirs is
  CogVideoX's, whose dynamic scale is given a timestep where a step is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic
from pydantic import Field

from methods.backbones.interface import Backbone, Grid
from methods.guidance.gradient_reuse import Reuse
from methods.guidance.latent_guidance import LatentGuidance, Optimiser
from methods.guidance.loop import Hook, SampledMethod, SamplingRun
from methods.interface import check_block, check_frames

if TYPE_CHECKING:
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class DiTFlow(SampledMethod, kind="ditflow"):
    """DiTFlow with an optimised latent; ``conf/method/ditflow.yaml`` says what each key is."""

    block: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]
    injection: Annotated[int, Field(ge=0)] | None
    optimiser: Optimiser

    version: ClassVar[str] = "2"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError when a block is not the backbone's, or the clip has one latent frame."""
        for key, block in (("block", self.block), ("injection", self.injection)):
            if block is not None:
                check_block(block, num_blocks, key)
        check_frames(grid)

    def hook(self) -> Hook:
        return InjectedGuidance(self)

    @contextmanager
    def injected(self, run: SamplingRun, index: int) -> Iterator[None]:
        """Inside, block ``injection`` has the keys and values of the reference, noised for step ``index``."""
        if self.injection is None:
            yield
            return
        with run.observer.stage("extract"):
            noised = run.backbone.add_noise(run.reference, run.noise, run.sigma(index))
            both = run.backbone.keys_values(
                noised, run.timestep(index), run.prompt, self.injection, grad=False
            )
        with run.backbone.injected(self.injection, *both):
            yield

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> Tensor:
        """Displacements (F * F, S, 2) in tokens: to the expected position with ``grad``, else to the best."""
        grid = backbone.grid(latent)
        queries, keys = backbone.queries_keys(latent, timestep, prompt, self.block, grad=grad)
        return displacements(queries, keys, grid.height, grid.width, self.temperature, soft=grad)

    def losses(self, generated: Tensor, reference: Tensor) -> dict[str, Tensor]:
        """The term ``amf``: ``masked_loss``."""
        return {"amf": masked_loss(generated, reference)}


class InjectedGuidance(LatentGuidance["Tensor"]):
    """Latent guidance, its steps with the reference's keys and values."""

    def __init__(self, method: DiTFlow) -> None:
        super().__init__(method, method.optimiser, Reuse(interval=1), "clean")
        self._method = method

    def around(self, run: SamplingRun, index: int, latent: Tensor) -> AbstractContextManager[None]:
        return self._method.injected(run, index)


def displacements(
    queries: Tensor, keys: Tensor, height: int, width: int, temperature: float, *, soft: bool
) -> Tensor:
    """Attention motion flow over all ordered frame pairs, (F * F, S, 2) rows and columns in tokens.

    ``queries``, ``keys``: (F, S, heads, d). Pairs are ordered by source, then target. ``soft``: to the
    expected position under softmax(temperature x mean of the heads' logits); else to the key of the
    largest logit, without gradient.
    """
    import torch

    from methods.motion_flow import flow as amf
    from methods.motion_flow.soft_argmax import frame_positions, soft_argmax

    queries, keys, scale = amf.reduce_heads(queries, keys, "concat", temperature)
    positions = frame_positions(height, width, queries)
    if soft:
        every = [soft_argmax(one.expand_as(keys), keys, positions, scale) for one in queries]
        return torch.cat(every) - positions
    with torch.no_grad():
        best = [(one @ key.mT).argmax(-1) for one in queries for key in keys]
        return positions[torch.stack(best)] - positions


def masked_loss(generated: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference over rows and columns of the tokens that the reference displaces.

    Displacements (P, S, 2); tokens squared. 0 where the reference displaces none.
    """
    moves = (reference != 0).any(-1)
    error = (generated - reference).square().mean(-1)
    return (error * moves).sum() / moves.sum().clamp(min=1)


__all__ = ["DiTFlow", "displacements", "masked_loss"]
