"""Attention motion flow (AMF): where the queries of one frame look in another, as displacements.

First idea of FastVMT (https://github.com/mayuelala/FastVMT, after DiTFlow's AMF,
https://github.com/ditflow/ditflow): motion is local, so a tile of queries needs only a window
of keys. One query, the tile's centre, attends to the whole frame and places the window; every
query of the tile then attends inside it. Dense AMF is the same without windows. Both are soft-argmaxes
(``methods/motion_flow/soft_argmax.py``).

Shapes: F latent frames, S = height * width tokens a frame (row-major), P frame pairs, N tiles,
C channels after the reduction over heads. Positions and displacements are (row, column) in
tokens.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.motion_flow.pairs import FramePairs, frame_pairs, tiles
from methods.motion_flow.soft_argmax import frame_positions, soft_argmax, window_soft_argmax

Extractor = Literal["window", "dense"]
Reduction = Literal["head_mean", "concat"]


class MotionFlow(NamedTuple):
    """What is extracted from the queries and keys of one video.

    ``displacement`` (P, S, 2) in tokens; ``window_keys`` (P, N, C), the mean key of each tile's
    window in the pair's target frame, or None where nobody asked for it.
    """

    displacement: Tensor
    window_keys: Tensor | None
    pairs: FramePairs


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
) -> MotionFlow:
    """AMF of one video from the queries and keys (F, S, heads, d) of one attention block.

    Each video, reference or generated, places its windows by its own queries and keys. A window's
    centre is the soft-argmax of the tile-centre query over
    the whole target frame, rounded to a token and clamped so that the window fits in the frame;
    no gradient flows through it. With ``dense`` the displacements need no windows, and where
    their keys are asked for, the dense displacement of the tile-centre query places them.
    """
    queries, keys, scale = reduce_heads(queries, keys, reduction, temperature)
    pairs = frame_pairs(len(queries), span)
    positions = frame_positions(height, width, queries)
    split = tiles(height, width, tile, queries.device)
    # (P, S, C): the queries of each pair's source frame, and the keys of its target frame.
    seeking = queries.index_select(0, pairs.source.to(queries.device))
    seen = keys.index_select(0, pairs.target.to(keys.device))
    if extractor == "dense":
        expected = soft_argmax(seeking, seen, positions, scale)
        centres = expected[:, split.centres]
    else:
        with torch.no_grad():
            centres = soft_argmax(seeking[:, split.centres], seen, positions, scale)
    if extractor == "window" or with_window_keys:
        corners = window_corners(centres, window, height, width)
    if extractor == "window":
        of_token = corners[:, split.of_token]
        expected = window_soft_argmax(seeking, seen, of_token, window, height, width, scale)
    window_keys = (
        mean_window_keys(keys, pairs.target, corners, window, height, width) if with_window_keys else None
    )
    return MotionFlow(expected - positions, window_keys, pairs)


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
    frames = keys.view(len(keys), height, width, -1).permute(0, 3, 1, 2)
    # Down and then across: two sums of a window's side in place of one of its area.
    columns = F.avg_pool2d(frames, (window, 1), stride=1)
    means = F.avg_pool2d(columns, (1, window), stride=1).permute(0, 2, 3, 1)
    return means[target.to(keys.device)[:, None], corners[..., 0], corners[..., 1]]


def amf_loss(generated: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over pairs, and mean over tokens, of the squared displacement difference.

    Displacements (P, S, 2) in tokens, ``weight`` (P,); the square sums rows and columns, and the
    weighted mean divides by the sum of the weights. Tokens whose reference is NaN do not count. Unit:
    tokens squared.
    """
    counts = reference.isfinite().all(-1)
    error = (generated - reference.nan_to_num()).square().sum(-1) * counts
    weight = weight.to(error)
    return (weight * error.sum(-1) / counts.sum(-1)).sum() / weight.sum()


__all__ = ["Extractor", "MotionFlow", "Reduction", "amf_loss", "extract_motion"]
