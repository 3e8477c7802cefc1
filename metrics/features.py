"""Features of frames, kept by content: several metrics and workers read one video through one network."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

KEPT = 64
"""Videos whose features are kept in memory, of about 200 kB each."""
VERSION = 1
"""Changes with how networks are shown frames, so that features kept before are not taken."""

Features = NDArray[np.float32]
Read = Callable[[NDArray[np.uint8]], Features]

_folder: Path | None = None


def keep_in(folder: Path) -> None:
    """Keep the features that are computed from now on in this folder, for other processes too."""
    global _folder
    _folder = folder


class KeptFeatures:
    """The features of one network's last ``KEPT`` videos.

    ``network`` says which one and by which weights; other processes share those of a network that is named.
    """

    def __init__(self, network: str = "") -> None:
        self.network = network
        self._kept: OrderedDict[str, Features] = OrderedDict()

    def of(self, frames: NDArray[np.uint8], read: Read) -> Features:
        """What ``read`` gives for these frames, read once; not to be written to."""
        from datasets.media.video import frames_sha256

        key = frames_sha256(frames)
        if key not in self._kept:
            features = self._recalled(frames, read, key)
            features.setflags(write=False)
            self._kept[key] = features
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _recalled(self, frames: NDArray[np.uint8], read: Read, digest: str) -> Features:
        from datasets.files import whole

        if _folder is None or not self.network:
            return read(frames)
        name = hashlib.sha256(f"{self.network}\n{digest}".encode()).hexdigest()[:32]
        path = _folder / f"{name}-{VERSION}.npz"
        try:
            with np.load(path) as kept:
                features = np.asarray(kept["features"], np.float32)
            if features.ndim == 2 and len(features) == len(frames):
                return features
        except (OSError, ValueError, KeyError, BadZipFile):
            pass
        features = read(frames)
        with whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, features=features)
        return features


__all__ = ["KeptFeatures", "keep_in"]
