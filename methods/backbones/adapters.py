"""Adapters on a diffusers transformer: put in place, and taken away without a trace.

A backbone says where its modules are (``Sites``); the rest is the same for all of them. LoRA is peft's,
through diffusers' own ``add_adapter``: what is trained here can be saved and loaded as every LoRA of
diffusers. The other adapters are hooks, which leave the network's modules alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from methods.backbones.interface import Adapted, Adapter, Grid, LowRank, MotionEmbedding, TemporalConvolution

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Sites:
    """Names of the modules of a transformer: the list of its blocks, and parts of a block (None: has none).

    ``self_attention`` has ``to_q``, ``to_k`` and ``to_v``. In joint attention text tokens stand before the
    video's.
    """

    blocks: str
    self_attention: str
    cross_attention: str | None
    feed_forward: str


@contextmanager
def adapted(
    transformer: Any,
    sites: Sites,
    adapter: Adapter,
    grid: Grid,
    device: torch.device,
    weights: Mapping[str, Tensor] | None = None,
) -> Iterator[Adapted]:
    """``methods.backbones.interface.Backbone.adapted`` for a diffusers transformer.

    ValueError when ``weights`` are not those of the adapter. Compiled blocks run uncompiled inside:
    compiled code does not see what was put in place after it was compiled.
    """
    with _uncompiled(transformer):
        if isinstance(adapter, LowRank):
            with _low_rank(transformer, sites, adapter, weights) as found:
                yield found
        else:
            with _hooked(transformer, sites, adapter, grid, device, weights) as found:
                yield found


# --- hooks ---------------------------------------------------------------------------------------


@contextmanager
def _hooked(
    transformer: Any,
    sites: Sites,
    adapter: MotionEmbedding | TemporalConvolution,
    grid: Grid,
    device: torch.device,
    weights: Mapping[str, Tensor] | None,
) -> Iterator[Adapted]:
    import torch

    attentions = [
        block.get_submodule(sites.self_attention) for block in transformer.get_submodule(sites.blocks)
    ]
    names = ("queries_keys", "values") if isinstance(adapter, MotionEmbedding) else ("down", "up")
    # Where there are weights, only the shapes are wanted.
    with torch.device("cpu" if weights is None else "meta"):
        parameters = {
            f"blocks.{index}.{name}": value
            for index, attention in enumerate(attentions)
            for name, value in zip(names, _fresh(adapter, grid, attention.to_q.in_features), strict=True)
        }
    if weights is None:
        parameters = {name: value.to(device).requires_grad_() for name, value in parameters.items()}
    else:
        _require_alike(parameters, weights)
        parameters = {name: weights[name].detach().to(device).float() for name in parameters}
    found = Adapted(parameters)
    attach = _embed if isinstance(adapter, MotionEmbedding) else _convolve
    with ExitStack() as hooks:
        for index, attention in enumerate(attentions):
            own = (parameters[f"blocks.{index}.{name}"] for name in names)
            for handle in attach(attention, grid, found, *own):
                hooks.callback(handle.remove)
        yield found


def _fresh(adapter: MotionEmbedding | TemporalConvolution, grid: Grid, width: int) -> tuple[Tensor, Tensor]:
    import torch

    if isinstance(adapter, MotionEmbedding):
        places = (grid.height, grid.width, width)
        values = (grid.frames, *places) if adapter.value_frames else places
        return torch.zeros(grid.frames, width), torch.zeros(values)
    return (
        torch.randn(adapter.width, width, adapter.kernel),
        torch.zeros(width, adapter.width, adapter.kernel),
    )


def _embed(
    attention: Any, grid: Grid, found: Adapted, queries_keys: Tensor, values: Tensor
) -> list[torch.utils.hooks.RemovableHandle]:
    """Add the embeddings to the inputs of the attention's projections."""
    of_frame = queries_keys[:, None, None]
    of_place = values if values.ndim == 4 else values[None]

    def adding(embedding: Tensor) -> Callable[[Any, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if found.scale == 0:
                return None
            everywhere = embedding.expand(*grid, -1).flatten(0, 2)
            return (_to_video(inputs[0], found.scale * everywhere, grid), *inputs[1:])

        return hook

    sites = ((attention.to_q, of_frame), (attention.to_k, of_frame), (attention.to_v, of_place))
    return [module.register_forward_pre_hook(adding(embedding)) for module, embedding in sites]


def _convolve(
    attention: Any, grid: Grid, found: Adapted, down: Tensor, up: Tensor
) -> list[torch.utils.hooks.RemovableHandle]:
    """Add convolutions along time of the attention's input to its output."""
    import torch.nn.functional as F

    def hook(module: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        if found.scale == 0:
            return None
        tokens: Tensor = inputs[0] if inputs else named["hidden_states"]
        _require_size(tokens, grid)
        batch, places = tokens.shape[0], grid.height * grid.width
        # (B, F * places, C) to one sequence of frames a place: (B * places, C, F)
        video: Any = tokens[:, -grid.frames * places :].float()
        video = video.unflatten(1, (grid.frames, places))
        along_time = video.permute(0, 2, 3, 1).flatten(0, 1)
        hidden = F.gelu(F.conv1d(along_time, down, padding=down.shape[-1] // 2))
        added: Any = F.conv1d(hidden, up, padding=up.shape[-1] // 2)
        added = found.scale * added.unflatten(0, (batch, places)).permute(0, 3, 1, 2).flatten(1, 2)
        if isinstance(output, tuple):
            return (_to_video(output[0], added, grid), *output[1:])
        return _to_video(output, added, grid)

    return [attention.register_forward_hook(hook, with_kwargs=True)]


def _to_video(tokens: Tensor, added: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, n, C) with ``added`` (..., F * h * w, C) on those of the video, the last ones."""
    import torch.nn.functional as F

    _require_size(tokens, grid)
    before = tokens.shape[1] - added.shape[-2]
    return (tokens + F.pad(added, (0, 0, before, 0))).type_as(tokens)


def _require_size(tokens: Tensor, grid: Grid) -> None:
    if tokens.shape[1] < grid.frames * grid.height * grid.width:
        raise ValueError(f"an adapter of {grid} cannot take a latent of {tokens.shape[1]} tokens")


def _require_alike(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """ValueError where names or shapes differ."""
    ours = {name: tuple(value.shape) for name, value in parameters.items()}
    theirs = {name: tuple(value.shape) for name, value in weights.items()}
    different = sorted(dict(ours.items() ^ theirs.items()))
    if different:
        name = different[0]
        raise ValueError(f"weights of another adapter: {name} is {theirs.get(name)}, not {ours.get(name)}")


# --- LoRA ----------------------------------------------------------------------------------------


@contextmanager
def _low_rank(
    transformer: Any, sites: Sites, adapter: LowRank, weights: Mapping[str, Tensor] | None
) -> Iterator[Adapted]:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    before = list(transformer.peft_config) if transformer._hf_peft_config_loaded else []
    name = f"adapter{len(before)}"
    targets = "|".join(re.escape(target) for target in _linear_maps(transformer, sites, adapter))
    # With alpha equal to the rank the scaling is 1; the first factor is N(0, 1 / rank^2), the second 0.
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.rank,
        lora_dropout=adapter.dropout,
        init_lora_weights="gaussian",
        target_modules=targets,
    )

    def rescale(scale: float) -> None:
        for layer in layers:
            layer.scaling[name] = scale

    try:
        with _same_gradients(transformer), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            transformer.add_adapter(config, name)
            transformer.set_adapter([*before, name])
        layers: list[Any] = [
            module
            for module in transformer.modules()
            if isinstance(module, LoraLayer) and name in module.scaling
        ]
        parameters = {
            key.replace(f".{name}.", "."): value
            for key, value in transformer.named_parameters()
            if f".{name}." in key
        }
        for layer in layers:
            layer.lora_dropout[name].train(weights is None)
        if weights is not None:
            _require_alike(parameters, weights)
        for key, value in parameters.items():
            # peft gives them the precision of the layer they are on.
            value.data = value.data.float() if weights is None else weights[key].to(value.device).float()
            value.requires_grad_(weights is None)
        yield Adapted(parameters, rescale)
    finally:
        with _same_gradients(transformer):
            if before:
                transformer.set_adapter(before)
                transformer.delete_adapters(name)
            else:
                transformer.unload_lora()
                # An attribute of the class again; ``unload_lora`` leaves one of the network's own.
                del transformer._hf_peft_config_loaded


def _linear_maps(transformer: Any, sites: Sites, adapter: LowRank) -> list[str]:
    """Names of the linear maps in the adapter's parts of every block."""
    import torch

    modules = {
        "self_attention": sites.self_attention,
        "cross_attention": sites.cross_attention,
        "feed_forward": sites.feed_forward,
    }
    inside = tuple(f"{modules[part]}." for part in adapter.parts if modules[part])
    blocks = transformer.get_submodule(sites.blocks)
    return [
        # Where another LoRA is in place already, the map itself is its ``base_layer``.
        f"{sites.blocks}.{name}".removesuffix(".base_layer")
        for name, module in blocks.named_modules()
        if isinstance(module, torch.nn.Linear)
        and name.partition(".")[2].startswith(inside)
        and ".lora_" not in name
    ]


@contextmanager
def _same_gradients(transformer: Any) -> Iterator[None]:
    """peft decides anew which parameters are trained; those that were there keep what they had."""
    before = [(parameter, parameter.requires_grad) for parameter in transformer.parameters()]
    try:
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


@contextmanager
def _uncompiled(transformer: Any) -> Iterator[None]:
    compiled = [
        (module, module._compiled_call_impl)
        for module in transformer.modules()
        if module._compiled_call_impl is not None
    ]
    try:
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call


__all__ = ["Sites", "adapted"]
