"""One cell: reused, scored again, or computed, so that the same command again runs only what is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import unwritable, write_whole
from datasets.plugin import Plugin
from harness.cells import environment, measure, score
from harness.cells.beside import reference_of
from harness.cells.generate import Session, free_memory, from_backbone, from_pixels
from harness.cells.job import Node
from harness.cells.locks import Lost
from harness.records import store
from harness.records.record import CUT, SCHEMA, Failure, Record, Source, Status
from harness.records.runs import Run
from methods.interface import LatentMethod, VideoMethod

if TYPE_CHECKING:
    from datasets.interface import Clip
    from harness.cells.job import Job
    from harness.cells.plan import Cell


class Ended(NamedTuple):
    """What became of a cell: its record, and whether it was ``computed``, ``rescored`` or ``reused``."""

    record: Record
    how: Literal["computed", "rescored", "reused"]

    def after(self, changed: Mapping[str, Record]) -> Ended:
        """As it is once records, by id, were ``changed``."""
        if self.record.id not in changed:
            return self
        return Ended(changed[self.record.id], "rescored" if self.how == "reused" else self.how)


def settle(session: Session, cell: Cell) -> Ended:
    """Compute a cell that has no ``ok`` record of this device, or reuse it, scored again where that is due.

    The caller holds its lock. Its files are written whole, ``record.json`` last. A cell that fails becomes a
    record with its traceback. A reused cell whose metrics are missing or of another version is scored again
    from its frames, and generated anew only where those were not kept.

    Raises InputError when the weights turn out unusable, Lost when another worker took the cell over;
    KeyboardInterrupt passes through and leaves no record of its cell.
    """
    found = _reuse(session, cell)
    if found is not None:
        return found
    return Ended(_given_up(session, cell) or _compute(session, cell), "computed")


def finished(job: Job, cell: Cell, remote: bool = False) -> bool:
    """True where a cell needs nothing, by its record and without its lock.

    ``remote``: it may have been made on any device, else on this job's.
    """
    folder = job.results / cell.path
    record = store.read_record(folder)
    if record is None or record.id != cell.id or not job.resume or record.status != "ok":
        return False
    if job.method.made_here and not remote:
        device = environment.device_model(job.device)
        if record.environment.get("device") != device:
            return False
    leftovers = [*folder.glob(".*"), *folder.glob(store.ATTEMPTS)]
    return not leftovers and not score.stale(job, cell, record) and not score.lacks_required(job, record)


def unsettled(run: Run, record: Record) -> bool:
    """True for a record of this very run that is worth another try: it ran out of memory."""
    return record.run == run.id and record.status == "oom" and record.tries <= run.retries


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


def _reuse(session: Session, cell: Cell) -> Ended | None:
    """The cell if it need not be computed, scored again where that is due."""
    job, folder = session.job, session.job.results / cell.path
    reason = store.foreign(folder, cell.id)
    if reason is not None:
        session.progress.note(f"{cell.path}: {reason}; set aside as {store.set_aside(folder).name}")
    if job.method.made_here:
        device = environment.device_model(job.device)
        for line in keep_other_device(folder, cell.id, device, restore=job.resume):
            session.progress.note(line)
    record = store.read_record(folder)
    if record is None or (not job.resume and record.run != session.run.id):
        return None
    if record.status == "unscored" and session.scorer:
        # Another process scores it.
        return Ended(record, "reused")
    if record.status not in ("ok", "unscored") and not score.lacks_metric_only(record):
        # Another worker of this very run has tried it: once is enough.
        mine = record.run == session.run.id
        return Ended(record, "reused") if mine and not unsettled(session.run, record) else None
    store.tidy(folder)
    names = score.stale(job, cell, record)
    if not names and record.status != "unscored":
        score.save_if_settled(job, cell, record)
        return Ended(record, "reused")
    try:
        clip = session.load_clip(cell.clip.name)
    except Exception as error:
        session.progress.note(f"{cell.path}: not scored again, its clip cannot be read: {error}")
        return Ended(record, "reused")
    session.progress.stage("score")
    if score.refresh(job, cell, clip, record, names, session.check):
        return Ended(record, "rescored")
    session.progress.note(f"{cell.path}: made anew to score {', '.join(names)}, its frames were not kept")
    return None


def score_video(session: Session, cell: Cell) -> bool:
    """Score a cell whose video waits for that (``unscored``); false where it is not one.

    The caller holds its lock. A cell whose scorer ended its process on every try stays as it is, and says so.
    """
    folder = session.job.results / cell.path
    record = store.read_record(folder)
    if record is None or record.id != cell.id or record.status != "unscored":
        return False
    death = session.run.death(cell.id)
    if session.run.begin_scoring(cell.id) > session.run.retries + 1:
        record.error = Failure(kind=death.kind, message=death.message, traceback=death.output)
        store.save_record(folder, session.job.hidden.record(record))
        return True
    try:
        clip = session.load_clip(cell.clip.name)
        names = score.stale(session.job, cell, record)
        if not score.refresh(session.job, cell, clip, record, names, session.check):
            session.progress.note(f"{cell.path}: its frames are gone; run it again")
    except Exception as error:
        if unwritable(error):
            raise
        session.progress.note(f"{cell.path}: not scored: {error}")
    return True


class Tries(NamedTuple):
    """How often a cell was begun, in all and in the present run; it outlives a kill, in a file of its own."""

    all: int
    run: str
    here: int

    @staticmethod
    def of(folder: Path, run: str) -> Tries:
        """Those of a cell that has no record of this run, as its folder says."""
        earlier = store.read_record(folder)
        try:
            # An older version wrote the number alone.
            kept = json.loads((folder / store.ATTEMPTS).read_text())
            begun = Tries(kept, "", 0) if isinstance(kept, int) else Tries(**kept)
        except (OSError, ValueError, TypeError):
            begun = Tries(0, "", 0)
        if earlier is not None:
            total = 0 if earlier.status == "ok" else max(begun.all, earlier.attempts)
            begun = Tries(total, earlier.run, earlier.tries)
        return begun if begun.run == run else Tries(begun.all, run, 0)


def _begin(folder: Path, run: str) -> Tries:
    """Clear what an earlier attempt left and count this one."""
    marker = folder / store.ATTEMPTS
    before = Tries.of(folder, run)
    tries = Tries(before.all + 1, run, before.here + 1)
    write_whole(marker, json.dumps(tries._asdict()).encode())
    # The record first: without it the cell has not run, whatever else still lies there.
    (folder / store.RECORD).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path != marker and path.is_file():
            path.unlink()
    return tries


# --- one cell ----------------------------------------------------------------------------------


def _compute(session: Session, cell: Cell) -> Record:
    """Generate, save and score one cell; its record, already written."""
    tries = _begin(session.job.results / cell.path, session.run.id)
    record = _new_record(session, cell, tries)
    try:
        record.environment = session.environment()
        clip = session.load_clip(cell.clip.name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _fail(record, error)
    else:
        record.notes.extend(cell.clip.remarks)
        _generate_and_score(session, cell, clip, record)
    for note in record.notes:
        if note.startswith(CUT):
            session.progress.note(f"{cell.path}: {note}")
    _save(session, cell, record)
    return record


def _new_record(session: Session, cell: Cell, tries: Tries) -> Record:
    job = session.job
    return Record(
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
        dataset_source=job.dataset.source,
        run=session.run.id,
        attempts=tries.all,
        tries=tries.here,
        started=_now(),
    )


def _save(session: Session, cell: Cell, record: Record) -> None:
    folder = session.job.results / cell.path
    record.finished = _now()
    session.check()
    store.save_record(folder, session.job.hidden.record(record))
    session.job.hidden.scrub(folder)
    (folder / store.ATTEMPTS).unlink(missing_ok=True)


def _given_up(session: Session, cell: Cell) -> Record | None:
    """The record of a cell that ended its process on every try of this run; None while one is left."""
    folder = session.job.results / cell.path
    tries = Tries.of(folder, session.run.id)
    if tries.here <= session.run.retries or store.read_record(folder) is not None:
        return None
    record = _new_record(session, cell, tries)
    death = session.run.death(cell.id)
    record.status = "timeout" if death.kind == "Timeout" else "killed"
    times = "" if tries.here == 1 else f", {tries.here} times"
    record.error = Failure(kind=death.kind, message=death.message + times, traceback=death.output)
    _save(session, cell, record)
    return record


def _generate_and_score(session: Session, cell: Cell, clip: Clip, record: Record) -> None:
    job, folder = session.job, session.job.results / cell.path
    record.reference = reference_of(clip)
    try:
        match job.method:
            case LatentMethod() as method:
                frames, trace = from_backbone(session, method, cell, clip, record)
            case VideoMethod() as method:
                session.progress.stage("generate")
                frames, trace = from_pixels(job, method, cell, clip, record), []
        session.check()
        session.progress.stage("save")
        keep = job.keep_frames or session.scorer
        _save_videos(folder, clip, frames, record, trace, keep)
        record.frames_sha256 = score.frames_sha256(frames)
        if session.scorer:
            record.status = "unscored"
            return
        session.progress.stage("score")
        score.score_record(job, cell, clip, frames, record)
        score.settle_required(job, record)
    except (KeyboardInterrupt, Lost):
        raise
    except InputError as error:
        if job.method.uses_backbone and session.loaded.backbone is None:
            raise
        _fail(record, error)
    except BaseException as error:
        # SystemExit too: a plug-in's sys.exit() would end all other cells with it.
        _fail(record, error)
    if record.status != "ok":
        free_memory(job.device)


def _save_videos(
    folder: Path,
    clip: Clip,
    frames: NDArray[np.uint8],
    record: Record,
    trace: list[measure.TraceRow],
    keep: bool,
) -> None:
    from datasets.media import images, video

    beside, fps, compared = clip.at(range(len(frames))), clip.info.fps, record.compared
    if compared is not None and compared.reference is not None:
        beside = clip.at(compared.reference)
        if beside.times is not None and len(beside.times) > 1:
            # The two videos shall play in step.
            fps = (len(frames) - 1) / float(beside.times[-1] - beside.times[0])
    video.write_h264(folder / store.REFERENCE, clip.frames, clip.info.fps)
    video.write_h264(folder / store.VIDEO, frames, fps)
    if keep:
        video.write_ffv1(folder / store.FRAMES, frames, fps)
    labels = f"reference: {record.clip}", f"{record.method.name}: {record.prompt}"
    images.sheet(beside.frames, frames, folder / store.SHEET, labels=labels)
    store.write_json(folder / store.TRACE, trace)


def _fail(record: Record, error: BaseException) -> None:
    """Turn the record into a failure. The traceback is ours to keep: the run goes on without it.

    A disk that takes no more is no failure of the cell: the next one would end so too.
    """
    if unwritable(error):
        raise error
    record.status = _status(error)
    record.error = Failure.of(error)
    record.frames_sha256 = None
    record.metrics = {}


def _status(error: BaseException) -> Status:
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


__all__ = ["Ended", "finished", "keep_other_device", "score_video", "settle", "unsettled"]
