"""One call of a backbone on PyTorch's meta device: its own code runs, without weights and without numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from harness.cost.caching import cached_by_text
from harness.cost.calls import Call
from harness.cost.operators import fused_attention
from methods.backbones.interface import BackboneConfig, Grid
from methods.backbones.memory import counting_saved

if TYPE_CHECKING:
    from torch import Tensor


class SavedBytes(NamedTuple):
    """Bytes that one gradient keeps for its backward pass, without and with recomputed blocks."""

    whole: int
    recomputed: int


@dataclass(frozen=True)
class MetaBackbone:
    """A backbone on the meta device, for clips of ``frames``; ``on_meta`` makes one.

    ``loaded``: what ``BackboneConfig.meta`` gives.
    """

    config: BackboneConfig
    frames: int
    loaded: Any

    def run(self, call: Call) -> None:
        """Run one call, of one batch element or one prompt; a gradient with its backward pass."""
        import torch

        match call.kind:
            case "partial":
                self.outputs(call)
            case "gradient":
                outputs = self.outputs(call)
                torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])
            case "forward":
                self.loaded.predict(*self._inputs(), None, 1.0)
            case "embed":
                self._embed()
            case "encode":
                shape = (1, 3, self.frames, self.config.height, self.config.width)
                with torch.no_grad():
                    self.loaded.vae.encode(torch.empty(shape, device="meta"))
            case "decode":
                with torch.no_grad():
                    self.loaded.vae.decode(torch.empty(self.config.latent_shape(self.frames), device="meta"))

    def outputs(self, call: Call) -> tuple[Tensor, ...]:
        """What a partial pass, or a gradient's forward pass, returns."""
        grad = call.kind == "gradient"
        latent, timestep, prompt = self._inputs(call.grid)
        latent.requires_grad_(grad)
        if call.block is None:
            return (self.loaded.velocity(latent, timestep, prompt, grad=grad),)
        given = (latent, timestep, prompt, call.block)
        if call.output == "hidden_states":
            return (self.loaded.hidden_states(*given, grad=grad),)
        read = self.loaded.keys_values if call.output == "keys_values" else self.loaded.queries_keys
        first, second = read(*given, grad=grad)
        return first, second

    def _inputs(self, grid: Grid | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Latent (of a smaller token ``grid``, where there is one), timestep and one prompt's embedding."""
        import torch

        batch, channels, *sizes = self.config.latent_shape(self.frames)
        if grid is not None:
            whole = self.config.grid(self.frames)
            sizes = [size * here // full for size, here, full in zip(sizes, grid, whole, strict=True)]
        latent = torch.empty((batch, channels, *sizes), device="meta")
        prompt = torch.empty(1, self.config.max_tokens, self.loaded.text_width, device="meta")
        return latent, torch.empty((), device="meta"), prompt

    def _embed(self) -> None:
        import torch

        if self.loaded.text_encoder is None:  # random weights: embeddings are drawn, not computed
            return
        tokens = torch.zeros(1, self.config.max_tokens, dtype=torch.long, device="meta")
        with torch.no_grad():
            self.loaded.text_encoder(tokens)


def on_meta(config: BackboneConfig, frames: int) -> MetaBackbone:
    """The backbone on the meta device; blocks are recomputed only where the configuration says always.

    InputError when the backbone has no cost model.
    """
    return MetaBackbone(config, frames, _loaded(with_checkpoint(config, config.checkpoint is True)))


@cached_by_text(maxsize=4)
def _loaded(config: BackboneConfig) -> Any:
    return config.meta()


def with_checkpoint(config: BackboneConfig, checkpoint: bool) -> BackboneConfig:
    """The configuration of the same backbone whose blocks are always, or never, recomputed."""
    if config.checkpoint is checkpoint:  # also where it is no field, only the default
        return config
    return cast("BackboneConfig", replace(cast("Any", config), checkpoint=checkpoint))


def saved_bytes(config: BackboneConfig, frames: int, call: Call) -> SavedBytes:
    """What one gradient keeps for its backward pass.

    Recomputed, each block keeps only the tokens that enter it, and one block at a time
    what it would have kept.
    """
    backbone = on_meta(with_checkpoint(config, False), frames)
    whole = _saved(backbone, call)
    blocks = config.num_blocks if call.block is None else call.block + (call.output == "hidden_states")
    if blocks < 2:
        return SavedBytes(whole, whole)
    first, second = (call._replace(block=block, output="queries_keys") for block in (0, 1))
    one = _saved(backbone, second) - _saved(backbone, first)
    latent_frames, height, width = call.grid or config.grid(frames)
    loaded = backbone.loaded
    tokens = latent_frames * height * width * loaded.heads * loaded.head_dim * loaded.dtype.itemsize
    return SavedBytes(whole, whole - (blocks - 1) * one + blocks * tokens)


def _saved(backbone: MetaBackbone, call: Call) -> int:
    with fused_attention(), counting_saved(backbone.loaded.transformer) as saved:
        outputs = backbone.outputs(call)
        total = saved.bytes
    del outputs
    return total


__all__ = ["MetaBackbone", "SavedBytes", "on_meta", "saved_bytes", "with_checkpoint"]
