"""A backbone of diffusers before loading: its keys, sizes and weights, and how its networks are loaded."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from datasets.weights import Weight
from methods.backbones.interface import Backbone, BackboneConfig, Grid
from methods.backbones.loading import (
    build_networks,
    check_cuda,
    check_sizes,
    dtype_named,
    load_network,
    public,
    quiet,
)
from methods.backbones.weights import COMPONENTS, Weights

if TYPE_CHECKING:
    import torch


@dataclass(config={"extra": "forbid"})
class Architecture:
    """diffusers' and transformers' ``config.json`` values of the three networks."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]


AnyArchitecture = TypeVar("AnyArchitecture", bound=Architecture)


class Networks(NamedTuple):
    """The classes of diffusers and transformers that a kind of backbone is made of."""

    pipeline: Any
    transformer: Any
    vae: Any
    text_encoder: Any
    text_config: Any


class Geometry(NamedTuple):
    """How a clip becomes tokens.

    ``channels`` of a latent. A latent frame covers ``frames`` frames, and a clip has ``clip_unit`` k + 1.
    A latent cell is ``cell`` pixels high and wide, a token ``patch`` (rows, columns) of cells.
    """

    channels: int
    frames: int
    clip_unit: int
    cell: int
    patch: tuple[int, int]


Side = Annotated[int, Field(gt=0, le=8192)]
"""Pixels of a video's side; 8K has 7680."""


@dataclass(config={"extra": "forbid"}, kw_only=True)
class DiffusersConfig(BackboneConfig):
    """A backbone of diffusers before loading.

    ``model``: a name shipped in ``checkpoints/``, a local diffusers folder, or a hub id at ``revision``.
    ``weights: random`` builds ``architecture`` without a download, seeded by ``random_seed``; there is
    then no text encoder, and ``embed`` returns random embeddings keyed by the prompt's text.
    ``checkpoint`` recomputes blocks in a backward pass, for memory; ``auto`` only where what they would
    save does not fit. ``cpu_offload`` keeps only the network in use on the device. ``steps``,
    ``guidance_scale`` and ``negative_prompt`` are read by methods, not by the backbone.
    """

    name: str
    model: str
    height: Side
    width: Side
    steps: PositiveInt
    guidance_scale: float
    negative_prompt: str
    max_tokens: PositiveInt
    revision: str = "main"
    weights: Literal["pretrained", "random"] = "pretrained"
    random_seed: int = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpoint: bool | Literal["auto"] = False
    vae_tiling: bool = False
    cpu_offload: bool = False
    own_world_only: bool = False
    most_frames: PositiveInt = 81
    architecture: Architecture | None = None

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
        "checkpoint",
        "cpu_offload",
        "own_world_only",
        "most_frames",
    )
    # Folders of a pipeline that determine what comes out.
    parts: ClassVar[tuple[str, ...]] = COMPONENTS

    @abstractmethod
    def geometry(self) -> Geometry:
        """How a clip becomes tokens; InputError for networks that it does not know."""

    @abstractmethod
    def _networks(self) -> Networks: ...

    @abstractmethod
    def scheduler(self) -> Any:
        """The scheduler of the pipeline."""

    @abstractmethod
    def _loaded(self, device: str, transformer: Any, vae: Any, pipeline: Any | None) -> Any:
        """The loaded backbone of these networks; ``pipeline`` is None for random weights."""

    @property
    def untrained(self) -> bool:
        return self.weights == "random"

    @property
    def num_blocks(self) -> int:
        return int(self.sizes().transformer["num_layers"])

    def attention_shape(self) -> tuple[int, int]:
        """Heads of a block's self-attention, and the width of one."""
        network = self.sizes().transformer
        return int(network["num_attention_heads"]), int(network["attention_head_dim"])

    def sizes(self) -> Architecture:
        """Configurations of the networks: those of the weights on this machine, else ``architecture``."""
        return self._described(Architecture)

    def _described(self, kind: type[AnyArchitecture]) -> AnyArchitecture:
        weights = self._weights()
        folder = weights.described(self.architecture, self.untrained)
        if folder is None:
            assert isinstance(self.architecture, kind)
            return self.architecture
        return kind(**{part.name: weights.config(folder, part.name) for part in fields(kind)})

    def grid(self, frames: int) -> Grid:
        """The token grid of a clip of ``frames``; InputError names the key and the nearest valid values."""
        geometry = self.geometry()
        rows, columns = (geometry.cell * side for side in geometry.patch)
        sides = {"height": (self.height, rows), "width": (self.width, columns)}
        check_sizes(self.name, frames, geometry.clip_unit, sides)
        return Grid((frames - 1) // geometry.frames + 1, self.height // rows, self.width // columns)

    def latent_shape(self, frames: int) -> tuple[int, int, int, int, int]:
        """Shape (1, C, F, h, w) of the latent of a clip."""
        geometry, grid = self.geometry(), self.grid(frames)
        rows, columns = geometry.patch
        return (1, geometry.channels, grid.frames, grid.height * rows, grid.width * columns)

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
            # Random weights have no text encoder.
            sizes = [sizes for part, sizes in asdict(self.sizes()).items() if part != "text_encoder"]
            digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest()
            return f"random:{self.random_seed}-{digest[:12]}"
        return self._weights().identity()

    def folder(self) -> Path | None:
        """Local folder of the complete weights, or None when they must be downloaded.

        Raises InputError when ``model`` names a local folder that is missing or incomplete.
        """
        return self._weights().folder()

    def needed_weights(self) -> Sequence[Weight]:
        """Those of all networks; none with ``weights: random``."""
        return () if self.untrained else (self._weights().listed(),)

    def load(self, device: str) -> Backbone:
        """Load the networks onto ``device``, in evaluation mode, with frozen weights.

        Raises InputError when a network lacks a tensor or the download fails.
        """
        import torch

        if self.untrained:
            target = torch.device(device)
            with torch.random.fork_rng([target] if target.type == "cuda" else []):
                torch.manual_seed(self.random_seed)
                networks = self._build(target)
            random: Backbone = self._loaded(device, *networks, None)
            return random
        from transformers import AutoTokenizer

        folder = self.folder() or self._weights().fetch()
        kinds, dtype = self._networks(), dtype_named(self.dtype)
        with quiet():
            pipeline = kinds.pipeline(
                tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
                text_encoder=load_network(kinds.text_encoder, folder, "text_encoder", self.model, dtype),
                vae=load_network(kinds.vae, folder, "vae", self.model, torch.float32),
                scheduler=self.scheduler(),
                transformer=load_network(kinds.transformer, folder, "transformer", self.model, dtype),
            )
        loaded: Backbone = self._loaded(device, pipeline.transformer, pipeline.vae, pipeline)
        return loaded

    def meta(self) -> Any:
        """The networks on the meta device: shapes without weights, for counting FLOPs."""
        import torch

        loaded = self._plain()._loaded("meta", *self._build(torch.device("meta")), None)
        if not self.untrained:
            kinds = self._networks()
            with torch.device("meta"), quiet():
                loaded.text_encoder = kinds.text_encoder(
                    kinds.text_config(**public(self.sizes().text_encoder))
                )
        return loaded

    def _plain(self) -> Self:
        """This backbone without what needs real tensors."""
        return replace(self, cpu_offload=False, checkpoint=self.checkpoint is True)

    def _build(self, device: torch.device) -> tuple[Any, Any]:
        """Transformer and VAE with fresh weights, made on ``device`` in their final precision."""
        kinds, sizes = self._networks(), self.sizes()
        return build_networks(kinds.transformer, kinds.vae, sizes, device, dtype_named(self.dtype))

    def _weights(self) -> Weights:
        return Weights(self.model, self.revision, self.parts)


__all__ = ["Architecture", "DiffusersConfig", "Geometry", "Networks"]
