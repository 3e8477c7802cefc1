"""Wan video diffusion transformers, published or tiny, through diffusers' components.

The same code loads ``Wan-AI/Wan2.1-T2V-*-Diffusers``, a local folder laid out
like them, and the tiny ``sprites`` pipeline shipped beside this file. Notation:
flow matching, ``x_t = (1 - sigma) x_0 + sigma noise``; tokens are frame-major.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from methods.backbones.adapters import Sites, adapted
from methods.backbones.defaults import Guidance, Tuning
from methods.backbones.diffusers_backbone import (
    LoadedPipeline,
    batched,
    build_networks,
    check_cuda,
    check_sizes,
    dtype_named,
    load_network,
    public,
    quiet,
)
from methods.backbones.interface import Adapted, Adapter, BackboneConfig, Grid, Rotary, Schedule
from methods.backbones.memory import counting_saved
from methods.backbones.weights import WEIGHTED, Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SITES = Sites(blocks="blocks", self_attention="attn1", cross_attention="attn2", feed_forward="ffn")


@dataclass(config={"extra": "forbid"})
class Architecture:
    """diffusers' and transformers' ``config.json`` values of the three networks."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]


@dataclass(config={"extra": "forbid"})
class WanBackbone(BackboneConfig, kind="wan"):
    """A Wan backbone before loading.

    ``model``: a name shipped in ``checkpoints/``, a local diffusers folder, or a
    hub id at ``revision``. ``weights: random`` builds ``architecture`` without a
    download, seeded by ``random_seed``; there is then no text encoder, and
    ``embed`` returns random embeddings keyed by the prompt's text. ``attention``
    names a diffusers attention backend (null: PyTorch's own). ``checkpoint``
    recomputes blocks in the backward pass of ``queries_keys`` and ``hidden_states``,
    for memory; ``auto`` only where what they would save does not fit. ``compile`` fuses what lies between
    the products of a block, once a process (``torch.compile``); ``auto`` does so on a GPU. ``steps``,
    ``guidance_scale``, ``negative_prompt``, ``guidance`` and ``tuning`` are read by methods, not by the
    backbone.
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
    compile: bool | Literal["auto"] = False
    checkpoint: bool | Literal["auto"] = False
    vae_tiling: bool = False
    cpu_offload: bool = False
    own_world_only: bool = False
    tuning: Tuning | None = None
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
        "tuning",
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
        weights = self._weights()
        folder = weights.described(self.architecture, self.untrained)
        if folder is None:
            return cast("Architecture", self.architecture)
        return Architecture(**{part: weights.config(folder, part) for part in WEIGHTED})

    def grid(self, frames: int) -> Grid:
        """The token grid of a clip of ``frames``; InputError names the key and the nearest valid values."""
        sizes = self.sizes()
        _, patch_height, patch_width = sizes.transformer["patch_size"]
        per_latent = sizes.vae.get("scale_factor_temporal", 4)
        spatial = sizes.vae.get("scale_factor_spatial", 8)
        sides = {
            "height": (self.height, spatial * patch_height),
            "width": (self.width, spatial * patch_width),
        }
        check_sizes(self.name, frames, per_latent, sides)
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
    """A loaded Wan: ``methods.backbones.interface.Backbone``.

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
        if _compiles(config, self.device):
            transformer.compile_repeated_blocks()
            self.compiled = True

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
        frames = self.grid(latent).frames
        with self._partial(latent, grad):
            attention, normed, query_tables, key_tables = self._entering(
                latent, timestep, prompt, block, grad
            )
            query = _turned(attention.norm_q(attention.to_q(normed)), self.heads, query_tables)
            key = _turned(attention.norm_k(attention.to_k(normed)), self.heads, key_tables)
        return query[0].unflatten(0, (frames, -1)), key[0].unflatten(0, (frames, -1))

    def keys_values(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Keys, after RoPE, and values of ``block``'s self-attention, each (F, S, heads, head_dim)."""
        frames = self.grid(latent).frames
        with self._partial(latent, grad):
            attention, normed, _, key_tables = self._entering(latent, timestep, prompt, block, grad)
            key = _turned(attention.norm_k(attention.to_k(normed)), self.heads, key_tables)
            value = attention.to_v(normed).unflatten(2, (self.heads, -1))
        return key[0].unflatten(0, (frames, -1)), value[0].unflatten(0, (frames, -1))

    def injected(self, block: int, keys: Tensor, values: Tensor) -> AbstractContextManager[None]:
        """Inside, the keys and values (F, S, heads, head_dim) of ``block``'s self-attention are these."""
        both = tuple(tensor.to(self.device).flatten(0, 1) for tensor in (keys, values))
        return self._attending([block], injected=both)

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
        tables = [tuple(table.to(self.device).unsqueeze(1) for table in pair) for pair in (query, key)]
        return self._attending(range(self.num_blocks), query=tables[0], key=tables[1])

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

    def adapted(
        self, adapter: Adapter, grid: Grid, weights: Mapping[str, Tensor] | None = None
    ) -> AbstractContextManager[Adapted]:
        """Inside, every pass of the transformer goes through ``adapter``; blocks then run uncompiled."""
        return adapted(self.transformer, SITES, adapter, grid, self.device, weights)

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

    def _entering(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, grad: bool
    ) -> tuple[Any, Tensor, Rotary, Rotary]:
        """``block``'s self-attention, the tokens it is given, and the tables of queries and of keys."""
        layer = self.transformer.blocks[block]
        hidden, _, modulation, rotary, _ = self._until(latent, timestep, prompt, block, grad)
        shift, scale = (layer.scale_shift_table + modulation.float()).chunk(6, dim=1)[:2]
        normed = (layer.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        processor = layer.attn1.processor
        if isinstance(processor, _SelfAttention):
            return layer.attn1, normed, processor.query or rotary, processor.key or rotary
        return layer.attn1, normed, rotary, rotary

    @contextmanager
    def _attending(self, blocks: Iterable[int], **changes: Any) -> Iterator[None]:
        """Inside, these blocks' self-attention is ``_SelfAttention``, with these fields changed."""
        modules = [self.transformer.blocks[block].attn1 for block in blocks]
        before = [module.processor for module in modules]
        try:
            for module, old in zip(modules, before, strict=True):
                ours = old if isinstance(old, _SelfAttention) else _SelfAttention(old._attention_backend)
                module.set_processor(replace(ours, **changes))
            yield
        finally:
            for module, old in zip(modules, before, strict=True):
                module.set_processor(old)


@plain_dataclass(frozen=True)
class _SelfAttention:
    """Self-attention of Wan with rotary tables, or keys and values, other than its own.

    An attention processor as diffusers' ``WanAttnProcessor`` (models/transformers/transformer_wan.py,
    0.42.1), which it equals while the fields are None; a test compares the two. ``query`` and ``key``:
    cos and sin, (tokens, 1, head_dim) each; ``injected``: keys and values, (tokens, heads, head_dim) each.
    """

    backend: Any
    query: Rotary | None = None
    key: Rotary | None = None
    injected: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, attention: Any, hidden: Tensor, text: None = None, mask: None = None, rotary: Any = None
    ) -> Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        heads = attention.heads
        query = _turned(attention.norm_q(attention.to_q(hidden)), heads, self.query or rotary)
        if self.injected is None:
            key = _turned(attention.norm_k(attention.to_k(hidden)), heads, self.key or rotary)
            value = attention.to_v(hidden).unflatten(2, (heads, -1))
        else:
            key, value = (
                tensor.type_as(query).expand(len(query), -1, -1, -1).contiguous() for tensor in self.injected
            )
        attended = dispatch_attention_fn(query, key, value, backend=self.backend)
        out, dropout = attention.to_out
        return dropout(out(attended.flatten(2, 3).type_as(query)))


def _turned(projected: Tensor, heads: int, tables: Rotary) -> Tensor:
    """Heads of (B, tokens, width), turned in interleaved pairs: (B, tokens, heads, head_dim).

    ``tables``: cos and sin, whose last dimension is head_dim and whose others broadcast to the heads'.
    """
    import torch

    even, odd = projected.unflatten(2, (heads, -1, 2)).unbind(-1)
    cos, sin = (table.unflatten(-1, (-1, 2)).unbind(-1) for table in tables)
    turned = even * cos[0] - odd * sin[0], even * sin[1] + odd * cos[1]
    return torch.stack(turned, dim=-1).flatten(-2).type_as(projected)


def _build(sizes: Architecture, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Transformer and VAE with fresh weights, made on ``device`` in their final precision."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    return build_networks(WanTransformer3DModel, AutoencoderKLWan, sizes, device, dtype)


def _compiles(config: WanBackbone, device: torch.device) -> bool:
    """``auto`` spares a processor the wait, and networks that move between devices a new one at each move.

    Kernels need a C compiler, where Triton looks for it (triton-lang/triton:python/triton/runtime/build.py).
    """
    if config.compile != "auto":
        return config.compile
    has_compiler = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
    return device.type == "cuda" and not config.cpu_offload and has_compiler


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


__all__ = ["Architecture", "Wan", "WanBackbone"]
