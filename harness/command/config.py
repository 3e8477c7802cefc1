"""From Hydra's composed configuration to a ``Job`` whose plug-ins are built and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from datasets.errors import InputError, nearest
from datasets.interface import Dataset
from datasets.plugin import Plugin
from harness.cells.job import ExperimentVariant, Job, Node
from harness.command.interface import Action
from harness.command.plugins import build, one_line
from harness.command.secrets import without_secrets
from harness.execute.interface import Engine
from harness.records.hidden import Hidden, Key, folders
from methods.backbones.interface import BackboneConfig
from methods.interface import Method
from metrics.interface import Metric, Tracker


class WandbSettings(BaseModel):
    """The keys of ``conf/wandb``. ``dir`` gets the folder ``wandb``, which holds the runs."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "vmtbench"
    entity: str | None = None
    group: str | None = None
    timeout_s: float = Field(60, gt=0, allow_inf_nan=False)
    videos: int = Field(8, ge=0)
    dir: Path = Path("results")


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class _Measure(_Keys):
    warmup_steps: Annotated[int, Field(ge=0)]
    repeats: Annotated[int, Field(ge=1)]
    amortise: bool = False
    full_steps: Annotated[int, Field(ge=1)] | None = None
    quiet: bool | None = None


class _Motion(_Keys):
    mask: Literal["auto", "none"] = "auto"


class _Metrics(_Keys):
    required: list[str] = []
    columns: list[str] = []
    metrics: dict[str, Node | None]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


class _Root(_Keys):
    """The keys of ``conf/config.yaml`` outside ``hydra``; what others interpolate stands before them."""

    results: Annotated[str, Field(min_length=1)]
    method: Node
    backbone: Node
    dataset: Node
    metrics: _Metrics
    tracker: Node
    execute: Node
    wandb: WandbSettings
    action: Node
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None
    seed: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1), BeforeValidator(_as_list)
    ]
    limit: Annotated[int, Field(ge=1)] | None
    frames: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    resume: bool
    keep_frames: bool
    page: bool = False
    trust: list[str]
    measure: _Measure
    cells: Annotated[int, Field(ge=1)] | None = None
    motion: _Motion = _Motion()


def _validated(resolved: Node) -> _Root:
    try:
        return _Root.model_validate(resolved)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            *path, name = (str(part) for part in first["loc"])
            model: type[BaseModel] = _Root
            for part in path:
                inner = model.model_fields[part].annotation
                assert isinstance(inner, type) and issubclass(inner, BaseModel)
                model = inner
            where = ".".join((*path, name))
            prefix = where.removesuffix(name)
            hint = nearest(name, model.model_fields, prefix)
            raise InputError(f"{where}: no such key; {hint}") from error
        raise InputError(one_line(error)) from error


def resolve_device(device: str) -> str:
    """``auto`` becomes ``cuda`` where there is one, else ``cpu``.

    Raises InputError when CUDA is asked for and absent.
    """
    if device == "cpu":
        return device
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if count else "cpu"
    if not count:
        raise InputError(f"device={device}: this machine has no CUDA device; set device=cpu or device=auto")
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise InputError(
            f"device={device}: this machine has {count} CUDA device(s); the last is cuda:{count - 1}"
        )
    return device


def _device(device: str, action: Action, engine: Engine) -> str:
    """The job's; that of a remote worker is checked where it works."""
    if engine.remote and action.needs.device:
        return "cuda" if device == "auto" else device
    return resolve_device(device) if action.needs.device else device


SHOWN = ("name", "names", "prompt", "seed")
"""Keys whose values name files, rows or cells."""


def _check_secrets(secrets: Mapping[Key, str], plugins: Mapping[Key, Plugin]) -> None:
    """InputError for a secret where it could not be hidden: in a name, or in what a metric's version says."""
    for key in secrets:
        where = ".".join(map(str, key))
        named = [part for part in key if isinstance(part, str)]
        in_version = any(
            key[: len(at)] == at and not _outside(key[len(at) :], plugin) for at, plugin in plugins.items()
        )
        if named[-1] in SHOWN or in_version:
            raise InputError(
                f"{where}: stands in records and tables, which show no value of ${{oc.env:...}} or "
                f"environment; let the shell fill it in: {where}=$NAME"
            )


def _outside(key: Key, plugin: Plugin) -> bool:
    """Whether the key of a plug-in, or one that holds it, is ``outside_id``."""
    return any(".".join(map(str, key[:length])) in plugin.outside_id for length in range(1, len(key) + 1))


def _not_finite(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Where plain data holds NaN or infinity."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            yield from _not_finite(one, f"{where}.{key}" if where else str(key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, value


def _fit_clips(root: _Root, backbone: BackboneConfig, method: Method) -> None:
    """Put what a dataset of footage leaves open into its node: the backbone's size, and its longest clip.

    Without a backbone clips keep their own size, and all that they have of 4k+1 frames.
    """
    node = root.dataset
    if method.uses_backbone:
        for key, value in (("height", backbone.height), ("width", backbone.width)):
            if key in node and node[key] is None:
                node[key] = value
        if "most_frames" in node:
            node["most_frames"] = backbone.most_frames if root.frames == "auto" else None


def make_job(
    resolved: Node,
    overrides: Sequence[str] = (),
    variant: ExperimentVariant | None = None,
    secrets: Mapping[Key, str] | None = None,
) -> tuple[Job, Action]:
    """Validate a composed configuration, and build its plug-ins and its action.

    ``resolved`` is plain data without ``hydra``'s node; ``secrets``: where it holds one, and which. Raises
    InputError, one line that names the key. Loads no model and, but for the device, imports no torch.
    """
    root = _validated(resolved)
    # What interpolates a key is wrong where the key is: the key itself, of a backbone or so, comes first.
    for where, value in sorted(_not_finite(resolved), key=lambda one: one[0].startswith("method")):
        raise InputError(f"{where}: got {value}; give a finite number")
    trust, secrets = root.trust, secrets or {}
    action = build(root.action, "action", Action, trust)
    engine = build(root.execute, "execute", Engine, trust)
    nodes = {name: node for name, node in root.metrics.metrics.items() if node is not None}
    metrics = {name: build(node, f"metrics.metrics.{name}", Metric, trust) for name, node in nodes.items()}
    for name in root.metrics.required:
        if name not in metrics:
            raise InputError(f"metrics.required: no metric {name!r} is configured; {nearest(name, metrics)}")
    # The backbone first: the others interpolate its keys.
    backbone = build(root.backbone, "backbone", BackboneConfig, trust)
    method = build(root.method, "method", Method, trust)
    _fit_clips(root, backbone, method)
    dataset = build(root.dataset, "dataset", Dataset, trust)
    tracker = build(root.tracker, "tracker", Tracker, trust)
    versioned: dict[Key, Plugin] = {("metrics", "metrics", name): one for name, one in metrics.items()}
    _check_secrets(secrets, {**versioned, ("tracker",): tracker})
    results, clips = Path(root.results).expanduser(), root.dataset.get("root")
    places = folders(results, clips if isinstance(clips, str) else None)
    hidden = Hidden(frozenset(secrets), tuple(secrets.values()), places)
    job = Job(
        method=method,
        backbone=backbone,
        dataset=dataset,
        metrics=metrics,
        tracker=tracker,
        required=root.metrics.required,
        columns=root.metrics.columns,
        # Nothing else needs a device, so it may speak of one that is not here.
        device=_device(root.device, action, engine),
        seeds=list(dict.fromkeys(root.seed)),
        limit=root.limit,
        frames=backbone.most_frames if root.frames == "auto" else root.frames,
        auto_frames=root.frames == "auto",
        results=results,
        resume=root.resume,
        keep_frames=root.keep_frames,
        page=root.page,
        warmup_steps=root.measure.warmup_steps,
        repeats=root.measure.repeats,
        name=root.name,
        engine=engine,
        wandb=root.wandb.model_dump(mode="json"),
        overrides=[without_secrets(word) for word in overrides],
        variant=variant and replace(variant, command=tuple(map(without_secrets, variant.command))),
        resolved=hidden.data(resolved),
        nodes=resolved,
        hidden=hidden,
        needs=action.needs,
        amortise=root.measure.amortise,
        full_steps=root.measure.full_steps,
        quiet=root.measure.quiet,
        mask=root.motion.mask,
    )
    return job, action


__all__ = ["WandbSettings", "make_job", "resolve_device"]
