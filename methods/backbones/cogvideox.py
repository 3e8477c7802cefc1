"""CogVideoX text-to-video transformers (2B and 5B), published or tiny, through diffusers' components.

CogVideoX (Yang et al., arXiv 2408.06072; diffusers' ``models/transformers/cogvideox_transformer_3d.py``)
attends over text and video tokens together: text first, then video, frame-major. What methods read
are the video tokens. The 2B adds absolute position embeddings, the 5B turns queries and keys (RoPE).

Change of variables. The network is variance-preserving and predicts v; methods speak of flow
matching. With ``a = sqrt(alpha_bar_t)``, ``s = sqrt(1 - alpha_bar_t)`` of its schedule:

    theirs    z = a x_0 + s noise        v = a noise - s x_0
    ours      x = (1 - sigma) x_0 + sigma noise        u = noise - x_0
    sigma = s / (a + s)        z = (a + s) x        u = (a + s) v + (s - a) z

Both name the same pair (x_0, noise), so an Euler step of x is a DDIM step of z (eta 0), to rounding;
at sigma 1 (zero terminal SNR) and 0 the latents are equal, in between z is longer by at most sqrt(2).
Timesteps stay CogVideoX's, 0 to 999. Timestep 0 stands for the clean latent (sigma 0) where methods
read a reference, though the network's own index 0 still has some noise; between whole timesteps, which
CogVideoX was not trained on, sigma is interpolated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import PositiveInt
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
from methods.backbones.interface import (
    Adapted,
    Adapter,
    BackboneConfig,
    Grid,
    Rotary,
    Schedule,
    token_positions,
)
from methods.backbones.memory import counting_saved
from methods.backbones.weights import COMPONENTS, WEIGHTED, Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SITES = Sites(blocks="transformer_blocks", self_attention="attn1", cross_attention=None, feed_forward="ff")
TIMESTEPS = 1000
THETA = 10000  # of the rotary embedding: diffusers' default, which CogVideoX uses


@dataclass(config={"extra": "forbid"})
class CogVideoXArchitecture:
    """diffusers' and transformers' configurations of the three networks and the noise schedule."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]


@dataclass(config={"extra": "forbid"})
class CogVideoXBackbone(BackboneConfig, kind="cogvideox"):
    """A CogVideoX backbone before loading.

    The keys mean what they mean for ``methods.backbones.wan.WanBackbone``; the schedule comes with the
    weights. ``max_tokens`` is the length of every prompt's embedding, 226 as published.
    """

    name: str
    model: str
    height: PositiveInt
    width: PositiveInt
    steps: PositiveInt
    guidance_scale: float
    negative_prompt: str
    max_tokens: PositiveInt
    guidance: Guidance
    revision: str = "main"
    weights: Literal["pretrained", "random"] = "pretrained"
    random_seed: int = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint: bool | Literal["auto"] = False
    vae_tiling: bool = False
    cpu_offload: bool = False
    own_world_only: bool = False
    architecture: CogVideoXArchitecture | None = None
    tuning: Tuning | None = None

    version: ClassVar[str] = "1"
    # As for Wan: methods' configuration and the weights' identity hold these, or they change nothing.
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

    @property
    def lacks(self) -> tuple[str, ...]:
        """``rotary`` where positions are embedded otherwise (2B)."""
        return () if self.sizes().transformer.get("use_rotary_positional_embeddings") else ("rotary",)

    def sizes(self) -> CogVideoXArchitecture:
        """Configurations of the networks: those of the weights on this machine, else ``architecture``."""
        weights = self._weights()
        folder = weights.described(self.architecture, self.untrained)
        if folder is None:
            return cast("CogVideoXArchitecture", self.architecture)
        networks = {part: weights.config(folder, part) for part in WEIGHTED}
        scheduler = weights.config(folder, "scheduler", "scheduler_config.json")
        return CogVideoXArchitecture(**networks, scheduler=scheduler)

    def grid(self, frames: int) -> Grid:
        """The token grid of a clip of ``frames``; InputError names the key and the nearest valid values."""
        sizes = self.sizes()
        self._check_kind(sizes)
        patch = sizes.transformer.get("patch_size", 2)
        per_latent = sizes.vae.get("temporal_compression_ratio", 4)
        side = _spatial(sizes) * patch
        sides = {"height": (self.height, side), "width": (self.width, side)}
        # Its VAE decodes latent frames two at a time, after one that stands alone.
        check_sizes(self.name, frames, 2 * per_latent, sides)
        return Grid((frames - 1) // per_latent + 1, self.height // side, self.width // side)

    def latent_shape(self, frames: int) -> tuple[int, int, int, int, int]:
        """Shape (1, C, F, h, w) of the latent of a clip."""
        sizes = self.sizes()
        patch = sizes.transformer.get("patch_size", 2)
        channels = sizes.transformer.get("in_channels", 16)
        grid = self.grid(frames)
        return (1, channels, grid.frames, grid.height * patch, grid.width * patch)

    def check(self, frames: int, device: str) -> Grid:
        """The token grid; InputError for sizes, devices, kinds of network or weights it cannot use."""
        grid = self.grid(frames)
        if device.startswith("cuda"):
            check_cuda(device)
        if not self.untrained and self.folder() is None:
            self._weights().commit()
        return grid

    def identity(self) -> str:
        """``sha256:...`` of a local folder, ``hub:repo@commit``, or ``random:seed-architecture``.

        Raises InputError when a hub model is neither cached nor reachable.
        """
        if self.untrained:
            sizes = self.sizes()
            text = json.dumps([sizes.transformer, sizes.vae, sizes.scheduler], sort_keys=True)
            return f"random:{self.random_seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return self._weights().identity()

    def folder(self) -> Path | None:
        """Local folder of the complete weights, or None when they must be downloaded.

        Raises InputError when ``model`` names a local folder that is missing or incomplete.
        """
        return self._weights().folder()

    def load(self, device: str) -> CogVideoX:
        """Load the networks onto ``device``, in evaluation mode, with frozen weights.

        Raises InputError when a network lacks a tensor or the download fails.
        """
        if self.untrained:
            return self._random(device)
        import torch
        from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline
        from diffusers import CogVideoXTransformer3DModel as Transformer
        from transformers import AutoTokenizer, T5EncoderModel

        folder = self.folder() or self._weights().fetch()
        dtype = dtype_named(self.dtype)

        def part(network: Any, name: str, precision: torch.dtype) -> Any:
            return load_network(network, folder, name, self.model, precision)

        with quiet():
            pipeline = CogVideoXPipeline(
                tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
                text_encoder=part(T5EncoderModel, "text_encoder", dtype),
                vae=part(AutoencoderKLCogVideoX, "vae", torch.float32),
                scheduler=CogVideoXDDIMScheduler.from_config(self.sizes().scheduler),
                transformer=part(Transformer, "transformer", dtype),
            )
        return CogVideoX(self, device, pipeline.transformer, pipeline.vae, pipeline)

    def meta(self) -> CogVideoX:
        """The networks on the meta device: shapes without weights, for counting FLOPs."""
        import torch
        from transformers import T5Config, T5EncoderModel

        plain = replace(self, cpu_offload=False, checkpoint=self.checkpoint is True)
        loaded = CogVideoX(plain, "meta", *self._build(torch.device("meta")), None)
        if not self.untrained:
            with torch.device("meta"), quiet():
                loaded.text_encoder = T5EncoderModel(T5Config(**public(self.sizes().text_encoder)))
        return loaded

    def _random(self, device: str) -> CogVideoX:
        import torch

        target = torch.device(device)
        with torch.random.fork_rng([target] if target.type == "cuda" else []):
            torch.manual_seed(self.random_seed)
            transformer, vae = self._build(target)
        return CogVideoX(self, device, transformer, vae, None)

    def _build(self, device: torch.device) -> tuple[Any, Any]:
        from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

        networks = CogVideoXTransformer3DModel, AutoencoderKLCogVideoX
        return build_networks(*networks, self.sizes(), device, dtype_named(self.dtype))

    def _check_kind(self, sizes: CogVideoXArchitecture) -> None:
        """InputError for relatives of CogVideoX that these pages do not describe."""
        network = sizes.transformer
        other = network.get("patch_size_t") or network.get("ofs_embed_dim")
        if other or network.get("in_channels", 16) != network.get("out_channels", 16):
            raise InputError(
                f"backbone.model={self.model}: only CogVideoX 1.0 for text to video is supported; "
                "use backbone=cogvideox-2b or backbone=cogvideox-5b"
            )
        if sizes.scheduler.get("prediction_type") != "v_prediction":
            raise InputError(
                f"backbone.model={self.model}: its scheduler's prediction_type is "
                f"{sizes.scheduler.get('prediction_type')}, not v_prediction; use the published scheduler"
            )
        tokens = network.get("max_text_seq_length", 226)
        if not network.get("use_rotary_positional_embeddings") and self.max_tokens != tokens:
            raise InputError(
                f"backbone.max_tokens={self.max_tokens}: its position embeddings are made for {tokens} "
                f"text tokens; use backbone.max_tokens={tokens}"
            )

    def _weights(self) -> Weights:
        return Weights(self.model, self.revision, ("scheduler", *COMPONENTS))


class CogVideoX(LoadedPipeline):
    """A loaded CogVideoX: ``methods.backbones.interface.Backbone``, in the variables the module's docstring gives.

    Latents are the VAE's times its ``scaling_factor``; embeddings are not masked after the prompt's end.
    """

    def __init__(
        self, config: CogVideoXBackbone, device: str, transformer: Any, vae: Any, pipeline: Any | None
    ) -> None:
        from diffusers import CogVideoXDDIMScheduler

        channels = vae.config.latent_channels
        super().__init__(
            config,
            device,
            transformer,
            vae,
            pipeline,
            blocks=len(transformer.transformer_blocks),
            text_width=transformer.config.text_embed_dim,
            mean=[0.0] * channels,
            std=[1 / vae.config.scaling_factor] * channels,
        )
        self._scheduler = CogVideoXDDIMScheduler.from_config(config.sizes().scheduler)
        self._sigmas = _sigmas(self._scheduler.alphas_cumprod)
        self._sigmas_here = self._sigmas.to(self.device)

    @property
    def _blocks(self) -> Any:
        return self.transformer.transformer_blocks

    def grid(self, latent: Tensor) -> Grid:
        patch = self.transformer.config.patch_size
        frames, height, width = latent.shape[2:]
        return Grid(frames, height // patch, width // patch)

    def schedule(self, steps: int) -> Schedule:
        """The published timesteps of DDIM and their sigmas; beyond 1000 steps evenly spaced ones."""
        import torch

        if steps <= TIMESTEPS:
            self._scheduler.set_timesteps(steps)
            timesteps = self._scheduler.timesteps.float()
        else:
            timesteps = (TIMESTEPS - 1) * (1 - torch.arange(steps) / steps)
        sigmas = _at(self._sigmas, timesteps)
        return Schedule(torch.cat([sigmas, sigmas.new_zeros(1)]), timesteps)

    def queries_keys(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys of ``block``'s video tokens, as it compares them, each (F, S, heads, head_dim).

        Normalised by head; with rotary embedding turned. Of ``block`` only the norm and the two
        projections run, on video tokens.
        """
        frames = self.grid(latent).frames
        with self._partial(latent, grad):
            attention, normed, query_tables, key_tables = self._entering(
                latent, timestep, prompt, block, grad
            )
            query = _heads(attention, attention.to_q(normed), attention.norm_q, query_tables)
            key = _heads(attention, attention.to_k(normed), attention.norm_k, key_tables)
        return query[0].unflatten(0, (frames, -1)), key[0].unflatten(0, (frames, -1))

    def keys_values(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of ``block``'s video tokens, as ``queries_keys``."""
        frames = self.grid(latent).frames
        with self._partial(latent, grad):
            attention, normed, _, key_tables = self._entering(latent, timestep, prompt, block, grad)
            key = _heads(attention, attention.to_k(normed), attention.norm_k, key_tables)
            value = _heads(attention, attention.to_v(normed))
        return key[0].unflatten(0, (frames, -1)), value[0].unflatten(0, (frames, -1))

    def hidden_states(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> Tensor:
        """Output of ``block`` at the video tokens, (F, S, width)."""
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
        model, grid, patch = self.transformer, self.grid(latent), self.transformer.config.patch_size
        with self._partial(latent, grad):
            hidden, _, time, _ = self._until(latent, timestep, prompt, self.num_blocks, grad)
            patches = model.proj_out(model.norm_out(model.norm_final(hidden), temb=time))
            # (1, tokens, C * patch * patch) to (1, C, F, h, w)
            cells = patches.unflatten(2, (-1, patch, patch)).unflatten(1, grid)
            predicted = cells.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
            return self._flow(predicted, *self._scaled(latent, timestep))

    def injected(self, block: int, keys: Tensor, values: Tensor) -> AbstractContextManager[None]:
        """Inside, the video tokens' keys and values in ``block`` are these, (F, S, heads, head_dim) each.

        Those of the text tokens stay.
        """
        both = tuple(tensor.to(self.device).flatten(0, 1) for tensor in (keys, values))
        return self._attending([block], injected=both)

    def rotary(self, latent: Tensor, positions: Tensor | None = None) -> Rotary:
        """cos and sin, (F * S, head_dim) float32, where tokens are or at ``positions`` (F * S, 3).

        Rows and columns of a grid of another size than the published one are brought to its scale,
        as ``CogVideoXPipeline`` does. Raises InputError on a network without rotary embedding (2B).
        """
        import torch

        if not self.transformer.config.use_rotary_positional_embeddings:
            raise InputError(
                f"backbone.name={self.config.name} has no rotary position embedding; "
                "use backbone=cogvideox-5b, or a method that needs none"
            )
        grid = self.grid(latent)
        if positions is None:
            positions = token_positions(grid, self.device)
        scale, offset = self._places(grid)
        places = positions.to(self.device) * scale + offset
        eighth = self.head_dim // 8
        angles = [
            place.unsqueeze(1)
            * THETA ** -(torch.arange(0, width, 2, dtype=torch.float32, device=self.device) / width)
            for place, width in zip(places.unbind(1), (2 * eighth, 3 * eighth, 3 * eighth), strict=True)
        ]
        angle = torch.cat(angles, dim=1).repeat_interleave(2, dim=1)
        return angle.cos(), angle.sin()

    def rotated(self, query: Rotary, key: Rotary) -> AbstractContextManager[None]:
        """Inside, every block turns video queries and keys by these tables, (F * S, head_dim) each."""
        tables = [tuple(table.to(self.device) for table in pair) for pair in (query, key)]
        return self._attending(range(self.num_blocks), query=tables[0], key=tables[1])

    def adapted(
        self, adapter: Adapter, grid: Grid, weights: Mapping[str, Tensor] | None = None
    ) -> AbstractContextManager[Adapted]:
        """Inside, every pass of the transformer goes through ``adapter``, at the video tokens.

        But for LoRA, which is in the linear maps that text tokens go through too.
        """
        return adapted(self.transformer, SITES, adapter, grid, self.device, weights)

    def _velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        import torch

        batch = latent.shape[0]
        self.calls["forward"] += batch
        with torch.no_grad(), self._placed(self.transformer):
            scaled, levels = self._scaled(latent, timestep)
            predicted = self.transformer(
                hidden_states=scaled.transpose(1, 2).to(self.dtype),
                encoder_hidden_states=batched(prompt).to(self.device, self.dtype).expand(batch, -1, -1),
                timestep=self._timesteps(timestep, batch),
                image_rotary_emb=self._tables(latent),
                return_dict=False,
            )[0]
            return self._flow(predicted.transpose(1, 2), scaled, levels)

    def _until(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, stop: int, grad: bool
    ) -> tuple[Tensor, Tensor, Tensor, Rotary | None]:
        """Video and text tokens entering block ``stop``, the timestep's embedding, the rotary tables.

        The same sequence as diffusers' ``models/transformers/cogvideox_transformer_3d.py`` (0.42.1),
        ended early; a test compares the two.
        """
        from torch.utils.checkpoint import checkpoint

        model = self.transformer
        rotary = self._tables(latent)
        time = model.time_embedding(model.time_proj(self._timesteps(timestep, 1)).to(self.dtype))
        words = batched(prompt).to(self.device, self.dtype)
        scaled = self._scaled(latent, timestep)[0].transpose(1, 2).to(self.dtype)
        tokens = model.patch_embed(words, scaled)
        text, hidden = tokens[:, : words.shape[1]], tokens[:, words.shape[1] :]
        recompute = grad and self.config.checkpoint is True
        for index, block in enumerate(self._blocks[:stop]):
            if index == 0 and grad and self.config.checkpoint == "auto":
                with counting_saved(model) as saved:
                    hidden, text = block(hidden, text, time, rotary)
                    recompute = self._too_much(saved.bytes * (stop - 1))
            elif recompute:
                hidden, text = checkpoint(block, hidden, text, time, rotary, use_reentrant=False)
            else:
                hidden, text = block(hidden, text, time, rotary)
        self.recomputed |= recompute
        return hidden, text, time, rotary

    def _entering(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, grad: bool
    ) -> tuple[Any, Tensor, Rotary | None, Rotary | None]:
        """``block``'s attention, its video tokens, and the tables of queries and of keys."""
        layer = self._blocks[block]
        hidden, text, time, rotary = self._until(latent, timestep, prompt, block, grad)
        normed = layer.norm1(hidden, text, time)[0]
        processor = layer.attn1.processor
        if isinstance(processor, _JointAttention):
            return layer.attn1, normed, processor.query or rotary, processor.key or rotary
        return layer.attn1, normed, rotary, rotary

    @contextmanager
    def _attending(self, blocks: Iterable[int], **changes: Any) -> Iterator[None]:
        """Inside, these blocks attend by ``_JointAttention``, with these fields changed."""
        modules = [self._blocks[block].attn1 for block in blocks]
        before = [module.processor for module in modules]
        try:
            for module, old in zip(modules, before, strict=True):
                ours = old if isinstance(old, _JointAttention) else _JointAttention()
                module.set_processor(replace(ours, **changes))
            yield
        finally:
            for module, old in zip(modules, before, strict=True):
                module.set_processor(old)

    def _tables(self, latent: Tensor) -> Rotary | None:
        return self.rotary(latent) if self.transformer.config.use_rotary_positional_embeddings else None

    def _places(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Scale and offset, (3,) each, from positions in tokens to those of the published grid."""
        import torch
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config = self.transformer.config
        base = config.sample_width // config.patch_size, config.sample_height // config.patch_size
        start, stop = get_resize_crop_region_for_grid((grid.height, grid.width), *base)
        sides = list(zip(grid[1:], start, stop, strict=True))
        scale = [(high * (size - 1) / size - low) / max(size - 1, 1) for size, low, high in sides]
        values = torch.tensor([[1.0, *scale], [0.0, *start]], device=self.device)
        return values[0], values[1]

    def _scaled(self, latent: Tensor, timestep: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The network's latent ``(a + s) x``, float32, and ``a`` and ``s`` at this timestep."""
        sigma = _at(self._sigmas_here, timestep.to(self.device).reshape(-1).float())
        length = ((1 - sigma) ** 2 + sigma**2).sqrt()
        signal, noise = (1 - sigma) / length, sigma / length
        return latent.to(self.device).float() * (signal + noise), (signal, noise)

    def _flow(self, predicted: Tensor, scaled: Tensor, levels: tuple[Tensor, Tensor]) -> Tensor:
        """``noise - x_0`` from what the network predicts, v, float32."""
        signal, noise = levels
        return (signal + noise) * predicted.float() + (noise - signal) * scaled

    def _timesteps(self, timestep: Tensor, batch: int) -> Tensor:
        # Rounded to bfloat16 the last timestep becomes 1000, for which there is no noise level.
        return super()._timesteps(timestep, batch).clamp(0, TIMESTEPS - 1)


@plain_dataclass(frozen=True)
class _JointAttention:
    """Attention of CogVideoX with rotary tables, or video keys and values, other than its own.

    An attention processor as diffusers' ``CogVideoXAttnProcessor2_0`` (models/attention_processor.py,
    0.42.1), which it equals while the fields are None; a test compares the two. ``query`` and ``key``:
    cos and sin, (tokens, head_dim) each; ``injected``: keys and values, (tokens, heads, head_dim) each.
    """

    query: Rotary | None = None
    key: Rotary | None = None
    injected: tuple[Tensor, Tensor] | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> tuple[Tensor, Tensor]:
        import torch
        import torch.nn.functional as F

        words = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query = _heads(attn, attn.to_q(tokens), attn.norm_q, self.query or image_rotary_emb, words)
        key = _heads(attn, attn.to_k(tokens), attn.norm_k, self.key or image_rotary_emb, words)
        value = _heads(attn, attn.to_v(tokens))
        if self.injected is not None:
            key, value = (
                torch.cat([own[:, :words], other.type_as(own).expand(len(own), -1, -1, -1)], dim=1)
                for own, other in zip((key, value), self.injected, strict=True)
            )
        attended = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (query, key, value)))
        out, dropout = attn.to_out
        joint = dropout(out(attended.transpose(1, 2).flatten(2)))
        return joint[:, words:], joint[:, :words]


def _heads(
    attention: Any,
    projected: Tensor,
    norm: Any | None = None,
    tables: Rotary | None = None,
    words: int = 0,
) -> Tensor:
    """(B, tokens, width) to (B, tokens, heads, head_dim), normalised; all but the first ``words`` turned."""
    import torch
    from diffusers.models.embeddings import apply_rotary_emb

    heads = projected.unflatten(2, (attention.heads, -1))
    if norm is not None:
        heads = norm(heads)
    if tables is None:
        return heads
    video = apply_rotary_emb(heads[:, words:], tables, sequence_dim=1)
    return torch.cat([heads[:, :words], video], dim=1) if words else video


def _spatial(sizes: CogVideoXArchitecture) -> int:
    """Pixels a latent cell is wide: every block but the last halves."""
    return int(2 ** (len(sizes.vae.get("block_out_channels", (128, 256, 256, 512))) - 1))


def _sigmas(alphas_cumprod: Tensor) -> Tensor:
    """sigma at each whole timestep, (1000,) float32; 0 at timestep 0, which stands for the clean latent."""
    signal, noise = alphas_cumprod.double().sqrt(), (1 - alphas_cumprod.double()).sqrt()
    sigmas = (noise / (signal + noise)).float()
    sigmas[0] = 0
    return sigmas


def _at(sigmas: Tensor, timesteps: Tensor) -> Tensor:
    """sigma at these timesteps (n,), interpolated linearly between whole ones."""
    import torch

    timesteps = timesteps.clamp(0, TIMESTEPS - 1)
    low = timesteps.long().clamp(max=TIMESTEPS - 2)
    return torch.lerp(sigmas[low], sigmas[low + 1], timesteps - low)


__all__ = ["CogVideoX", "CogVideoXArchitecture", "CogVideoXBackbone"]
