"""A backbone from outside the package: one file, and one YAML that names it."""

from __future__ import annotations

FILES = {
    "backbone_from_outside/average.py": '''
from collections import Counter
from typing import ClassVar

import numpy as np
import pydantic
import torch

from datasets.errors import InputError
from methods.backbones.interface import Backbone, BackboneConfig, Grid, Schedule


class Average(Backbone):
    """Latents are averages of 8x8 pixels; its velocity leads to a grey video."""

    def __init__(self):
        self.num_blocks, self.heads, self.head_dim, self.calls = 1, 1, 1, Counter()

    def grid(self, latent):
        return Grid(*latent.shape[2:])

    def encode(self, frames):
        video = torch.from_numpy(frames).float().permute(3, 0, 1, 2) / 127.5 - 1
        return torch.nn.functional.avg_pool2d(video, 8)[None]

    def decode(self, latent):
        video = latent[0].repeat_interleave(8, 2).repeat_interleave(8, 3).clamp(-1, 1)
        return ((video + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().numpy()

    def embed(self, prompts):
        return torch.zeros(len(prompts), 1, 1)

    def schedule(self, steps):
        sigmas = torch.linspace(1, 0, steps + 1)
        return Schedule(sigmas, sigmas[:-1] * 1000)

    def add_noise(self, clean, noise, sigma):
        return (1 - sigma) * clean + sigma * noise

    def velocity(self, latent, timestep, prompt, *, grad):
        self.calls["forward"] += 1
        return latent

    def predict(self, latent, timestep, prompt, negative, guidance_scale):
        return self.velocity(latent, timestep, prompt, grad=False)

    def hidden_states(self, latent, timestep, prompt, block, *, grad):
        return latent[0].flatten(2).permute(1, 2, 0)

    def queries_keys(self, latent, timestep, prompt, block, *, grad):
        tokens = self.hidden_states(latent, timestep, prompt, block, grad=grad).unsqueeze(2)
        return tokens, tokens

    def step(self, latent, velocity, schedule, index):
        return latent + (schedule.sigmas[index + 1] - schedule.sigmas[index]) * velocity


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class AverageConfig(BackboneConfig):
    name: str
    height: int
    width: int
    steps: int
    guidance_scale: float
    negative_prompt: str

    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("steps", "guidance_scale", "negative_prompt")
    num_blocks = 1

    def grid(self, frames):
        return Grid(frames, self.height // 8, self.width // 8)

    def check(self, frames, device):
        if self.height % 8 or self.width % 8:
            raise InputError(f"backbone.height={self.height}: use a multiple of 8")
        return self.grid(frames)

    def identity(self):
        return "sha256:no weights"

    def load(self, device):
        return Average()
''',
    "configs/backbone/average.yaml": """
_target_: backbone_from_outside.average.AverageConfig
name: average
height: 64
width: 64
steps: 3
guidance_scale: 1.0
negative_prompt: ""
""",
}


def test_a_backbone_from_outside_runs_methods_without_a_cost_model(outside):
    (record,) = outside(FILES, "backbone=average", "dataset.clips=1")
    assert (record.status, record.backbone.name) == ("ok", "average")
    assert record.calls == {"forward": 2} and record.metrics["clip_f"].value is not None
    assert record.flops.model_flops is None and "no cost model" in record.flops.reason
