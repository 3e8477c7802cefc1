"""Soft-argmax between frames: attention whose values are the positions of the keys.

What attention motion flow (``methods/motion_flow/flow.py``) is made of, and nearly all of its work. All
pairs of frames go through together: where their scores are few, at once; otherwise in blocks of queries.
The queries that look at one frame meet its keys in one matrix product, whichever frames they come from.
No map of S x S scores is kept for the backward pass: where it is known what positions are compared with
(``Goal``), each block leaves its part of the gradient behind, and otherwise the backward pass computes
scores again.

Shapes: F latent frames, S = height * width tokens a frame (row-major), P frame pairs, n queries of a
frame, C channels. In blocks, of T frames that are looked at: r queries that look at each, m keys of each.
Positions are (row, column) in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from methods.motion_flow.pairs import FramePairs

# Scores that go through at once, about.
BLOCK_ELEMENTS = {"cpu": 2**23, "cuda": 2**26}
# Up to so many scores of all pairs together, keeping them is quicker than computing them again.
KEPT_ELEMENTS = 2**22
# Where no score can be beyond this, exponentials (4e-18 to 2e17) need no shift by the largest.
SAFE_SCORE = 40.0
# A processor is quicker at powers of two (1.6 against 2.9 ms for 2.4 million on two cores with AVX2). With
# AVX-512 exp is MKL's own, and was not measured against them.
BASE = math.e if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2.0


Cells = Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor]]
"""Which keys of a pair's target each of some queries looks at, from indices (...) of pairs and queries:
indices (..., l), or None for all keys, and (row, column) of those keys: (l, 2), or (..., l, 2) where they
differ among queries."""


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


def frame_positions(height: int, width: int, like: Tensor) -> Tensor:
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
    if _few(queries, keys, pairs):
        pair, query = (
            torch.arange(count, device=keys.device) for count in (len(pairs.source), queries.shape[1])
        )
        index, values = cells(pair[:, None], query)
        scores = _scores(queries, keys, pairs, scale)
        if index is not None:
            # All scores and then those of the window: the product is one large matrix product, while
            # gathering the windows' keys for it would move C times as much as gathering scores.
            scores = scores.gather(-1, index)
        return _with_error(_weighted(torch.softmax(scores, dim=-1), values), goal)
    looks = _Looks(_rows(pairs, queries.shape[1], keys.device), cells, repeats)
    return _in_blocks(queries, keys, looks, scale, goal)


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

    Queries whose windows begin in about the same row go through together, with the rows of keys that their
    windows reach, which are one run in memory; what is not in a query's own window is hidden afterwards.
    In a frame wider than high it is columns in place of rows: a window leaves out more of them.
    """
    if width > height:
        sideways = keys.view(len(keys), height, width, -1).transpose(1, 2).flatten(1, 2)
        if goal is not None:
            goal = goal._replace(positions=goal.positions.flip(-1))
        found, error = window_soft_argmax(
            queries, sideways, pairs, corners.flip(-1), window, width, height, scale, goal
        )
        return Expected(found.flip(-1), error)
    if _few(queries, keys, pairs):
        first_rows, first_columns = corners.unbind(-1)
        rows = _bias(height, window, keys)[first_rows]
        bias = rows[..., :, None] + _bias(width, window, keys)[first_columns][..., None, :]
        scores = _scores(queries, keys, pairs, scale) + bias.flatten(-2)
        return _with_error(torch.softmax(scores, dim=-1) @ frame_positions(height, width, keys), goal)
    looks = _by_row(_rows(pairs, queries.shape[1], keys.device), corners, window, height, width)
    return _in_blocks(queries, keys, looks, scale, goal)


def _few(queries: Tensor, keys: Tensor, pairs: FramePairs) -> bool:
    """Whether all scores together are few enough to be kept."""
    return len(pairs.source) * queries.shape[1] * keys.shape[1] <= KEPT_ELEMENTS


def _scores(queries: Tensor, keys: Tensor, pairs: FramePairs, scale: float) -> Tensor:
    """(P, n, S): ``scale`` q.k of all pairs of frames."""
    return (scale * queries[pairs.source.to(keys.device)]) @ keys[pairs.target.to(keys.device)].mT


def _with_error(positions: Tensor, goal: Goal | None) -> Expected:
    return Expected(positions, None if goal is None else goal.error(positions))


def _bias(size: int, window: int, like: Tensor) -> Tensor:
    """(size - window + 1, size): row k is 0 from k to k + window - 1 and minus infinity elsewhere."""
    place = torch.arange(size, device=like.device)
    first = place[: size - window + 1, None]
    hidden = (place < first) | (place >= first + window)
    return torch.zeros(hidden.shape, device=like.device, dtype=like.dtype).masked_fill_(hidden, -torch.inf)


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


def slices(count: int, most: int) -> list[slice]:
    """``count`` things in order, at most ``most`` at once, in parts of about equal size."""
    parts = -(-count // most)
    return [slice(part * count // parts, (part + 1) * count // parts) for part in range(parts)]


class _Rows(NamedTuple):
    """Queries of all pairs, by the frame that they look at.

    ``target`` (T,): the frames that are looked at, by most queries first; ``counts``: by how many.
    ``query`` (T, R): row of queries (F n, C). ``pair`` and ``place`` (T, R): indices of what is found
    for it, (P, n, 2); the pair is P where a frame is looked at by fewer than R queries. ``shape``: (P, n).
    """

    shape: tuple[int, int]
    target: Tensor
    counts: list[int]
    query: Tensor
    pair: Tensor
    place: Tensor

    def of(self, values: Tensor) -> Tensor:
        """(T, R, ...) from values (P, n, ...), 0 where there is no query."""
        return torch.cat([values, torch.zeros_like(values[:1])])[self.pair, self.place]

    def to_pairs(self, found: Tensor) -> Tensor:
        """(P, n, 2) from what was found (T, R, 2)."""
        positions = found.new_empty(self.shape[0] + 1, self.shape[1], 2)
        positions[self.pair, self.place] = found
        return positions[:-1]


def _rows(pairs: FramePairs, count: int, device: torch.device) -> _Rows:
    """Rows of ``count`` queries a frame, source by source."""
    by_frame = pairs.target.bincount()
    target = by_frame.nonzero()[:, 0]
    looked, which = by_frame[target], (by_frame > 0).cumsum(0)[pairs.target] - 1
    most_first = looked.argsort(descending=True, stable=True)
    pair = torch.full((len(target), int(looked.max())), len(which))
    by_target = which.argsort(stable=True)
    before = (looked.cumsum(0) - looked)[which[by_target]]
    pair[most_first.argsort()[which[by_target]], torch.arange(len(which)) - before] = by_target
    source = torch.cat([pairs.source, pairs.source[:1]])[pair]
    place = torch.arange(count).expand(*pair.shape, count)
    query = source[..., None] * count + place
    pair = pair[..., None].expand_as(place)
    each = (one.flatten(1).to(device) for one in (query, pair, place))
    counts = (looked[most_first] * count).tolist()
    return _Rows((len(which), count), target[most_first].to(device), counts, *each)


class _Windows(NamedTuple):
    """Windows of ``side`` x ``side`` keys in a grid; ``first_row`` and ``first_column`` (T, R)."""

    first_row: Tensor
    first_column: Tensor
    side: int
    height: int
    width: int


class _Looks(NamedTuple):
    """All queries, and which keys each looks at: ``cells``, or ``windows``."""

    rows: _Rows
    cells: Cells | None = None
    repeats: bool = False
    windows: _Windows | None = None


def _by_row(rows: _Rows, corners: Tensor, side: int, height: int, width: int) -> _Looks:
    """Queries with windows at ``corners`` (P, S, 2), in the order of the rows where they begin."""
    first_row, first_column = rows.of(corners).unbind(-1)
    # Last, so that no block has to reach further for what is not there.
    first_row = first_row.where(rows.pair < len(corners), first_row.amax(-1, keepdim=True))
    first_row, order = first_row.sort(stable=True, dim=-1)
    query, pair, place, first_column = (
        each.gather(-1, order) for each in (rows.query, rows.pair, rows.place, first_column)
    )
    rows = rows._replace(query=query, pair=pair, place=place)
    return _Looks(rows, windows=_Windows(first_row, first_column, side, height, width))


class _Part(NamedTuple):
    """``columns`` of the first ``frames`` rows of ``_Rows``, and how many keys of each frame they meet."""

    frames: int
    columns: slice
    keys: int

    @property
    def queries(self) -> int:
        return int(self.columns.stop - self.columns.start)

    def of(self, values: Tensor) -> Tensor:
        """(A, r, ...) of values (T, R, ...)."""
        return values[: self.frames, self.columns]


def _parts(looks: _Looks, keys: Tensor) -> list[_Part]:
    """All queries in parts, each with about as many scores as go through at once."""
    rows, windows = looks.rows, looks.windows
    least = keys.shape[1] if windows is None else windows.side * windows.width
    budget = BLOCK_ELEMENTS.get(keys.device.type, BLOCK_ELEMENTS["cpu"])
    columns = slices(rows.query.shape[1], max(1, budget // (len(rows.target) * least)))
    most = [least] * len(columns)
    if windows is not None:
        starts, ends = [one.start for one in columns], [one.stop - 1 for one in columns]
        beyond = (windows.first_row[:, ends] - windows.first_row[:, starts]).amax(0)
        most = (least + windows.width * beyond).tolist()
    frames = [sum(count > one.start for count in rows.counts) for one in columns]
    return [_Part(*one) for one in zip(frames, columns, most, strict=True)]


class _Block(NamedTuple):
    """Queries that go through at once, of the A frames of a part.

    ``some`` queries (A, r, C) and the keys ``seen`` (A, m, C) of the frames that they look at. ``chosen``
    (A, r, l): which of the keys each query looks at, None for all. ``positions`` of those keys, (m, 2) or
    (A, r, l, 2), and what is to be added to them, ``origin`` (A, 1, 2). ``powers`` of ``BASE`` of the scores,
    (A, r, m or l). ``run`` (A, k): the grid rows of the keys, T frames with one row after the other.
    """

    part: _Part
    some: Tensor
    seen: Tensor
    chosen: Tensor | None
    positions: Tensor
    origin: Tensor | None
    powers: Tensor
    run: Tensor | None

    def found(self) -> tuple[Tensor, Tensor]:
        """Expected positions (A, r, 2) and the sums of the powers (A, r, 1)."""
        sums = _weighted(self.powers, _with_ones(self.positions))
        expected = sums[..., :2] / sums[..., 2:]
        return expected if self.origin is None else expected + self.origin, sums[..., 2:]


class _Memory:
    """Memory for the scores of one block after the other: fresh pages would cost as much as the product."""

    def __init__(self, parts: list[_Part], like: Tensor) -> None:
        self._all = like.new_empty(max(part.frames * part.queries * part.keys for part in parts))

    def room(self, part: _Part) -> Tensor:
        """(A, r, m)"""
        shape = part.frames, part.queries, part.keys
        return self._all[: math.prod(shape)].view(shape)


def _blocks(queries: Tensor, keys: Tensor, looks: _Looks) -> Iterator[_Block]:
    """All blocks in order; one's powers lie in the memory of the one before."""
    largest = queries.norm(dim=-1).amax() * keys.norm(dim=-1).amax()
    shifted = bool(largest * math.log(BASE) > SAFE_SCORE)
    parts = _parts(looks, keys)
    memory = _Memory(parts, keys)
    looked_at = keys[looks.rows.target]
    for part in parts:
        some = queries.flatten(0, 1)[part.of(looks.rows.query)]
        if looks.windows is None:
            block = _through_cells(part, some, looked_at, looks, memory)
        else:
            block = _through_windows(part, some, looked_at, looks.windows, memory)
        if shifted:
            block.powers.sub_(block.powers.amax(-1, keepdim=True))
        if looks.windows is not None:
            # Infinities, and products too small to be normal numbers, cost a processor fifteen times as
            # much. A hidden key gets at most 2e-9 of the attention of the best.
            block.powers.clamp_(min=-(SAFE_SCORE + 20) / math.log(BASE))
        (block.powers.exp2_ if BASE == 2 else block.powers.exp_)()
        yield block


def _through_cells(part: _Part, some: Tensor, looked_at: Tensor, looks: _Looks, memory: _Memory) -> _Block:
    """A block with scores in place of their powers; keys ``looked_at`` (T, S, C)."""
    seen = looked_at[: part.frames]
    scores = torch.bmm(some, seen.mT, out=memory.room(part))
    assert looks.cells is not None
    # What is not there looks where the last pair does.
    pair = part.of(looks.rows.pair).clamp(max=looks.rows.shape[0] - 1)
    index, positions = looks.cells(pair, part.of(looks.rows.place))
    if index is not None:
        scores = scores.gather(-1, index)
    return _Block(part, some, seen, index, positions, None, scores, None)


def _through_windows(
    part: _Part, some: Tensor, looked_at: Tensor, windows: _Windows, memory: _Memory
) -> _Block:
    """A block with scores in place of their powers, minus infinity for keys beyond a query's window."""
    high = part.keys // windows.width
    first_row, first_column = part.of(windows.first_row), part.of(windows.first_column)
    top = first_row[:, :1].clamp(max=windows.height - high)
    frame, row = (torch.arange(count, device=top.device) for count in (part.frames, high))
    run = windows.height * frame[:, None] + top + row
    grid_rows = looked_at.view(len(looked_at) * windows.height, -1)
    seen = grid_rows[run].view(part.frames, part.keys, -1)
    scores = torch.bmm(some, seen.mT, out=memory.room(part))
    grid = scores.view(part.frames, part.queries, high, windows.width)
    grid.add_(_bias(windows.width, windows.side, scores)[first_column][:, :, None])
    if high > windows.side:
        grid.add_(_bias(high, windows.side, scores)[first_row - top][..., None])
    origin = torch.stack([top, torch.zeros_like(top)], -1).to(scores)
    return _Block(part, some, seen, None, frame_positions(high, windows.width, scores), origin, scores, run)


class _Gradients:
    """What adds up the gradients of (scaled) queries and of keys, block by block."""

    def __init__(self, queries: Tensor, keys: Tensor, looks: _Looks) -> None:
        self._queries, self._keys, self._looks = queries, keys, looks
        self._to_queries = torch.zeros_like(queries).flatten(0, 1)
        self._to_looked_at = keys.new_zeros(len(looks.rows.target), *keys.shape[1:])
        self._memory = _Memory(_parts(looks, keys), keys)

    def add(self, block: _Block, gradient: Tensor, expected: Tensor, total: Tensor) -> None:
        """From the gradient (A, r, 2) of the expected positions (A, r, 2); spoils the block's powers.

        A score's gradient is its attention times the gradient along (its position - the expected one).
        """
        part, some, seen = block.part, block.some, block.seen
        if block.origin is not None:
            expected = expected - block.origin
        slope = torch.cat([gradient, -(gradient * expected).sum(-1, keepdim=True)], -1)
        slope *= math.log(BASE) / total
        room = self._memory.room(part)
        along = _with_ones(block.positions).mT
        if block.chosen is None:
            torch.mm(slope.flatten(0, 1), along, out=room.flatten(0, 1))
            to_scores = block.powers.mul_(room)
        else:
            inside = block.powers.mul_(_weighted(slope, along))
            to_scores = room.zero_()
            # Adding up goes through one thread, for fear of indices that are the same.
            (to_scores.scatter_add_ if self._looks.repeats else to_scores.scatter_)(-1, block.chosen, inside)
        query = part.of(self._looks.rows.query).flatten()
        self._to_queries.index_add_(0, query, torch.bmm(to_scores, seen).flatten(0, 1))
        if block.run is None:
            self._to_looked_at[: part.frames].baddbmm_(to_scores.mT, some)
        else:
            to_rows = torch.bmm(to_scores.mT, some).view(block.run.numel(), -1)
            self._to_looked_at.view(-1, to_rows.shape[1]).index_add_(0, block.run.flatten(), to_rows)

    def sums(self, scale: float) -> tuple[Tensor, Tensor]:
        """The gradients of queries and keys."""
        to_keys = torch.zeros_like(self._keys, memory_format=torch.contiguous_format)
        to_keys[self._looks.rows.target] = self._to_looked_at
        return self._to_queries.mul_(scale).view_as(self._queries), to_keys


def _in_blocks(queries: Tensor, keys: Tensor, looks: _Looks, scale: float, goal: Goal | None) -> Expected:
    """``soft_argmax`` in blocks: only a few scores are there at a time."""
    # Scores are exponents of ``BASE`` from here on.
    scale = scale / math.log(BASE)
    if goal is None:
        return Expected(_SoftArgmax.apply(queries, keys, looks, scale), None)
    return Expected(*_SoftArgmaxError.apply(queries, keys, looks, scale, *goal))


class _SoftArgmax(torch.autograd.Function):
    """Expected positions (P, n, 2); what is kept are they and one number for each query.

    With the sum of a query's powers the backward pass has its attention again from one product and one
    exponential. Autograd would pass over the scores three times as often.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, looks: _Looks, scale: float) -> Tensor:
        queries = scale * queries
        expected = queries.new_empty(*looks.rows.query.shape, 2)
        total = torch.empty_like(expected[..., :1])
        for block in _blocks(queries, keys, looks):
            block.part.of(expected)[:], block.part.of(total)[:] = block.found()
        ctx.save_for_backward(queries, keys, expected, total)
        ctx.looks, ctx.scale = looks, scale
        return looks.rows.to_pairs(expected)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, *kept = ctx.saved_tensors
        gradients = _Gradients(queries, keys, ctx.looks)
        by_row = ctx.looks.rows.of(gradient)
        for block in _blocks(queries, keys, ctx.looks):
            gradients.add(block, *map(block.part.of, (by_row, *kept)))
        return *gradients.sums(ctx.scale), None, None


class _SoftArgmaxError(torch.autograd.Function):
    """Expected positions, without a gradient, and their error, whose gradient comes with the forward pass.

    No score is computed twice: three large products in place of four.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, looks: _Looks, scale: float, wanted: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        differentiable = any(ctx.needs_input_grad[:2])
        queries = scale * queries
        expected = queries.new_empty(*looks.rows.query.shape, 2)
        if differentiable:
            gradients = _Gradients(queries, keys, looks)
            wanted_by_row, weight_by_row = looks.rows.of(wanted), looks.rows.of(weight)
        for block in _blocks(queries, keys, looks):
            of = block.part.of
            found, total = block.found()
            of(expected)[:] = found
            if differentiable:
                away = found - of(wanted_by_row)
                gradients.add(block, 2 * of(weight_by_row)[..., None] * away, found, total)
        if differentiable:
            ctx.save_for_backward(*gradients.sums(scale))
        expected = looks.rows.to_pairs(expected)
        ctx.mark_non_differentiable(expected)
        return expected, Goal(wanted, weight).error(expected)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_queries, to_keys = ctx.saved_tensors
        return gradient * to_queries, gradient * to_keys, *([None] * 4)


__all__ = ["Expected", "Goal", "soft_argmax", "frame_positions", "window_soft_argmax"]
