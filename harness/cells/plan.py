"""Which cells a job consists of, and their ids."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.files import size_text
from datasets.interface import ClipInfo, Dataset, LeftOut, Prompt
from datasets.tables import clip_name, same_text
from harness.cells.job import ExperimentVariant, Job
from harness.records import record as records
from harness.records import store
from harness.records.identity import digest, of_plugin, of_settings, short_id
from methods.backbones.interface import Grid
from metrics.interface import MetricUnavailable

BESIDE = 100_000
"""Bytes that a cell takes at most, about, beside those of its frames as they are."""
MOST_CLIPS = 100_000


class DoesNotFit(InputError):
    """A method or a clip's size that this backbone cannot take; another variant may fit."""


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


def make_plan(job: Job) -> tuple[records.Plan, list[Cell]]:
    """The plan of a job and its cells, in the order they will run: clip, prompt, seed.

    Checks everything that can be checked before a model is loaded (``job.needs``) and raises InputError:
    frame sizes, weights, token grid, the dataset, an only clip's file, the results folder,
    what required metrics need. ``job.limit`` keeps the first clips of the listing. A
    finished video that is missing leaves its cell out; an error only when none remains, or
    none of a clip that the user asked for.
    """
    if job.method.uses_backbone and job.needs.grid:
        try:
            job.method.check(_grid(job, job.frames), job.backbone.num_blocks)
            check_operations(job)
        except InputError as error:
            raise DoesNotFit(str(error)) from error
    listing = job.dataset.listing()
    if min(len(listing.clips), job.limit or MOST_CLIPS + 1) > MOST_CLIPS:
        raise InputError(
            f"dataset: it lists {len(listing.clips)} clips, and a plan holds {MOST_CLIPS} at most; "
            f"set limit={MOST_CLIPS} or lower"
        )
    clips: Sequence[ClipInfo] = listing.clips[: job.limit]
    if job.method.uses_backbone and job.needs.grid:
        for frames in sorted({clip.frames for clip in clips if clip.frames is not None}):
            job.method.check(job.backbone.grid(frames), job.backbone.num_blocks)

    common, config = _common(job, clips)
    cells, without_video = _cells(job, common, clips)
    left_out = list(dict.fromkeys([*listing.left_out, *without_video]))
    if not cells:
        reasons = "; ".join(f"{out.clip}: {out.reason}" for out in left_out[:3])
        raise InputError(f"dataset: no clip of {job.dataset.name} can be run ({reasons or 'it lists none'})")
    _check_asked_for(job, clips, cells, left_out)
    missing = job.needs.device and any(
        not (job.results / cell.path / store.RECORD).exists() for cell in cells
    )
    frames = job.frames * job.backbone.height * job.backbone.width * 3
    check_writable(job.results, frames + BESIDE if missing else 0)
    if len(clips) == 1:
        _check_readable(job.dataset, clips[0])
    if job.needs.metrics:
        check_required(job)

    # Finished videos have no configuration of their own: their cells' ids tell them apart.
    finished = any("video" in cell.identity for cell in cells)
    what = [cell.id for cell in cells] if finished else [clip.name for clip in clips]
    variant = records.Variant(
        label=job.label,
        method=job.method.name,
        backbone=job.backbone.name,
        dataset=job.dataset.name,
        config_id=short_id(common),
        settings=short_id(of_settings(common)),
        dataset_id=short_id(of_settings(common)["dataset"]),
        overrides=job.overrides,
        cells=[
            records.PlannedCell(
                id=cell.id,
                path=cell.path,
                clip=cell.clip.name,
                prompt=cell.prompt.text,
                prompt_kind=cell.prompt.kind,
                seed=cell.seed,
                content=cell.clip.content,
                strata=dict(cell.clip.strata),
                masks="masked" if cell.clip.masks and job.mask == "auto" else "whole frame",
            )
            for cell in cells
        ],
    )
    plan = records.Plan(
        schema=records.SCHEMA,
        name=_name(job, config, what),
        command=["python", "-m", "harness", *(job.variant.command if job.variant else job.overrides)],
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        variants=[variant],
        left_out=[records.PlannedOut(clip=out.clip, reason=out.reason) for out in left_out],
        remarks=[
            records.PlannedOut(clip=name, reason=remark)
            for name, remarks in {cell.clip.name: cell.clip.remarks for cell in cells}.items()
            for remark in remarks
        ],
        columns=job.columns,
    )
    return job.hidden.plan(plan), cells


def _common(job: Job, clips: Sequence[ClipInfo]) -> tuple[dict[str, Any], str]:
    """What all cells of the job have in their identity, and the digest of its configuration alone."""
    plugins = {"method": job.method, "backbone": job.backbone, "dataset": job.dataset}
    common: dict[str, Any] = {name: of_plugin(plugin, job.node(name)) for name, plugin in plugins.items()}
    common["frames"] = "auto" if job.auto_frames else job.frames
    named = {name: common[name]["config"] for name in plugins}
    if job.amortise:
        # The same video, but a time of another meaning: it shall not stand in for the other.
        common["amortise"] = named["amortise"] = True
    config = digest(named)
    common["backbone"]["weights"] = None
    if job.method.uses_backbone:
        weights = _identity(job, config, clips, ("backbone", "weights"), job.backbone.identity)
        common["backbone"]["weights"] = weights
    program = _identity(job, config, clips, ("method", "program"), job.method.identity)
    if program is not None:
        common["method"]["program"] = program
    return common, config


def _cells(job: Job, common: dict[str, Any], clips: Sequence[ClipInfo]) -> tuple[list[Cell], list[LeftOut]]:
    """The cells, and the clips of those for which there is no finished video."""
    folder = store.cell_folder(job.method.name, job.dataset.name)
    older = store.older_cells(job.results, folder)
    cells: dict[str, Cell] = {}
    left_out: list[LeftOut] = []
    for clip in clips:
        for prompt in clip.prompts:
            for seed in job.seeds:
                missing = _missing(job, clip, prompt, seed)
                if missing is not None:
                    left_out.append(LeftOut(clip.name, missing))
                    continue
                # The noise is keyed by the clip's name, so the name changes the output.
                identity = {
                    **common,
                    "clip": {"name": clip.name, "content": clip.content, **_own_frames(clip)},
                    "prompt": prompt.text,
                    "seed": seed,
                }
                content = job.method.content(clip.name, prompt.text, seed)
                if content is not None:
                    identity["video"] = content
                cell_id = short_id(identity)
                path = store.cell_path(folder, clip.name, cell_id, older)
                cells.setdefault(cell_id, Cell(cell_id, path, clip, prompt, seed, identity))
    return list(cells.values()), left_out


def _missing(job: Job, clip: ClipInfo, prompt: Prompt, seed: int) -> str | None:
    reason = job.method.missing(clip.name, prompt.text, seed)
    if reason is None and len(clip.prompts) > 1:
        listed = {(name.casefold(), text) for name, text, one in job.method.listed() if one == seed}
        name = clip.name.casefold()
        if (name, "") in listed and (name, same_text(prompt.text)) not in listed:
            return f"its row names no prompt, and there are {len(clip.prompts)}; write which it shows"
    return reason


def _own_frames(clip: ClipInfo) -> dict[str, int]:
    return {} if clip.frames is None else {"frames": clip.frames}


def _grid(job: Job, frames: int) -> Grid:
    """A clip's token grid. Who only reads records needs no weights."""
    if not job.needs.weights:
        return job.backbone.grid(frames)
    return job.backbone.check(frames, job.device if job.needs.device else "cpu")


def _name(job: Job, config: str, what: Sequence[str]) -> str:
    """The plan's name: the one given, or one that follows from the configuration and ``what`` runs."""
    frames = "auto" if job.auto_frames else job.frames
    short = digest({"config": config, "frames": frames, "seeds": job.seeds, "what": what})[:6]
    words = [store.safe(name) for name in (job.method.name, job.backbone.name, job.dataset.name)]
    return job.name or f"{'-'.join(words)}-{short}"


def _identity(
    job: Job, config: str, clips: Sequence[ClipInfo], where: tuple[str, str], ask: Callable[[], Any]
) -> Any:
    """Identity of weights or a program, as ``ask`` has it; the plan's records will do where they must not be.

    ``where`` it stands in a cell's identity: part and key.
    """
    part, key = where
    try:
        return ask()
    except InputError:
        if job.needs.weights:
            raise
        for path in _kept_plans(job, _name(job, config, [clip.name for clip in clips])):
            try:
                variants = store.load_plan(path).variants
            except (OSError, ValueError):
                continue
            for variant in variants:
                if job.variant is not None and variant.label != job.variant.label:
                    continue
                for cell in variant.cells:
                    record = store.read_record(job.results / cell.path)
                    if record is not None and key in record.identity.get(part, {}):
                        return _with_words(job, record.identity[part][key])
        raise


def _with_words(job: Job, identity: Any) -> Any:
    """The identity of a program as it was hashed: its files by the configuration's words."""
    if not isinstance(identity, dict):
        return identity
    words = {job.hidden.text(word): word for word in _strings(job.node("method"))}
    return {words.get(word, word): content for word, content in identity.items()}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
    elif isinstance(value, str):
        yield value


def _kept_plans(job: Job, name: str) -> list[Path]:
    """Plan files that may hold the job's cells: that of its name, or all named after its experiment."""
    if job.variant is None or job.name:
        return [store.plan_path(job.results, name)]
    words = [store.safe(name) for name in (job.variant.experiment, job.backbone.name)]
    return store.plan_paths(job.results, f"{'-'.join(words)}-*")


def together(
    plans: Sequence[records.Plan],
    job: Job,
    experiment: ExperimentVariant,
    out: Sequence[records.VariantOut],
) -> records.Plan:
    """One plan of an experiment's variants, in their order. ``job`` is one of theirs; ``out`` did not fit.

    A variant that is the same configuration as an earlier one is left out, as no row of its own.
    """
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
    remarks = {(one.clip, one.reason): one for plan in plans for one in plan.remarks}
    short = digest([plan.name for plan in plans])[:6]
    words = [store.safe(name) for name in (experiment.experiment, job.backbone.name, job.dataset.name)]
    plan = records.Plan(
        schema=records.SCHEMA,
        name=job.name or f"{'-'.join(words)}-{short}",
        command=plans[0].command,
        created=plans[0].created,
        baseline=shown.get(experiment.baseline or ""),
        variants=list(variants.values()),
        left_out=list(clips.values()),
        remarks=list(remarks.values()),
        variants_out=left_out,
        columns=plans[0].columns,
    )
    return job.hidden.plan(plan)


def check_writable(results: Path, needed: int = 0) -> None:
    """Create the results folder and write in it; InputError when that or room for ``needed`` bytes fails."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results) as file:
            # A quota shows only when something is written.
            file.write(bytes(min(max(needed, 4096), 2**20)))
        free = shutil.disk_usage(results).free
    except OSError as error:
        takes = f"; a cell takes up to {size_text(needed)}" if needed else ""
        raise InputError(
            f"results: cannot write {results} ({error.strerror or error}{takes}); "
            "free space there or choose another with results=DIR"
        ) from error
    if free < needed:
        raise InputError(
            f"results: {results} has {size_text(free)} left and a cell takes up to {size_text(needed)}; "
            "free space there or choose another with results=DIR"
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


def _check_readable(dataset: Dataset, clip: ClipInfo) -> None:
    try:
        dataset.load(clip.name)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError):
            raise InputError(
                f"dataset: {clip.name}, its only clip, does not fit into memory; lower frames, "
                "backbone.height or backbone.width"
            ) from error
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"dataset: {clip.name}, its only clip, cannot be read ({reason[0]}); replace the file"
        ) from error


def _check_asked_for(
    job: Job, clips: Sequence[ClipInfo], cells: Iterable[Cell], left_out: Sequence[LeftOut]
) -> None:
    """InputError for a clip that the user asked for by name and that no finished video shows."""
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
        for cell in (cell for one in plan.variants for cell in one.cells):
            name = clip_name(cell.clip).casefold()
            known |= {(name, text, cell.seed) for text in ("", same_text(cell.prompt))}
        out = {(left.clip, left.reason) for left in plan.left_out}
        # A row whose file is missing is told as left out.
        known |= {
            row
            for row in set(listed) - known
            if (row[0], job.hidden.text(job.method.missing(*row) or "")) in out
        }
    lines: list[str] = []
    for listed, known in wanted.items():
        rest = [row for row in listed if (row[0].casefold(), *row[1:]) not in known and row not in known]
        if rest:
            clip, prompt, seed = rest[0]
            lines.append(
                f"method.manifest: {len(rest)} of {len(listed)} rows match no planned cell; "
                f"the first: clip {clip!r}, prompt {prompt!r}, seed {seed}"
            )
    return lines


__all__ = [
    "Cell",
    "DoesNotFit",
    "check_operations",
    "check_required",
    "check_writable",
    "make_plan",
    "together",
    "unmatched",
]
