"""Running a plan's cells, one after another, so that the same command again runs only what is missing."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.plugin import Plugin
from harness.cells import environment, locks, measure, score
from harness.cells.beside import reference_of
from harness.cells.generate import Loaded, Session, free_memory, from_backbone, from_pixels
from harness.cells.job import Node
from harness.cells.progress import Progress
from harness.cells.score import Outcome
from harness.records import store
from harness.records.record import SCHEMA, Compared, Failure, Plan, Record, Source, Status
from methods.interface import LatentMethod, VideoMethod

if TYPE_CHECKING:
    from datasets.interface import Clip
    from harness.cells.job import Job
    from harness.cells.plan import Cell


def run(job: Job, plan: Plan, cells: Sequence[Cell], loaded: Loaded | None = None) -> Outcome:
    """Compute the cells that have no ``ok`` record of this device, reuse the others.

    Each cell's files are written whole, ``record.json`` last. A reused cell whose
    metrics are missing or of another version is scored again from its frames, and
    generated anew only where those were not kept. A cell that fails becomes a
    record with its traceback and the others go on, unless ``job.on_error`` is
    ``stop``. At the end the plan is written with its levels. ``loaded`` hands the backbone
    from one job to the next.

    Raises InputError when the weights turn out unusable; KeyboardInterrupt passes
    through and leaves no record of its cell.
    """
    outcome = Outcome([])
    ended: dict[int, Record] = {}
    with Progress() as progress:
        session = Session(job, progress, lru_cache(maxsize=1)(job.dataset.load), loaded or Loaded())
        for index, cell in locks.in_turn(job.results, cells, progress.note):
            progress.cell(index, len(cells), _label(job, cell))
            record = _reuse(session, cell, outcome)
            if record is None:
                started = time.perf_counter()
                record = _compute(session, cell)
                outcome.computed += 1
                progress.cell_done(record.status, time.perf_counter() - started)
            else:
                progress.cell_done("reused")
            ended[index] = record
            if record.status != "ok" and job.on_error == "stop":
                progress.note(f"{cell.path}: {record.status}; execute.on_error=stop ends the run here")
                break
        outcome.records = [ended[index] for index in sorted(ended)]
        score.store_levels(job, plan, cells, progress.note)
    return outcome


def _label(job: Job, cell: Cell) -> str:
    seed = f" seed {cell.seed}" if len(job.seeds) > 1 else ""
    return f"{job.label} {cell.clip.name}{seed}"


# --- what is there already ---------------------------------------------------------------------


def keep_other_device(folder: Path, cell_id: str, device: str, restore: bool = True) -> list[str]:
    """Make ``folder`` this device's: a timing belongs to the device model it was taken on.

    A finished cell of another device moves, whole, to ``<folder>@<its device>``;
    one of this device, moved there before, comes back (with ``restore``). Each
    move is one rename, so that a kill between them loses nothing. A line for each folder that is
    set aside because it is not ours to delete.
    """
    lines: list[str | None] = []
    record = store.read_record(folder)
    finished = record is not None and record.status == "ok"
    if record is not None and finished and record.environment.get("device") != device:
        other = store.on_device(folder, record.environment.get("device"))
        lines.append(store.clear(other, cell_id))
        folder.rename(other)
        finished = False
    kept = store.on_device(folder, device)
    if restore and not finished and kept.exists():
        reason = store.foreign(kept, cell_id)
        if reason is not None:
            lines.append(f"{kept.name}: {reason}; set aside as {store.set_aside(kept).name}")
        else:
            lines.append(store.clear(folder, cell_id))
            kept.rename(folder)
    return [line for line in lines if line is not None]


def _reuse(session: Session, cell: Cell, outcome: Outcome) -> Record | None:
    """The cell's record if it need not be computed, scored again where that is due."""
    job, folder = session.job, session.job.results / cell.path
    reason = store.foreign(folder, cell.id)
    if reason is not None:
        session.progress.note(f"{cell.path}: {reason}; set aside as {store.set_aside(folder).name}")
    if job.method.made_here:
        device = environment.device_model(job.device)
        for line in keep_other_device(folder, cell.id, device, restore=job.resume):
            session.progress.note(line)
    if not job.resume:
        return None
    record = store.read_record(folder)
    if record is None or not (record.status == "ok" or score.lacks_metric_only(record)):
        return None
    # A kill while writing leaves temporary files, one just after the record leaves the marker.
    for leftover in [*folder.glob(".*"), folder / store.ATTEMPTS]:
        leftover.unlink(missing_ok=True)
    names = score.stale(job, cell, record)
    if not names:
        score.save_if_settled(job, cell, record)
        outcome.reused += 1
        return record
    try:
        clip = session.load_clip(cell.clip.name)
    except Exception as error:
        session.progress.note(f"{cell.path}: not scored again, its clip cannot be read: {error}")
        outcome.reused += 1
        return record
    if score.refresh(job, cell, clip, record, names):
        outcome.rescored += 1
        return record
    session.progress.note(f"{cell.path}: made anew to score {', '.join(names)}, its frames were not kept")
    return None


def _begin(folder: Path) -> int:
    """Clear what an earlier attempt left and count this one, in a file that outlives a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / store.ATTEMPTS
    earlier = store.read_record(folder)
    try:
        begun = int(marker.read_text())
    except (OSError, ValueError):
        begun = 0
    if earlier is not None:
        begun = 0 if earlier.status == "ok" else max(begun, earlier.attempts)
    store.write_whole(marker, str(begun + 1).encode())
    # The record first: without it the cell has not run, whatever else still lies there.
    (folder / store.RECORD).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path != marker and path.is_file():
            path.unlink()
    return begun + 1


# --- one cell ----------------------------------------------------------------------------------


def _compute(session: Session, cell: Cell) -> Record:
    """Generate, save and score one cell; its record, already written."""
    job, folder = session.job, session.job.results / cell.path
    attempts = _begin(folder)
    record = Record(
        schema=SCHEMA,
        id=cell.id,
        status="ok",
        method=_source(job.method, job.node("method")),
        backbone=_source(job.backbone, job.node("backbone")),
        dataset=_source(job.dataset, job.node("dataset")),
        clip=cell.clip.name,
        prompt=cell.prompt.text,
        prompt_kind=cell.prompt.kind,
        seed=cell.seed,
        identity=cell.identity,
        config=job.resolved,
        attempts=attempts,
        started=_now(),
    )
    try:
        record.environment = session.environment()
        clip = session.load_clip(cell.clip.name)
    except Exception as error:
        _fail(record, error)
    else:
        _generate_and_score(session, cell, clip, record)
    record.finished = _now()
    store.save_record(folder, job.hidden.record(record))
    job.hidden.scrub(folder)
    (folder / store.ATTEMPTS).unlink(missing_ok=True)
    return record


def _generate_and_score(session: Session, cell: Cell, clip: Clip, record: Record) -> None:
    job, folder = session.job, session.job.results / cell.path
    record.reference = reference_of(clip)
    try:
        match job.method:
            case LatentMethod() as method:
                frames, trace = from_backbone(session, method, cell, clip, record)
            case VideoMethod() as method:
                frames, trace = from_pixels(job, method, cell, clip, record), []
        _save_videos(job, folder, clip, frames, record.compared, trace)
        record.frames_sha256 = score.frames_sha256(frames)
        score.score_record(job, cell, clip, frames, record)
        score.settle_required(job, record)
    except InputError as error:
        if job.method.uses_backbone and session.loaded.backbone is None:
            raise
        _fail(record, error)
    except Exception as error:
        _fail(record, error)
    if record.status != "ok":
        free_memory(job.device)


def _save_videos(
    job: Job,
    folder: Path,
    clip: Clip,
    frames: NDArray[np.uint8],
    compared: Compared | None,
    trace: list[measure.TraceRow],
) -> None:
    from datasets import video

    beside, fps = clip.at(range(len(frames))), clip.info.fps
    if compared is not None and compared.reference is not None:
        beside = clip.at(compared.reference)
        if beside.times is not None and len(beside.times) > 1:
            # The two videos shall play in step.
            fps = (len(frames) - 1) / float(beside.times[-1] - beside.times[0])
    video.write_h264(folder / store.REFERENCE, clip.frames, clip.info.fps)
    video.write_h264(folder / store.VIDEO, frames, fps)
    if job.keep_frames:
        video.write_ffv1(folder / store.FRAMES, frames, fps)
    video.sheet(beside.frames, frames, folder / store.SHEET)
    store.write_json(folder / store.TRACE, trace)


def _fail(record: Record, error: Exception) -> None:
    """Turn the record into a failure. The traceback is ours to keep: the run goes on without it."""
    record.status = _status(error)
    text = "".join(traceback.format_exception(error))
    record.error = Failure(kind=type(error).__name__, message=str(error), traceback=text)
    record.frames_sha256 = None
    record.metrics = {}


def _status(error: Exception) -> Status:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError):
        return "oom"
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "oom"
    # torch's CPU allocator raises a plain RuntimeError.
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return "oom"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "failed"


def _source(plugin: Plugin, node: Node) -> Source:
    return Source(name=plugin.name, version=plugin.version, config=node)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = ["Loaded", "keep_other_device", "run"]
