"""Running a plan's cells, one after another, so that the same command again runs only what is missing."""

from __future__ import annotations

import gc
import json
import re
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from harness.cells import environment, locks, measure, score
from harness.cells.progress import Progress
from harness.cells.score import Outcome
from harness.cost import model as cost
from harness.records.record import (
    COMPILED,
    RECOMPUTED,
    SCHEMA,
    Failure,
    Flops,
    Plan,
    Record,
    Source,
    Status,
    Timing,
    save,
    write_whole,
)
from methods.interface import LatentMethod, VideoMethod, VideoRequest

if TYPE_CHECKING:
    from datasets.interface import Clip
    from harness.cells.job import Job
    from harness.cells.plan import Cell
    from methods.backbones.interface import Backbone

MARKER = "attempts"


@dataclass
class Loaded:
    """The loaded backbone, kept from job to job as long as they want the same one.

    ``seconds`` is what loading it took; ``error`` why that failed.
    """

    backbone: Backbone | None = None
    seconds: float | None = None
    error: Exception | None = None
    key: str | None = None

    def get(self, job: Job, weights: Any) -> Backbone:
        """The job's backbone, loaded when a cell first needs it, after the one before was released.

        ``weights`` is their identity. A load that failed is not tried again for every cell.
        """
        key = json.dumps([job.resolved.get("backbone"), job.device, weights], sort_keys=True)
        if key != self.key:
            self.backbone = self.seconds = self.error = None
            self.key = key
            _free(job.device)
        if self.error is not None:
            raise self.error
        if self.backbone is None:
            started = time.perf_counter()
            try:
                self.backbone = job.backbone.load(job.device)
            except InputError:
                raise
            except Exception as error:
                self.error = error
                raise
            self.seconds = time.perf_counter() - started
        return self.backbone


@dataclass
class _Session:
    """What the cells of one run share."""

    job: Job
    progress: Progress
    load_clip: Callable[[str], Clip]
    loaded: Loaded
    surroundings: dict[str, Any] | None = None
    warmed: set[tuple[int, ...]] = field(default_factory=set)
    shared: tuple[str, measure.Shared] | None = None

    def of_clip(self, name: str) -> measure.Shared | None:
        """What the cells of this clip share; the clip before is forgotten. None unless asked for."""
        if not self.job.amortise:
            return None
        if self.shared is None or self.shared[0] != name:
            self.shared = (name, measure.Shared())
        return self.shared[1]

    def environment(self) -> dict[str, Any]:
        if self.surroundings is None:
            self.surroundings = environment.describe(self.job.device)
            if not self.job.method.made_here:
                # Finished videos were made elsewhere, on a device nobody told us.
                self.surroundings["device"] = None
            if self.job.launcher is not None:
                # Other jobs ran beside this one: its times are not those of a machine of its own.
                self.surroundings["launcher"] = self.job.launcher
        return dict(self.surroundings)


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
        session = _Session(job, progress, lru_cache(maxsize=1)(job.dataset.load), loaded or Loaded())
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
    return f"{job.part.label if job.part else job.method.name} {cell.clip.name}{seed}"


# --- what is there already ---------------------------------------------------------------------


def _beside(folder: Path, device: str | None) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", str(device).lower()).strip("-")
    return folder.with_name(f"{folder.name}@{slug}")


def keep_other_device(folder: Path, device: str, restore: bool = True) -> None:
    """Make ``folder`` this device's: a timing belongs to the device model it was taken on.

    A finished cell of another device moves, whole, to ``<folder>@<its device>``;
    one of this device, moved there before, comes back (with ``restore``). Each
    move is one rename, so that a kill between them loses nothing.
    """
    record = score.read_record(folder)
    finished = record is not None and record.status == "ok"
    if record is not None and finished and record.environment.get("device") != device:
        aside = _beside(folder, record.environment.get("device"))
        if aside.exists():
            shutil.rmtree(aside)
        folder.rename(aside)
        finished = False
    kept = _beside(folder, device)
    if restore and not finished and kept.exists():
        if folder.exists():
            shutil.rmtree(folder)
        kept.rename(folder)


def _reuse(session: _Session, cell: Cell, outcome: Outcome) -> Record | None:
    """The cell's record if it need not be computed, scored again where that is due."""
    job, folder = session.job, session.job.results / cell.path
    if job.method.made_here:
        keep_other_device(folder, environment.device_model(job.device), restore=job.resume)
    if not job.resume:
        return None
    record = score.read_record(folder)
    if record is None or not (record.status == "ok" or score.lacks_metric_only(record)):
        return None
    # A kill while writing leaves temporary files, one just after the record leaves the marker.
    for leftover in [*folder.glob(".*"), folder / MARKER]:
        leftover.unlink(missing_ok=True)
    names = score.stale(job, record)
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
    marker = folder / MARKER
    earlier = score.read_record(folder)
    try:
        begun = int(marker.read_text())
    except (OSError, ValueError):
        begun = 0
    if earlier is not None:
        begun = 0 if earlier.status == "ok" else max(begun, earlier.attempts)
    write_whole(marker, str(begun + 1).encode())
    # The record first: without it the cell has not run, whatever else still lies there.
    (folder / "record.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path != marker and path.is_file():
            path.unlink()
    return begun + 1


# --- one cell ----------------------------------------------------------------------------------


def _compute(session: _Session, cell: Cell) -> Record:
    """Generate, save and score one cell; its record, already written."""
    job, folder = session.job, session.job.results / cell.path
    attempts = _begin(folder)
    record = Record(
        schema=SCHEMA,
        id=cell.id,
        status="ok",
        method=_source(job.method, job.resolved.get("method")),
        backbone=_source(job.backbone, job.resolved.get("backbone")),
        dataset=_source(job.dataset, job.resolved.get("dataset")),
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
    save(folder / "record.json", record)
    (folder / MARKER).unlink(missing_ok=True)
    return record


def _generate_and_score(session: _Session, cell: Cell, clip: Clip, record: Record) -> None:
    job, folder = session.job, session.job.results / cell.path
    try:
        match job.method:
            case LatentMethod() as method:
                frames, trace = _generated(session, method, cell, clip, record)
            case VideoMethod() as method:
                frames, trace = _video(job, method, cell, clip, record), []
        _save_videos(job, folder, clip, frames, trace)
        record.frames_sha256 = score.frames_sha256(frames)
        record.metrics = score.score_cell(job, cell, clip, frames)
        score.settle_required(job, record)
    except InputError as error:
        if job.method.uses_backbone and session.loaded.backbone is None:
            raise
        _fail(record, error)
    except Exception as error:
        _fail(record, error)
    if record.status != "ok":
        _free(job.device)


def _generated(
    session: _Session, method: LatentMethod, cell: Cell, clip: Clip, record: Record
) -> tuple[NDArray[np.uint8], list[measure.TraceRow]]:
    job = session.job
    backbone = session.loaded.get(job, cell.identity["backbone"]["weights"])
    words = (cell.clip.name, cell.prompt.text, cell.seed)
    record.timing = Timing(load=session.loaded.seconds, warmup_steps=job.warmup_steps, repeats=job.repeats)
    if job.warmup_steps > 0 and clip.frames.shape not in session.warmed:
        measure.warm_up(backbone, method, clip.frames, *words, device=job.device, steps=job.warmup_steps)
        session.warmed.add(clip.frames.shape)
    measured = measure.measure(
        backbone,
        method,
        clip.frames,
        *words,
        device=job.device,
        repeats=job.repeats,
        on_step=session.progress.step,
        shared=session.of_clip(cell.clip.name),
    )
    record.timing = measured.timing.model_copy(
        update={"load": session.loaded.seconds, "warmup_steps": job.warmup_steps}
    )
    record.memory, record.energy, record.calls = measured.memory, measured.energy, measured.calls
    record.notes.extend(measured.notes)
    config = job.backbone
    if backbone.recomputed and config.checkpoint == "auto":
        config = replace(cast("Any", config), checkpoint=True)
        record.notes.append(RECOMPUTED)
    if backbone.compiled:
        record.notes.append(COMPILED)
    record.flops = cost.cell_flops(config, method, len(clip.frames), measured.calls, encoded=not job.amortise)
    return measured.frames, measured.trace


def _video(job: Job, method: VideoMethod, cell: Cell, clip: Clip, record: Record) -> NDArray[np.uint8]:
    """A video made without the backbone, brought to the reference's size and length.

    Its time is that of the whole program, or what a finished video is said to have taken.
    """
    request = VideoRequest(
        clip=cell.clip.name,
        reference=clip.frames,
        fps=clip.info.fps,
        caption=clip.info.caption,
        prompt=cell.prompt.text,
        seed=cell.seed,
        device=job.device,
        folder=(job.results / cell.path / "program").absolute(),
    )
    frames, seconds = method.video(request)
    record.timing = Timing(total=seconds)
    record.flops = Flops(reason=method.uncounted)
    if method.made_here and seconds is not None:
        values = [{"total": seconds}]
        different = 0
        for _ in range(job.repeats - 1):
            again, seconds = method.video(request)
            values.append({"total": seconds or 0.0})
            different += not np.array_equal(frames, again)
        total = statistics.median(value["total"] for value in values)
        record.timing = Timing(total=total, repeats=job.repeats, values=values)
        record.notes.append(
            "the time is the whole program's: its start and the loading of its weights are in it"
        )
        if different:
            record.notes.append(
                f"{different} of {job.repeats - 1} repeats gave other frames than the first run"
            )
    return _fitted(frames, clip, record)


def _fitted(frames: NDArray[np.uint8], clip: Clip, record: Record) -> NDArray[np.uint8]:
    """Frames brought to the reference's size and cut to its length; both are noted."""
    from datasets import video

    count, height, width = frames.shape[:3]
    length, target_height, target_width = clip.frames.shape[:3]
    if (height, width) != (target_height, target_width):
        frames = video.resize_crop(frames, target_height, target_width)
        record.notes.append(f"resized and cropped from {width}x{height} to {target_width}x{target_height}")
    if count != length:
        frames = frames[: min(count, length)]
        record.notes.append(
            f"{count} frames against the reference's {length}: the first {len(frames)} compared"
        )
    return frames


def _save_videos(
    job: Job, folder: Path, clip: Clip, frames: NDArray[np.uint8], trace: list[measure.TraceRow]
) -> None:
    from datasets import video

    fps = clip.info.fps
    video.write_h264(folder / "reference.mp4", clip.frames, fps)
    video.write_h264(folder / "video.mp4", frames, fps)
    if job.keep_frames:
        video.write_ffv1(folder / "frames.mkv", frames, fps)
    video.sheet(clip.frames[: len(frames)], frames, folder / "sheet.png")
    write_whole(folder / "trace.json", json.dumps(trace, indent=1).encode() + b"\n")


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


def _free(device: str) -> None:
    """Give back what a failed cell held, else the next one runs out of memory too."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _source(plugin: Any, config: Any) -> Source:
    return Source(name=plugin.name, version=plugin.version, config=dict(config or {}))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = ["Loaded", "keep_other_device", "run"]
