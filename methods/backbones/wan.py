"""Wan video diffusion transformers, published or tiny, through diffusers' components.

The same code loads ``Wan-AI/Wan2.1-T2V-*-Diffusers``, a local folder laid out
like them, and the tiny ``sprites`` pipeline shipped beside this file. Notation:
flow matching, ``x_t = (1 - sigma) x_0 + sigma noise``; tokens are frame-major.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from methods.backbones.pipeline import (
    LoadedPipeline,
    batched,
    build_networks,
    check_cuda,
    dtype_named,
    load_network,
    public,
    quiet,
)
from methods.backbones.saved import counting_saved
from methods.backbones.weights import SHIPPED, WEIGHTED, Weights
from methods.interface import Grid, Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(config={"extra": "forbid"})
class Guidance:
    """Defaults for guidance methods on this backbone; methods interpolate them.

    ``window`` is a side in tokens, ``tile`` rows and columns in tokens, ``span``
    a distance in latent frames, ``guided_fraction`` a share of the denoising steps.
    """

    block: NonNegativeInt
    temperature: PositiveFloat
    lr_start: float
    lr_end: float
    iterations: PositiveInt
    guided_fraction: Annotated[float, Field(ge=0, le=1)]
    window: PositiveInt
    tile: tuple[PositiveInt, PositiveInt]
    span: PositiveInt
    amf_weight: float
    window_weight: float
    reduction: Literal["head_mean", "concat"] = "head_mean"


@dataclass(config={"extra": "forbid"})
class Architecture:
    """diffusers' and transformers' ``config.json`` values of the three networks."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]


@dataclass(config={"extra": "forbid"})
class WanBackbone:
    """A Wan backbone before loading.

    ``model``: a name shipped in ``checkpoints/``, a local diffusers folder, or a
    hub id at ``revision``. ``weights: random`` builds ``architecture`` without a
    download, seeded by ``random_seed``; there is then no text encoder, and
    ``embed`` returns random embeddings keyed by the prompt's text. ``attention``
    names a diffusers attention backend (null: PyTorch's own). ``checkpoint``
    recomputes blocks in the backward pass of ``queries_keys`` and ``hidden_states``,
    for memory; ``auto`` only where what they would save does not fit. ``steps``, ``guidance_scale``,
    ``negative_prompt`` and ``guidance`` are read by methods, not by the backbone.
    """

    name: str
    model: str
    height: PositiveInt
    width: PositiveInt
    steps: PositiveInt
    shift: PositiveFloat
    guidance_scale: float
    negative_prompt: str
    max_tokens: PositiveInt
    guidance: Guidance
    revision: str = "main"
    weights: Literal["pretrained", "random"] = "pretrained"
    random_seed: int = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: str | None = None
    compile: bool = False
    checkpoint: bool | Literal["auto"] = False
    vae_tiling: bool = False
    cpu_offload: bool = False
    own_world_only: bool = False
    architecture: Architecture | None = None

    version: ClassVar[str] = "1"
    # What methods interpolate is in their configuration; what says where the
    # weights come from is in their identity; the rest does not change the output.
    outside_id: ClassVar[Sequence[str]] = (
        "model",
        "revision",
        "random_seed",
        "architecture",
        "steps",
        "guidance_scale",
        "negative_prompt",
        "guidance",
        "checkpoint",
        "cpu_offload",
        "own_world_only",
    )

    @property
    def untrained(self) -> bool:
        return self.weights == "random"

    @property
    def num_blocks(self) -> int:
        return int(self.sizes().transformer["num_layers"])

    def sizes(self) -> Architecture:
        """Configurations of the networks: those of the weights on this machine, else ``architecture``."""
        if self.untrained and self.architecture is not None:
            return self.architecture
        weights = self._weights()
        folder = weights.named() or weights.folder()
        if folder is None and self.architecture is not None:
            return self.architecture
        if folder is None:
            raise InputError(
                f"backbone.architecture is null and backbone.model={self.model} is not on this machine: "
                "give the architecture, or a local folder"
            )
        return Architecture(**{part: weights.config(folder, part) for part in WEIGHTED})

    def grid(self, frames: int) -> Grid:
        """The token grid of a clip of ``frames``; InputError names the key and the nearest valid values."""
        sizes = self.sizes()
        _, patch_height, patch_width = sizes.transformer["patch_size"]
        per_latent = sizes.vae.get("scale_factor_temporal", 4)
        spatial = sizes.vae.get("scale_factor_spatial", 8)
        if frames < 1 or (frames - 1) % per_latent:
            low = max(frames - 1, 0) // per_latent * per_latent + 1
            raise InputError(
                f"frames={frames}: backbone {self.name} takes {per_latent}k+1 frames; "
                f"use {low} or {low + per_latent}"
            )
        for key, size, patch in (("height", self.height, patch_height), ("width", self.width, patch_width)):
            unit = spatial * patch
            if size % unit:
                low = size // unit * unit
                nearest = f"{low} or {low + unit}" if low else str(unit)
                raise InputError(f"backbone.{key}={size} is no multiple of {unit}; use {nearest}")
        return Grid(
            (frames - 1) // per_latent + 1,
            self.height // (spatial * patch_height),
            self.width // (spatial * patch_width),
        )

    def latent_shape(self, frames: int) -> tuple[int, int, int, int, int]:
        """Shape (1, C, F, h, w) of the latent of a clip."""
        sizes = self.sizes()
        grid = self.grid(frames)
        patch = sizes.transformer["patch_size"]
        channels = sizes.transformer["in_channels"]
        return (1, channels, grid.frames, grid.height * patch[1], grid.width * patch[2])

    def check(self, frames: int, device: str) -> Grid:
        """The token grid; InputError for sizes, devices, attention backends or weights it cannot use."""
        grid = self.grid(frames)
        if device.startswith("cuda"):
            check_cuda(device)
        if self.attention is not None:
            _check_attention(self.attention)
        if not self.untrained and self.folder() is None:
            self._weights().commit()
        return grid

    def identity(self) -> str:
        """``sha256:...`` of a local folder, ``hub:repo@commit``, or ``random:seed-architecture``.

        Raises InputError when a hub model is neither cached nor reachable.
        """
        if self.untrained:
            sizes = json.dumps([self.sizes().transformer, self.sizes().vae], sort_keys=True)
            return f"random:{self.random_seed}-{hashlib.sha256(sizes.encode()).hexdigest()[:12]}"
        return self._weights().identity()

    def folder(self) -> Path | None:
        """Local folder of the complete weights, or None when they must be downloaded.

        Raises InputError when ``model`` names a local folder that is missing or incomplete.
        """
        return self._weights().folder()

    def load(self, device: str) -> Wan:
        """Load the networks onto ``device``, in evaluation mode, with frozen weights.

        Raises InputError when a network lacks a tensor or the download fails.
        """
        if self.untrained:
            return self._random(device)
        import torch
        from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
        from diffusers import WanTransformer3DModel as Transformer
        from transformers import AutoTokenizer, UMT5EncoderModel

        folder = self.folder() or self._weights().fetch()
        dtype = dtype_named(self.dtype)

        def part(network: Any, name: str, precision: torch.dtype) -> Any:
            return load_network(network, folder, name, self.model, precision)

        with quiet():
            pipeline = WanPipeline(
                tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
                text_encoder=part(UMT5EncoderModel, "text_encoder", dtype),
                vae=part(AutoencoderKLWan, "vae", torch.float32),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=self.shift),
                transformer=part(Transformer, "transformer", dtype),
            )
        return Wan(self, device, pipeline.transformer, pipeline.vae, pipeline)

    def meta(self) -> Wan:
        """The networks on the meta device: shapes without weights, for counting FLOPs."""
        import torch
        from transformers import UMT5Config, UMT5EncoderModel

        # Kernels, compilation and offloading need real tensors.
        always = self.checkpoint is True
        plain = replace(self, attention=None, compile=False, cpu_offload=False, checkpoint=always)
        transformer, vae = _build(self.sizes(), torch.device("meta"), dtype_named(self.dtype))
        wan = Wan(plain, "meta", transformer, vae, None)
        if not self.untrained:
            with torch.device("meta"), quiet():
                wan.text_encoder = UMT5EncoderModel(UMT5Config(**public(self.sizes().text_encoder)))
        return wan

    def _random(self, device: str) -> Wan:
        import torch

        target = torch.device(device)
        with torch.random.fork_rng([target] if target.type == "cuda" else []):
            torch.manual_seed(self.random_seed)
            transformer, vae = _build(self.sizes(), target, dtype_named(self.dtype))
        return Wan(self, device, transformer, vae, None)

    def _weights(self) -> Weights:
        return Weights(self.model, self.revision)


class Wan(LoadedPipeline):
    """A loaded Wan: ``methods.interface.Backbone``.

    Latents are normalised by the VAE's published mean and deviation; embeddings are zero after the
    prompt's end.
    """

    def __init__(
        self,
        config: WanBackbone,
        device: str,
        transformer: Any,
        vae: Any,
        pipeline: Any | None,
    ) -> None:
        super().__init__(
            config,
            device,
            transformer,
            vae,
            pipeline,
            blocks=len(transformer.blocks),
            text_width=transformer.config.text_dim,
            mean=vae.config.latents_mean,
            std=vae.config.latents_std,
        )
        _set_attention(transformer, config.attention or "native")
        if config.compile:
            transformer.compile_repeated_blocks()

    def grid(self, latent: Tensor) -> Grid:
        patch = self.transformer.config.patch_size
        frames, height, width = (size // p for size, p in zip(latent.shape[2:], patch, strict=True))
        return Grid(frames, height, width)

    def schedule(self, steps: int) -> Schedule:
        """The Euler flow-matching schedule of ``steps`` with the configured shift."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler(shift=self.config.shift)
        scheduler.set_timesteps(steps)
        return Schedule(scheduler.sigmas, scheduler.timesteps)

    def queries_keys(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys of ``block``'s self-attention after RoPE, each (F, S, heads, head_dim).

        Of ``block`` itself only the norm, its modulation and the two projections run.
        """
        layer = self.transformer.blocks[block]
        grid = self.grid(latent)
        with self._partial(latent, grad):
            hidden, _, modulation, rotary, _ = self._until(latent, timestep, prompt, block, grad)
            shift, scale = (layer.scale_shift_table + modulation.float()).chunk(6, dim=1)[:2]
            normed = (layer.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
            attention = layer.attn1
            projected = (
                attention.norm_q(attention.to_q(normed)),
                attention.norm_k(attention.to_k(normed)),
            )
            query, key = (
                _rotate(x.unflatten(2, (self.heads, -1)), *rotary)[0].unflatten(0, (grid.frames, -1))
                for x in projected
            )
        return query, key

    def hidden_states(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> Tensor:
        """Output of ``block``, (F, S, width)."""
        with self._partial(latent, grad):
            hidden = self._until(latent, timestep, prompt, block + 1, grad)[0]
            return hidden[0].unflatten(0, (self.grid(latent).frames, -1))

    def velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool) -> Tensor:
        """Velocity of one prompt, float32, without classifier-free guidance.

        With ``grad`` differentiable: with respect to ``latent``, and to whatever inside a context
        manager of this backbone takes part in the pass.
        """
        if not grad:
            return self._velocity(latent, timestep, prompt)
        model = self.transformer
        grid = self.grid(latent)
        with self._partial(latent, grad):
            hidden, _, _, _, time = self._until(latent, timestep, prompt, self.num_blocks, grad)
            shift, scale = (model.scale_shift_table.to(time.device) + time.unsqueeze(1)).chunk(2, dim=1)
            hidden = (model.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
            patches = model.proj_out(hidden).unflatten(2, (*model.config.patch_size, -1))
            # (1, tokens, patch frames, patch rows, patch columns, C) to (1, C, F, h, w)
            cells = patches.unflatten(1, grid).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return cells.flatten(6, 7).flatten(4, 5).flatten(2, 3).float()

    def _velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        import torch

        batch = latent.shape[0]
        self.calls["forward"] += batch
        with torch.no_grad(), self._placed(self.transformer):
            velocity = self.transformer(
                hidden_states=latent.to(self.device, self.dtype),
                timestep=self._timesteps(timestep, batch),
                encoder_hidden_states=batched(prompt).to(self.device, self.dtype).expand(batch, -1, -1),
                return_dict=False,
            )[0]
        return velocity.float()

    def _until(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, stop: int, grad: bool
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        """Tokens entering block ``stop``, the text, the timestep's modulation, the rotary pair, the timestep.

        The same sequence as diffusers' ``models/transformers/transformer_wan.py``
        (0.42.1), ended early; a test compares the two.
        """
        from torch.utils.checkpoint import checkpoint

        model = self.transformer
        latent = latent.to(self.device, self.dtype)
        rotary = model.rope(latent)
        hidden = model.patch_embedding(latent).flatten(2).transpose(1, 2).contiguous()
        time, modulation, text, _ = model.condition_embedder(
            self._timesteps(timestep, 1), batched(prompt).to(self.device, self.dtype), None
        )
        modulation = modulation.unflatten(1, (6, -1))
        recompute = grad and self.config.checkpoint is True
        for index, block in enumerate(model.blocks[:stop]):
            if index == 0 and grad and self.config.checkpoint == "auto":
                with counting_saved(model) as saved:
                    hidden = block(hidden, text, modulation, rotary)
                    recompute = self._too_much(saved.bytes * (stop - 1))
            elif recompute:
                hidden = checkpoint(block, hidden, text, modulation, rotary, use_reentrant=False)
            else:
                hidden = block(hidden, text, modulation, rotary)
        self.recomputed |= recompute
        return hidden, text, modulation, rotary, time


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of interleaved pairs. ``x`` (B, tokens, heads, head_dim)."""
    import torch

    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


def _build(sizes: Architecture, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Transformer and VAE with fresh weights, made on ``device`` in their final precision."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    return build_networks(WanTransformer3DModel, AutoencoderKLWan, sizes, device, dtype)


def _set_attention(transformer: Any, name: str) -> None:
    """Give this transformer an attention backend; the process-wide choice is put back."""
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend(name), quiet():
        transformer.set_attention_backend(name)


def _check_attention(name: str) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        nearest = get_close_matches(name, known, n=1) or ["native"]
        raise InputError(f"backbone.attention={name}: diffusers has no such backend; nearest: {nearest[0]}")
    try:
        with attention_backend(name):
            pass
    except (RuntimeError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"backbone.attention={name}: {reason}; install it or use backbone.attention=null"
        ) from error


__all__ = ["SHIPPED", "Architecture", "Guidance", "Wan", "WanBackbone"]
