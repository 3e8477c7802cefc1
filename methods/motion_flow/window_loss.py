"""The window loss: what a tile follows must not change its look from frame to frame.

Second idea of FastVMT (https://github.com/mayuelala/FastVMT): the mean key of the window that a
tile attends to should stay the same while the target frame advances. It needs no reference. The
release differs: it averages over channels instead of the window, and leaves out the square.
"""

from __future__ import annotations

from torch import Tensor

from methods.motion_flow.pairs import FramePairs


def window_loss(window_keys: Tensor, pairs: FramePairs) -> Tensor:
    """Mean squared change of the mean window key between successive target frames.

    ``window_keys``: (P, N, C), the mean key of each tile's window, for the pairs in the order of
    ``pairs``. For one source frame and tile, pair (i, j) is compared with (i, j + 1). Squared norms
    of the change, averaged over these comparisons and tiles. 0 where no source frame has two targets.
    """
    successive = (pairs.source[1:] == pairs.source[:-1]).nonzero()[:, 0]
    change = window_keys[successive + 1] - window_keys[successive]
    return change.square().sum() / max(change[..., 0].numel(), 1)


__all__ = ["window_loss"]
