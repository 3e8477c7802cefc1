"""Sliding-window AMF pair by pair, with gathered windows: what ``action=amf`` and the tests compare with.

The same motion as ``methods/motion_flow/flow.py``, reached the way FastVMT's release reaches its own
(mayuelala/FastVMT:diffsynth/pipelines/wan_video.py, ``compute_tile_AMF``): for every pair of frames
the keys of all windows are gathered, element by element, from a view of the frame's keys that is
repeated for every cell of a window, and kept for the backward pass; their mean is taken for the window
loss. No method uses it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.motion_flow.flow import MotionFlow, window_corners
from methods.motion_flow.pairs import frame_pairs, tiles
from methods.motion_flow.soft_argmax import frame_positions


def extract_motion_by_loop(
    queries: Tensor,
    keys: Tensor,
    height: int,
    width: int,
    *,
    temperature: float,
    span: int,
    window: int,
    tile: tuple[int, int],
) -> MotionFlow:
    """Displacements and mean keys of windows, from queries and keys (F, S, C) already reduced over heads.

    ValueError where tiles do not divide the frame.
    """
    if height % tile[0] or width % tile[1]:
        raise ValueError(f"tiles of {tile[0]}x{tile[1]} do not divide {height}x{width} tokens")
    channels, cells = keys.shape[-1], window * window
    scale = temperature / channels**0.5
    positions = frame_positions(height, width, queries)
    centre_tokens = tiles(height, width, tile, queries.device).centres
    in_window = frame_positions(window, window, queries)
    by_tile = (height // tile[0], tile[0], width // tile[1], tile[1])
    displacements, means = [], []
    pairs = frame_pairs(len(queries), span)
    for i, j in zip(pairs.source.tolist(), pairs.target.tolist(), strict=True):
        with torch.no_grad():
            centres = torch.softmax(scale * queries[i][centre_tokens] @ keys[j].T, dim=-1) @ positions
        corners = window_corners(centres[None], window, height, width)[0]
        inside = corners[:, None, :] + in_window.long()
        tokens = inside[..., 0] * width + inside[..., 1]
        repeated = keys[j][:, :, None].expand(-1, -1, cells)
        windows = repeated.gather(0, tokens[:, None, :].expand(-1, channels, -1))
        tiled = queries[i].reshape(*by_tile, channels).transpose(1, 2).reshape(len(tokens), -1, channels)
        attention = torch.softmax(scale * tiled @ windows, dim=-1)
        expected = corners[:, None, :] + attention @ in_window
        grid = expected.reshape(by_tile[0], by_tile[2], tile[0], tile[1], 2).transpose(1, 2)
        displacements.append(grid.reshape(-1, 2) - positions)
        means.append(windows.mean(-1))
    return MotionFlow(torch.stack(displacements), torch.stack(means), pairs)


__all__ = ["extract_motion_by_loop"]
