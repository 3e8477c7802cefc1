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

from dataclasses import dataclass as plain_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from methods.backbones.adapters import Sites
from methods.backbones.diffusers_backbone import DiffusersBackbone, Pass, ReplaceableAttention
from methods.backbones.diffusers_config import Architecture, DiffusersConfig, Geometry, Networks
from methods.backbones.interface import Grid, Rotary, Schedule, token_positions
from methods.backbones.weights import COMPONENTS

if TYPE_CHECKING:
    from torch import Tensor

TIMESTEPS = 1000
THETA = 10000  # of the rotary embedding: diffusers' default, which CogVideoX uses


@dataclass(config={"extra": "forbid"})
class CogVideoXArchitecture(Architecture):
    """diffusers' and transformers' configurations of the three networks and the noise schedule."""

    scheduler: dict[str, Any]


@dataclass(config={"extra": "forbid"}, kw_only=True)
class CogVideoXBackbone(DiffusersConfig, kind="cogvideox"):
    """A CogVideoX backbone before loading.

    The schedule comes with the weights. ``max_tokens`` is the length of every prompt's embedding, 226 as
    published.
    """

    architecture: CogVideoXArchitecture | None = None
    version: ClassVar[str] = "1"
    sampler: ClassVar[str] = "DDIM"
    parts: ClassVar[tuple[str, ...]] = ("scheduler", *COMPONENTS)

    @property
    def lacks(self) -> tuple[str, ...]:
        """``rotary`` where positions are embedded otherwise (2B)."""
        return () if self.sizes().transformer.get("use_rotary_positional_embeddings") else ("rotary",)

    def sizes(self) -> CogVideoXArchitecture:
        return self._described(CogVideoXArchitecture)

    def geometry(self) -> Geometry:
        """InputError for relatives of CogVideoX that these pages do not describe."""
        sizes = self.sizes()
        network, kind = sizes.transformer, sizes.scheduler.get("prediction_type")
        channels, tokens = network.get("in_channels", 16), network.get("max_text_seq_length", 226)
        other = network.get("patch_size_t") or network.get("ofs_embed_dim")
        if other or channels != network.get("out_channels", 16):
            raise InputError(
                f"backbone.model={self.model}: only CogVideoX 1.0 for text to video is supported; "
                "use backbone=cogvideox-2b or backbone=cogvideox-5b"
            )
        if kind != "v_prediction":
            raise InputError(
                f"backbone.model={self.model}: its scheduler's prediction_type is {kind}, not v_prediction; "
                "use the published scheduler"
            )
        if self.lacks and self.max_tokens != tokens:
            raise InputError(
                f"backbone.max_tokens={self.max_tokens}: its position embeddings are made for {tokens} "
                f"text tokens; use backbone.max_tokens={tokens}"
            )
        patch = network.get("patch_size", 2)
        frames = sizes.vae.get("temporal_compression_ratio", 4)
        # Every block of the VAE but the last halves; it decodes latent frames two at a time, after the first.
        cell = int(2 ** (len(sizes.vae.get("block_out_channels", (128, 256, 256, 512))) - 1))
        return Geometry(channels, frames, 2 * frames, cell, (patch, patch))

    def scheduler(self) -> Any:
        from diffusers import CogVideoXDDIMScheduler

        kind: Any = CogVideoXDDIMScheduler
        return kind.from_config(self.sizes().scheduler)

    def _networks(self) -> Networks:
        from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
        from transformers import T5Config, T5EncoderModel

        networks = CogVideoXTransformer3DModel, AutoencoderKLCogVideoX
        return Networks(CogVideoXPipeline, *networks, T5EncoderModel, T5Config)

    def _loaded(self, device: str, transformer: Any, vae: Any, pipeline: Any | None) -> CogVideoX:
        return CogVideoX(self, device, transformer, vae, pipeline)


class CogVideoX(DiffusersBackbone):
    """A loaded CogVideoX, in the variables the module's docstring gives.

    Latents are the VAE's times its ``scaling_factor``; embeddings are not masked after the prompt's end.
    """

    sites = Sites("transformer_blocks", self_attention="attn1", cross_attention=None, feed_forward="ff")
    text_width_key = "text_embed_dim"

    def __init__(
        self, config: CogVideoXBackbone, device: str, transformer: Any, vae: Any, pipeline: Any | None
    ) -> None:
        super().__init__(config, device, transformer, vae, pipeline)
        self._scheduler = config.scheduler()
        self._sigmas = _sigmas(self._scheduler.alphas_cumprod)
        self._sigmas_here = self._sigmas.to(self.device)

    def _statistics(self) -> tuple[list[float], list[float]]:
        return [0.0], [1 / self.vae.config.scaling_factor]

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

    def rotary(self, latent: Tensor, positions: Tensor | None = None) -> Rotary:
        """cos and sin, (F * S, head_dim) float32, where tokens are or at ``positions`` (F * S, 3).

        Rows and columns of a grid of another size than the published one are brought to its scale,
        as ``CogVideoXPipeline`` does. InputError where there is no rotary embedding (2B).
        """
        import torch

        if not self.transformer.config.use_rotary_positional_embeddings:
            return super().rotary(latent, positions)
        grid = self.grid(latent)
        positions = token_positions(grid) if positions is None else positions
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

    def _entry(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Pass:
        model = self.transformer
        rotary = self._tables(latent)
        time = model.time_embedding(model.time_proj(self._timesteps(timestep, 1)).to(self.dtype))
        words = self._words(prompt)
        scaled = self.scaled(latent, timestep)[0].transpose(1, 2).to(self.dtype)
        tokens = model.patch_embed(words, scaled)
        text, hidden = tokens[:, : words.shape[1]], tokens[:, words.shape[1] :]
        return Pass((hidden, text), (time, rotary), rotary, time)

    def _normed(self, block: Any, entering: Pass) -> Tensor:
        normed: Tensor = block.norm1(*entering.tokens, entering.time)[0]
        return normed

    def _exit(self, latent: Tensor, timestep: Tensor, leaving: Pass) -> Tensor:
        model, patch = self.transformer, self.transformer.config.patch_size
        patches = model.proj_out(model.norm_out(model.norm_final(leaving.tokens[0]), temb=leaving.time))
        # (1, tokens, C * patch * patch) to (1, C, F, h, w)
        cells = patches.unflatten(2, (-1, patch, patch)).unflatten(1, self.grid(latent))
        predicted = cells.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return self._flow(predicted, *self.scaled(latent, timestep))

    def _whole(self, latent: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        scaled, levels = self.scaled(latent, timestep)
        predicted = self.transformer(
            hidden_states=scaled.transpose(1, 2).to(self.dtype),
            encoder_hidden_states=words,
            timestep=self._timesteps(timestep, latent.shape[0]),
            image_rotary_emb=self._tables(latent),
            return_dict=False,
        )[0]
        return self._flow(predicted.transpose(1, 2), scaled, levels)

    def _replaceable(self, processor: Any) -> ReplaceableAttention:
        return _JointAttention()

    def _tables(self, latent: Tensor) -> Rotary | None:
        return self.rotary(latent) if self.transformer.config.use_rotary_positional_embeddings else None

    def _places(self, grid: Grid) -> Tensor:
        """Scale and offset, (2, 3), from positions in tokens to those of the published grid."""
        import torch
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config = self.transformer.config
        base = config.sample_width // config.patch_size, config.sample_height // config.patch_size
        region: Any = get_resize_crop_region_for_grid
        start, stop = region((grid.height, grid.width), *base)
        sides = zip(grid[1:], start, stop, strict=True)
        scale = [(high * (size - 1) / size - low) / max(size - 1, 1) for size, low, high in sides]
        return torch.tensor([[1.0, *scale], [0.0, *start]], device=self.device)

    def scaled(self, latent: Tensor, timestep: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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
class _JointAttention(ReplaceableAttention):
    """As diffusers' ``CogVideoXAttnProcessor2_0`` (models/attention_processor.py, 0.42.1)."""

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
        query = self.queries(attn, tokens, image_rotary_emb)
        key = self.keys(attn, tokens, image_rotary_emb)
        value = self.values(attn, tokens)
        if self.injected is not None:
            key, value = (
                torch.cat([own[:, :words], other.type_as(own).expand(len(own), -1, -1, -1)], dim=1)
                for own, other in zip((key, value), self.injected, strict=True)
            )
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        out, dropout = attn.to_out
        joint = dropout(out(attended.transpose(1, 2).flatten(2)))
        return joint[:, words:], joint[:, :words]

    def heads(self, attention: Any, projected: Any, norm: Any, tables: Rotary | None) -> Tensor:
        """Normalised by head; the tokens after the text, as many as the tables have, are turned."""
        import torch
        from diffusers.models.embeddings import apply_rotary_emb

        turn: Any = apply_rotary_emb
        heads: Tensor = norm(projected.unflatten(2, (attention.heads, -1)))
        if tables is None:
            return heads
        words = heads.shape[1] - len(tables[0])
        video: Tensor = turn(heads[:, words:], tables, sequence_dim=1)
        return torch.cat([heads[:, :words], video], dim=1) if words else video


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
