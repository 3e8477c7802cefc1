"""RoPECraft: rotary tables warped by the reference's optical flow, then optimised for its velocity.

Gokmen, Yigit, Bilecen, Dundar, "RoPECraft: Training-Free Motion Transfer with Trajectory-Guided RoPE
Optimization on Diffusion Transformers", NeurIPS 2025, arXiv:2505.13344; code:
YigitEkin/RoPECraft:generate.py (``CustomWanRotaryPosEmbed``, ``phase_constraint_loss``, ``tune_p``).

As theirs: rows and columns of tokens are moved by accumulated, smoothed flow before the rotary
tables are made of them, frames are not; every guided step has a complex offset of its own, the tables
of a step are the warped ones plus the offsets of all steps so far, all of them optimised by one AdamW;
the loss compares the prompt's velocity with the one that would lead to the reference, by the phases
of their 3-D Fourier transforms and by mean squared difference; later steps use the backbone's tables.

Where this differs:

* Flow is taken from the reference's latent, decoded: a method is given no frames. It is DIS by default
  (OpenCV, no weights), on the video's main colour axis; theirs is torchvision's RAFT-small.
* Flow is taken from one latent frame to the next, over all frames in between, and moves a token by as
  many tokens as the object moved: it is divided by the token's side in pixels (16 on Wan). Theirs takes
  the flow over one frame, of the four that a latent frame spans, and divides it by 8: half of what the
  object moved. In our units that is ``divisor: 32``. The right one is the default, because half has no
  reason on record, and because it holds for any backbone's token and frame rate.
* ``path: traced`` is ours. A token then counts as where its content was in the first frame, so that
  attention by position finds it there. Theirs, the default, adds flow up at each token: it counts as
  where its content would go, which is the other way.
* The first frame stays where it is; theirs moves it by the first flow.
* A token's flow is the mean over its pixels (theirs interpolates between four of them), and smoothing
  ignores what lies beyond the border (theirs takes it for standing still).
* ``limit`` bounds how much the flow of a latent frame may differ from the next one's in root mean
  square over tokens; theirs bounds the norm of the whole map by the same number, which on Wan's grid is
  a bound of a fortieth of a token, and suppresses motion that changes.
* A step is sampled with its offsets after the last update; theirs with those before it.
* The networks run in the backbone's precision, theirs in float32; offsets are float32 in both.
* Sampling is the backbone's; theirs uses UniPC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from datasets.errors import InputError
from datasets.media.flow import dis_flow, raft_flow, raft_weights
from methods.backbones.interface import Backbone, Grid, Rotary, token_positions
from methods.guidance.latent_guidance import Optimiser
from methods.guidance.loop import Hook, SampledMethod, SamplingRun
from methods.guidance.rotary_guidance import descend
from methods.interface import check_frames

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class RoPECraftLoss:
    """Weights of the phase term and of the velocity's mean squared difference; both run anyway."""

    phase_weight: Annotated[float, Field(ge=0)]
    velocity_weight: Annotated[float, Field(ge=0)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Warp:
    """How flow moves tokens; ``conf/method/ropecraft.yaml`` says what each key is."""

    flow: Literal["dis", "raft", "none"]
    path: Literal["forward", "traced"]
    divisor: Annotated[float, Field(gt=0)] | None
    kernel: Annotated[int, Field(ge=1)]
    sigma: Annotated[float, Field(gt=0)]
    limit: Annotated[float, Field(gt=0)] | None


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class RoPECraft(SampledMethod, kind="ropecraft"):
    """RoPECraft; ``conf/method/ropecraft.yaml`` says what each key is."""

    warp: Warp
    loss: RoPECraftLoss
    optimiser: Optimiser

    version: ClassVar[str] = "1"
    needs: ClassVar[Sequence[str]] = ("rotary",)

    def check(self, grid: Grid, num_blocks: int) -> None:
        """Raises InputError for a clip of one latent frame, an even kernel, or RAFT without weights."""
        check_frames(grid)
        if self.warp.kernel % 2 == 0:
            raise InputError(
                f"method.warp.kernel={self.warp.kernel} has no middle; set {self.warp.kernel + 1}"
            )
        if self.warp.flow == "raft" and not raft_weights().is_file():
            raise InputError(
                f"method.warp.flow=raft: {raft_weights()} is missing; fetch it once with python -c "
                "'import torchvision.models.optical_flow as o; o.raft_small(weights=\"DEFAULT\")', "
                "or set method.warp.flow=dis"
            )

    def hook(self) -> Hook:
        return WarpedRotary(self)

    def positions(self, backbone: Backbone, reference: Tensor) -> Tensor:
        """Frame, row and column that each token counts as: (F * S, 3) float32, on the reference's device."""
        grid = backbone.grid(reference)
        plain = token_positions(grid, reference.device)
        if self.warp.flow == "none":
            return plain
        frames = backbone.decode(reference)
        if self.warp.path == "traced":
            flow = latent_flow(frames[::-1], grid, self.warp.flow, reference.device).flip(0)
        else:
            flow = latent_flow(frames, grid, self.warp.flow, reference.device)
        shift = token_shift(flow, grid, self.warp)
        plain[:, 1:] += shift.flatten(0, 2)
        return plain

    def losses(self, velocity: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The weighted terms ``phase`` and ``velocity``, of velocities (1, C, F, h, w)."""
        square = (velocity - target).square().mean()
        return {
            "phase": self.loss.phase_weight * phase_loss(velocity, target),
            "velocity": self.loss.velocity_weight * square,
        }


class WarpedRotary(Hook):
    """Guided steps run with the warped tables plus the offsets of all steps so far."""

    def __init__(self, method: RoPECraft) -> None:
        self._method = method
        self._warped: Rotary
        self._offsets: list[Tensor]
        self._adam: torch.optim.Optimizer

    def guided_steps(self, steps: int) -> int:
        return self._method.optimiser.guided_steps(steps)

    def begin(self, run: SamplingRun) -> None:
        """Makes the warped tables, and offsets of 0 for all guided steps."""
        import torch

        method = self._method
        with run.observer.stage("extract"):
            positions = run.observer.shared(
                "positions", partial(method.positions, run.backbone, run.reference)
            )
            self._warped = run.backbone.rotary(run.reference, positions)
            shape = (2, len(self._warped[0]), self._warped[0].shape[1] // 2)
            self._offsets = [
                run.reference.new_zeros(shape).requires_grad_() for _ in range(self.guided_steps(run.steps))
            ]
            decay = method.optimiser.weight_decay
            self._adam = torch.optim.AdamW(self._offsets, weight_decay=decay)

    @contextmanager
    def around(self, run: SamplingRun, index: int, latent: Tensor) -> Iterator[None]:
        """Optimises the offsets of the steps so far, and holds their tables."""
        target = (latent - run.reference) / run.sigma(index)

        def losses() -> dict[str, Tensor]:
            velocity = run.backbone.velocity(latent, run.timestep(index), run.prompt, grad=True)
            return self._method.losses(velocity, target)

        rotated = partial(self._rotated, run, index + 1)
        with run.observer.stage("guide"):
            offsets = self._offsets[: index + 1]
            descend(run, index, self._method.optimiser, self._adam, offsets, rotated, losses)
        with rotated():
            yield

    def _rotated(self, run: SamplingRun, count: int) -> AbstractContextManager[None]:
        """The context of the warped tables plus the first ``count`` offsets, as the latter are now."""
        import torch

        cos, sin = (
            table + part.repeat_interleave(2, dim=1)
            for table, part in zip(self._warped, torch.stack(self._offsets[:count]).sum(0), strict=True)
        )
        return run.backbone.rotated((cos, sin), (cos, sin))


def phase_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean distance of the phases of two 3-D Fourier transforms: of unit phasors, real and imaginary parts.

    (1, C, F, h, w) each, transformed over the last three dimensions. A coefficient of 0 has no phase
    and counts as 0. Between 0 and 2 sqrt(2).
    """
    import torch

    def phasors(values: Tensor) -> Tensor:
        coefficients = torch.fft.rfftn(values, dim=(-3, -2, -1), norm="ortho")
        return torch.view_as_real(coefficients / (coefficients.abs() + 1e-8))

    return (phasors(velocity) - phasors(target)).abs().mean((0, 1, 2, 3, 4)).sum()


def latent_flow(
    frames: NDArray[np.uint8], grid: Grid, flow: Literal["dis", "raft"], device: torch.device | str
) -> Tensor:
    """Optical flow from each latent frame to the next, (F - 1, H, W, 2) float32 rows and columns in pixels.

    ``frames`` (T, H, W, 3) uint8 RGB; the k-th latent frame stands for the frame at k (T - 1) / (F - 1).
    """
    every = (len(frames) - 1) // (grid.frames - 1)
    return (dis_flow if flow == "dis" else raft_flow)(frames[::every], device)


def token_shift(flow: Tensor, grid: Grid, options: Warp) -> Tensor:
    """How far each token's position moves, (F, h, w, 2) rows and columns in tokens; 0 in the first frame.

    ``flow`` (F - 1, H, W, 2) in pixels, with ``path: forward`` from each latent frame to the next, with
    ``traced`` from each but the first to the one before. It is averaged over each token, smoothed by a
    Gaussian of ``kernel`` tokens a side and deviation ``sigma``, and divided; one that differs from the
    next one's by more than ``limit`` tokens counts less by that factor. Forward flow is added up over
    time at each token; the other from where it leads to, so that a token gets the position that its
    content had in the first frame.
    """
    import torch
    import torch.nn.functional as F

    divisor = torch.tensor([flow.shape[1] / grid.height, flow.shape[2] / grid.width], device=flow.device)
    if options.divisor is not None:
        divisor = torch.full_like(divisor, options.divisor)
    tokens = F.adaptive_avg_pool2d(flow.permute(3, 0, 1, 2), (grid.height, grid.width))
    offset = torch.arange(options.kernel, device=flow.device) - options.kernel // 2
    bell = torch.exp(-(offset.float() ** 2) / (2 * options.sigma**2))
    weight = (bell[:, None] * bell)[None, None]
    half = options.kernel // 2
    inside = F.conv2d(torch.ones(1, 1, grid.height, grid.width, device=flow.device), weight, padding=half)
    smooth = F.conv2d(tokens.flatten(0, 1)[:, None], weight, padding=half) / inside
    moved = smooth.view_as(tokens).permute(1, 2, 3, 0) / divisor
    if options.limit is not None:
        change = moved.diff(dim=0, append=moved[-1:]).square().sum(-1).mean((1, 2)).sqrt()
        moved = moved * (options.limit / change.clamp(min=options.limit))[:, None, None, None]
    shifts = [torch.zeros_like(moved[0])]
    for step in moved:
        before = shifts[-1] if options.path == "forward" else _sampled(shifts[-1], step)
        shifts.append(step + before)
    return torch.stack(shifts)


def _sampled(field: Tensor, step: Tensor) -> Tensor:
    """Bilinear values of a field (h, w, 2) a step (h, w, 2) away from each token; the border's beyond it."""
    import torch
    import torch.nn.functional as F

    height, width = field.shape[:2]
    rows, columns = (torch.arange(size, device=field.device) for size in (height, width))
    at_row, at_column = rows[:, None] + step[..., 0], columns + step[..., 1]
    at = torch.stack([(2 * at_column + 1) / width - 1, (2 * at_row + 1) / height - 1], -1)
    planes = field.permute(2, 0, 1)[None]
    values = F.grid_sample(planes, at[None], padding_mode="border", align_corners=False)
    return values[0].permute(1, 2, 0)


__all__ = ["RoPECraft", "latent_flow", "phase_loss", "token_shift"]
