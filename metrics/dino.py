"""DINO ViT-B/16 features as VBench takes them, through transformers.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021. transformers differs
from the original code (``facebookresearch/dino:vision_transformer.py``) in two points, both undone here: its
LayerNorm has an epsilon of 1e-12, not 1e-6, and it resizes the table of positions to a size, not by a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pydantic
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.weights import Weight
from metrics.features import KeptFeatures
from metrics.interface import Metric
from metrics.weights import files_id, reachable, unavailable

if TYPE_CHECKING:
    from torch import Tensor

REPOSITORY = "facebook/dino-vitb16"
SIZE = 343_000_000
LICENCE = "Apache-2.0"
SIDE = 224
"""Shorter side, in pixels, to which VBench brings frames."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REMEDY = f"connect once to fetch {REPOSITORY}, or give the metric's checkpoint key a local copy of its folder"

_BATCH = 16
_FILES = ("model.safetensors", "pytorch_model.bin")


def vbench_images(frames: NDArray[np.uint8]) -> Tensor:
    """Frames (T, H, W, 3) uint8 RGB to (T, 3, h, w) float32: shorter side 224, bilinear without antialiasing,
    the longer cut to whole pixels, no crop, ImageNet's normalisation (``Vchitect/VBench:vbench/utils.py``).
    """
    import torch
    from torch.nn.functional import interpolate

    height, width = frames.shape[1:3]
    short = min(height, width)
    size = (int(SIDE * height / short), int(SIDE * width / short))
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    images = interpolate(images, size, mode="bilinear", align_corners=False) / 255
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (images - mean) / deviation


def positions(table: Tensor, patch: int, embeddings: Tensor, height: int, width: int) -> Tensor:
    """A table of positions (1, 1 + n * n, D) for images of this size, as the original code resizes it.

    The class token's stays; the others' grid is resized (bicubic) by a factor with .1 added to the wanted
    number of cells, which the sampling then follows.
    """
    from torch import cat
    from torch.nn.functional import interpolate

    if embeddings.shape[1] == table.shape[1] and height == width:
        return table
    side = round((table.shape[1] - 1) ** 0.5)
    grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = ((height // patch + 0.1) / side, (width // patch + 0.1) / side)
    resized = interpolate(grid, scale_factor=factor, mode="bicubic")
    return cat([table[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], 1)


@dataclass(frozen=True)
class Dino:
    """A loaded DINO in float32 on the CPU. ``id`` is its name and ``weights_id``."""

    id: str
    model: Any
    _kept: KeptFeatures = field(init=False, default_factory=KeptFeatures, compare=False, repr=False)

    def features(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors (T, D) float32 of frames (T, H, W, 3) uint8 RGB: class tokens, kept by content."""
        return self._kept.of(frames, self._read)

    def _read(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            parts = [
                self.model(
                    vbench_images(frames[start : start + _BATCH]), interpolate_pos_encoding=True
                ).last_hidden_state[:, 0]
                for start in range(0, len(frames), _BATCH)
            ]
            features = torch.nn.functional.normalize(torch.cat(parts), dim=-1)
        return cast("NDArray[np.float32]", features.numpy())


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class UsesDino(Metric):
    """What every metric that reads frames through DINO has in common.

    ``checkpoint``: a local copy of the hub's folder ``facebook/dino-vitb16``.
    """

    name: str
    checkpoint: str | None = None

    outside_id: ClassVar[Sequence[str]] = ("checkpoint",)

    def dino(self) -> Dino:
        """The network, loaded. Raises as ``load_dino`` does."""
        return load_dino(self.checkpoint)

    def ready(self) -> None:
        """Raises MetricUnavailable when the weights are not to be had."""
        self.dino()

    def weights_id(self) -> str:
        """Identity of DINO's weights; empty while they are not at hand."""
        return weights_id(self.checkpoint)

    def needed_weights(self) -> Sequence[Weight]:
        """DINO's."""
        return (weight(self.checkpoint),)


def load_dino(checkpoint: str | None = None) -> Dino:
    """DINO, loaded once per process, unless its weights change.

    ``checkpoint``: a local folder as the hub's, ``config.json`` and weights. Raises InputError for one that
    is none, and MetricUnavailable when the weights are neither in the hub's cache nor to be had.
    """
    if not weights_of(checkpoint):
        if checkpoint is not None:
            raise InputError(f"DINO checkpoint {checkpoint}: no folder with config.json and {_FILES[0]}")
        _fetch()
    return _load(checkpoint, weights_id(checkpoint))


@lru_cache(maxsize=1)
def _load(checkpoint: str | None, weights: str) -> Dino:
    from transformers import ViTModel

    model: Any = ViTModel.from_pretrained(
        checkpoint or REPOSITORY, add_pooling_layer=False, layer_norm_eps=1e-6, local_files_only=True
    )
    inside = model.embeddings
    inside.interpolate_pos_encoding = partial(positions, inside.position_embeddings, inside.patch_size)
    dino = Dino(f"{REPOSITORY if checkpoint is None else 'DINO'} {weights}", model.float().eval())
    dino._kept.network = f"DINO {weights}" if weights else ""
    return dino


def weights_of(checkpoint: str | None) -> Sequence[Path]:
    """The files at hand, ``config.json`` and the weights; none unless both are."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    found = []
    for names in (("config.json",), _FILES):
        for name in names:
            if checkpoint is not None:
                path = Path(checkpoint) / name
            else:
                try:
                    path = Path(hf_hub_download(REPOSITORY, name, local_files_only=True))
                except LocalEntryNotFoundError:
                    continue
            if path.is_file():
                found.append(path)
                break
    return found if len(found) == 2 else ()


def weights_id(checkpoint: str | None = None) -> str:
    """``sha256:`` and 16 hex digits of configuration and weights; empty while they are not at hand."""
    return files_id(weights_of(checkpoint))


def weight(checkpoint: str | None = None) -> Weight:
    """The weights as ``Weighted.weights`` names them."""
    at_hand = weights_of(checkpoint)
    path = at_hand[-1] if at_hand else None
    return Weight(checkpoint or REPOSITORY, SIZE, LICENCE, path, None if checkpoint else _fetch)


def _fetch() -> None:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if not reachable(constants.ENDPOINT):
        raise unavailable(weight(), "not in the hub cache, and there is no network", REMEDY)
    try:
        hf_hub_download(REPOSITORY, "config.json")
        try:
            hf_hub_download(REPOSITORY, _FILES[0])
        except EntryNotFoundError:
            hf_hub_download(REPOSITORY, _FILES[1])
    except Exception as error:
        raise unavailable(weight(), f"could not be fetched ({error})", REMEDY) from error
