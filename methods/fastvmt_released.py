"""FastVMT as its authors released it: every departure from the paper is an option of its own.

``docs/fastvmt.md`` explains each; with all options at the paper's value this is ``methods/fastvmt.py``,
and none of it is needed to understand that. Source of everything here: mayuelala/FastVMT, at commit
34a050b, diffsynth/pipelines/wan_video.py (``compute_tile_AMF``, ``compute_tile_amf_loss``,
``guidance_step``) and diffsynth/models/wan_video_dit.py (``reshape_qk``). The same numbers come out;
what only cost time (a flush of memory after every iteration, the gathering of windows) is left out.

Shapes as in ``methods/motion_flow/flow.py``; l is the window's side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import pydantic
from pydantic import Field

from datasets.errors import InputError
from methods.backbones.interface import Backbone, Grid
from methods.fastvmt import FastVMT, FastVMTLoss
from methods.interface import Observer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from methods.motion_flow.flow import MotionFlow
    from methods.motion_flow.pairs import FramePairs


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class ReleasedLoss(FastVMTLoss):
    """How the two terms are formed; the first choice is the release's.

    ``amf_reduction``: ``sum`` of the squared differences over tokens, mean over weighted pairs;
    ``mean`` over tokens, weighted mean over pairs. ``window_average``: keys are averaged over their
    ``channels``, which leaves l * l numbers a window, or over the ``window``. ``window_norm``: the
    ``plain`` norm of the change, averaged first within each source frame; or ``squared``.
    """

    amf_reduction: Literal["sum", "mean"]
    window_average: Literal["channels", "window"]
    window_norm: Literal["plain", "squared"]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class WindowOptions:
    """Where windows lie and what their cells count as; the first choice is the release's.

    ``tile_centre``: the token at ``half`` the tile's size, or at the ``floor`` of its middle.
    ``rounding`` of a window's centre to a token: ``truncated`` or ``nearest``. ``clamp``: each of the
    ``cells`` by itself to where centres may lie, so that cells coincide at the border; or the
    ``centre``, so that the window stays whole. ``positions``: cells are counted from the ``window``'s
    corner, and queries from their tile's; or both from the ``frame``'s. ``checkerboard``: every
    second cell's coordinates count as 0, while its attention does not.
    """

    tile_centre: Literal["half", "floor"]
    rounding: Literal["truncated", "nearest"]
    clamp: Literal["cells", "centre"]
    positions: Literal["window", "frame"]
    checkerboard: bool


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class PairOptions:
    """Which frames are compared.

    ``self_pairs``: each frame also with itself, densely. ``span_counts_self``: a span of 4 reaches
    distance 3, and weights fall from distance 0 on; else it reaches distance 4 and they fall from 1 on.
    """

    self_pairs: bool
    span_counts_self: bool


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Released(FastVMT, kind="fastvmt_released"):
    """FastVMT with the release's options; ``conf/method/fastvmt_released.yaml`` says what each key is.

    ``reduction: token_mean`` averages neighbouring tokens where heads were meant. ``depth``: blocks
    that every guidance pass runs through (at most all), although one of the first is read.
    ``optimiser.precision: bfloat16`` also passes latents and timesteps through bfloat16.
    """

    extractor: Literal["window"]
    reduction: Literal["token_mean", "head_mean", "concat"]  # type: ignore[assignment]
    loss: ReleasedLoss
    windows: WindowOptions
    pairs: PairOptions
    depth: Annotated[int, Field(ge=1)] | None

    version: ClassVar[str] = "2"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """As ``FastVMT.check``; InputError also for options that do not go together."""
        super().check(grid, num_blocks)
        if self.windows.clamp == "cells" and self.window % 2 == 0:
            raise InputError(
                f"method.window={self.window}: with windows.clamp=cells it must be odd; "
                f"set {self.window - 1} or method.windows.clamp=centre"
            )
        if self.pairs.span_counts_self and not self.pairs.self_pairs and self.span < 2:
            raise InputError(
                f"method.span={self.span} counting the frame itself leaves no pairs; "
                "raise it or set method.pairs.span_counts_self=false"
            )

    def transfer(
        self, backbone: Backbone, reference: Tensor, prompt: str, noise: Tensor, observer: Observer
    ) -> Tensor:
        if self.optimiser.precision == "bfloat16":
            backbone = cast("Backbone", InBfloat16(backbone))
        return super().transfer(backbone, reference, prompt, noise, observer)

    def extract(
        self, backbone: Backbone, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool
    ) -> MotionFlow:
        if self.depth is not None:
            # The release's passes go on beyond the block that is read, and being checkpointed run
            # their first blocks again for the gradient: that is this pass, and the one below.
            last = min(self.depth, backbone.num_blocks) - 1
            backbone.hidden_states(latent.detach(), timestep, prompt, last, grad=False)
        grid = backbone.grid(latent)
        queries, keys = backbone.queries_keys(latent, timestep, prompt, self.block, grad=grad)
        window_keys = grad and self.loss.window_weight > 0
        return released_motion(
            queries,
            keys,
            grid.height,
            grid.width,
            reduction=self.reduction,
            temperature=self.temperature,
            span=self.span,
            window=self.window,
            tile=self.tile,
            windows=self.windows,
            pairs=self.pairs,
            window_average=self.loss.window_average if window_keys else None,
        )

    def losses(self, generated: MotionFlow, reference: MotionFlow) -> dict[str, Tensor]:
        from methods.motion_flow.flow import amf_loss

        loss = summed_amf_loss if self.loss.amf_reduction == "sum" else amf_loss
        amf = loss(generated.displacement, reference.displacement, generated.pairs.weight)
        terms = {"amf": self.loss.amf_weight * amf}
        if generated.window_keys is not None:
            window = released_window_loss(generated.window_keys, generated.pairs, self.loss.window_norm)
            terms["window"] = self.loss.window_weight * window
        return terms


class InBfloat16:
    """A backbone as the release uses it: latents and timesteps pass through bfloat16.

    It has what this method and the sampling loop use of ``Backbone``, and no more.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.num_blocks = backbone.num_blocks
        self.grid, self.embed, self.schedule = backbone.grid, backbone.embed, backbone.schedule

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return _rounded(self._backbone.add_noise(_rounded(clean), _rounded(noise), sigma))

    def predict(self, latent: Tensor, timestep: Tensor, *others: Any) -> Tensor:
        return self._backbone.predict(_rounded(latent), _rounded(timestep), *others)

    def step(self, latent: Tensor, *others: Any) -> Tensor:
        return _rounded(self._backbone.step(_rounded(latent), *others))

    def queries_keys(
        self, latent: Tensor, timestep: Tensor, *others: Any, grad: bool
    ) -> tuple[Tensor, Tensor]:
        return self._backbone.queries_keys(latent, _rounded(timestep), *others, grad=grad)

    def hidden_states(self, latent: Tensor, timestep: Tensor, *others: Any, grad: bool) -> Tensor:
        return self._backbone.hidden_states(latent, _rounded(timestep), *others, grad=grad)


def _rounded(values: Tensor) -> Tensor:
    return values.bfloat16().to(values.dtype)


def token_mean(vectors: Tensor) -> Tensor:
    """What the release takes for the mean over heads: (F, S, heads, d) to (F, S, d).

    It averages each group of ``heads`` consecutive tokens and hands the group's tokens one head of
    that average each. ValueError where the tokens do not divide into groups.
    """
    frames, tokens, heads, width = vectors.shape
    if frames * tokens % heads:
        raise ValueError(
            f"method.reduction=token_mean: {frames * tokens} tokens are no multiple of {heads} heads"
        )
    groups = vectors.reshape(-1, heads, heads * width)
    return groups.mean(1).reshape(frames, tokens, width)


def released_pairs(frames: int, span: int, options: PairOptions) -> FramePairs:
    """Ordered pairs by source, then target, with weights that fall from 1 to 0.8 over ``span`` distances."""
    import torch

    from methods.motion_flow.pairs import FramePairs

    nearest = 0 if options.self_pairs else 1
    full_weight = 0 if options.span_counts_self else 1
    farthest = full_weight + span - 1
    pairs = [(i, j) for i in range(frames) for j in range(i + nearest, min(i + farthest, frames - 1) + 1)]
    source, target = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    fallen = (target - source - full_weight).clamp(min=0)
    return FramePairs(source, target, 1.0 - 0.2 * fallen / max(span - 1, 1))


def released_motion(
    queries: Tensor,
    keys: Tensor,
    height: int,
    width: int,
    *,
    reduction: Literal["token_mean", "head_mean", "concat"],
    temperature: float,
    span: int,
    window: int,
    tile: tuple[int, int],
    windows: WindowOptions,
    pairs: PairOptions,
    window_average: Literal["channels", "window"] | None,
) -> MotionFlow:
    """Sliding-window AMF from the queries and keys (F, S, heads, d) of one attention block.

    The pairs of the result include self pairs; ``window_keys`` has a row for each other pair,
    (P', N, C) averaged over the window or (P', N, l * l) averaged over channels; None where
    ``window_average`` is. Tokens are in row-major order throughout.
    """
    import torch

    from methods.motion_flow import flow as amf
    from methods.motion_flow.pairs import FramePairs, tiles
    from methods.motion_flow.soft_argmax import frame_positions, soft_argmax

    if reduction == "token_mean":
        scale = temperature / queries.shape[-1] ** 0.5
        dtype = torch.promote_types(queries.dtype, torch.float32)
        queries, keys = token_mean(queries.to(dtype)), token_mean(keys.to(dtype))
    else:
        queries, keys, scale = amf.reduce_heads(queries, keys, reduction, temperature)
    device = queries.device
    all_pairs = released_pairs(len(queries), span, pairs)
    same = all_pairs.source == all_pairs.target
    apart = FramePairs(*(part[~same] for part in all_pairs))
    itself = FramePairs(*(part[same] for part in all_pairs))
    positions = frame_positions(height, width, queries)
    split = tiles(height, width, tile, device)
    centre_tokens = half_centres(height, width, tile, device)
    if windows.tile_centre == "floor":
        centre_tokens = split.centres

    def everywhere(queries: Tensor, pairs: FramePairs) -> Tensor:
        source, target = pairs.source.to(device), pairs.target.to(device)
        return soft_argmax(queries[source], keys[target], positions, scale)

    with torch.no_grad():
        centres = everywhere(queries[:, centre_tokens], apart)
    rows = window_cells(centres[..., 0], window, height, windows)
    columns = window_cells(centres[..., 1], window, width, windows)
    cells = cell_tokens(rows, columns, width)
    origin, at = positions, positions[cells]
    if windows.positions == "window":
        origin = positions % torch.tensor(tile, device=device)
        at = frame_positions(window, window, queries).expand_as(at)
    if windows.checkerboard:
        counted = torch.ones(window * window, 1, device=device, dtype=queries.dtype)
        counted[1::2] = 0
        at = at * counted
    displacement = in_windows(queries, keys, apart, cells, at, (height, width), tile, scale) - origin
    if len(itself.source):
        of_itself = everywhere(queries, itself) - positions
        order = torch.cat([same.nonzero(), (~same).nonzero()])[:, 0].argsort().to(device)
        displacement = torch.cat([of_itself, displacement])[order]

    window_keys = None
    if window_average is not None:
        target = apart.target.to(device)
        window_keys = average_keys(keys, target, rows, columns, (height, width), window_average)
    return amf.MotionFlow(displacement, window_keys, all_pairs)


def half_centres(height: int, width: int, tile: tuple[int, int], device: torch.device) -> Tensor:
    """The token (N,) at half of each tile's size, which is not counted on the part that is cut off."""
    import torch

    row, column = (
        (torch.arange(0, size, step, device=device) + step // 2).clamp(max=size - 1)
        for size, step in ((height, tile[0]), (width, tile[1]))
    )
    return (row[:, None] * width + column).flatten()


def in_windows(
    queries: Tensor,
    keys: Tensor,
    pairs: FramePairs,
    cells: Tensor,
    at: Tensor,
    size: tuple[int, int],
    tile: tuple[int, int],
    scale: float,
) -> Tensor:
    """``soft_argmax`` of the queries of each tile over the ``cells`` of its window, (P, S, 2).

    Queries and keys (F, S, C); ``cells`` (P, N, l * l) int64, tokens of the target frame, one of them
    possibly several times; ``at`` (P, N, l * l, 2): the position that each cell counts as. ``size``: tokens
    down and across.
    """
    import torch

    from methods.motion_flow.soft_argmax import soft_argmax

    # A tile's tokens (N, n); in a tile that is cut off at the border those of the last row or column repeat.
    rows, columns = (
        torch.arange(-(-whole // part) * part, device=keys.device).view(-1, part).clamp(max=whole - 1)
        for whole, part in zip(size, tile, strict=True)
    )
    members = (rows[:, None, :, None] * size[1] + columns[None, :, None, :]).flatten(2).flatten(0, 1)
    # Where each token (S,) stands among them; of those that repeat, one.
    place = torch.empty(size[0] * size[1], dtype=torch.int64, device=keys.device)
    place[members.flatten()] = torch.arange(members.numel(), device=keys.device)
    of_frame, of_target = queries.unbind(), keys.unbind()
    found = [queries.new_zeros(0, len(place), 2)]
    for pair, (i, j) in enumerate(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)):
        seeking = of_frame[i].index_select(0, members.flatten()).view(*members.shape, -1)
        seen = of_target[j].index_select(0, cells[pair].flatten()).view(*cells[pair].shape, -1)
        expected = soft_argmax(seeking, seen, at[pair], scale)
        found.append(expected.flatten(0, 1).index_select(0, place)[None])
    return torch.cat(found)


def average_keys(
    keys: Tensor,
    target: Tensor,
    rows: Tensor,
    columns: Tensor,
    size: tuple[int, int],
    average: Literal["channels", "window"],
) -> Tensor:
    """Keys (F, S, C) of the windows in frames ``target`` (P,), averaged: (P, N, l * l) or (P, N, C).

    ``rows`` and ``columns`` (P, N, l) int64 of the windows' cells; ``size``: tokens down and across.
    """
    import torch

    if average == "channels":
        cells = cell_tokens(rows, columns, size[1])
        return keys.mean(-1)[target].gather(-1, cells.flatten(1)).view_as(cells)
    # How often each token is a cell of the window: more than once where cells coincide.
    often = (
        torch.nn.functional.one_hot(cells, whole).sum(-2).to(keys)
        for cells, whole in zip((rows, columns), size, strict=True)
    )
    row_share, column_share = (share / rows.shape[-1] for share in often)
    share = (row_share[..., :, None] * column_share[..., None, :]).flatten(-2)
    return share @ keys[target]


def window_cells(centres: Tensor, window: int, size: int, options: WindowOptions) -> Tensor:
    """Rows or columns (..., l) int64 of the windows around ``centres`` (...), on an axis of ``size``."""
    import torch

    half = window // 2
    if options.rounding == "nearest":
        centres = centres.round()
    if options.clamp == "centre":
        centres = centres.clamp(half, size - window + half)
    cells = centres[..., None] + (torch.arange(window, device=centres.device) - half)
    if options.clamp == "cells":
        cells = cells.clamp(half, size - half - 1)
    return cells.long()


def cell_tokens(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """Tokens (..., l * l) int64 of windows of these rows and columns, (..., l) each."""
    return (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)


def summed_amf_loss(generated: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
    """Mean over pairs of the weighted sum over tokens of the squared displacement difference.

    Displacements (P, S, 2) in tokens, ``weight`` (P,). Unit: tokens squared; it grows with S.
    """
    error = (generated - reference).square().sum((-2, -1))
    return (weight.to(generated) * error).mean()


def released_window_loss(window_keys: Tensor, pairs: FramePairs, norm: Literal["plain", "squared"]) -> Tensor:
    """Change of the averaged window keys between successive target frames, self pairs left out.

    ``squared``: as ``window_loss`` has it. ``plain``: the norm of the change, averaged over tiles and the
    targets of a source frame, then over source frames. 0 where no source frame has two targets.
    """
    import torch

    from methods.motion_flow.pairs import FramePairs
    from methods.motion_flow.window_loss import window_loss

    pairs = FramePairs(*(part[pairs.source != pairs.target] for part in pairs))
    if norm == "squared":
        return window_loss(window_keys, pairs)
    successive = (pairs.source[1:] == pairs.source[:-1]).nonzero()[:, 0]
    change = window_keys[successive + 1] - window_keys[successive]
    norms = torch.linalg.vector_norm(change, dim=-1).mean(-1)
    source = pairs.source[successive]
    comparisons = source.bincount()
    share = 1 / comparisons[source].to(norms)
    loss: Tensor = (norms * share).sum() / max(int(comparisons.count_nonzero()), 1)
    return loss


__all__ = [
    "PairOptions",
    "Released",
    "ReleasedLoss",
    "WindowOptions",
    "released_motion",
    "released_pairs",
    "released_window_loss",
    "summed_amf_loss",
    "token_mean",
]
