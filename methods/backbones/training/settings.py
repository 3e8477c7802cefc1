"""What the training of ``backbone=sprites`` can be asked for."""

from __future__ import annotations

from typing import NamedTuple

from methods.backbones.training.data import Pool


class Settings(NamedTuple):
    """What the command line says, and ``training.json`` repeats."""

    vae_steps: int = 2200
    dit_steps: int = 3100
    """Of its first course."""
    image_steps: int = 2000
    """Of ``dit_steps``, those on images alone."""
    pair_steps: int = 3700
    """Of the DiT's second course."""
    pair_image_steps: int = 2000
    """Of ``pair_steps``, those on images alone."""
    clips: int = 2000
    images: int = 8000
    pair_clips: int = 1000
    """With two objects, for the second course."""
    pair_images: int = 6000
    batch: int = 16
    """Clips; of images as many as have the same number of tokens."""
    seed: int = 0

    def command(self) -> str:
        """That trains with these settings."""
        given = (f"--{k.replace('_', '-')} {v}" for k, v in self._asdict().items())
        return " ".join(["python -m methods.backbones.training all", *given])

    def pools(self) -> dict[str, Pool]:
        """Training data of the DiT by name; no two pools share a clip."""
        every = (
            Pool("clips", self.clips, 0),
            Pool("images", self.images, 500_000, images=True),
            Pool("pair_clips", self.pair_clips, 100_000, two=True),
            Pool("pair_images", self.pair_images, 700_000, images=True, two=True),
        )
        return {pool.name: pool for pool in every}
