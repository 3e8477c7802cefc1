"""Which cells a job consists of, and their ids."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from datasets.errors import InputError
from datasets.interface import ClipInfo, Dataset, LeftOut, Prompt
from datasets.plugin import Plugin
from harness.cells.job import Job
from harness.records import record as records
from methods.backbones.interface import Grid
from metrics.interface import MetricUnavailable


class DoesNotFit(InputError):
    """A method or a clip's size that this backbone cannot take; another variant may fit."""


FROM_RECORDS = ("score", "speed")
"""Actions for which the identity of weights that are not here is taken from the records."""


@dataclass
class Cell:
    """Method x clip x prompt x seed. ``path`` is its folder, relative to the results folder.

    ``identity`` is what was hashed into ``id``.
    """

    id: str
    path: str
    clip: ClipInfo
    prompt: Prompt
    seed: int
    identity: dict[str, Any]


def digest(value: Any) -> str:
    """sha256 hex digest of the canonical JSON of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def configuration(plugin: Plugin, node: Mapping[str, Any]) -> dict[str, Any]:
    """A plug-in's configuration as it enters an id: all its fields less ``outside_id``.

    It is read back from the plug-in, so that ``3`` and ``3.0`` for a float are the same
    and a default counts whether it is written or not. An entry of ``outside_id`` may name
    a nested field with a dot.
    """
    if is_pydantic_dataclass(type(plugin)):
        config = TypeAdapter(type(plugin)).dump_python(plugin, mode="json", warnings=False)
        for entry in dataclasses.fields(cast("Any", plugin)):
            if not entry.init:
                config.pop(entry.name, None)
    else:
        config = json.loads(json.dumps({k: v for k, v in node.items() if k != "_target_"}))
    for name in plugin.outside_id:
        *path, last = name.split(".")
        inner = config
        for part in path:
            inner = inner.get(part) or {}
        inner.pop(last, None)
    return cast("dict[str, Any]", config)


def _part(plugin: Plugin, node: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": plugin.plugin_kind, "version": plugin.version, "config": configuration(plugin, node)}


def safe(name: str, limit: int = 100) -> str:
    """A name as one path component: word characters, dots and dashes, ``limit`` bytes at most."""
    kept = re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "_"
    return kept.encode()[:limit].decode(errors="ignore")


def check_writable(results: Path) -> None:
    """Create the results folder and write in it; InputError when that fails."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise InputError(
            f"results: cannot write {results} ({error.strerror or error}); choose another with results=DIR"
        ) from error


def _check_readable(dataset: Dataset, clip: ClipInfo) -> None:
    try:
        dataset.load(clip.name)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"dataset: {clip.name}, its only clip, cannot be read ({reason[0]}); replace the file"
        ) from error


def make_plan(job: Job) -> tuple[records.Plan, list[Cell]]:
    """The plan of a job and its cells, in the order they will run: clip, prompt, seed.

    Checks everything that can be checked before a model is loaded and raises InputError:
    frame sizes, weights, token grid, the dataset, an only clip's file, the results folder,
    what required metrics need. ``job.limit`` keeps the first clips of the listing. A
    finished video that is missing leaves its cell out; an error only when none remains, or
    none of a clip that ``dataset.names`` asks for.

    ``action=score`` and ``speed`` need neither weights nor device: without the weights (or a program's
    files) it goes by the identity in the records of the plan of the same name.
    """
    method = job.method
    if method.uses_backbone and job.action != "score":
        try:
            method.check(_grid(job), job.backbone.num_blocks)
            check_operations(job)
        except InputError as error:
            raise DoesNotFit(str(error)) from error
    listing = job.dataset.listing()
    left_out: list[LeftOut] = list(listing.left_out)
    clips: Sequence[ClipInfo] = listing.clips[: job.limit]
    check_writable(job.results)

    plugins = {"method": method, "backbone": job.backbone, "dataset": job.dataset}
    common: dict[str, Any] = {
        name: _part(plugin, job.resolved.get(name, {})) for name, plugin in plugins.items()
    }
    common["frames"] = job.frames
    named = {name: common[name]["config"] for name in ("method", "backbone", "dataset")}
    if job.amortise:
        # The same video, but a time of another meaning: it shall not stand in for the other.
        common["amortise"] = named["amortise"] = True
    config = digest(named)
    common["backbone"]["weights"] = None
    if method.uses_backbone:
        weights = _identity(job, config, clips, ("backbone", "weights"), job.backbone.identity)
        common["backbone"]["weights"] = weights
    program = _identity(job, config, clips, ("method", "program"), method.identity)
    if program is not None:
        common["method"]["program"] = program
    folder = Path("cells") / safe(job.method.name) / safe(job.dataset.name)

    cells: dict[str, Cell] = {}
    for clip in clips:
        for prompt in clip.prompts:
            for seed in job.seeds:
                # The noise is keyed by the clip's name, so the name changes the output.
                identity = {
                    **common,
                    "clip": {"name": clip.name, "content": clip.content},
                    "prompt": prompt.text,
                    "seed": seed,
                }
                missing = method.missing(clip.name, prompt.text, seed)
                if missing is not None:
                    left_out.append(LeftOut(clip.name, missing))
                    continue
                content = method.content(clip.name, prompt.text, seed)
                if content is not None:
                    identity["video"] = content
                cell_id = digest(identity)[:16]
                path = (folder / f"{safe(clip.name)}-{cell_id}").as_posix()
                cells.setdefault(path, Cell(cell_id, path, clip, prompt, seed, identity))
    left_out = list(dict.fromkeys(left_out))
    if not cells:
        reasons = "; ".join(f"{out.clip}: {out.reason}" for out in left_out[:3])
        raise InputError(f"dataset: no clip of {job.dataset.name} can be run ({reasons or 'it lists none'})")
    _check_named(job, clips, cells.values(), left_out)
    if len(clips) == 1:
        _check_readable(job.dataset, clips[0])
    if job.action in ("run", "score"):
        check_required(job)

    # Finished videos have no configuration of their own: their cells' ids tell them apart.
    finished = any("video" in cell.identity for cell in cells.values())
    what = [cell.id for cell in cells.values()] if finished else [clip.name for clip in clips]
    variant = records.Variant(
        label=job.part.label if job.part else job.method.name,
        method=job.method.name,
        backbone=job.backbone.name,
        dataset=job.dataset.name,
        config_id=digest(common)[:16],
        overrides=job.overrides,
        cells=[
            records.PlannedCell(
                id=cell.id,
                path=cell.path,
                clip=cell.clip.name,
                prompt=cell.prompt.text,
                prompt_kind=cell.prompt.kind,
                seed=cell.seed,
            )
            for cell in cells.values()
        ],
    )
    plan = records.Plan(
        schema=records.SCHEMA,
        name=_name(job, config, what),
        command=["python", "-m", "harness", *(job.part.command if job.part else job.overrides)],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        variants=[variant],
        left_out=[records.PlannedOut(clip=out.clip, reason=out.reason) for out in left_out],
    )
    return plan, list(cells.values())


def _grid(job: Job) -> Grid:
    """The clip's token grid. Who only reads records needs no weights."""
    if job.action == "speed":
        return job.backbone.grid(job.frames)
    needs_device = job.action in ("run", "profile")
    return job.backbone.check(job.frames, job.device if needs_device else "cpu")


def _name(job: Job, config: str, what: Sequence[str]) -> str:
    """The plan's name: the one given, or one that follows from the configuration and ``what`` runs."""
    short = digest({"config": config, "frames": job.frames, "seeds": job.seeds, "what": what})[:6]
    return job.name or f"{safe(job.method.name)}-{safe(job.backbone.name)}-{safe(job.dataset.name)}-{short}"


def _identity(
    job: Job, config: str, clips: Sequence[ClipInfo], where: tuple[str, str], ask: Callable[[], Any]
) -> Any:
    """Identity of weights or a program, as ``ask`` has it; when only scoring, the plan's records will do.

    ``where`` it stands in a cell's identity: part and key.
    """
    part, key = where
    try:
        return ask()
    except InputError:
        if job.action not in FROM_RECORDS:
            raise
        name = _name(job, config, [clip.name for clip in clips])
        for path in [plan_path(job.results, name)] if job.part is None else _kept_plans(job):
            try:
                for variant in records.load_plan(path).variants:
                    if job.part is not None and variant.label != job.part.label:
                        continue
                    for cell in variant.cells:
                        record = job.results / cell.path / "record.json"
                        if record.exists():
                            return records.load_record(record).identity[part][key]
            except (OSError, ValueError, LookupError):
                continue
        raise


def _kept_plans(job: Job) -> list[Path]:
    """Plan files of the job's experiment: that of its name, or all that were named after the experiment."""
    assert job.part is not None
    if job.name:
        return [plan_path(job.results, job.name)]
    folder = plan_path(job.results, "").parent
    return sorted(folder.glob(f"{safe(job.part.experiment)}-{safe(job.backbone.name)}-*.json"))


def together(plans: Sequence[records.Plan], job: Job, out: Sequence[records.VariantOut]) -> records.Plan:
    """One plan of an experiment's variants, in their order. ``job`` is one of theirs; ``out`` did not fit.

    A variant that is the same configuration as an earlier one is left out, as no row of its own.
    """
    assert job.part is not None
    left_out = list(out)
    variants: dict[tuple[str, ...], records.Variant] = {}
    shown: dict[str, str] = {}
    for plan in plans:
        for variant in plan.variants:
            first = variants.setdefault((variant.config_id, *(cell.id for cell in variant.cells)), variant)
            shown[variant.label] = first.label
            if first is not variant:
                reason = f"the same configuration as {first.label}"
                left_out.append(records.VariantOut(label=variant.label, reason=reason))
    clips = {(one.clip, one.reason): one for plan in plans for one in plan.left_out}
    short = digest([plan.name for plan in plans])[:6]
    words = [safe(part) for part in (job.part.experiment, job.backbone.name, job.dataset.name)]
    return records.Plan(
        schema=records.SCHEMA,
        name=job.name or f"{'-'.join(words)}-{short}",
        command=plans[0].command,
        created=plans[0].created,
        baseline=shown.get(job.part.baseline or ""),
        variants=list(variants.values()),
        left_out=list(clips.values()),
        variants_out=left_out,
    )


def check_operations(job: Job) -> None:
    """InputError when the method ``needs`` an operation that the backbone ``lacks``."""
    for name in job.method.needs:
        if name in job.backbone.lacks:
            raise InputError(
                f"method={job.method.name} needs {name}, which backbone={job.backbone.name} does not have; "
                "use another backbone or method"
            )


def check_required(job: Job) -> None:
    """Ask the metrics in ``metrics.required``, and the tracker of those that use tracks, for their weights.

    Raises InputError when a plug-in's ``ready`` says that they are not to be had.
    """
    for name in job.required:
        metric = job.metrics[name]
        for plugin in (metric, *([job.tracker] if metric.uses_tracks else [])):
            try:
                plugin.ready()
            except MetricUnavailable as error:
                reason = " ".join(str(error).split())
                raise InputError(f"metrics.required: {name} cannot be computed: {reason}") from error


def _check_named(
    job: Job, clips: Sequence[ClipInfo], cells: Iterable[Cell], left_out: Sequence[LeftOut]
) -> None:
    """InputError for a clip that ``dataset.names`` asks for and that no finished video shows."""
    shown = {cell.clip.name for cell in cells}
    for clip in clips:
        if clip.name in job.dataset.asked_for() and clip.name not in shown:
            reason = next((out.reason for out in left_out if out.clip == clip.name), "has no prompt")
            raise InputError(f"dataset.names: {clip.name}: {reason}; add the video or drop the name")


def unmatched(jobs: Sequence[tuple[Job, records.Plan]]) -> list[str]:
    """A line for each list of finished videos that names some which no plan of the command compares."""
    wanted: dict[tuple[tuple[str, str, int], ...], set[tuple[str, str, int]]] = {}
    for job, plan in jobs:
        listed = tuple(job.method.listed())
        known = wanted.setdefault(listed, set())
        known |= {(cell.clip, cell.prompt, cell.seed) for one in plan.variants for cell in one.cells}
        out = {(left.clip, left.reason) for left in plan.left_out}
        # A row whose file is missing is told as left out.
        known |= {row for row in set(listed) - known if (row[0], job.method.missing(*row)) in out}
    lines: list[str] = []
    for listed, known in wanted.items():
        rest = [row for row in listed if row not in known]
        if rest:
            clip, prompt, seed = rest[0]
            lines.append(
                f"method.manifest: {len(rest)} of {len(listed)} rows match no planned cell; "
                f"the first: clip {clip!r}, prompt {prompt!r}, seed {seed}"
            )
    return lines


def plan_path(results: Path, name: str) -> Path:
    """Where a plan is kept."""
    return results / "plans" / f"{name}.json"


def save_plan(results: Path, plan: records.Plan) -> Path:
    """Write a plan; variants whose cells have not changed keep the levels measured before."""
    path = plan_path(results, plan.name)
    try:
        before = records.load_plan(path)
    except (OSError, ValueError, ValidationError):
        before = None
    if before is not None:
        known = {(old.config_id, tuple(cell.id for cell in old.cells)): old for old in before.variants}
        for variant in plan.variants:
            old = known.get((variant.config_id, tuple(cell.id for cell in variant.cells)))
            if old is not None and not variant.levels:
                variant.levels = old.levels
        if [v.cells for v in before.variants] == [v.cells for v in plan.variants]:
            plan.created = before.created
    records.save(path, plan)
    return path
