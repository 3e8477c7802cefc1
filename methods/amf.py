"""Attention motion flow (AMF): where the queries of one frame look in another, as displacements.

First idea of FastVMT (https://github.com/mayuelala/FastVMT, after DiTFlow's AMF,
https://github.com/ditflow/ditflow): motion is local, so a tile of queries needs only a window
of keys. One query, the tile's centre, attends to the whole frame and places the window; every
query of the tile then attends inside it. Dense AMF is the same without windows. Neither keeps
a map of S x S scores for the backward pass: queries go through pair by pair, and the
backward pass computes their scores again (``soft_argmax``).

Shapes: F latent frames, S = height * width tokens a frame (row-major), P frame pairs, N tiles,
C channels after the reduction over heads. Positions and displacements are (row, column) in
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Extractor = Literal["window", "dense"]
Reduction = Literal["head_mean", "concat"]

# Scores that go through at once. On a processor fewer and larger products, whose threads wait for one
# another less often, gain more than scores that stay in its cache.
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
# Up to so many scores of all pairs together, keeping them is quicker than computing them again.
KEPT_ELEMENTS = 2**22
# Where no score can be beyond this, exponentials (2e-9 to 5e8) need no shift by the largest.
SAFE_SCORE = 20.0
# Powers of two take a processor half as long as powers of e; only MKL's exp with AVX-512 is quick at those.
BASE = math.e if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2.0


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


Cells = Callable[[int | slice, slice], tuple[Tensor | None, Tensor]]
"""Which keys some queries of a pair, or of all pairs, look at: indices (..., n, m), or None for all
keys, and (row, column) of those keys: (m, 2), or (..., n, m, 2) where they differ among queries."""


class Look(NamedTuple):
    """Some queries of a frame, and the keys of another frame that they look at.

    ``queries``: which (n). ``keys``: a run of them (m). ``bias`` (n, width): added to the scores of every
    row of the grid, minus infinity for hidden columns; None for none. ``index`` (n, l): which of the run
    each query looks at; None for all. ``positions``: (row, column) of those keys, (m, 2) or (n, l, 2).
    """

    queries: slice | Tensor
    keys: slice
    bias: Tensor | None
    index: Tensor | None
    positions: Tensor


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

    def everywhere(pair: int | slice, query: slice) -> tuple[None, Tensor]:
        return None, positions

    if extractor == "dense":
        expected = soft_argmax(queries, keys, pairs, everywhere, scale)
        centres = expected[:, split.centres]
    else:
        with torch.no_grad():
            centres = soft_argmax(queries[:, split.centres], keys, pairs, everywhere, scale)
    if extractor == "window" or with_window_keys:
        corners = window_corners(centres, window, height, width)
    if extractor == "window":
        corners_of_tokens = corners[:, split.of_token]
        expected = window_soft_argmax(queries, keys, pairs, corners_of_tokens, window, height, width, scale)
    window_keys = (
        mean_window_keys(keys, pairs.target, corners, window, height, width) if with_window_keys else None
    )
    return Motion(expected - positions, window_keys, pairs)


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
    # Down and then across: two sums of a window's side in place of one of its area.
    columns = F.avg_pool2d(frames, (window, 1), stride=1)
    means = F.avg_pool2d(columns, (1, window), stride=1).permute(0, 2, 3, 1)
    return means[target.to(keys.device)[:, None], corners[..., 0], corners[..., 1]]


def amf_loss(generated: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over pairs, and mean over tokens, of the squared displacement difference.

    Displacements (P, S, 2) in tokens, ``weight`` (P,); the square sums rows and columns, and the
    weighted mean divides by the sum of the weights. Unit: tokens squared.
    """
    weight = weight.to(generated)
    error = (generated - reference).square().sum(-1).mean(-1)
    return (weight * error).sum() / weight.sum()


def soft_argmax(
    queries: Tensor,
    keys: Tensor,
    pairs: FramePairs,
    cells: Cells,
    scale: float,
    *,
    repeats: bool = False,
) -> Tensor:
    """Expected position (P, n, 2) of the key that each query looks at, for all pairs of frames.

    Attention whose values are coordinates: softmax of ``scale`` q.k over the keys that ``cells``
    names. ``queries`` (F, n, C) and ``keys`` (F, S, C) are differentiable, what ``cells`` returns is
    not. ``repeats``: a query may look at one key several times.
    """
    if _is_large(queries, keys, pairs):
        chunks = slices(queries.shape[1], max(1, _budget(keys) // keys.shape[1]))

        def looks(pair: int) -> Iterator[Look]:
            return (Look(chunk, slice(None), None, *cells(pair, chunk)) for chunk in chunks)

        return _SoftArgmax.apply(queries, keys, pairs, looks, scale, repeats)
    scores = _scores(queries, keys, pairs, scale)
    index, values = cells(slice(None), slice(None))
    if index is not None:
        # All scores and then those of the window: the product is one large matrix product, while
        # gathering the windows' keys for it would move C times as much as gathering scores.
        scores = scores.gather(-1, index)
    return _weighted(torch.softmax(scores, dim=-1), values)


def window_soft_argmax(
    queries: Tensor,
    keys: Tensor,
    pairs: FramePairs,
    corners: Tensor,
    window: int,
    height: int,
    width: int,
    scale: float,
) -> Tensor:
    """``soft_argmax`` (P, S, 2) of queries that each look at the window of keys at ``corners`` (P, S, 2).

    Rows that no window reaches are left out of the product, columns are hidden after it. Queries whose
    windows begin in the same row go together, and their keys are one run in memory: nothing is gathered.
    In a frame wider than high it is the columns that are left out: a window leaves out more of them.
    """
    if width > height:
        sideways = keys.unflatten(1, (height, width)).transpose(1, 2).flatten(1, 2)
        return window_soft_argmax(
            queries, sideways, pairs, corners.flip(-1), window, width, height, scale
        ).flip(-1)
    positions = token_positions(height, width, keys)
    first_rows, first_columns = corners.unbind(-1)
    large = _is_large(queries, keys, pairs)
    if large and keys.is_meta:
        # Nobody knows where the windows lie; the work of whole frames is the most it can be.
        return soft_argmax(queries, keys, pairs, lambda pair, query: (None, positions), scale)
    no_row, no_column = (_bias(size, window, keys) for size in (height, width))
    if not large:
        bias = no_row[first_rows][..., :, None] + no_column[first_columns][..., None, :]
        scores = _scores(queries, keys, pairs, scale) + bias.flatten(-2)
        return torch.softmax(scores, dim=-1) @ positions
    order = first_rows.argsort(dim=1)
    counts = F.one_hot(first_rows, height - window + 1).sum(1).tolist()
    most = max(1, _budget(keys) // (window * width))

    def looks(pair: int) -> Iterator[Look]:
        for top, some in enumerate(order[pair].split(counts[pair])):
            run = slice(top * width, (top + window) * width)
            for chunk in slices(len(some), most):
                bias = no_column.index_select(0, first_columns[pair].index_select(0, some[chunk]))
                yield Look(some[chunk], run, bias, None, positions[run])

    return _SoftArgmax.apply(queries, keys, pairs, looks, scale, False)


def _bias(size: int, window: int, like: Tensor) -> Tensor:
    """(size - window + 1, size): row k is 0 from k to k + window - 1 and minus infinity elsewhere."""
    place = torch.arange(size, device=like.device)
    first = place[: size - window + 1, None]
    hidden = (place < first) | (place >= first + window)
    return torch.zeros(hidden.shape, device=like.device, dtype=like.dtype).masked_fill_(hidden, -torch.inf)


def slices(count: int, most: int) -> list[slice]:
    """``count`` things in order, at most ``most`` at once, in parts of about equal size."""
    parts = -(-count // most)
    return [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


def _budget(keys: Tensor) -> int:
    """Scores that go through at once: at least all keys of a frame."""
    return max(CHUNK_ELEMENTS.get(keys.device.type, CHUNK_ELEMENTS["cpu"]), keys.shape[1])


def _largest_chunk(queries: Tensor, keys: Tensor) -> int:
    """Scores of the largest chunk of one pair."""
    return min(_budget(keys), queries.shape[1] * keys.shape[1])


def _is_large(queries: Tensor, keys: Tensor, pairs: FramePairs) -> bool:
    return len(pairs.source) * queries.shape[1] * keys.shape[1] > KEPT_ELEMENTS


def _scores(queries: Tensor, keys: Tensor, pairs: FramePairs, scale: float) -> Tensor:
    """(P, n, S): ``scale`` q.k of every pair of frames."""
    source, target = pairs.source.to(keys.device), pairs.target.to(keys.device)
    return (scale * queries[source]) @ keys[target].mT


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sum of values (m, k) or (..., n, m, k) by weights (..., n, m): (..., n, k)."""
    if values.ndim == 2:
        # This way round a processor is six times as quick as with a product of two or three columns.
        return (values.mT @ weights.mT).mT
    return (weights[..., None, :] @ values)[..., 0, :]


def _with_ones(values: Tensor) -> Tensor:
    """A third coordinate, whose weighted sum is that of the weights."""
    rows = values.mT
    # Each coordinate in one run of memory: the product with weights is then twenty times as quick.
    return torch.cat([rows, torch.ones_like(rows[..., :1, :])], -2).mT


class _SoftArgmax(torch.autograd.Function):
    """``soft_argmax`` in parts of a pair; what is kept are its result and two numbers for each query.

    With a query's largest score and the sum of its exponentials the backward pass has its attention again
    from one product and one exponential. Autograd would pass over the scores three times as often, and make
    a gradient of the size of all frames for every chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        pairs: FramePairs,
        looks: Callable[[int], Iterator[Look]],
        scale: float,
        repeats: bool,
    ) -> Tensor:
        # Scores are exponents of ``BASE`` from here on.
        scale = scale / math.log(BASE)
        queries = scale * queries
        ctx.pairs = list(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True))
        expected = queries.new_empty(len(ctx.pairs), queries.shape[1], 2)
        total = queries.new_empty(len(ctx.pairs), queries.shape[1], 1)
        top = torch.zeros_like(total)
        largest = queries.norm(dim=-1).amax() * keys.norm(dim=-1).amax()
        shifted = bool(largest * math.log(BASE) > SAFE_SCORE)
        # Memory used again: fresh pages would cost as much as the product.
        memory = keys.new_empty(_largest_chunk(queries, keys))
        for pair, (i, j) in enumerate(ctx.pairs):
            for look in looks(pair):
                some, seen = _rows(queries[i], look.queries), keys[j, look.keys]
                scores = _looked(torch.mm(some, seen.T, out=_part(memory, some, seen)), look)
                if shifted:
                    largest = scores.amax(-1, keepdim=True)
                    top[pair, look.queries] = largest
                    scores.sub_(largest)
                sums = _weighted(_exp(scores, look), _with_ones(look.positions))
                expected[pair, look.queries] = sums[:, :2] / sums[:, 2:]
                total[pair, look.queries] = sums[:, 2:]
        ctx.save_for_backward(queries, keys, expected, total, top)
        ctx.looks, ctx.scale, ctx.repeats, ctx.shifted = looks, scale, repeats, shifted
        return expected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, expected, total, top = ctx.saved_tensors
        to_queries = torch.zeros_like(queries)
        # Columns are keys: added up this way round a processor's product is a quarter quicker.
        to_keys = torch.zeros_like(keys.mT, memory_format=torch.contiguous_format)
        # A score's gradient: its attention times the gradient along (its position - the expected one).
        slopes = torch.cat([gradient, -(gradient * expected).sum(-1, keepdim=True)], -1)
        slopes *= math.log(BASE) / total
        memory, more = keys.new_empty(2, _largest_chunk(queries, keys))
        for pair, (i, j) in enumerate(ctx.pairs):
            for look in ctx.looks(pair):
                some, seen = _rows(queries[i], look.queries), keys[j, look.keys]
                slope = _rows(slopes[pair], look.queries)
                whole = _part(more, some, seen)
                scores = _looked(torch.mm(some, seen.T, out=_part(memory, some, seen)), look)
                if ctx.shifted:
                    scores.sub_(_rows(top[pair], look.queries))
                weights = _exp(scores, look)
                if look.index is None:
                    along = torch.mm(slope, _with_ones(look.positions).mT, out=whole)
                    to_scores = weights.mul_(along)
                else:
                    inside = weights.mul_(_weighted(slope, _with_ones(look.positions).mT))
                    to_scores = whole.zero_()
                    # Adding up goes through one thread, for fear of indices that are the same.
                    (to_scores.scatter_add_ if ctx.repeats else to_scores.scatter_)(-1, look.index, inside)
                if isinstance(look.queries, slice):
                    to_queries[i, look.queries].addmm_(to_scores, seen)
                else:
                    to_queries[i].index_add_(0, look.queries, to_scores @ seen)
                to_keys[j, :, look.keys].addmm_(some.T, to_scores)
        return to_queries.mul_(ctx.scale), to_keys.mT, None, None, None, None


def _rows(matrix: Tensor, which: slice | Tensor) -> Tensor:
    return matrix[which] if isinstance(which, slice) else matrix.index_select(0, which)


def _part(memory: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """(n, m) scores in the first part of ``memory``."""
    return memory[: len(queries) * len(keys)].view(len(queries), len(keys))


def _looked(scores: Tensor, look: Look) -> Tensor:
    """Scores (n, m) as the look has them: some columns hidden, or some keys taken out. May be in place."""
    if look.bias is not None:
        scores.view(len(scores), -1, look.bias.shape[1]).add_(look.bias[:, None])
    return scores if look.index is None else scores.gather(-1, look.index)


def _exp(scores: Tensor, look: Look) -> Tensor:
    """Powers of ``BASE``, in place; a hidden key gets at most 2e-9 of the attention of the best."""
    # Infinities, and products too small to be normal numbers, cost a processor fifteen times as much.
    if look.bias is not None:
        scores.clamp_(min=-40.0 / math.log(BASE))
    return scores.exp2_() if BASE == 2 else scores.exp_()


__all__ = ["Extractor", "FramePairs", "Motion", "Reduction", "amf_loss", "extract_motion", "frame_pairs"]
