"""Soft-argmax: the mean position of the keys that a query attends to.

It is attention whose values are the keys' positions, so that PyTorch's fused attention does it. No map of
scores is kept for the backward pass.

Positions are (row, column) in tokens, in the precision of queries and keys: float32 or better.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Added to the score of a key that a query shall not see.
HIDDEN = -1e9


def frame_positions(height: int, width: int, like: Tensor) -> Tensor:
    """(S, 2) row and column of every token, row-major, in the dtype and on the device of ``like``."""
    index = torch.arange(height * width, device=like.device)
    return torch.stack([index // width, index % width], dim=1).to(like.dtype)


def soft_argmax(queries: Tensor, keys: Tensor, positions: Tensor, scale: float) -> Tensor:
    """Mean position (B, n, 2) of keys (B, m, C) under softmax(``scale`` q.k), for queries (B, n, C).

    ``positions`` of the keys: (m, 2), or (B, m, 2) where they differ.
    """
    # Fused kernels take channels by the eight; a processor's takes values as wide as keys alone.
    missing = -queries.shape[-1] % 8
    if missing:
        queries, keys = F.pad(queries, (0, missing)), F.pad(keys, (0, missing))
    width = 8 if queries.is_cuda else queries.shape[-1]
    # From their middle, where sums of them round five times less.
    middle = positions.mean(-2, keepdim=True)
    values = F.pad(positions - middle, (0, width - 2)).expand(*keys.shape[:-1], width)
    # With one head.
    queries, keys, values = queries[:, None], keys[:, None], values[:, None]
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)[:, 0, :, :2] + middle


def window_soft_argmax(
    queries: Tensor, keys: Tensor, corners: Tensor, window: int, height: int, width: int, scale: float
) -> Tensor:
    """``soft_argmax`` of queries that each see a window of the frame, (P, S, 2).

    Queries and keys (P, S, C); ``corners`` (P, S, 2) int64: the top left token of each query's
    ``window`` x ``window`` keys.
    """
    # A key is hidden by its row or by its column. Both biases are part of the dot product: a query has one
    # for each row and each column of the frame as further channels, and a key has a 1 at its own.
    rows, columns = torch.eye(height).repeat_interleave(width, 0), torch.eye(width).repeat(height, 1)
    own = torch.cat([rows, columns], 1).to(keys).expand(len(keys), -1, -1)
    biases = [_beyond(corners[..., axis], window, size) for axis, size in enumerate((height, width))]
    bias = torch.cat(biases, -1) * (HIDDEN / scale)
    wider = torch.cat([queries, bias.to(queries)], -1), torch.cat([keys, own], -1)
    return soft_argmax(*wider, frame_positions(height, width, keys), scale)


def _beyond(first: Tensor, window: int, size: int) -> Tensor:
    """(..., size) bool: which of ``size`` places are not among the ``window`` from ``first`` (...) on."""
    place = torch.arange(size, device=first.device) - first[..., None]
    return (place < 0) | (place >= window)


__all__ = ["frame_positions", "soft_argmax", "window_soft_argmax"]
