"""The shipped weights: small, complete, reported on, and able to do what the docs say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import methods.backbones.weights
import metrics.clip_model
from datasets.sprites import world as sprites

PIPELINE = methods.backbones.weights.SHIPPED / "sprites"
CLIP = metrics.clip_model.SPRITES_FOLDER


@pytest.mark.parametrize("folder", [PIPELINE, CLIP], ids=["pipeline", "clip"])
def test_a_checkpoint_is_small_bfloat16_and_reported_on(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6
    weights = sorted(folder.rglob("*.safetensors"))
    assert weights
    for path in weights:
        with safe_open(path, "np") as file:
            for key in list(file.keys()):
                dtype = file.get_slice(key).get_dtype()
                assert dtype in ("BF16", "I64"), f"{path.name} {key} {dtype}"
    report = json.loads((folder / "training.json").read_text())
    assert report["command"].startswith("python -m ") and report["losses"]


def test_the_pipeline_is_one_that_diffusers_loads() -> None:
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(PIPELINE)
    latent = pipeline(
        "a red star on a teal background",
        height=64,
        width=64,
        num_frames=17,
        num_inference_steps=1,
        max_sequence_length=16,
        output_type="np",
    ).frames
    assert np.asarray(latent).shape == (1, 17, 64, 64, 3)


def test_the_vae_reconstructs_held_out_clips() -> None:
    import torch
    from diffusers import AutoencoderKLWan

    from methods.backbones.training.vae import reconstruction

    vae = AutoencoderKLWan.from_pretrained(PIPELINE, subfolder="vae", torch_dtype=torch.float32).eval()
    measured = reconstruction(vae, clips=4)
    assert measured["psnr_db"] > 27 and measured["ssim"] > 0.85


def test_the_tiny_clip_tells_captions_apart() -> None:
    model = metrics.clip_model.load_clip("sprites")
    first = sprites.HELD_OUT + 40_000
    truths = {sprites.caption(t.attributes): t for t in map(sprites.draw, range(first, first + 120))}
    captions = list(truths)[:32]
    frames = np.concatenate([sprites.paint(truths[text], [8]) for text in captions])
    similarity = model.image_features(frames) @ model.text_features(captions).T
    assert (similarity.argmax(1) == np.arange(len(captions))).mean() > 0.7
