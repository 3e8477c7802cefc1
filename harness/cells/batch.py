"""Metrics that score all videos of a job together: once they are there, by one call."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.cells import score
from harness.cells.locks import POLL, CellLock, Locks, Queue, busy
from harness.records import store
from harness.records.identity import same_version
from metrics.interface import Metric, Score, Stored

if TYPE_CHECKING:
    from harness.cells.job import Job
    from harness.cells.plan import Cell
    from harness.records.record import Record

Note = Callable[[str], None]
GONE = "its frames were not kept (keep_frames=true keeps them)"
NOTHING = "its program gave no score for it"


class Together(NamedTuple):
    """The records that were changed, by id, and whether a program did not give what it should."""

    changed: dict[str, Record]
    fault: bool


def score_together(
    job: Job,
    cells: Sequence[Cell],
    note: Note,
    locks: Locks = "auto",
    again: bool = False,
    everything: bool = False,
) -> Together:
    """Put the values of the metrics that score ``together`` into the cells' records.

    Scored are cells with a video whose value is missing or of another version; ``again``: or null;
    ``everything``: all. Videos are read from ``frames.mkv``; a line by ``note`` for each reason that some
    have no value. Two commands on the same cells take turns, and the second finds them scored.
    """

    def say(line: str) -> None:
        note(job.hidden.secrets(line))

    changed: dict[str, Record] = {}
    fault = False
    for name, metric in job.metrics.items():
        if metric.together:
            batch = _Batch(job, name, metric, locks, say, again, everything)
            if batch.due(cells):
                with _turn(job.results, name, locks, say):
                    changed |= batch.settle(cells)
                fault = fault or batch.fault
    return Together(changed, fault)


@contextlib.contextmanager
def _turn(results: Path, name: str, locks: Locks, say: Note) -> Iterator[None]:
    # One for all cells: a plan may have more of them than a process can have open locks.
    lock = CellLock(results, f"{store.SCORERS}-{store.safe(name)}", locks)
    told = False
    while not lock.take():
        if not told:
            say(f"{name}: another command has its videos scored; waiting for that one to end")
        told = True
        time.sleep(POLL)
    try:
        yield
    finally:
        lock.release()


@dataclass
class _Batch:
    """One metric's turn with the cells of a job."""

    job: Job
    name: str
    metric: Metric
    locks: Locks
    say: Note
    again: bool
    everything: bool

    def __post_init__(self) -> None:
        self.version = score.metric_version(self.metric, self.job.tracker)
        self.untrained = score.means_nothing(self.job, self.metric)
        self.fault = False

    def due(self, cells: Sequence[Cell]) -> list[tuple[Cell, Record]]:
        """The cells whose record is to change, with their records."""
        found = [(cell, self._record(cell)) for cell in cells]
        return [(cell, record) for cell, record in found if record and self._due(record)]

    def _record(self, cell: Cell) -> Record | None:
        """The record of a cell that has a video."""
        record = store.read_record(self.job.results / cell.path)
        if record is None or record.id != cell.id or record.frames_sha256 is None:
            return None
        return record if record.status == "ok" or score.lacks_metric_only(record) else None

    def _due(self, record: Record) -> bool:
        return self._unscored(record) or not self._column_stands(record)

    def _unscored(self, record: Record) -> bool:
        if score.waits(self.job, record, self.name):
            return True
        known = record.metrics[self.name]
        if not same_version(known.version, self.version) or (self.everything and not self.untrained):
            return True
        null = known.value is None and known.applies and known.reason != score.UNTRAINED
        return null and (self.again or self.name in self.job.required)

    def _column_stands(self, record: Record) -> bool:
        column = asdict(self.metric.column)
        return record.metrics[self.name].model_dump(include=set(column)) == column

    def settle(self, cells: Sequence[Cell]) -> dict[str, Record]:
        """Score them and write their records."""
        due = self.due(cells)
        unscored = [(cell, record) for cell, record in due if self._unscored(record)]
        scores: dict[str, Score] = {}
        if self.untrained:
            scores = {record.id: Score(None, reason=score.UNTRAINED) for _, record in unscored}
        elif unscored:
            scores = self._scores(unscored)
        self._tell(unscored, scores)
        return self._write(due, scores)

    def _scores(self, unscored: Sequence[tuple[Cell, Record]]) -> dict[str, Score]:
        # The program may run elsewhere.
        results = self.job.results.absolute()
        folder = results / store.SCORERS / store.safe(self.name) / secrets.token_hex(4)
        references = folder / "references"
        references.mkdir(parents=True)
        try:
            videos, scores = self._videos(unscored, references)
            if videos:
                where = folder.relative_to(results)
                self.say(f"{self.name}: its program scores {len(videos)} videos ({where} has its log)")
                given = self.metric.score_all(videos, folder, self.job.device)
                ids = [video.id for video in videos]
                scores |= {one: given.get(one, Score(None, reason=NOTHING, fault=True)) for one in ids}
                unknown = [one for one in given if one not in ids]
                self.fault = bool(unknown) or any(one.fault for one in scores.values())
                if unknown:
                    self.say(
                        f"{self.name}: its program gave {len(unknown)} scores of videos that it was not "
                        f"given, the first of {unknown[0]!r:.40}; they are left out"
                    )
        finally:
            shutil.rmtree(references, ignore_errors=True)
            self.job.hidden.scrub(folder)
            with contextlib.suppress(OSError):
                # Nothing was written where there was nothing to score.
                folder.rmdir()
        return scores

    def _videos(
        self, unscored: Sequence[tuple[Cell, Record]], references: Path
    ) -> tuple[list[Stored], dict[str, Score]]:
        """The videos that can be scored, and why others cannot."""
        from datasets.media import video

        load = lru_cache(maxsize=1)(self.job.dataset.load)
        written: dict[tuple[str, int, tuple[int, ...] | None], Path] = {}
        videos: list[Stored] = []
        missing: dict[str, Score] = {}
        for cell, record in unscored:
            frames = score.kept_frames(self.job, cell, record)
            if frames is None:
                missing[record.id] = Score(None, reason=GONE)
                continue
            path = (self.job.results / cell.path / store.FRAMES).absolute()
            _, fps = video.frame_times(path)
            places = record.compared.reference if record.compared is not None else None
            key = (cell.clip.name, len(frames), None if places is None else tuple(places))
            if key not in written:
                try:
                    clip = load(cell.clip.name)
                except Exception as error:
                    missing[record.id] = Score(None, reason=f"its clip cannot be read: {error}")
                    continue
                beside = score.sample_of(self.job, cell, clip, frames, record.compared).reference
                written[key] = references / f"{len(written)}.mkv"
                video.write_ffv1(written[key], beside, fps)
            videos.append(
                Stored(
                    *(record.id, path, written[key], cell.prompt.text, cell.clip.caption),
                    *(cell.clip.name, cell.seed, fps),
                )
            )
        return videos, missing

    def _tell(self, unscored: Sequence[tuple[Cell, Record]], scores: dict[str, Score]) -> None:
        """A line for each reason that videos have no value."""
        without: dict[str, list[str]] = {}
        for cell, record in unscored:
            one = scores[record.id]
            if one.value is None and one.reason != score.UNTRAINED:
                without.setdefault(one.reason or "", []).append(cell.path)
        for reason, paths in without.items():
            which = paths[0] if len(paths) == 1 else f"{len(paths)} videos, the first {paths[0]},"
            self.say(f"{self.name}: {which} without a value: {reason}")

    def _write(self, due: Sequence[tuple[Cell, Record]], scores: dict[str, Score]) -> dict[str, Record]:
        changed: dict[str, Record] = {}
        seen = {cell.id: record.frames_sha256 for cell, record in due}

        def hold(cell: Cell) -> CellLock:
            return CellLock(self.job.results, cell.id, self.locks)

        queue = Queue([cell for cell, _ in due], hold, lambda cell: self.say(busy(cell)))
        for cell, _ in queue:
            record = self._record(cell)
            if record is None or record.frames_sha256 != seen[cell.id]:
                self.say(f"{cell.path}: made anew meanwhile; {self.name} of it waits for the next command")
                continue
            if cell.id in scores:
                value = score.value_of(self.metric, self.version, scores[cell.id], "")
                record.metrics[self.name] = value
                record.scored = datetime.now(UTC).isoformat(timespec="microseconds")
            else:
                column = asdict(self.metric.column)
                record.metrics[self.name] = record.metrics[self.name].model_copy(update=column)
            score.settle_required(self.job, record)
            store.save_record(self.job.results / cell.path, self.job.hidden.record(record))
            changed[cell.id] = record
        return changed


__all__ = ["score_together"]
