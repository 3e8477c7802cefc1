"""One configuration, ready to be planned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.interface import Dataset

    pass

    from methods.backbones.interface import BackboneConfig
    from methods.interface import Method
    from metrics.interface import Metric, Tracker


Node = dict[str, Any]


@dataclass
class Job:
    """One configuration, ready to be planned: its plug-ins are built, nothing is loaded.

    ``resolved`` is the composed configuration as plain data, interpolations resolved:
    ``resolved["method"]``, ``["backbone"]``, ``["dataset"]`` and so on are the nodes the
    plug-ins were built from. ``device`` is never ``auto`` in a run. ``overrides`` are the command
    line's, in its order, and then those of the experiment's variant that the job is (``part``).
    ``launcher`` is Hydra's when jobs of a sweep run at the same time; ``number`` the job's in the sweep.
    """

    method: Method
    backbone: BackboneConfig
    dataset: Dataset
    metrics: dict[str, Metric]
    tracker: Tracker
    required: list[str]
    device: str
    seeds: list[int]
    limit: int | None
    frames: int
    results: Path
    resume: bool
    keep_frames: bool
    warmup_steps: int
    repeats: int
    name: str | None
    on_error: str
    wandb: dict[str, Any]
    overrides: list[str] = field(default_factory=list)
    part: Part | None = None
    launcher: str | None = None
    number: int = 0
    resolved: dict[str, Any] = field(default_factory=dict)
    trust: list[str] = field(default_factory=list)
    action: str = "run"
    amortise: bool = False
    full_steps: int | None = None


@dataclass(frozen=True)
class Part:
    """The variant that a job is: its experiment, label, the experiment's baseline and the whole command."""

    experiment: str
    label: str
    baseline: str | None
    command: tuple[str, ...]
    optional: bool = False
    notes: tuple[str, ...] = ()
