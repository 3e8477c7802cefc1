"""A backbone of a few matrices: differentiable, deterministic, and quick."""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import torch

from methods.interface import Grid, Observer, Schedule


class FakeBackbone:
    """Tokens are single latent cells; queries and keys a tanh of their projections."""

    num_blocks = 4
    heads = 2
    head_dim = 6

    def __init__(self, channels: int = 3, dtype: torch.dtype = torch.float32, shift: float = 3.0) -> None:
        generator = torch.Generator().manual_seed(7)
        self.to_q, self.to_k = (
            torch.randn(channels, self.heads * self.head_dim, generator=generator, dtype=torch.float64).to(
                dtype
            )
            for _ in range(2)
        )
        self.mix = torch.randn(channels, channels, generator=generator, dtype=torch.float64).to(dtype) / 3
        self.shift = shift
        self.adapters: list[SimpleNamespace] = []
        self.calls: Counter[str] = Counter()
        self.seen: list[tuple[str, float, float]] = []

    def grid(self, latent):
        return Grid(*latent.shape[2:])

    def encode(self, frames):
        raise NotImplementedError

    def decode(self, latent):
        return np.zeros((1, 8, 8, 3), np.uint8)

    def embed(self, prompts):
        return torch.stack([torch.full((2, 3), (zlib.crc32(p.encode()) % 97) / 97) for p in prompts])

    def schedule(self, steps):
        sigmas = torch.linspace(1, 0.001, steps, dtype=torch.float64)
        sigmas = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)
        return Schedule(torch.cat([sigmas, torch.zeros(1)]).float(), (1000 * sigmas).float())

    def add_noise(self, clean, noise, sigma):
        return (1 - sigma) * clean + sigma * noise

    def predict(self, latent, timestep, prompt, negative, guidance_scale):
        def velocity(embedding):
            self.calls["forward"] += 1
            mixed = torch.einsum("bcfhw,cd->bdfhw", latent, self.mix)
            return torch.tanh(mixed + embedding.mean()) + latent * float(timestep) / 2000 + self.bias(latent)

        if negative is None or guidance_scale == 1:
            return velocity(prompt)
        unconditional = velocity(negative)
        return unconditional + guidance_scale * (velocity(prompt) - unconditional)

    def velocity(self, latent, timestep, prompt, *, grad):
        self.calls["gradient" if grad else "forward"] += 1
        with torch.set_grad_enabled(grad):
            mixed = torch.einsum("bcfhw,cd->bdfhw", latent, self.mix)
            return torch.tanh(mixed + prompt.mean()) + latent * float(timestep) / 2000 + self.bias(latent)

    @contextlib.contextmanager
    def adapted(self, adapter, grid, weights=None):
        """Whatever the adapter, a bias for each channel and frame of the velocity."""
        bias = torch.zeros(self.mix.shape[0], grid.frames, dtype=self.mix.dtype)
        parameters = {"bias": bias.requires_grad_()} if weights is None else dict(weights)
        self.adapters.append(SimpleNamespace(parameters=parameters, scale=1.0))
        try:
            yield self.adapters[-1]
        finally:
            self.adapters.pop()

    def bias(self, latent):
        found = sum(one.scale * one.parameters["bias"] for one in self.adapters)
        return found[None, :, : latent.shape[2], None, None] if self.adapters else 0

    def step(self, latent, velocity, schedule, index):
        return latent + (schedule.sigmas[index + 1] - schedule.sigmas[index]) * velocity

    def queries_keys(self, latent, timestep, prompt, block, *, grad):
        self.calls["gradient" if grad else "partial"] += 1
        self.seen.append(("grad" if grad else "reference", float(timestep), float(prompt.mean())))
        tokens = latent[0].permute(1, 2, 3, 0).flatten(1, 2)
        with torch.set_grad_enabled(grad):
            return tuple(
                (2 * torch.tanh(tokens @ weight * (1 + block) + float(timestep) / 1000)).unflatten(
                    -1, (self.heads, self.head_dim)
                )
                for weight in (self.to_q, self.to_k)
            )

    def hidden_states(self, latent, timestep, prompt, block, *, grad):
        self.calls["gradient" if grad else "partial"] += 1
        self.seen.append(("grad" if grad else "reference", float(timestep), float(prompt.mean())))
        tokens = latent[0].permute(1, 2, 3, 0).flatten(1, 2)
        with torch.set_grad_enabled(grad):
            return torch.tanh(tokens @ self.to_q * (1 + block) + float(timestep) / 1000)


class Recorder(Observer):
    """Keeps what a method tells: stages in order, steps, trace rows. Fails on nested stages."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.rows: list[dict[str, object]] = []
        self.open = False

    def stage(self, name):
        self.stages.append(name)
        return self

    def __enter__(self):
        assert not self.open, "stages do not nest"
        self.open = True

    def __exit__(self, *error):
        self.open = False

    def step(self, index, total):
        self.steps.append((index, total))

    def trace(self, **values):
        self.rows.append(values)
