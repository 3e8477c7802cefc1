"""What the loaded backbones of diffusers have in common.

A derived class says how its transformer embeds a latent, what a block's self-attention is given, and how
tokens become a velocity. Tokens are frame-major; what methods read are the video's.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from methods.backbones.adapters import Sites, adapted
from methods.backbones.diffusers_config import DiffusersConfig
from methods.backbones.interface import Adapted, Adapter, Backbone, Grid, Rotary
from methods.backbones.loading import dtype_named
from methods.backbones.memory import counting_saved, free_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# With ``checkpoint=auto`` blocks may save this share of the free memory; the backward pass needs the rest.
MEMORY_SHARE = 0.8

# Below this many tokens the two passes of classifier-free guidance run as one
# batch: on a tiny grid the overhead of a pass dominates; on a large one memory does.
JOINT_TOKENS = 2048


@dataclass(frozen=True)
class ReplaceableAttention(ABC):
    """A block's self-attention with rotary tables, or video keys and values, other than its own.

    A derived class is an attention processor as diffusers' own, which it equals while the fields are
    None; tests compare the two. ``query`` and ``key``: cos and sin, as the block itself is given them;
    ``injected``: keys and values, (tokens, heads, head_dim) each.
    """

    query: Rotary | None = None
    key: Rotary | None = None
    injected: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def heads(self, attention: Any, projected: Any, norm: Any, tables: Rotary | None) -> Tensor:
        """(B, tokens, width) to (B, tokens, heads, head_dim), normalised; video tokens turned."""

    def queries(self, attention: Any, tokens: Tensor, rotary: Rotary | None) -> Tensor:
        return self.heads(attention, attention.to_q(tokens), attention.norm_q, self.query or rotary)

    def keys(self, attention: Any, tokens: Tensor, rotary: Rotary | None) -> Tensor:
        return self.heads(attention, attention.to_k(tokens), attention.norm_k, self.key or rotary)

    def values(self, attention: Any, tokens: Tensor) -> Tensor:
        values: Tensor = attention.to_v(tokens).unflatten(2, (attention.heads, -1))
        return values


class Pass(NamedTuple):
    """A pass through the transformer, before one of its blocks.

    ``tokens``: what blocks change, the video's (1, F * S, width) first; ``given``: what each of them is
    given beside. ``rotary``: the tables of the video's tokens; ``time``: the timestep's embedding.
    """

    tokens: tuple[Tensor, ...]
    given: tuple[Any, ...]
    rotary: Rotary | None
    time: Tensor


class DiffusersBackbone(Backbone):
    """A loaded backbone of diffusers.

    Latents are float32 (1, C, F, h, w), normalised: ``(z - mean) / std`` of the VAE's. The VAE runs
    in float32, the text encoder and the transformer in ``dtype``, less the modules diffusers keeps
    in float32. ``pipeline`` is None for random weights, which have no text encoder. ``text_width_key``: of
    the transformer's configuration, the width of a prompt's embedding.
    """

    sites: ClassVar[Sites]
    text_width_key: ClassVar[str]
    config: DiffusersConfig

    def __init__(
        self,
        config: DiffusersConfig,
        device: str,
        transformer: Any,
        vae: Any,
        pipeline: Any | None,
    ) -> None:
        import torch

        self.config = config
        self.device = torch.device(device)
        self.dtype = dtype_named(config.dtype)
        self.transformer = transformer
        self.vae = vae
        self.pipeline = pipeline
        self.text_encoder = None if pipeline is None else pipeline.text_encoder
        self.blocks = transformer.get_submodule(self.sites.blocks)
        self.calls = Counter()
        self.num_blocks = len(self.blocks)
        self.heads = transformer.config.num_attention_heads
        self.head_dim = transformer.config.attention_head_dim
        self.text_width = int(transformer.config[self.text_width_key])
        for module in self.modules():
            module.eval().requires_grad_(False)
            if not config.cpu_offload:
                module.to(self.device)
        if config.vae_tiling:
            self.vae.enable_tiling()
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1, 1) for values in self._statistics()
        )

    @abstractmethod
    def _statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation of the VAE's latents, one for each channel or one for all."""

    @abstractmethod
    def _entry(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Pass:
        """The pass before the first block, as diffusers' own forward has it."""

    @abstractmethod
    def _normed(self, block: Any, entering: Pass) -> Tensor:
        """The video tokens that the block's self-attention is given."""

    @abstractmethod
    def _exit(self, latent: Tensor, timestep: Tensor, leaving: Pass) -> Tensor:
        """Velocity, float32, from the pass after the last block."""

    @abstractmethod
    def _whole(self, latent: Tensor, timestep: Tensor, words: Tensor) -> Tensor:
        """Velocity, float32, by diffusers' own forward; ``words``: an embedding for each latent."""

    @abstractmethod
    def _replaceable(self, processor: Any) -> ReplaceableAttention:
        """Attention equal to diffusers' own processor."""

    def grid(self, latent: Tensor) -> Grid:
        """The token grid of a latent."""
        frames, height, width = latent.shape[2:]
        patch = self.transformer.config.patch_size
        rows, columns = (patch, patch) if isinstance(patch, int) else patch[-2:]
        return Grid(frames, height // rows, width // columns)

    def encode(self, frames: NDArray[np.uint8]) -> Tensor:
        """(T, H, W, 3) uint8 RGB to a normalised latent (1, C, F, h, w), the VAE's mode."""
        import torch

        pixels = torch.from_numpy(frames).to(self.device, torch.float32) / 127.5 - 1
        with torch.no_grad(), self._placed(self.vae):
            mode = self.vae.encode(pixels.permute(3, 0, 1, 2).unsqueeze(0)).latent_dist.mode()
        normalised: Tensor = (mode - self._mean) / self._std
        return normalised

    def decode(self, latent: Tensor) -> NDArray[np.uint8]:
        """A normalised latent to (T, H, W, 3) uint8 RGB, rounded and clamped."""
        import torch

        raw = latent.to(self.device, torch.float32) * self._std + self._mean
        with torch.no_grad(), self._placed(self.vae):
            pixels = self.vae.decode(raw, return_dict=False)[0][0]
        video = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
        frames: NDArray[np.uint8] = video.cpu().numpy()
        return frames

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, max_tokens, width), as the pipeline's ``encode_prompt`` makes them.

        With random weights: standard normal, seeded by the sha256 of the prompt's text.
        """
        import torch

        tokens = self.config.max_tokens
        if self.pipeline is None:
            drawn = [_random_embedding(text, tokens, self.text_width) for text in prompts]
            return torch.stack(drawn).to(self.device, self.dtype)
        with torch.no_grad(), self._placed(self.text_encoder):
            embedded: Tensor = self.pipeline.encode_prompt(
                list(prompts),
                do_classifier_free_guidance=False,
                max_sequence_length=tokens,
                device=self.device,
            )[0]
        return embedded

    def prompt_tokens(self, prompt: str) -> int | None:
        """As the pipeline's tokenizer counts them; None with random weights, which have none."""
        return None if self.pipeline is None else len(self.pipeline.tokenizer(prompt).input_ids)

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

    def velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor, *, grad: bool) -> Tensor:
        """Velocity of one prompt, float32, without classifier-free guidance.

        With ``grad`` differentiable: with respect to ``latent``, and to whatever inside a context
        manager of this backbone takes part in the pass.
        """
        if not grad:
            return self._velocity(latent, timestep, prompt)
        with self._partial(latent, grad):
            return self._exit(latent, timestep, self._until(latent, timestep, prompt, self.num_blocks, grad))

    def queries_keys(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys of ``block``'s video tokens, as it compares them, each (F, S, heads, head_dim).

        Of ``block`` itself only what comes before its self-attention runs, and the two projections.
        """
        with self._partial(latent, grad):
            attention, tokens, processor, rotary = self._entering(latent, timestep, prompt, block, grad)
            query = processor.queries(attention, tokens, rotary)
            key = processor.keys(attention, tokens, rotary)
            return self._by_frame(latent, query), self._by_frame(latent, key)

    def keys_values(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of ``block``'s video tokens, as ``queries_keys``."""
        with self._partial(latent, grad):
            attention, tokens, processor, rotary = self._entering(latent, timestep, prompt, block, grad)
            key = processor.keys(attention, tokens, rotary)
            value = processor.values(attention, tokens)
            return self._by_frame(latent, key), self._by_frame(latent, value)

    def hidden_states(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, *, grad: bool
    ) -> Tensor:
        """Output of ``block`` at the video tokens, (F, S, width)."""
        with self._partial(latent, grad):
            video = self._until(latent, timestep, prompt, block + 1, grad).tokens[0]
            return self._by_frame(latent, video)

    def injected(self, block: int, keys: Tensor, values: Tensor) -> AbstractContextManager[None]:
        """Inside, the video tokens' keys and values in ``block`` are these, (F, S, heads, head_dim) each."""
        both = tuple(tensor.to(self.device).flatten(0, 1) for tensor in (keys, values))
        return self._attending([block], injected=both)

    def rotated(self, query: Rotary, key: Rotary) -> AbstractContextManager[None]:
        """Inside, every block turns video queries and keys by these tables, (F * S, head_dim) each."""
        tables = [tuple(table.to(self.device) for table in pair) for pair in (query, key)]
        return self._attending(range(self.num_blocks), query=tables[0], key=tables[1])

    def adapted(
        self, adapter: Adapter, grid: Grid, weights: Mapping[str, Tensor] | None = None
    ) -> AbstractContextManager[Adapted]:
        """Inside, every pass of the transformer goes through ``adapter``; blocks then run uncompiled.

        It acts at the video tokens, but for LoRA: linear maps may take text tokens too.
        """
        return adapted(self.transformer, self.sites, adapter, grid, self.device, weights)

    def _velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        """Velocity, float32, of one prompt or one for each latent, without gradient; counted."""
        import torch

        batch = latent.shape[0]
        self.calls["forward"] += batch
        with torch.no_grad(), self._placed(self.transformer):
            return self._whole(latent, timestep, self._words(prompt).expand(batch, -1, -1))

    def _until(self, latent: Tensor, timestep: Tensor, prompt: Tensor, stop: int, grad: bool) -> Pass:
        """The pass before block ``stop``; in a backward pass blocks are recomputed as ``checkpoint`` says.

        The same sequence as diffusers' own forward (0.42.1), ended early; a test compares the two.
        """
        from torch.utils.checkpoint import checkpoint

        tokens, given, rotary, time = self._entry(latent, timestep, prompt)
        recompute = grad and self.config.checkpoint is True
        for index, block in enumerate(self.blocks[:stop]):
            if index == 0 and grad and self.config.checkpoint == "auto":
                with counting_saved(self.transformer) as saved:
                    tokens = _as_tuple(block(*tokens, *given))
                    recompute = self._too_much(saved.bytes * (stop - 1))
            elif recompute:
                tokens = _as_tuple(checkpoint(block, *tokens, *given, use_reentrant=False))
            else:
                tokens = _as_tuple(block(*tokens, *given))
        self.recomputed |= recompute
        return Pass(tokens, given, rotary, time)

    def _entering(
        self, latent: Tensor, timestep: Tensor, prompt: Tensor, block: int, grad: bool
    ) -> tuple[Any, Tensor, ReplaceableAttention, Rotary | None]:
        """``block``'s self-attention, the video tokens it is given, how it attends, the rotary tables."""
        entering = self._until(latent, timestep, prompt, block, grad)
        attention = self._attention(block)
        tokens = self._normed(self.blocks[block], entering)
        return attention, tokens, self._processor(attention.processor), entering.rotary

    @contextmanager
    def _attending(self, blocks: Iterable[int], **changes: Any) -> Iterator[None]:
        """Inside, these blocks attend by ``ReplaceableAttention``, with these fields changed."""
        modules = [self._attention(block) for block in blocks]
        before = [module.processor for module in modules]
        try:
            for module, old in zip(modules, before, strict=True):
                module.set_processor(replace(self._processor(old), **changes))
            yield
        finally:
            for module, old in zip(modules, before, strict=True):
                module.set_processor(old)

    def _attention(self, block: int) -> Any:
        return self.blocks[block].get_submodule(self.sites.self_attention)

    def _processor(self, processor: Any) -> ReplaceableAttention:
        return processor if isinstance(processor, ReplaceableAttention) else self._replaceable(processor)

    def _by_frame(self, latent: Tensor, tokens: Any) -> Tensor:
        """(1, F * S, ...) to (F, S, ...)."""
        frames: Tensor = tokens[0].unflatten(0, (self.grid(latent).frames, -1))
        return frames

    def _words(self, prompt: Tensor) -> Tensor:
        """Prompt embeddings (n, tokens, width) as the transformer takes them."""
        return _batched(prompt).to(self.device, self.dtype)

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

    def modules(self) -> list[Any]:
        return [m for m in (self.text_encoder, self.transformer, self.vae) if m is not None]

    @contextmanager
    def _placed(self, wanted: Any) -> Iterator[None]:
        """With ``cpu_offload`` only the network in use is on the device, until another is wanted."""
        if self.config.cpu_offload:
            for module in self.modules():
                if module is not wanted:
                    module.to("cpu")
            wanted.to(self.device)
        yield


def _as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _batched(embedding: Tensor) -> Tensor:
    return embedding if embedding.ndim == 3 else embedding.unsqueeze(0)


def _random_embedding(text: str, tokens: int, width: int) -> Tensor:
    """Standard normal (tokens, width), keyed by the text."""
    import torch

    seed = int.from_bytes(hashlib.sha256(text.encode(errors="backslashreplace")).digest()[:7], "big")
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


__all__ = [
    "JOINT_TOKENS",
    "MEMORY_SHARE",
    "DiffusersBackbone",
    "Pass",
    "ReplaceableAttention",
]
