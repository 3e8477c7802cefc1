"""What a backbone's YAML offers methods to interpolate: values that its token grid and depth decide.

Not read by the backbone itself. A group stands under the name of the methods that share it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass


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
    """Of methods that read the output of a block, each of its own; the learning rates are of latents.

    ``moft_channels`` is the share of channels that MOFT keeps.
    """

    moft_block: NonNegativeInt
    moft_channels: Annotated[float, Field(gt=0, le=1)]
    smm_block: NonNegativeInt
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
    """Of methods that optimise the latent through the predicted clean one; ``source`` as in FlowMotion."""

    source: Literal["latent_prediction", "clean_latent"]
    lr: float
    iterations: PositiveInt
    guided_fraction: Annotated[float, Field(ge=0, le=1)]


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


__all__ = ["Guidance", "Tuning"]
