"""Features of frames, kept by content: several metrics read one video through one network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

KEPT = 64
"""Videos whose features are kept in memory, of about 200 kB each."""

Features = NDArray[np.float32]


class KeptFeatures:
    """The features of one network's last ``KEPT`` videos."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Features] = OrderedDict()

    def of(self, frames: NDArray[np.uint8], read: Callable[[NDArray[np.uint8]], Features]) -> Features:
        """What ``read`` gives for these frames, read once; not to be written to."""
        from datasets.video import frames_sha256

        key = frames_sha256(frames)
        if key not in self._kept:
            features = read(frames)
            features.setflags(write=False)
            self._kept[key] = features
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
