"""The VAE of ``backbone=sprites``: its training, and how well it reconstructs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.sprites import world as sprites
from methods.backbones.training.data import to_model_range
from methods.backbones.training.networks import FRAMES, SIDE, build_vae, see_single_frames
from methods.backbones.training.optimiser import schedule_lr
from methods.backbones.training.run import Run

LATENT_NOISE = 0.05
"""Standard deviation of what is added to the VAE's latents in training."""


def vae_batch(step: int, steps: int) -> tuple[int, int, int]:
    """Clips, frames and side of a batch: images first, then short crops, at last whole clips."""
    if step < 0.4 * steps:
        return 16, 1, 32
    if step < 0.97 * steps:
        return 6, 9, 32
    return 2, FRAMES, SIDE


def train_vae(work: Path, steps: int, seed: int) -> Any:
    """From images to clips: an image step costs a twentieth of a clip's."""
    torch.manual_seed(seed)
    vae = build_vae()
    see_single_frames(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run(work, "vae", {"model": vae, "optimiser": optimiser})
    if run.step < steps:
        pool = [sprites.render(i)[0] for i in range(800)]
    for step in run.steps(steps):
        rng = np.random.default_rng([seed, step])
        batch, length, side = vae_batch(step, steps)
        clips = []
        for i in rng.integers(len(pool), size=batch):
            t, y, x = rng.integers((FRAMES - length + 1, SIDE - side + 1, SIDE - side + 1))
            clip = pool[i][t : t + length, y : y + side, x : x + side]
            clips.append(clip[:, :, ::-1] if rng.random() < 0.5 else clip)
        video = to_model_range(np.stack(clips))
        latent = vae.encode(video).latent_dist.mean
        # Sampling the posterior drowns the signal early on (its variance starts near 1).
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(latent.shape, generator=generator)
        decoded = vae.decode(latent + LATENT_NOISE * noise).sample
        error = (decoded - video).abs().mean()
        penalty = latent.square().mean()
        optimiser.param_groups[0]["lr"] = schedule_lr(step, steps, 2e-3, 30)
        optimiser.zero_grad()
        (error + 1e-4 * penalty).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        mse = (decoded.detach() - video).square().mean() / 4
        run.note(
            20, l1=float(error.detach()), latent_square=float(penalty.detach()), psnr=float(-10 * mse.log10())
        )
    return vae.eval().requires_grad_(False)


def reconstruction(vae: Any, clips: int = 32) -> dict[str, float]:
    """PSNR (dB) and SSIM of the VAE's reconstruction of held-out clips (torchmetrics), mean over clips."""
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    psnr, ssim = [], []
    for i in range(clips):
        video = to_model_range(sprites.render(sprites.HELD_OUT + 5000 + i)[0])[None]
        with torch.no_grad():
            decoded = vae.decode(vae.encode(video).latent_dist.mode()).sample.clamp(-1, 1)
        a, b = (x[0].transpose(0, 1) / 2 + 0.5 for x in (decoded, video))
        similarity: Any = structural_similarity_index_measure(a, b, data_range=1.0)
        psnr.append(float(peak_signal_noise_ratio(a, b, data_range=1.0)))
        ssim.append(float(similarity))
    return {"psnr_db": float(np.mean(psnr)), "ssim": float(np.mean(ssim)), "clips": clips}
