"""Train ``backbone=sprites``: a tiny genuine WanPipeline, from nothing, on two cores.

    python -m methods.backbones.training all --work training

Stages, each resumable (run the same command again after an interruption):

``vae``      AutoencoderKLWan on crops, then on whole clips (L1; fixed noise on the latent)
``latents``  encodes the training clips and images once, in shards; measures latents_mean and latents_std
``dit``      WanTransformer3DModel and UMT5 encoder together: rectified flow, shifted logit-normal
             sigmas, dropped captions, an exponential moving average of the weights; images first, since
             in the noise of a clip its shapes are seen before they need be read from the caption; then
             a second course in which half of each batch has two objects, which are rare and harder
``export``   writes the bf16 WanPipeline folder with the losses (``training.json``), and beside the
             checkpoints ``samples.png``, the samples over time, and ``losses.png``

Clips are drawn from seeds below ``datasets.sprites.world.HELD_OUT``; evaluation never sees them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from methods.backbones.training.data import encode_latents
from methods.backbones.training.dit import train_dit
from methods.backbones.training.export import export
from methods.backbones.training.settings import Settings
from methods.backbones.training.vae import train_vae

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "sprites"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["vae", "latents", "dit", "export", "all"])
    parser.add_argument("--work", type=Path, default=Path("training"), help="checkpoints and logs")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="the pipeline folder to write")
    for name, default in Settings._field_defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    given = vars(arguments)
    settings = Settings(**{name: given[name] for name in Settings._fields})
    reached = ["vae", "latents", "dit", "export", "all"].index(arguments.stage)
    vae = train_vae(work, settings.vae_steps, settings.seed)
    if reached >= 1:
        for pool in settings.pools().values():
            encode_latents(work, vae, pool)
    if reached >= 2:
        average = train_dit(work, vae, settings, not arguments.no_compile)
    if reached >= 3:
        export(work, vae, average, arguments.out, settings)


if __name__ == "__main__":
    main()
