"""The one backbone of tests that need no network: a few matrices, differentiable, deterministic, quick."""

from __future__ import annotations

import zlib
from collections import Counter
from contextlib import contextmanager

import torch

from methods.backbones.interface import Adapted, Backbone, Grid, Schedule, token_positions
from methods.interface import Observer


class FakeBackbone(Backbone):
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
        self.adapters: list[Adapted] = []
        self.calls: Counter[str] = Counter()
        self.tables = None
        self.injections: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.seen: list[tuple[str, float, float]] = []

    def grid(self, latent):
        return Grid(*latent.shape[2:])

    def encode(self, frames):
        """Pixels averaged 4 x 4; the first frame alone, then the mean of four at a time."""
        video = torch.from_numpy(frames).float().permute(3, 0, 1, 2) / 127.5 - 1
        video = torch.nn.functional.avg_pool2d(video, 4)
        return torch.cat([video[:, :1], video[:, 1:].unflatten(1, (-1, 4)).mean(2)], 1)[None]

    def decode(self, latent):
        often = torch.tensor([1, *[4] * (latent.shape[2] - 1)])
        video = latent[0].repeat_interleave(often, dim=1)
        video = video.repeat_interleave(4, 2).repeat_interleave(4, 3)
        return ((video.tanh() + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous().numpy()

    def embed(self, prompts):
        return torch.stack([torch.full((2, 3), (zlib.crc32(p.encode()) % 97) / 97) for p in prompts])

    def schedule(self, steps):
        sigmas = torch.linspace(1, 0.001, steps, dtype=torch.float64)
        sigmas = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)
        return Schedule(torch.cat([sigmas, torch.zeros(1)]).float(), (1000 * sigmas).float())

    def predict(self, latent, timestep, prompt, negative, guidance_scale):
        def velocity(embedding):
            self.calls["forward"] += 1
            return self.whole(latent, timestep, embedding)

        if negative is None or guidance_scale == 1:
            return velocity(prompt)
        unconditional = velocity(negative)
        return unconditional + guidance_scale * (velocity(prompt) - unconditional)

    def velocity(self, latent, timestep, prompt, *, grad):
        self.calls["gradient" if grad else "forward"] += 1
        with torch.set_grad_enabled(grad):
            return self.whole(latent, timestep, prompt)

    def whole(self, latent, timestep, embedding):
        mixed = torch.einsum("bcfhw,cd->bdfhw", self.entering(latent, timestep, self.num_blocks), self.mix)
        return torch.tanh(mixed + embedding.mean()) + latent * float(timestep) / 2000 + self.bias(latent)

    @contextmanager
    def adapted(self, adapter, grid, weights=None):
        """Whatever the adapter, a bias for each channel and frame of the velocity."""
        bias = torch.zeros(self.mix.shape[0], grid.frames, dtype=self.mix.dtype)
        parameters = {"bias": bias.requires_grad_()} if weights is None else dict(weights)
        self.adapters.append(Adapted(parameters))
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
        with torch.set_grad_enabled(grad):
            entering = self.entering(latent, timestep, block)
            query, key = (self.projected(entering, w, timestep, block) for w in (self.to_q, self.to_k))
            if self.tables:
                query, key = (
                    x + self.turned(x, latent, t) for x, t in zip((query, key), self.tables, strict=True)
                )
            return query, key

    def keys_values(self, latent, timestep, prompt, block, *, grad):
        self.calls["gradient" if grad else "partial"] += 1
        self.seen.append(("keys and values", float(timestep), float(prompt.mean())))
        with torch.set_grad_enabled(grad):
            entering = self.entering(latent, timestep, block)
            return tuple(self.projected(entering, w, timestep, block) for w in (self.to_k, self.to_q))

    def hidden_states(self, latent, timestep, prompt, block, *, grad):
        self.calls["gradient" if grad else "partial"] += 1
        self.seen.append(("grad" if grad else "reference", float(timestep), float(prompt.mean())))
        with torch.set_grad_enabled(grad):
            tokens = self.tokens(self.entering(latent, timestep, block + 1))
            return torch.tanh(tokens @ self.to_q * (1 + block) + float(timestep) / 1000)

    def entering(self, latent, timestep, block):
        """The latent, changed by what is injected into earlier blocks and by tables: not by its own."""
        changes = []
        for at, pair in self.injections.items():
            if at < block:
                own = (self.projected(latent, w, timestep, at) for w in (self.to_k, self.to_q))
                changes += [theirs - ours for theirs, ours in zip(pair, own, strict=True)]
        if self.tables and block:
            query = self.projected(latent, self.to_q, timestep, 0)
            changes += [self.turned(query, latent, tables) for tables in self.tables]
        for factor, change in enumerate(changes, start=1):
            cells = factor * change.flatten(2) @ self.to_q.T / self.heads / self.head_dim
            latent = latent + cells.permute(2, 0, 1).reshape(latent.shape)
        return latent

    def tokens(self, latent):
        return latent[0].permute(1, 2, 3, 0).flatten(1, 2)

    def projected(self, latent, weight, timestep, block):
        values = 2 * torch.tanh(self.tokens(latent) @ weight * (1 + block) + float(timestep) / 1000)
        return values.unflatten(-1, (self.heads, self.head_dim))

    def turned(self, x, latent, tables):
        """What tables do to (F, S, heads, head_dim), less what the latent's own would."""
        own = self.rotary(latent)
        cos, sin = (
            (table - usual).unflatten(0, x.shape[:2]).unsqueeze(2).to(x)
            for table, usual in zip(tables, own, strict=True)
        )
        partner = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
        return x * cos + partner * sin

    def rotary(self, latent, positions=None):
        positions = token_positions(self.grid(latent)) if positions is None else positions
        angle = positions.repeat_interleave(2, dim=1) * torch.tensor([1.0, 1.0, 0.5, 0.5, 0.3, 0.3])
        return angle.cos(), angle.sin()

    @contextmanager
    def rotated(self, query, key):
        before, self.tables = self.tables, (query, key)
        yield
        self.tables = before

    @contextmanager
    def injected(self, block, keys, values):
        before, self.injections = self.injections, {**self.injections, block: (keys, values)}
        yield
        self.injections = before


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
