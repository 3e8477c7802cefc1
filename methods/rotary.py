"""Where tokens are, for rotary position embeddings (``Backbone.rotary``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.interface import Grid

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def token_positions(grid: Grid, device: torch.device | str = "cpu") -> Tensor:
    """Frame, row and column of every token, (F * S, 3) float32, frame-major, then row by row."""
    import torch

    axes = [torch.arange(size, dtype=torch.float32, device=device) for size in grid]
    return torch.cartesian_prod(*axes)


__all__ = ["token_positions"]
