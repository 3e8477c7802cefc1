"""What a reader sees of the training of ``backbone=sprites``: its losses, and samples over time."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Frames: TypeAlias = "NDArray[np.uint8]"

STEPS, GUIDANCE_SCALE = 25, 4.0
CAPTIONS = (
    "a red circle on a grey background",
    "a blue square on a teal background",
    "a yellow triangle on a purple background",
    "a green star on a brown background",
    "a magenta cross on a grey background",
    "a red star and a blue circle on a teal background",
)


def sample(pipeline: Any, frames: int, side: int) -> Frames:
    """Videos (n, frames, side, side, 3) uint8 of ``CAPTIONS``, from noise of seed 0."""
    pipeline.set_progress_bar_config(disable=True)
    videos = pipeline(
        prompt=list(CAPTIONS),
        height=side,
        width=side,
        num_frames=frames,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        max_sequence_length=pipeline.tokenizer.model_max_length,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames
    rounded: Frames = (videos * 255).round().astype(np.uint8)
    return rounded


def strip(videos: Frames) -> Frames:
    """First, middle and last frame of each of (n, T, H, W, 3), side by side: (H, W * 3 n, 3)."""
    chosen = videos[:, [0, videos.shape[1] // 2, -1]]
    return np.concatenate([frame for video in chosen for frame in video], axis=1)


def contact_sheet(work: Path, out: Path) -> None:
    """One row a sampled step, from ``work/samples/STEP.png``; a column each of ``CAPTIONS``."""
    from PIL import Image, ImageDraw

    strips = {int(path.stem): Image.open(path) for path in sorted((work / "samples").glob("*.png"))}
    if not strips:
        return
    left, top = 60, 20
    width, height = next(iter(strips.values())).size
    sheet = Image.new("RGB", (left + width, top + len(strips) * (height + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(CAPTIONS):
        draw.text((left + column * width // len(CAPTIONS), 4), text.removesuffix(" background"), fill="black")
    for row, (step, image) in enumerate(strips.items()):
        y = top + row * (height + 4)
        draw.text((4, y + height // 2 - 6), f"step {step}", fill="black")
        sheet.paste(image, (left, y))
    sheet.save(out)


def plot_losses(work: Path, out: Path, **kinds: Callable[[int], str]) -> None:
    """PSNR of the ``vae`` and loss of the ``dit`` over their steps; ``kinds``: what a step's batch held."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for axis, stage, value, label in (
        (axes[0], "vae", "psnr", "PSNR of a training batch (dB)"),
        (axes[1], "dit", "loss", "mean squared error of the velocity"),
    ):
        with (work / f"{stage}_losses.csv").open() as file:
            rows = list(csv.DictReader(file))
        points: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            step = float(row["step"])
            points.setdefault(kinds[stage](int(step)), []).append((step, float(row[value])))
        for kind, some in points.items():
            x, y = zip(*some, strict=True)
            axis.plot(x, y, ".", markersize=4, label=kind)
        axis.set(xlabel=f"step of the {'VAE' if stage == 'vae' else 'DiT'}", ylabel=label)
        axis.legend()
    figure.savefig(out, dpi=110)
    plt.close(figure)


__all__ = ["CAPTIONS", "contact_sheet", "plot_losses", "sample", "strip"]
