"""What guidance methods ask of a backbone's blocks and token grid, in one place."""

from __future__ import annotations

from datasets.errors import InputError
from methods.interface import Grid


def check_block(block: int, num_blocks: int, key: str = "block") -> None:
    """InputError where the backbone has no such block; ``key`` is the method's."""
    if block >= num_blocks:
        raise InputError(
            f"method.{key}={block}: the backbone has blocks 0 to {num_blocks - 1}; lower method.{key}"
        )


def check_frames(grid: Grid) -> None:
    """InputError for a single latent frame, which has no motion."""
    if grid.frames < 2:
        raise InputError(
            f"frames: motion needs at least 2 latent frames, not {grid.frames}; ask for more frames"
        )


__all__ = ["check_block", "check_frames"]
