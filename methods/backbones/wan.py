"""Wan video diffusion transformers, published or tiny, through diffusers' components.

The same code loads ``Wan-AI/Wan2.1-T2V-*-Diffusers``, a local folder laid out
like them, and the tiny ``sprites`` pipeline shipped beside this file. Notation:
flow matching, ``x_t = (1 - sigma) x_0 + sigma noise``; tokens are frame-major.
"""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass

from datasets.errors import InputError, nearest
from methods.backbones.adapters import Sites
from methods.backbones.diffusers_backbone import DiffusersBackbone, Pass, ReplaceableAttention
from methods.backbones.diffusers_config import DiffusersConfig, Geometry, Networks
from methods.backbones.interface import Grid, Rotary, Schedule
from methods.backbones.loading import quiet

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(config={"extra": "forbid"}, kw_only=True)
class WanBackbone(DiffusersConfig, kind="wan"):
    """A Wan backbone before loading.

    ``shift`` of the flow-matching schedule. ``attention`` names a diffusers attention backend (null:
    PyTorch's own). ``compile`` fuses what lies between the products of a block, once a process
    (``torch.compile``); ``auto`` does so on a GPU.
    """

    shift: PositiveFloat
    attention: str | None = None
    compile: bool | Literal["auto"] = False

    version: ClassVar[str] = "1"
    sampler: ClassVar[str] = "flow-matching Euler"

    def geometry(self) -> Geometry:
        sizes = self.sizes()
        _, rows, columns = sizes.transformer["patch_size"]
        frames = sizes.vae.get("scale_factor_temporal", 4)
        cell = sizes.vae.get("scale_factor_spatial", 8)
        return Geometry(sizes.transformer["in_channels"], frames, frames, cell, (rows, columns))

    def check(self, frames: int, device: str) -> Grid:
        """The token grid; InputError for sizes, devices, attention backends or weights it cannot use."""
        if self.attention is not None:
            _check_attention(self.attention)
        return super().check(frames, device)

    def compiles(self, device: torch.device) -> bool:
        """Whether blocks are compiled on ``device``.

        ``auto`` spares a processor the wait, and networks that move between devices a new one at each
        move. Kernels need a C compiler, where Triton looks for it
        (triton-lang/triton:python/triton/runtime/build.py).
        """
        if self.compile != "auto":
            return self.compile
        has_compiler = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
        return device.type == "cuda" and not self.cpu_offload and has_compiler

    def _networks(self) -> Networks:
        from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
        from transformers import UMT5Config, UMT5EncoderModel

        return Networks(WanPipeline, WanTransformer3DModel, AutoencoderKLWan, UMT5EncoderModel, UMT5Config)

    def scheduler(self) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        kind: Any = FlowMatchEulerDiscreteScheduler
        return kind(shift=self.shift)

    def _loaded(self, device: str, transformer: Any, vae: Any, pipeline: Any | None) -> Wan:
        return Wan(self, device, transformer, vae, pipeline)

    def _plain(self) -> Self:
        return replace(super()._plain(), attention=None, compile=False)


class Wan(DiffusersBackbone):
    """A loaded Wan.

    Latents are normalised by the VAE's published mean and deviation; embeddings are zero after the
    prompt's end.
    """

    sites = Sites("blocks", self_attention="attn1", cross_attention="attn2", feed_forward="ffn")
    text_width_key = "text_dim"
    config: WanBackbone

    def __init__(
        self, config: WanBackbone, device: str, transformer: Any, vae: Any, pipeline: Any | None
    ) -> None:
        super().__init__(config, device, transformer, vae, pipeline)
        _set_attention(transformer, config.attention or "native")
        if config.compiles(self.device):
            transformer.compile_repeated_blocks()
            self.compiled = True

    def schedule(self, steps: int) -> Schedule:
        """The Euler flow-matching schedule of ``steps`` with the configured shift."""
        scheduler = self.config.scheduler()
        scheduler.set_timesteps(steps)
        return Schedule(scheduler.sigmas, scheduler.timesteps)

    def rotary(self, latent: Tensor, positions: Tensor | None = None) -> Rotary:
        """cos and sin, (F * S, head_dim) float32, where tokens are or at ``positions`` (F * S, 3)."""
        import torch

        rope = self.transformer.rope
        with self._placed(self.transformer):
            if positions is None:
                cos, sin = rope(latent.to(self.device))
                return cos[0, :, 0], sin[0, :, 0]
            # What the tables turn by from one position to the next: at most one radian.
            frequency = torch.atan2(rope.freqs_sin[1], rope.freqs_cos[1]).to(self.device)
        widths = torch.tensor([rope.t_dim, rope.h_dim, rope.w_dim], device=self.device)
        angle = positions.to(self.device).repeat_interleave(widths, dim=1) * frequency
        return angle.cos(), angle.sin()

    def rotated(self, query: Rotary, key: Rotary) -> AbstractContextManager[None]:
        """Inside, every block turns its queries and keys by these tables, (F * S, head_dim) each."""
        (cos_q, sin_q), (cos_k, sin_k) = query, key
        # One table for all heads.
        return super().rotated(
            (cos_q.unsqueeze(1), sin_q.unsqueeze(1)), (cos_k.unsqueeze(1), sin_k.unsqueeze(1))
        )

    def _statistics(self) -> tuple[list[float], list[float]]:
        return self.vae.config.latents_mean, self.vae.config.latents_std

    def _entry(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Pass:
        model = self.transformer
        latent = latent.to(self.device, self.dtype)
        rotary = model.rope(latent)
        hidden = model.patch_embedding(latent).flatten(2).transpose(1, 2).contiguous()
        time, modulation, text, _ = model.condition_embedder(
            self._timesteps(timestep, 1), self._words(prompt), None
        )
        return Pass((hidden,), (text, modulation.unflatten(1, (6, -1)), rotary), rotary, time)

    def _normed(self, block: Any, entering: Pass) -> Tensor:
        (hidden,), (_, modulation, _) = entering.tokens, entering.given
        shift, scale = (block.scale_shift_table + modulation.float()).chunk(6, dim=1)[:2]
        normed: Tensor = block.norm1(hidden.float()) * (1 + scale) + shift
        return normed.type_as(hidden)

    def _exit(self, latent: Tensor, timestep: Tensor, leaving: Pass) -> Tensor:
        model, (hidden,), time = self.transformer, leaving.tokens, leaving.time
        shift, scale = (model.scale_shift_table.to(time.device) + time.unsqueeze(1)).chunk(2, dim=1)
        hidden = (model.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        patches = model.proj_out(hidden).unflatten(2, (*model.config.patch_size, -1))
        # (1, tokens, patch frames, patch rows, patch columns, C) to (1, C, F, h, w)
        cells = patches.unflatten(1, self.grid(latent)).permute(0, 7, 1, 4, 2, 5, 3, 6)
        velocity: Tensor = cells.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return velocity.float()

    def _whole(self, latent: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        velocity: Tensor = self.transformer(
            hidden_states=latent.to(self.device, self.dtype),
            timestep=self._timesteps(timestep, latent.shape[0]),
            encoder_hidden_states=words,
            return_dict=False,
        )[0]
        return velocity.float()

    def _replaceable(self, processor: Any) -> ReplaceableAttention:
        return _SelfAttention(backend=processor._attention_backend)


@plain_dataclass(frozen=True)
class _SelfAttention(ReplaceableAttention):
    """As diffusers' ``WanAttnProcessor`` (models/transformers/transformer_wan.py, 0.42.1)."""

    backend: Any = None

    def __call__(
        self, attention: Any, hidden: Tensor, text: None = None, mask: None = None, rotary: Any = None
    ) -> Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        query = self.queries(attention, hidden, rotary)
        if self.injected is None:
            key, value = self.keys(attention, hidden, rotary), self.values(attention, hidden)
        else:
            key, value = (
                tensor.type_as(query).expand(len(query), -1, -1, -1).contiguous() for tensor in self.injected
            )
        attended = dispatch_attention_fn(query, key, value, backend=self.backend)
        out, dropout = attention.to_out
        joined: Tensor = dropout(out(attended.flatten(2, 3).type_as(query)))
        return joined

    def heads(self, attention: Any, projected: Any, norm: Any, tables: Rotary | None) -> Tensor:
        """Normalised over all heads, then turned in interleaved pairs."""
        import torch

        assert tables is not None
        normed = norm(projected)
        even, odd = normed.unflatten(2, (attention.heads, -1, 2)).unbind(-1)
        # Their last dimension is head_dim; the others broadcast to those of the heads.
        cos, sin = ((table[..., 0::2], table[..., 1::2]) for table in tables)
        turned = even * cos[0] - odd * sin[0], even * sin[1] + odd * cos[1]
        return torch.stack(turned, dim=-1).flatten(-2).type_as(normed)


def _set_attention(transformer: Any, name: str) -> None:
    """Give this transformer an attention backend; the process-wide choice is put back."""
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend(name), quiet():
        transformer.set_attention_backend(name)


def _check_attention(name: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        hint = nearest(name, known, "backbone.attention=")
        raise InputError(f"backbone.attention={name}: diffusers has no such backend; {hint}")
    try:
        with attention_backend(name):
            pass
    except (RuntimeError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"backbone.attention={name}: {reason}; install it or use backbone.attention=null"
        ) from error


__all__ = ["Wan", "WanBackbone"]
