"""Attention motion flow (AMF): where the queries of one frame look in another, as displacements.

First idea of FastVMT (https://github.com/mayuelala/FastVMT, after DiTFlow's AMF,
https://github.com/ditflow/ditflow): motion is local, so a tile of queries needs only a window
of keys. One query, the tile's centre, attends to the whole frame and places the window; every
query of the tile then attends inside it. Dense AMF is the same without windows. Neither keeps
a map of S x S scores for the backward pass: frame pairs go through a few at a time, and the
backward pass computes their scores again (``over_pairs``).

Shapes: F latent frames, S = height * width tokens a frame (row-major), P frame pairs, N tiles,
C channels after the reduction over heads. Positions and displacements are (row, column) in
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Extractor = Literal["window", "dense"]
Reduction = Literal["head_mean", "concat"]

# Scores of the pairs that go through at once: one pair of Wan's 30 x 52 frames, 10 MiB in float32,
# which a processor's cache holds; all pairs of a small grid.
CHUNK_ELEMENTS = 2**22


class FramePairs(NamedTuple):
    """Ordered pairs of latent frames, by source, then target; CPU tensors of length P.

    ``source`` and ``target`` are int64, ``weight`` is float32.
    """

    source: Tensor
    target: Tensor
    weight: Tensor


class Tiles(NamedTuple):
    """``of_token`` (S,): the tile of each token; ``centres`` (N,): each tile's centre token."""

    of_token: Tensor
    centres: Tensor


class Motion(NamedTuple):
    """What is extracted from the queries and keys of one video.

    ``displacement`` (P, S, 2) in tokens; ``window_keys`` (P, N, C), the mean key of each tile's
    window in the pair's target frame, or None where nobody asked for it.
    """

    displacement: Tensor
    window_keys: Tensor | None
    pairs: FramePairs


def frame_pairs(frames: int, span: int) -> FramePairs:
    """Pairs i -> j = i + d with d = 1..span, weighing 1 - 0.2 (d - 1) / (span - 1).

    There is no self pair, and pairs beyond the last frame are absent. With span 1 every weight
    is 1. ValueError for a span below 1.
    """
    if span < 1:
        raise ValueError(f"span must be at least 1, not {span}")
    pairs = [(i, j) for i in range(frames) for j in range(i + 1, min(i + span, frames - 1) + 1)]
    source, target = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    decay = 0.2 * (target - source - 1) / max(span - 1, 1)
    return FramePairs(source, target, 1.0 - decay)


def token_positions(height: int, width: int, like: Tensor) -> Tensor:
    """(S, 2) row and column of every token, in the dtype and on the device of ``like``."""
    index = torch.arange(height * width, device=like.device)
    return torch.stack([index // width, index % width], dim=1).to(like.dtype)


def tiles(height: int, width: int, tile: tuple[int, int], device: torch.device) -> Tiles:
    """Tiles of ``tile`` = (rows, columns) tokens from the top left; the last ones may be smaller.

    A tile's centre is the token at the floor of the centre of what the tile really covers.
    """
    rows, row_centres = _split(height, tile[0], device)
    columns, column_centres = _split(width, tile[1], device)
    of_token = rows[:, None] * len(column_centres) + columns
    return Tiles(of_token.flatten(), (row_centres[:, None] * width + column_centres).flatten())


def _split(size: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one axis: the part that each position belongs to, and each part's centre."""
    first = torch.arange(0, size, step, device=device)
    last = (first + step).clamp(max=size) - 1
    return torch.arange(size, device=device) // step, (first + last) // 2


def reduce_heads(
    queries: Tensor, keys: Tensor, reduction: Reduction, temperature: float
) -> tuple[Tensor, Tensor, float]:
    """Queries and keys (F, S, heads, d) to (F, S, C), and the factor of their dot product.

    ``head_mean`` (FastVMT): vectors averaged over heads, C = d, logit = temperature q.k / sqrt(d).
    ``concat`` (DiTFlow): C = heads d, logit = temperature x the mean of the heads' logits, which
    is the dot product of the concatenated vectors over heads sqrt(d). At least float32.
    """
    heads, width = queries.shape[-2:]
    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries, keys = queries.to(dtype), keys.to(dtype)
    if reduction == "head_mean":
        return queries.mean(-2), keys.mean(-2), temperature / width**0.5
    return queries.flatten(-2), keys.flatten(-2), temperature / (heads * width**0.5)


def extract_motion(
    queries: Tensor,
    keys: Tensor,
    height: int,
    width: int,
    *,
    extractor: Extractor,
    reduction: Reduction,
    temperature: float,
    span: int,
    window: int,
    tile: tuple[int, int],
    with_window_keys: bool,
) -> Motion:
    """AMF of one video from the queries and keys (F, S, heads, d) of one attention block.

    Each video, reference or generated, places its windows by its own queries and keys. A window's
    centre is the soft-argmax of the tile-centre query over
    the whole target frame, rounded to a token and clamped so that the window fits in the frame;
    no gradient flows through it. With ``dense`` the displacements need no windows, and where
    their keys are asked for, the dense displacement of the tile-centre query places them.
    """
    queries, keys, scale = reduce_heads(queries, keys, reduction, temperature)
    pairs = frame_pairs(len(queries), span)
    positions = token_positions(height, width, queries)
    split = tiles(height, width, tile, queries.device)

    def attend(queries: Tensor, keys: Tensor) -> Tensor:
        return expected_position(queries, keys, positions, scale)

    def attend_in_window(queries: Tensor, keys: Tensor, corners: Tensor) -> Tensor:
        return expected_in_window(queries, keys, corners, window, width, scale)

    if extractor == "dense":
        expected = over_pairs(attend, pairs, queries, keys)
        centres = expected[:, split.centres]
    else:
        with torch.no_grad():
            centres = over_pairs(attend, pairs, queries[:, split.centres], keys)
    if extractor == "window" or with_window_keys:
        corners = window_corners(centres, window, height, width)
    if extractor == "window":
        expected = over_pairs(attend_in_window, pairs, queries, keys, corners[:, split.of_token])
    window_keys = (
        mean_window_keys(keys, pairs.target, corners, window, height, width) if with_window_keys else None
    )
    return Motion(expected - positions, window_keys, pairs)


def expected_position(queries: Tensor, keys: Tensor, positions: Tensor, scale: float) -> Tensor:
    """Soft-argmax: (P, n, 2) expected key position of queries (P, n, C) over keys (P, S, C)."""
    return torch.softmax((scale * queries) @ keys.mT, dim=-1) @ positions


def expected_in_window(
    queries: Tensor, keys: Tensor, corners: Tensor, window: int, width: int, scale: float
) -> Tensor:
    """Soft-argmax of each query inside its own window, whose top-left token is in ``corners`` (P, n, 2)."""
    cells = token_positions(window, window, queries)
    inside = corners[..., :1] * width + corners[..., 1:] + (cells[:, 0] * width + cells[:, 1]).long()
    # All scores and then those of the window: the product is one large matrix product, while
    # gathering the windows' keys for it would move C times as much as gathering scores.
    scores = _Picked.apply((scale * queries) @ keys.mT, inside)
    return corners + torch.softmax(scores, dim=-1) @ cells


class _Picked(torch.autograd.Function):
    """``scores.gather(-1, index)`` of indices that differ within a row.

    Autograd would add the gradient up in one thread, for fear of indices that are the same.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = scores.shape
        return scores.gather(-1, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).scatter_(-1, index, gradient), None


def window_corners(centres: Tensor, window: int, height: int, width: int) -> Tensor:
    """Top-left tokens (P, N, 2) int64 of the windows around ``centres`` (P, N, 2), without gradient.

    The rounded centre is clamped so that all ``window`` x ``window`` tokens lie in the frame.
    """
    corners = centres.detach().round().long() - window // 2
    limit = torch.tensor([height - window, width - window], device=corners.device)
    return corners.clamp(min=0).minimum(limit)


def mean_window_keys(
    keys: Tensor, target: Tensor, corners: Tensor, window: int, height: int, width: int
) -> Tensor:
    """Mean key (P, N, C) of each window, from keys (F, S, C) and window corners (P, N, 2)."""
    frames = keys.unflatten(1, (height, width)).permute(0, 3, 1, 2)
    means = F.avg_pool2d(frames, window, stride=1).permute(0, 2, 3, 1)
    return means[target.to(keys.device)[:, None], corners[..., 0], corners[..., 1]]


def amf_loss(generated: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over pairs, and mean over tokens, of the squared displacement difference.

    Displacements (P, S, 2) in tokens, ``weight`` (P,); the square sums rows and columns, and the
    weighted mean divides by the sum of the weights. Unit: tokens squared.
    """
    weight = weight.to(generated)
    error = (generated - reference).square().sum(-1).mean(-1)
    return (weight * error).sum() / weight.sum()


def over_pairs(
    function: Callable[..., Tensor], pairs: FramePairs, queries: Tensor, keys: Tensor, *others: Tensor
) -> Tensor:
    """``function(queries[source], keys[target], *others)`` for all pairs, (P, n, ...).

    ``queries`` (F, n, C) and ``keys`` (F, S, C) are differentiable; ``others``, of P rows each, are
    not. Unless the frames are small the pairs go through in chunks, whose intermediate results are
    not kept but computed again in the backward pass.
    """
    source, target = pairs.source.to(keys.device), pairs.target.to(keys.device)
    tokens, width = keys.shape[1:]
    size = max(1, CHUNK_ELEMENTS // (tokens * max(queries.shape[1], width)))
    if size >= len(source):
        return function(queries[source], keys[target], *others)
    chunks = [slice(first, first + size) for first in range(0, len(source), size)]
    return _Recomputed.apply(function, chunks, source, target, queries, keys, *others)


class _Recomputed(torch.autograd.Function):
    """Chunks of pairs without their graph: gradients are added up in place, chunk by chunk.

    torch.utils.checkpoint would do, were it not for a gradient of the size of all frames that
    autograd makes for every chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        chunks: list[slice],
        source: Tensor,
        target: Tensor,
        queries: Tensor,
        keys: Tensor,
        *others: Tensor,
    ) -> Tensor:
        ctx.function, ctx.chunks = function, chunks
        ctx.save_for_backward(source, target, queries, keys, *others)
        return torch.cat(
            [function(queries[source[c]], keys[target[c]], *(other[c] for other in others)) for c in chunks]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        source, target, queries, keys, *others = ctx.saved_tensors
        queries, keys = queries.detach(), keys.detach()
        totals = torch.zeros_like(queries), torch.zeros_like(keys)
        for c in ctx.chunks:
            with torch.enable_grad():
                inputs = queries[source[c]].requires_grad_(), keys[target[c]].requires_grad_()
                output = ctx.function(*inputs, *(other[c] for other in others))
            parts = torch.autograd.grad(output, inputs, gradient[c])
            for total, index, part in zip(totals, (source, target), parts, strict=True):
                total.index_add_(0, index[c], part)
        return None, None, None, None, *totals, *(None for _ in others)


__all__ = ["Extractor", "FramePairs", "Motion", "Reduction", "amf_loss", "extract_motion", "frame_pairs"]
