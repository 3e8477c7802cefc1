"""One configuration, ready to be planned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.records.hidden import Hidden

if TYPE_CHECKING:
    from datasets.interface import Dataset
    from harness.execute.interface import Engine
    from methods.backbones.interface import BackboneConfig
    from methods.interface import Method
    from metrics.interface import Metric, Tracker

Node = dict[str, Any]


@dataclass(frozen=True)
class Needs:
    """What an action asks of a job before it begins.

    ``device``: the device is there. ``grid``: the method fits the clip's token grid. ``weights``: they are
    to be had; else what the records say of them will do. ``metrics``: so are those of required metrics.
    """

    device: bool = False
    grid: bool = True
    weights: bool = True
    metrics: bool = False


@dataclass(frozen=True)
class ExperimentVariant:
    """The variant that a job is: its experiment, label, the experiment's baseline and the whole command."""

    experiment: str
    label: str
    baseline: str | None
    command: tuple[str, ...]
    optional: bool = False
    notes: tuple[str, ...] = ()


@dataclass
class Job:
    """One configuration, ready to be planned: its plug-ins are built, nothing is loaded.

    ``resolved`` is the composed configuration as plain data, interpolations resolved, as records show it;
    ``nodes`` has the nodes of ``method``, ``backbone``, ``dataset`` and so on that the plug-ins were built
    from, secrets and all, where they are others. ``hidden``: what must not be written. ``device`` is never
    ``auto`` in a run. ``frames``: of a clip, with ``auto_frames`` of the longest. ``overrides`` are the
    command line's, in its order, and then those of the experiment's variant that the job is (``variant``).
    ``workers``: so many share the processor; ``quiet``: nothing is scored while a stage is timed;
    ``number``: the job's in the sweep. ``mask``: motion is read within the
    clips' masks where they have some (``auto``), or never (``none``). ``columns``: of its table, by key;
    none for those that are primary. ``page``: its command ends by writing one.
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
    engine: Engine
    wandb: dict[str, Any]
    overrides: list[str] = field(default_factory=list)
    variant: ExperimentVariant | None = None
    auto_frames: bool = False
    workers: int = 1
    quiet: bool | None = None
    number: int = 0
    resolved: dict[str, Any] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    amortise: bool = False
    full_steps: int | None = None
    mask: Literal["auto", "none"] = "auto"
    columns: list[str] = field(default_factory=list)
    page: bool = False
    hidden: Hidden = field(default_factory=Hidden)
    nodes: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def scored_beside(self) -> bool:
        """Videos are scored by a process of its own while the next is made: on a GPU, unless ``quiet``."""
        return self.device.startswith("cuda") if self.quiet is None else not self.quiet

    @property
    def label(self) -> str:
        """What its row is called."""
        return self.variant.label if self.variant else self.method.name

    def node(self, name: str) -> Node:
        """The configuration that a plug-in was built from."""
        return dict(self.nodes.get(name) or self.resolved.get(name) or {})


__all__ = ["ExperimentVariant", "Job", "Needs", "Node"]
