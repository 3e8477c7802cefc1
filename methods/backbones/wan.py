"""Wan video diffusion transformers, published or tiny, through diffusers' components.

The same code loads ``Wan-AI/Wan2.1-T2V-*-Diffusers``, a local folder laid out
like them, and the tiny ``sprites`` pipeline shipped beside this file. Notation:
flow matching, ``x_t = (1 - sigma) x_0 + sigma noise``; tokens are frame-major.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from methods.backbones.adapters import Sites, adapted
from methods.backbones.saved import counting_saved, free_bytes
from methods.interface import Adapted, Adapter, Grid, Rotary, Schedule

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

SHIPPED = Path(__file__).parent / "checkpoints"
WEIGHTED = ("text_encoder", "transformer", "vae")
COMPONENTS = ("tokenizer", *WEIGHTED)
HUB_TIMEOUT = 5.0  # seconds for the one question whether the hub answers

SITES = Sites(blocks="blocks", self_attention="attn1", cross_attention="attn2", feed_forward="ffn")

# With ``checkpoint=auto`` blocks may save this share of the free memory; the backward pass needs the rest.
MEMORY_SHARE = 0.8

# Below this many tokens the two passes of classifier-free guidance run as one
# batch: on a tiny grid the overhead of a pass dominates; on a large one memory does.
JOINT_TOKENS = 2048


@dataclass(config={"extra": "forbid"})
class TableGuidance:
    """Of methods that optimise rotary tables; the learning rates are of their entries."""

    lr_start: float
    lr_end: float
    iterations: PositiveInt
    guided_fraction: Annotated[float, Field(ge=0, le=1)]


@dataclass(config={"extra": "forbid"})
class DiTFlowGuidance(TableGuidance):
    """Of DiTFlow on latents, whose learning rates these are."""

    temperature: PositiveFloat


@dataclass(config={"extra": "forbid"})
class WarpGuidance:
    """Of methods that warp rotary tables: a Gaussian's side and deviation in tokens, and the optimisation."""

    kernel: PositiveInt
    sigma: PositiveFloat
    lr: float
    iterations: PositiveInt
    guided_fraction: Annotated[float, Field(ge=0, le=1)]


@dataclass(config={"extra": "forbid"})
class FeatureGuidance:
    """Of methods that read the output of ``block``; the learning rates are of latents."""

    block: NonNegativeInt
    lr_start: float
    lr_end: float
    iterations: PositiveInt


@dataclass(config={"extra": "forbid"})
class ScoreGuidance:
    """Of methods that add a gradient after the Euler step; ``strength`` is its factor."""

    strength: float
    guided_fraction: Annotated[float, Field(ge=0, le=1)]
    reference_sigma: Annotated[float, Field(ge=0, le=1)]


@dataclass(config={"extra": "forbid"})
class FlowGuidance:
    """Of methods that optimise the latent through the predicted clean one."""

    lr: float
    iterations: PositiveInt


@dataclass(config={"extra": "forbid"})
class Guidance:
    """Defaults for guidance methods on this backbone; methods interpolate them.

    ``window`` is a side in tokens, ``tile`` rows and columns in tokens, ``span``
    a distance in latent frames, ``guided_fraction`` a share of the denoising steps.
    ``ditflow``, ``ditflow_rope`` and ``ropecraft`` are for the methods of these names.
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
    ditflow: DiTFlowGuidance | None = None
    ditflow_rope: TableGuidance | None = None
    ropecraft: WarpGuidance | None = None
    features: FeatureGuidance | None = None
    score: ScoreGuidance | None = None
    flow: FlowGuidance | None = None


@dataclass(config={"extra": "forbid"})
class Tuning:
    """Defaults for the tuning-based methods on this backbone, by method; methods interpolate them."""

    motion_director: dict[str, float]
    motion_inversion: dict[str, float | bool | str]
    det: dict[str, float]


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
    ``negative_prompt``, ``guidance`` and ``tuning`` are read by methods, not by the backbone.
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
        if self.untrained and self.architecture is not None:
            return self.architecture
        folder = self._named_folder() or self.folder()
        if folder is None and self.architecture is not None:
            return self.architecture
        if folder is None:
            raise InputError(
                f"backbone.architecture is null and backbone.model={self.model} is not on this machine: "
                "give the architecture, or a local folder"
            )
        return Architecture(**{part: _read_config(folder, part, self.model) for part in WEIGHTED})

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
            _check_cuda(device)
        if self.attention is not None:
            _check_attention(self.attention)
        if not self.untrained and self.folder() is None:
            self._commit()
        return grid

    def identity(self) -> str:
        """``sha256:...`` of a local folder, ``hub:repo@commit``, or ``random:seed-architecture``.

        Raises InputError when a hub model is neither cached nor reachable.
        """
        if self.untrained:
            sizes = json.dumps([self.sizes().transformer, self.sizes().vae], sort_keys=True)
            return f"random:{self.random_seed}-{hashlib.sha256(sizes.encode()).hexdigest()[:12]}"
        named = self._named_folder()
        if named is not None:
            return f"sha256:{_digest(_stamps(named))}"
        cached = self.folder()
        return f"hub:{self.model}@{cached.name if cached else self._commit()}"

    def folder(self) -> Path | None:
        """Local folder of the complete weights, or None when they must be downloaded.

        Raises InputError when ``model`` names a local folder that is missing or incomplete.
        """
        named = self._named_folder()
        if named is not None:
            missing = _missing(named)
            if missing:
                raise InputError(
                    f"backbone.model={self.model}: {named / missing[0]} is missing; "
                    "give a complete diffusers folder, or use backbone.weights=random"
                )
            return named
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            cached = Path(snapshot_download(self.model, revision=self.revision, local_files_only=True))
        except LocalEntryNotFoundError:
            return None
        except HFValidationError:
            raise InputError(
                f"backbone.model={self.model}: no such folder, and no hub id; give a folder or an owner/name"
            ) from None
        return None if _missing(cached) else cached

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

        folder = self.folder() or self._download()
        dtype = _dtype(self.dtype)

        def part(network: Any, name: str, precision: torch.dtype) -> Any:
            loaded, report = network.from_pretrained(
                folder, subfolder=name, output_loading_info=True, dtype=precision
            )
            # The libraries only warn, and go on with values nobody trained.
            if report["missing_keys"]:
                raise InputError(
                    f"backbone.model={self.model}: {name} lacks {sorted(report['missing_keys'])[0]}; "
                    "give a complete diffusers folder"
                )
            return loaded

        with _quiet():
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
        transformer, vae = _build(self.sizes(), torch.device("meta"), _dtype(self.dtype))
        wan = Wan(plain, "meta", transformer, vae, None)
        if not self.untrained:
            with torch.device("meta"), _quiet():
                wan.text_encoder = UMT5EncoderModel(UMT5Config(**_public(self.sizes().text_encoder)))
        return wan

    def _random(self, device: str) -> Wan:
        import torch

        target = torch.device(device)
        with torch.random.fork_rng([target] if target.type == "cuda" else []):
            torch.manual_seed(self.random_seed)
            transformer, vae = _build(self.sizes(), target, _dtype(self.dtype))
        return Wan(self, device, transformer, vae, None)

    def _named_folder(self) -> Path | None:
        """The folder ``model`` names, shipped or local, or None for a hub id."""
        if "/" not in self.model and (SHIPPED / self.model).is_dir():
            return SHIPPED / self.model
        path = Path(self.model).expanduser()
        if path.is_dir():
            return path
        if self.model.count("/") == 1 and not self.model.startswith((".", "~", "/")):
            return None
        raise InputError(
            f"backbone.model={self.model}: no such folder; give a diffusers folder, a hub id (owner/name), "
            "or use backbone.weights=random with a published architecture"
        )

    def _commit(self) -> str:
        """The commit the hub has for ``revision``; InputError when it cannot be had."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return _hub_commit(self.model, self.revision)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise InputError(
                f"backbone.model={self.model}: the hub has no such model at revision {self.revision}"
            ) from None
        except Exception as error:  # the HTTP client's own exceptions change between versions
            raise InputError(
                f"backbone.model={self.model}: its weights are not on this machine and the hub cannot be "
                f"reached ({type(error).__name__}); connect once, or set backbone.model=FOLDER, "
                "or backbone.weights=random (speed and memory only)"
            ) from error

    def _download(self) -> Path:
        """Fetch the commit that ``identity`` named, even if ``revision`` has moved on since."""
        from huggingface_hub import snapshot_download

        wanted = ["model_index.json", *(f"{part}/*" for part in COMPONENTS)]
        commit = self._commit()
        try:
            folder = Path(snapshot_download(self.model, revision=commit, allow_patterns=wanted))
            # So that the cache knows the branch by its name too, and the next run needs no network.
            snapshot_download(self.model, revision=self.revision, allow_patterns=wanted[:1])
        except Exception as error:
            raise InputError(
                f"backbone.model={self.model}: the download failed ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); run again, finished files are kept"
            ) from error
        return folder


class Wan:
    """A loaded Wan: ``methods.interface.Backbone``.

    Latents are float32 (1, C, F, h, w), normalised by the VAE's published mean
    and deviation. The VAE runs in float32, the text encoder in ``dtype``, the
    transformer in ``dtype`` less the modules diffusers keeps in float32. ``recomputed``
    says whether a backward pass so far has recomputed blocks.
    """

    def __init__(
        self,
        config: WanBackbone,
        device: str,
        transformer: torch.nn.Module,
        vae: torch.nn.Module,
        pipeline: Any | None,
    ) -> None:
        import torch

        self.config = config
        self.device = torch.device(device)
        self.dtype = _dtype(config.dtype)
        self.transformer = transformer
        self.vae = vae
        self.pipeline = pipeline
        self.text_encoder = None if pipeline is None else pipeline.text_encoder
        self.calls: Counter[str] = Counter()
        self.recomputed = False
        self.num_blocks = len(transformer.blocks)
        self.heads = transformer.config.num_attention_heads
        self.head_dim = transformer.config.attention_head_dim
        self.text_width = transformer.config.text_dim
        for module in self._modules():
            module.eval().requires_grad_(False)
            if not config.cpu_offload:
                module.to(self.device)
        if config.vae_tiling:
            vae.enable_tiling()
        _set_attention(transformer, config.attention or "native")
        if config.compile:
            transformer.compile_repeated_blocks()
        std = torch.tensor(vae.config.latents_std, device=self.device)
        self._std = std.view(1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, device=self.device).view(1, -1, 1, 1, 1)

    def grid(self, latent: Tensor) -> Grid:
        patch = self.transformer.config.patch_size
        frames, height, width = (size // p for size, p in zip(latent.shape[2:], patch, strict=True))
        return Grid(frames, height, width)

    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """(T, H, W, 3) uint8 RGB to a normalised latent (1, C, F, h, w), the VAE's mode."""
        import torch

        pixels = torch.from_numpy(frames).to(self.device, torch.float32) / 127.5 - 1
        with torch.no_grad(), self._placed(self.vae):
            mode = self.vae.encode(pixels.permute(3, 0, 1, 2).unsqueeze(0)).latent_dist.mode()
        return (mode - self._mean) / self._std

    def decode(self, latent: Tensor) -> NDArray[np.uint8]:
        """A normalised latent to (T, H, W, 3) uint8 RGB, rounded and clamped."""
        import torch

        raw = latent.to(self.device, torch.float32) * self._std + self._mean
        with torch.no_grad(), self._placed(self.vae):
            pixels = self.vae.decode(raw, return_dict=False)[0][0]
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, max_tokens, width), zero after the prompt's end, as ``WanPipeline.encode_prompt``.

        With random weights: standard normal, seeded by the sha256 of the prompt's text.
        """
        import torch

        tokens = self.config.max_tokens
        if self.pipeline is None:
            return torch.stack([_random_embedding(text, tokens, self.text_width) for text in prompts]).to(
                self.device, self.dtype
            )
        with torch.no_grad(), self._placed(self.text_encoder):
            embedded, _ = self.pipeline.encode_prompt(
                list(prompts),
                do_classifier_free_guidance=False,
                max_sequence_length=tokens,
                device=self.device,
            )
        return embedded

    def schedule(self, steps: int) -> Schedule:
        """The Euler flow-matching schedule of ``steps`` with the configured shift."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler(shift=self.config.shift)
        scheduler.set_timesteps(steps)
        return Schedule(scheduler.sigmas, scheduler.timesteps)

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        return (1 - sigma) * clean + sigma * noise

    def predict(
        self,
        latent: Tensor,
        timestep: Tensor,
        prompt: Tensor,
        negative: Tensor | None,
        guidance_scale: float,
    ) -> Tensor:
        """Velocity, float32: ``uncond + scale (cond - uncond)``, or ``cond`` without guidance."""
        import torch

        if negative is None or guidance_scale == 1:
            return self._velocity(latent, timestep, prompt)
        frames, height, width = self.grid(latent)
        if latent.shape[0] == 1 and frames * height * width <= JOINT_TOKENS:
            texts = torch.cat([_batched(prompt), _batched(negative)])
            both = self._velocity(latent.repeat(2, 1, 1, 1, 1), timestep, texts)
            conditional, unconditional = both.chunk(2)
        else:
            conditional = self._velocity(latent, timestep, prompt)
            unconditional = self._velocity(latent, timestep, negative)
        return unconditional + guidance_scale * (conditional - unconditional)

    def step(self, latent: Tensor, velocity: Tensor, schedule: Schedule, index: int) -> Tensor:
        """One Euler step from ``sigmas[index]`` to ``sigmas[index + 1]``, in float32."""
        size = schedule.sigmas[index + 1] - schedule.sigmas[index]
        return latent.float() + size.to(latent.device) * velocity.float()

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
                encoder_hidden_states=_batched(prompt).to(self.device, self.dtype).expand(batch, -1, -1),
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
            self._timesteps(timestep, 1), _batched(prompt).to(self.device, self.dtype), None
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

    def _too_much(self, needed: int) -> bool:
        """Whether saving this many bytes would leave too little for everything else."""
        free = free_bytes(self.device)
        return free is not None and needed > MEMORY_SHARE * free

    @contextmanager
    def _partial(self, latent: Tensor, grad: bool) -> Iterator[None]:
        """Count a partial forward, place the transformer, and set the gradient mode."""
        import torch

        if latent.shape[0] != 1:
            raise ValueError(f"partial forwards take one latent, not a batch of {latent.shape[0]}")
        self.calls["gradient" if grad else "partial"] += 1
        with torch.set_grad_enabled(grad), self._placed(self.transformer):
            yield

    def _timesteps(self, timestep: Tensor, batch: int) -> Tensor:
        import torch

        return timestep.to(self.device, torch.float32).reshape(-1).expand(batch)

    def _modules(self) -> list[torch.nn.Module]:
        return [m for m in (self.text_encoder, self.transformer, self.vae) if m is not None]

    @contextmanager
    def _placed(self, wanted: torch.nn.Module) -> Iterator[None]:
        """With ``cpu_offload`` only the network in use is on the device, until another is wanted."""
        if self.config.cpu_offload:
            for module in self._modules():
                if module is not wanted:
                    module.to("cpu")
            wanted.to(self.device)
        yield


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


def _batched(embedding: Tensor) -> Tensor:
    return embedding if embedding.ndim == 3 else embedding.unsqueeze(0)


def _random_embedding(text: str, tokens: int, width: int) -> Tensor:
    import torch

    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def _dtype(name: str) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def _public(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _build(sizes: Architecture, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Transformer and VAE with fresh weights, made on ``device`` in their final precision."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    with torch.device(device):
        with _default_dtype(dtype):
            transformer = WanTransformer3DModel(**_public(sizes.transformer))
        vae = AutoencoderKLWan(**_public(sizes.vae))
    kept = set(transformer._keep_in_fp32_modules)
    for name, parameter in transformer.named_parameters():
        if kept.intersection(name.split(".")):
            parameter.data = parameter.data.float()
    return transformer, vae


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or notices of diffusers and transformers while loading."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggers = (diffusers_logging, transformers_logging)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in loggers]
    for log in loggers:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bars) in zip(loggers, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


def _set_attention(transformer: Any, name: str) -> None:
    """Give this transformer an attention backend; the process-wide choice is put back."""
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend(name), _quiet():
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


def _check_cuda(device: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"device={device}: PyTorch finds no CUDA device; use device=cpu")
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        raise InputError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0")


def _read_config(folder: Path, part: str, model: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / part / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"backbone.model={model}: {folder / part / 'config.json'} cannot be read "
            f"({type(error).__name__}); give a complete diffusers folder"
        ) from error
    return config


def _missing(folder: Path) -> list[str]:
    """Files a Wan folder needs and lacks, relative to it: configurations, tokenizer, every weight shard."""
    missing = [f"{part}/config.json" for part in WEIGHTED if not (folder / part / "config.json").is_file()]
    if not (folder / "tokenizer" / "tokenizer_config.json").is_file():
        missing.append("tokenizer/tokenizer_config.json")
    for part in WEIGHTED:
        indices = sorted((folder / part).glob("*.safetensors.index.json"))
        shards = {shard for path in indices for shard in json.loads(path.read_text())["weight_map"].values()}
        missing += [f"{part}/{shard}" for shard in sorted(shards) if not (folder / part / shard).is_file()]
        if not shards and not any((folder / part).glob("*.safetensors")):
            missing.append(f"{part}/*.safetensors")
    return missing


def _stamps(folder: Path) -> tuple[tuple[str, str, int, int], ...]:
    """(path, relative name, size, modification time) of the files that determine the networks."""
    files = sorted(path for part in COMPONENTS for path in (folder / part).rglob("*") if path.is_file())
    return tuple(
        (str(path), path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
    )


@lru_cache(maxsize=8)
def _hub_commit(model: str, revision: str) -> str:
    """The hub's commit of a branch, asked once a process: what is planned is what is fetched."""
    from huggingface_hub import HfApi

    return str(HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT).sha)


@lru_cache(maxsize=8)
def _digest(stamps: tuple[tuple[str, str, int, int], ...]) -> str:
    """sha256 over names and contents; remembered while sizes and times stay, for weights are large."""
    digest = hashlib.sha256()
    for path, name, size, _ in stamps:
        digest.update(f"{name}\0{size}\0".encode())
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


__all__ = ["Architecture", "Guidance", "Tuning", "Wan", "WanBackbone"]
