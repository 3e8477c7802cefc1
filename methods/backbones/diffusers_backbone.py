"""What the backbones that run a diffusers pipeline have in common, and helpers to build one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from methods.backbones.interface import Grid, Schedule
from methods.backbones.memory import free_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

# With ``checkpoint=auto`` blocks may save this share of the free memory; the backward pass needs the rest.
MEMORY_SHARE = 0.8

# Below this many tokens the two passes of classifier-free guidance run as one
# batch: on a tiny grid the overhead of a pass dominates; on a large one memory does.
JOINT_TOKENS = 2048


class LoadedPipeline:
    """What does not depend on the kind of transformer, of ``methods.backbones.interface.Backbone``.

    Latents are float32 (1, C, F, h, w), normalised: ``(z - mean) / std`` of the VAE's. The VAE runs
    in float32, the text encoder and the transformer in ``dtype``, less the modules diffusers keeps
    in float32. ``recomputed`` says whether a backward pass so far has recomputed blocks, ``compiled`` whether
    blocks are compiled.
    ``pipeline`` is None for random weights, which have no text encoder.
    """

    def __init__(
        self,
        config: Any,
        device: str,
        transformer: torch.nn.Module,
        vae: torch.nn.Module,
        pipeline: Any | None,
        *,
        blocks: int,
        text_width: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        import torch

        self.config = config
        self.device = torch.device(device)
        self.dtype = dtype_named(config.dtype)
        self.transformer: Any = transformer
        self.vae: Any = vae
        self.pipeline = pipeline
        self.text_encoder = None if pipeline is None else pipeline.text_encoder
        self.calls: Counter[str] = Counter()
        self.recomputed = False
        self.compiled = False
        self.num_blocks = blocks
        self.heads = self.transformer.config.num_attention_heads
        self.head_dim = self.transformer.config.attention_head_dim
        self.text_width = text_width
        for module in self._modules():
            module.eval().requires_grad_(False)
            if not config.cpu_offload:
                module.to(self.device)
        if config.vae_tiling:
            self.vae.enable_tiling()
        self._std = torch.tensor(std, device=self.device).view(1, -1, 1, 1, 1)
        self._mean = torch.tensor(mean, device=self.device).view(1, -1, 1, 1, 1)

    def grid(self, latent: Tensor) -> Grid:
        raise NotImplementedError

    def _velocity(self, latent: Tensor, timestep: Tensor, prompt: Tensor) -> Tensor:
        """Velocity, float32, of one prompt or one for each latent, without gradient; counted."""
        raise NotImplementedError

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
        """Embeddings (n, max_tokens, width), as the pipeline's ``encode_prompt`` makes them.

        With random weights: standard normal, seeded by the sha256 of the prompt's text.
        """
        import torch

        tokens = self.config.max_tokens
        if self.pipeline is None:
            return torch.stack([random_embedding(text, tokens, self.text_width) for text in prompts]).to(
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
            texts = torch.cat([batched(prompt), batched(negative)])
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


def load_network(network: Any, folder: Path, part: str, model: str, precision: torch.dtype) -> Any:
    """A network of ``folder``; InputError when the files of ``part`` lack a tensor."""
    loaded, report = network.from_pretrained(
        folder, subfolder=part, output_loading_info=True, dtype=precision
    )
    # The libraries only warn, and go on with values nobody trained.
    if report["missing_keys"]:
        raise InputError(
            f"backbone.model={model}: {part} lacks {sorted(report['missing_keys'])[0]}; "
            "give a complete diffusers folder"
        )
    return loaded


def build_networks(
    transformer: Any, vae: Any, sizes: Any, device: torch.device, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Both with fresh weights, made on ``device`` in their final precision.

    ``sizes``: their configurations, as attributes ``transformer`` and ``vae``.
    """
    import torch

    with torch.device(device):
        with default_dtype(dtype):
            transformer = transformer(**public(sizes.transformer))
        vae = vae(**public(sizes.vae))
    kept = set(transformer._keep_in_fp32_modules or ())
    for name, parameter in transformer.named_parameters():
        if kept.intersection(name.split(".")):
            parameter.data = parameter.data.float()
    return transformer, vae


def batched(embedding: Tensor) -> Tensor:
    return embedding if embedding.ndim == 3 else embedding.unsqueeze(0)


def random_embedding(text: str, tokens: int, width: int) -> Tensor:
    """Standard normal (tokens, width), keyed by the text."""
    import torch

    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def dtype_named(name: str) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def public(config: dict[str, Any]) -> dict[str, Any]:
    """A ``config.json`` without the library's own entries."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def quiet() -> Iterator[None]:
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


def check_sizes(name: str, frames: int, unit: int, sides: Mapping[str, tuple[int, int]]) -> None:
    """Whether a clip has ``unit`` k + 1 frames, and ``sides`` (key: size, unit) in pixels are multiples.

    Raises InputError that names the key and the nearest valid values.
    """
    if frames < 1 or (frames - 1) % unit:
        low = max(frames - 1, 0) // unit * unit + 1
        raise InputError(
            f"frames={frames}: backbone {name} takes {unit}k+1 frames; use {low} or {low + unit}"
        )
    for key, (size, side) in sides.items():
        if size % side:
            low = size // side * side
            nearest = f"{low} or {low + side}" if low else str(side)
            raise InputError(f"backbone.{key}={size} is no multiple of {side}; use {nearest}")


def check_cuda(device: str) -> None:
    """InputError when ``device`` names a CUDA device that is not there."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"device={device}: PyTorch finds no CUDA device; use device=cpu")
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        raise InputError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0")


__all__ = [
    "JOINT_TOKENS",
    "MEMORY_SHARE",
    "LoadedPipeline",
    "batched",
    "build_networks",
    "check_cuda",
    "default_dtype",
    "dtype_named",
    "load_network",
    "public",
    "quiet",
    "random_embedding",
]
