"""Soft-argmax between frames: attention whose values are the positions of the keys.

What attention motion flow (``methods/amf.py``) is made of, and nearly all of its work. No map of S x S
scores is kept for the backward pass. As many pairs of frames go through together as the scores that may
be there at once allow: all of them where they are few, some 25 on a GPU at Wan's size, where the backward
pass computes scores again. A processor takes one pair at Wan's size, and where it is known what positions
are compared with (``Goal``), each pair leaves its part of the gradient behind.

Shapes: F latent frames, S = height * width tokens a frame (row-major), P frame pairs, n queries of a
frame, C channels. Positions are (row, column) in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from methods.amf import FramePairs

# Scores that go through at once. On a processor fewer and larger products, whose threads wait for one
# another less often, gain more than scores that stay in its cache.
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
# Up to so many scores of all pairs together, keeping them is quicker than computing them again.
KEPT_ELEMENTS = 2**22
# Where no score can be beyond this, exponentials (2e-9 to 5e8) need no shift by the largest.
SAFE_SCORE = 20.0
# A processor is quicker at powers of two (1.6 against 2.9 ms for 2.4 million on two cores with AVX2). With
# AVX-512 exp is MKL's own, and was not measured against them.
BASE = math.e if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2.0


Cells = Callable[[int | slice, slice], tuple[Tensor | None, Tensor]]
"""Which keys some queries of a pair, or of some pairs, look at: indices (..., n, m), or None for all
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


class Goal(NamedTuple):
    """Where queries ought to look: ``positions`` (P, n, 2), and how much each counts: ``weight`` (P, n).

    The loss is the sum of ``weight`` times the squared distance. With its goal known beforehand, a query's
    gradient is known as soon as the query has been through, while its scores are still at hand.
    """

    positions: Tensor
    weight: Tensor

    def error(self, found: Tensor) -> Tensor:
        """The loss (0-d) of positions ``found`` (P, n, 2)."""
        return (self.weight * (found - self.positions).square().sum(-1)).sum()


class Expected(NamedTuple):
    """``positions`` (P, n, 2) that queries look at, and their ``error`` (0-d), None without a goal.

    With a goal only the error is sure to have a gradient.
    """

    positions: Tensor
    error: Tensor | None


Looks = Callable[[int], Iterator[Look]]
"""All looks of a pair."""


def token_positions(height: int, width: int, like: Tensor) -> Tensor:
    """(S, 2) row and column of every token, in the dtype and on the device of ``like``."""
    index = torch.arange(height * width, device=like.device)
    return torch.stack([index // width, index % width], dim=1).to(like.dtype)


def soft_argmax(
    queries: Tensor,
    keys: Tensor,
    pairs: FramePairs,
    cells: Cells,
    scale: float,
    *,
    repeats: bool = False,
    goal: Goal | None = None,
) -> Expected:
    """Expected position of the key that each query looks at, for all pairs of frames.

    Attention whose values are coordinates: softmax of ``scale`` q.k over the keys that ``cells``
    names. ``queries`` (F, n, C) and ``keys`` (F, S, C) are differentiable, what ``cells`` returns is
    not. ``repeats``: a query may look at one key several times.
    """
    if _pairs_at_once(queries, keys):

        def found(some: slice) -> Tensor:
            scores = _scores(queries, keys, pairs, some, scale)
            index, values = cells(some, slice(None))
            if index is not None:
                # All scores and then those of the window: the product is one large matrix product, while
                # gathering the windows' keys for it would move C times as much as gathering scores.
                scores = scores.gather(-1, index)
            return _weighted(torch.softmax(scores, dim=-1), values)

        return _in_groups(queries, keys, pairs, found, goal)
    chunks = slices(queries.shape[1], max(1, _budget(keys) // keys.shape[1]))

    def looks(pair: int) -> Iterator[Look]:
        return (Look(chunk, slice(None), None, *cells(pair, chunk)) for chunk in chunks)

    return _in_parts(queries, keys, pairs, looks, scale, repeats, goal)


def window_soft_argmax(
    queries: Tensor,
    keys: Tensor,
    pairs: FramePairs,
    corners: Tensor,
    window: int,
    height: int,
    width: int,
    scale: float,
    goal: Goal | None = None,
) -> Expected:
    """``soft_argmax`` of queries (F, S, C) that each look at the window of keys at ``corners`` (P, S, 2).

    Rows that no window reaches are left out of the product, columns are hidden after it. Queries whose
    windows begin in the same row go together, and their keys are one run in memory: nothing is gathered.
    In a frame wider than high it is the columns that are left out: a window leaves out more of them.
    """
    if width > height:
        sideways = keys.unflatten(1, (height, width)).transpose(1, 2).flatten(1, 2)
        if goal is not None:
            goal = goal._replace(positions=goal.positions.flip(-1))
        found, error = window_soft_argmax(
            queries, sideways, pairs, corners.flip(-1), window, width, height, scale, goal
        )
        return Expected(found.flip(-1), error)
    positions = token_positions(height, width, keys)
    first_rows, first_columns = corners.unbind(-1)
    no_row, no_column = (_bias(size, window, keys) for size in (height, width))
    if _pairs_at_once(queries, keys):

        def found_inside(some: slice) -> Tensor:
            rows, columns = no_row[first_rows[some]], no_column[first_columns[some]]
            bias = rows[..., :, None] + columns[..., None, :]
            scores = _scores(queries, keys, pairs, some, scale) + bias.flatten(-2)
            return torch.softmax(scores, dim=-1) @ positions

        return _in_groups(queries, keys, pairs, found_inside, goal)
    order = first_rows.argsort(dim=1)
    counts = F.one_hot(first_rows, height - window + 1).sum(1).tolist()
    most = max(1, _budget(keys) // (window * width))

    def looks(pair: int) -> Iterator[Look]:
        for top, some in enumerate(order[pair].split(counts[pair])):
            run = slice(top * width, (top + window) * width)
            for chunk in slices(len(some), most):
                bias = no_column.index_select(0, first_columns[pair].index_select(0, some[chunk]))
                yield Look(some[chunk], run, bias, None, positions[run])

    return _in_parts(queries, keys, pairs, looks, scale, False, goal)


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


def _pairs_at_once(queries: Tensor, keys: Tensor) -> int:
    """How many pairs of frames the budget has room for; 0 where it is not two."""
    pairs = _budget(keys) // (queries.shape[1] * keys.shape[1])
    return pairs if pairs > 1 else 0


def _in_groups(
    queries: Tensor,
    keys: Tensor,
    pairs: FramePairs,
    found: Callable[[slice], Tensor],
    goal: Goal | None,
) -> Expected:
    """Positions (P, n, 2) from those that ``found`` returns of some pairs, all at once where they are few."""
    groups = slices(len(pairs.source), _pairs_at_once(queries, keys)) or [slice(None)]
    again = torch.is_grad_enabled() and len(pairs.source) * queries.shape[1] * keys.shape[1] > KEPT_ELEMENTS
    positions = [
        checkpoint(found, some, use_reentrant=False, preserve_rng_state=False) if again else found(some)
        for some in groups
    ]
    expected = torch.cat(positions)
    return Expected(expected, None if goal is None else goal.error(expected))


def _scores(queries: Tensor, keys: Tensor, pairs: FramePairs, some: slice, scale: float) -> Tensor:
    """(P, n, S): ``scale`` q.k of some pairs of frames."""
    source, target = pairs.source[some].to(keys.device), pairs.target[some].to(keys.device)
    return (scale * queries[source]) @ keys[target].mT


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sum of values (m, k) or (..., n, m, k) by weights (..., n, m): (..., n, k)."""
    if values.ndim == 2:
        return weights @ values
    return (weights[..., None, :] @ values)[..., 0, :]


def _with_ones(values: Tensor) -> Tensor:
    """A third coordinate, whose weighted sum is that of the weights."""
    rows = values.mT
    # Each coordinate in one run of memory: products with weights are then many times as quick.
    return torch.cat([rows, torch.ones_like(rows[..., :1, :])], -2).mT


def _in_parts(
    queries: Tensor,
    keys: Tensor,
    pairs: FramePairs,
    looks: Looks,
    scale: float,
    repeats: bool,
    goal: Goal | None,
) -> Expected:
    """``soft_argmax`` in parts of a pair: only a few scores are there at a time."""
    # Scores are exponents of ``BASE`` from here on.
    scale = scale / math.log(BASE)
    if goal is None:
        return Expected(_SoftArgmax.apply(queries, keys, pairs, looks, scale, repeats), None)
    return Expected(*_SoftArgmaxError.apply(queries, keys, pairs, looks, scale, repeats, *goal))


class _Part(NamedTuple):
    """Some queries of a pair, ready to look: ``some`` (n, C), their keys ``seen`` (m, C), and the powers of
    ``BASE`` (n, m or l) of their scores."""

    pair: int
    source: int
    target: int
    look: Look
    some: Tensor
    seen: Tensor
    powers: Tensor


def _parts(queries: Tensor, keys: Tensor, pairs: FramePairs, looks: Looks) -> Iterator[_Part]:
    """All parts in order; one's powers lie in the memory of the one before."""
    largest = queries.norm(dim=-1).amax() * keys.norm(dim=-1).amax()
    shifted = bool(largest * math.log(BASE) > SAFE_SCORE)
    # Memory used again: fresh pages would cost as much as the product.
    memory = keys.new_empty(_largest_chunk(queries, keys))
    for pair, (i, j) in enumerate(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)):
        for look in looks(pair):
            some, seen = _rows(queries[i], look.queries), keys[j, look.keys]
            scores = _looked(torch.mm(some, seen.T, out=_room(memory, some, seen)), look)
            if shifted:
                scores.sub_(scores.amax(-1, keepdim=True))
            yield _Part(pair, i, j, look, some, seen, _exp(scores, look))


def _sums(part: _Part) -> tuple[Tensor, Tensor]:
    """Expected positions (n, 2) and the sum of the powers (n, 1)."""
    sums = _weighted(part.powers, _with_ones(part.look.positions))
    return sums[:, :2] / sums[:, 2:], sums[:, 2:]


class _Gradients:
    """What adds up the gradients of (scaled) queries and of keys, part by part."""

    def __init__(self, queries: Tensor, keys: Tensor, repeats: bool) -> None:
        self.to_queries = torch.zeros_like(queries)
        # Columns are keys: added up this way round a processor's product is a quarter quicker.
        self.to_keys = torch.zeros_like(keys.mT, memory_format=torch.contiguous_format)
        self._memory = keys.new_empty(_largest_chunk(queries, keys))
        self._repeats = repeats

    def add(self, part: _Part, gradient: Tensor, expected: Tensor, total: Tensor) -> None:
        """From the gradient (n, 2) of the expected positions (n, 2); spoils the part's powers.

        A score's gradient is its attention times the gradient along (its position - the expected one).
        """
        look = part.look
        # As ``_with_ones``, each coordinate in one run of memory.
        slope = torch.cat([gradient.mT, -(gradient * expected).sum(-1)[None]]).mT
        slope *= math.log(BASE) / total
        room = _room(self._memory, part.some, part.seen)
        if look.index is None:
            to_scores = part.powers.mul_(torch.mm(slope, _with_ones(look.positions).mT, out=room))
        else:
            inside = part.powers.mul_(_weighted(slope, _with_ones(look.positions).mT))
            to_scores = room.zero_()
            # Adding up goes through one thread, for fear of indices that are the same.
            (to_scores.scatter_add_ if self._repeats else to_scores.scatter_)(-1, look.index, inside)
        if isinstance(look.queries, slice):
            self.to_queries[part.source, look.queries].addmm_(to_scores, part.seen)
        else:
            self.to_queries[part.source].index_add_(0, look.queries, to_scores @ part.seen)
        self.to_keys[part.target, :, look.keys].addmm_(part.some.T, to_scores)


class _SoftArgmax(torch.autograd.Function):
    """Expected positions; what is kept are they and one number for each query.

    With the sum of a query's powers the backward pass has its attention again from one product and one
    exponential. Autograd would pass over the scores three times as often, and make a gradient of the size of
    all frames for every chunk.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        pairs: FramePairs,
        looks: Looks,
        scale: float,
        repeats: bool,
    ) -> Tensor:
        queries = scale * queries
        expected = queries.new_empty(len(pairs.source), queries.shape[1], 2)
        total = torch.empty_like(expected[..., :1])
        for part in _parts(queries, keys, pairs, looks):
            expected[part.pair, part.look.queries], total[part.pair, part.look.queries] = _sums(part)
        ctx.save_for_backward(queries, keys, expected, total)
        ctx.pairs, ctx.looks, ctx.scale, ctx.repeats = pairs, looks, scale, repeats
        return expected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, *kept = ctx.saved_tensors
        gradients = _Gradients(queries, keys, ctx.repeats)
        for part in _parts(queries, keys, ctx.pairs, ctx.looks):
            gradients.add(part, *(_rows(each[part.pair], part.look.queries) for each in (gradient, *kept)))
        return gradients.to_queries.mul_(ctx.scale), gradients.to_keys.mT, None, None, None, None


class _SoftArgmaxError(torch.autograd.Function):
    """Expected positions, without a gradient, and their error, whose gradient comes with the forward pass.

    No score is computed twice: three large products in place of four.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        pairs: FramePairs,
        looks: Looks,
        scale: float,
        repeats: bool,
        wanted: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        differentiable = any(ctx.needs_input_grad[:2])
        queries = scale * queries
        expected = torch.empty_like(wanted)
        if differentiable:
            gradients = _Gradients(queries, keys, repeats)
        for part in _parts(queries, keys, pairs, looks):
            which = part.look.queries
            found, total = _sums(part)
            expected[part.pair, which] = found
            if differentiable:
                away = found - _rows(wanted[part.pair], which)
                gradients.add(part, 2 * _rows(weight[part.pair], which)[:, None] * away, found, total)
        if differentiable:
            ctx.save_for_backward(gradients.to_queries.mul_(scale), gradients.to_keys.mT)
        ctx.mark_non_differentiable(expected)
        return expected, Goal(wanted, weight).error(expected)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, to_keys = ctx.saved_tensors
        return gradient * to_queries, gradient * to_keys, *([None] * 6)


def _rows(matrix: Tensor, which: slice | Tensor) -> Tensor:
    return matrix[which] if isinstance(which, slice) else matrix.index_select(0, which)


def _room(memory: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
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


__all__ = ["Expected", "Goal", "soft_argmax", "token_positions", "window_soft_argmax"]
