"""RAFT (torchvision) for metrics.

Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020. The weights are
torchvision's ``Raft_Large_Weights.C_T_V1``: the authors' own, trained on FlyingChairs and FlyingThings, as
VBench's ``raft-things``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydantic
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.media.flow import RAFT_SIDE, Floats
from datasets.weights import Weight
from metrics.interface import Metric
from metrics.weights import files_id, reachable, unavailable

FILE = "raft_large_C_T_V1-22a6c225.pth"
URL = f"https://download.pytorch.org/models/{FILE}"
SIZE = 21_100_000
LICENCE = "BSD-3-Clause"
STEPS = 20
"""Refinements of the flow."""


@dataclass(frozen=True)
class Raft:
    """A loaded RAFT in float32 on the CPU. ``id`` is its name and identity of weights."""

    id: str
    model: Any

    def flow(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Floats:
        """Flow (h, w, 2) float32 x, y in pixels from one image (H, W, 3) uint8 RGB to another.

        ``h``, ``w``: the sides padded (edge values, half on either side) to multiples of 8, as RAFT's own
        code pads them. ValueError where the shorter side has less than ``RAFT_SIDE`` pixels.
        """
        import torch

        if min(first.shape[:2]) < RAFT_SIDE:
            raise ValueError(f"RAFT takes images of {RAFT_SIDE} pixels and more, got {first.shape[:2]}")
        images = [torch.from_numpy(padded(one)).permute(2, 0, 1)[None] / 127.5 - 1 for one in (first, second)]
        with torch.inference_mode():
            found = self.model(*images, num_flow_updates=STEPS)[-1]
        return np.asarray(found[0].permute(1, 2, 0).numpy())


def padded(image: NDArray[np.uint8]) -> Floats:
    """An image (H, W, 3) as float32, padded as ``Raft.flow`` says."""
    sides = [(more // 2, more - more // 2) for more in (-side % 8 for side in image.shape[:2])]
    return np.pad(image, (*sides, (0, 0)), mode="edge").astype(np.float32)


def unpadded(flow: Floats, height: int, width: int) -> Floats:
    """The part of a flow that lies over an image of this size."""
    top, left = (flow.shape[0] - height) // 2, (flow.shape[1] - width) // 2
    return flow[top : top + height, left : left + width]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class UsesRaft(Metric):
    """What every metric that reads motion through RAFT has in common.

    ``checkpoint``: a local copy of ``raft_large_C_T_V1-22a6c225.pth`` instead of torch's own cache.
    """

    name: str
    checkpoint: str | None = None

    outside_id: ClassVar[Sequence[str]] = ("checkpoint",)

    def raft(self) -> Raft:
        """The network, loaded. Raises as ``load_raft`` does."""
        return load_raft(self.checkpoint)

    def ready(self) -> None:
        """Raises MetricUnavailable when the weights are not to be had."""
        self.raft()

    def weights_id(self) -> str:
        """Identity of RAFT's weights; empty while they are not at hand."""
        return files_id([_file(self.checkpoint)])

    def needed_weights(self) -> Sequence[Weight]:
        """RAFT's."""
        return (_weight(self.checkpoint),)


def load_raft(checkpoint: str | None = None) -> Raft:
    """RAFT, loaded once per process, unless its weights change.

    Raises InputError for a checkpoint that is no file, and MetricUnavailable when the weights are neither in
    torch's cache nor to be had.
    """
    path = _file(checkpoint)
    if not path.is_file():
        if checkpoint is not None:
            raise InputError(f"RAFT checkpoint {checkpoint}: no such file")
        _fetch(path)
    return _load(path, files_id([path]))


@lru_cache(maxsize=1)
def _load(path: Path, weights: str) -> Raft:
    import torch
    from torchvision.models.optical_flow import raft_large

    model = raft_large(weights=None)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Raft(f"raft_large {weights}", model.eval())


def _file(checkpoint: str | None) -> Path:
    import torch

    return Path(checkpoint) if checkpoint else Path(torch.hub.get_dir()) / "checkpoints" / FILE


def _weight(checkpoint: str | None) -> Weight:
    path = _file(checkpoint)
    fetch = None if checkpoint else partial(_fetch, path)
    return Weight(checkpoint or FILE, SIZE, LICENCE, path if path.is_file() else None, fetch)


def _fetch(path: Path) -> None:
    import sys

    import torch

    remedy = f"connect once, or give the metric's checkpoint key a local copy of {URL}"
    if not reachable("https://download.pytorch.org"):
        raise unavailable(_weight(None), "not in torch's cache, and there is no network", remedy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(path), "22a6c225", progress=sys.stderr.isatty())
    except Exception as error:
        raise unavailable(_weight(None), f"could not be fetched ({error})", remedy) from error
