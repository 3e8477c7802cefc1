"""Building and loading the networks of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError

if TYPE_CHECKING:
    import torch


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
        # Who asks for several frames is not told to ask for one, which has no motion.
        use = f"{low + unit}" if 1 < frames <= unit else f"{low} or {low + unit}"
        raise InputError(f"frames={frames}: backbone {name} takes {unit}k+1 frames; use {use}")
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
    "build_networks",
    "check_cuda",
    "check_sizes",
    "dtype_named",
    "load_network",
    "public",
    "quiet",
]
