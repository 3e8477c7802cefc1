"""What ``backbone=sprites`` is trained on: clips and images of its world, and their encoded latents.

Clips are drawn from seeds below ``datasets.sprites.world.HELD_OUT``; evaluation never sees them.
"""

from __future__ import annotations

import hashlib
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datasets.sprites import world as sprites
from methods.backbones.training.networks import FRAMES, SIDE

SHARD = 250
"""Clips or images in one file of encoded latents."""


def to_model_range(frames: NDArray[np.uint8]) -> Tensor:
    """(..., T, H, W, 3) uint8 to (..., 3, T, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.moveaxis(frames, -1, -4).astype(np.float32)) / 127.5 - 1


class Pool(NamedTuple):
    """Training data: clips, or single frames of other clips; ``two``: only clips of two objects."""

    name: str
    size: int
    first_seed: int
    images: bool = False
    two: bool = False

    def truths(self) -> tuple[sprites.Truth, ...]:
        """What its clips show, from ``first_seed`` on."""
        return _truths(self.size, self.first_seed, self.two)


@cache
def _truths(count: int, first_seed: int, two: bool) -> tuple[sprites.Truth, ...]:
    drawn = map(sprites.draw, range(first_seed, sprites.HELD_OUT))
    return tuple(islice((truth for truth in drawn if truth.motion == "two" or not two), count))


def image_frame(number: int) -> int:
    """Which frame of its clip a training image is."""
    return number % SHARD % FRAMES


def fingerprint(module: nn.Module) -> str:
    """Eight hex digits of the sha256 of a module's weights."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def encode_latents(work: Path, vae: Any, pool: Pool) -> tuple[Tensor, list[str]]:
    """Unnormalised latents (count, C, F, h, w) float16 and captions."""
    # Of this VAE: another one's latents lie in another folder.
    folder = work / f"latents-{fingerprint(vae)}"
    folder.mkdir(exist_ok=True)
    latents, captions, truths = [], [], pool.truths()
    for first in range(0, pool.size, SHARD):
        shard = truths[first : first + SHARD]
        path = folder / f"{pool.name}-{first:06d}-{len(shard)}.pt"
        if not path.exists():
            parts = []
            for start in range(0, len(shard), 10):
                clips = [
                    sprites.paint(truth, [image_frame(start + i)] if pool.images else None)
                    for i, truth in enumerate(shard[start : start + 10])
                ]
                with torch.no_grad():
                    parts.append(vae.encode(to_model_range(np.stack(clips))).latent_dist.mode().half())
            texts = [sprites.caption(truth.attributes) for truth in shard]
            torch.save({"latents": torch.cat(parts), "captions": texts}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            print(f"{path.stem}: {first + len(shard)} of {pool.size}", flush=True)
        saved = torch.load(path, weights_only=True)
        latents.append(saved["latents"])
        captions += saved["captions"]
    return torch.cat(latents), captions


def statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (C, 1, 1, 1) float32."""
    sample = latents[:1000].float()
    dims = (0, 2, 3, 4)
    return sample.mean(dims).view(-1, 1, 1, 1), sample.std(dims).view(-1, 1, 1, 1)


def object_masks(pool: Pool) -> Tensor:
    """(count, 1, F, h, w) float32: 1 on the latent pixels that an object touches."""
    import cv2

    side, scale = SIDE // 4, SIDE / 4 / SIDE
    clip_times = [[0], *([4 * k + i for i in range(1, 5)] for k in range((FRAMES - 1) // 4))]
    masks = np.zeros((pool.size, 1, 1 if pool.images else len(clip_times), side, side), np.uint8)
    for number, truth in enumerate(pool.truths()):
        for place, frames in enumerate([[image_frame(number)]] if pool.images else clip_times):
            for frame in frames:
                for thing in range(len(truth.things)):
                    corners = (truth.polygon(thing, frame) + 0.5) * scale - 0.5
                    fixed = [np.round(corners * 256).astype(np.int32)]
                    cv2.fillPoly(masks[number, 0, place], fixed, 1, shift=8)
    return torch.from_numpy(masks).float()
