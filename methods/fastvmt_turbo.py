"""FastVMT beyond the paper: cheaper gradients and fewer passes, each ingredient an option.

Gradients on a coarser latent (``coarse``) and reused longer (``reuse``), skipped unconditional
passes (``unconditional``), reused velocities (``caching``). With all of them off it is ``fastvmt``
to the last bit. None of this is in the paper or its release.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic
from pydantic import Field

from datasets.errors import InputError
from methods.backbones.interface import Backbone, Grid
from methods.fastvmt import FastVMT
from methods.guidance.loop import Velocities
from methods.guidance.passes import Caching, Unconditional, passes

if TYPE_CHECKING:
    from torch import Tensor

    from methods.motion_flow.flow import MotionFlow


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Coarse:
    """Guidance reads a smaller latent: ``pool`` x ``pool`` cells averaged, every ``stride``-th latent frame.

    Window, tile and span shrink with it, so that they cover the same part of the video. Every
    cell keeps a gradient: those averaged share theirs, and frames left out get that of the frame
    before them that is read.
    """

    pool: Annotated[int, Field(ge=1)] = 1
    stride: Annotated[int, Field(ge=1)] = 1


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Turbo(FastVMT, kind="fastvmt_turbo"):
    """``FastVMT`` with ingredients; ``conf/method/fastvmt_turbo.yaml`` says what each key is."""

    coarse: Coarse
    unconditional: Unconditional
    caching: Caching

    version: ClassVar[str] = "2"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """As ``FastVMT.check``, on the coarse grid, which must divide the token grid."""
        pool, stride = self.coarse.pool, self.coarse.stride
        if grid.height % pool or grid.width % pool:
            raise InputError(
                f"method.coarse.pool={pool} does not divide the {grid.height}x{grid.width} token grid; "
                "set method.coarse.pool=1 or a divisor of both sides"
            )
        coarse = Grid(-(-grid.frames // stride), grid.height // pool, grid.width // pool)
        if coarse.frames < 2 <= grid.frames:
            raise InputError(
                f"method.coarse.stride={stride} leaves one of {grid.frames} latent frames; "
                "lower method.coarse.stride"
            )
        FastVMT.check(self._shrunk(), coarse, num_blocks)

    def velocities(self) -> Velocities:
        return passes(self.unconditional, self.caching)

    def at_most(self) -> Turbo:
        caching = self.caching if self.caching.threshold is None else replace(self.caching, every=1)
        return replace(self, reuse=replace(self.reuse, policy="fixed"), caching=caching)

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> MotionFlow:
        """As ``FastVMT.extract``, of the coarse latent."""
        latent, timestep = coarsen(self.coarse, backbone, latent, timestep)
        return FastVMT.extract(self._shrunk(), backbone, latent, timestep, prompt, grad=grad)

    def _shrunk(self) -> Turbo:
        """With window, tile and span in units of the coarse grid."""
        pool, stride = self.coarse.pool, self.coarse.stride
        return replace(
            self,
            window=max(1, round(self.window / pool)),
            tile=(max(1, self.tile[0] // pool), max(1, self.tile[1] // pool)),
            span=max(1, self.span // stride),
        )


def coarsen(options: Coarse, backbone: Backbone, latent: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """A latent (1, C, F, h, w) at a timestep, made smaller, and the timestep it then belongs to.

    Averaging n = pool x pool cells shrinks independent noise by sqrt(n) and leaves what
    varies slowly: (1 - s) x + s e becomes (1 - s) x' + (s / pool) e', e' again of unit variance.
    Divided by (1 - s) + s / pool, that is a noised latent of a lower level,
    s' = (s / pool) / ((1 - s) + s / pool). (Hoogeboom et al. 2023, arXiv:2301.11093, and Esser et
    al. 2024, arXiv:2403.03206, shift noise schedules between resolutions by the same argument.)
    """
    import torch.nn.functional as F

    latent = every_frame(latent, options.stride)
    if options.pool == 1:
        return latent, timestep
    schedule = backbone.schedule(1)
    sigma = float(timestep / schedule.timesteps[0] * schedule.sigmas[0])
    noise = sigma / options.pool
    scale = 1 - sigma + noise
    pooled = F.avg_pool3d(latent, (1, options.pool, options.pool)) / scale
    return pooled, (timestep * (noise / sigma / scale)) if sigma else timestep


def every_frame(latent: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th frame of (1, C, F, h, w); the others get the gradient of the one read before."""
    if stride == 1:
        return latent
    import torch

    read = latent[:, :, ::stride]
    if not latent.requires_grad:
        return read
    # The frames of a group, added up without changing the value: the gradient reaches all of them.
    batch, channels, frames, *size = latent.shape
    padded = torch.nn.functional.pad(latent, (0, 0, 0, 0, 0, -frames % stride))
    group = padded.reshape(batch, channels, -1, stride, *size).sum(3)
    summed: Tensor = read.detach() + (group - group.detach())
    return summed


__all__ = ["Coarse", "Turbo", "coarsen"]
