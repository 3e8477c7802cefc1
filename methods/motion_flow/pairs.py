"""Which frames are compared, and which tokens share a window."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
