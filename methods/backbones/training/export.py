"""The trained pipeline as a folder, with its report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch

from methods.backbones.training import report
from methods.backbones.training.data import encode_latents, statistics
from methods.backbones.training.dit import course_of
from methods.backbones.training.networks import build_pipeline
from methods.backbones.training.optimiser import Average
from methods.backbones.training.settings import Settings
from methods.backbones.training.vae import reconstruction, vae_batch


def export(work: Path, vae: Any, average: Average, out: Path, settings: Settings) -> None:
    """Write the pipeline folder (bf16 safetensors) and its training report."""
    latents, _ = encode_latents(work, vae, settings.pools()["clips"])
    pipeline = build_pipeline(vae, average, *statistics(latents))
    parts = {name: pipeline.components[name] for name in ("transformer", "text_encoder", "vae")}
    for part in parts.values():
        part.to(torch.bfloat16)
    pipeline.save_pretrained(out, safe_serialization=True)
    facts = {
        "command": settings.command(),
        "torch": torch.__version__,
        "reconstruction": reconstruction(pipeline.vae.float()),
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
        "losses": {
            stage: [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
            for stage in ("vae", "dit")
            for file in [(work / f"{stage}_losses.csv").open()]
        },
    }
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    report.contact_sheet(work, work / "samples.png")
    report.plot_losses(
        work,
        work / "losses.png",
        vae=lambda step: f"{vae_batch(step, settings.vae_steps)[1]} frames",
        dit=lambda step: "images" if course_of(step, settings).is_image_step(step) else "clips",
    )
    print({k: v for k, v in facts.items() if k != "losses"})
