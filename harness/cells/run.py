"""Cells one after another, of one job or of many; any number of processes may do so at the same time."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from datasets.errors import InputError
from harness.cells import score
from harness.cells.batch import score_together
from harness.cells.compute import Ended, score_video, settle, unsettled
from harness.cells.generate import Loaded, Session
from harness.cells.locks import POLL, CellLock, Locks, Lost, Queue, busy
from harness.cells.progress import Progress
from harness.cells.score import Outcome
from harness.records import store
from harness.records.record import Plan
from harness.records.runs import Death, Run

if TYPE_CHECKING:
    from harness.cells.job import Job
    from harness.cells.plan import Cell


class Shows(Protocol):
    """What is told of a worker's cells: to a terminal, or to the process that watches the worker."""

    def cell(self, index: int, total: int, label: str, cell: Cell) -> None: ...
    def stage(self, name: str) -> None: ...
    def step(self, index: int, total: int) -> None: ...
    def cell_done(self, status: str, seconds: float | None = None) -> None: ...
    def note(self, text: str) -> None: ...


class Item(NamedTuple):
    """One cell, its job, and its place among the job's ``total``."""

    job: Job
    cell: Cell
    place: int
    total: int


def items(job: Job, cells: Sequence[Cell]) -> list[Item]:
    """A job's cells."""
    return [Item(job, cell, index, len(cells)) for index, cell in enumerate(cells)]


@dataclass
class Worker:
    """Takes the next cell that nobody holds, until none is left.

    First those of the job that it is at, then of others on that backbone, of the job with most left; among
    equals worker ``number`` begins so many jobs further on. Last those that ran out of memory or ended their
    process in this run.
    """

    run: Run
    shows: Shows
    locks: Locks = "auto"
    loaded: Loaded = field(default_factory=Loaded)
    scorer: bool = False
    number: int = 0
    _at: Job | None = None
    _last: set[str] = field(default_factory=set)
    _places: dict[int, int] = field(default_factory=dict)

    def work(self, open_items: Sequence[Item]) -> list[tuple[Item, Ended]]:
        """The items in the order in which they were settled.

        Raises InputError for input found bad late (a download that failed), once the other jobs have ended.
        """
        self._places = {id(job): place for place, job in enumerate(_jobs(open_items))}
        ended: list[tuple[Item, Ended]] = []
        bad: list[InputError] = []
        session: Session | None = None
        turns = Queue(open_items, self._hold, lambda item: self.shows.note(busy(item.cell)), self._order)
        for item, hold in turns:
            if self.run.stopped:
                break
            if item.cell.id not in self._last and self.run.died(item.cell.id):
                self._last.add(item.cell.id)
                turns.put_back()
                continue
            if session is None or session.job is not item.job:
                load = lru_cache(maxsize=1)(item.job.dataset.load)
                scorer = self.scorer and item.job.scored_beside
                session = Session(item.job, self.shows, load, self.loaded, self.run, scorer=scorer)
                self._at = item.job
            session.check = hold.check
            try:
                done = self._settle(session, item)
            except Lost as error:
                self.shows.note(f"{item.cell.path}: {error}")
                turns.put_back()
                continue
            except InputError as error:
                bad.append(error)
                turns.drop(partial(_is_of, item.job))
                continue
            if unsettled(self.run, done.record):
                # Another worker shall put it last too.
                self.run.note_death(item.cell.id, Death("MemoryError", "it ran out of memory"))
                self._last.add(item.cell.id)
                turns.put_back()
                continue
            ended.append((item, done))
            if done.record.status not in ("ok", "unscored") and item.job.engine.on_error == "stop":
                self.shows.note(
                    f"{item.cell.path}: {done.record.status}; execute.on_error=stop ends the run here"
                )
                self.run.stop()
                break
        if bad:
            raise InputError("\n".join(dict.fromkeys(map(str, bad))))
        return ended

    def _settle(self, session: Session, item: Item) -> Ended:
        self.shows.cell(item.place, item.total, label(item), item.cell)
        started = time.perf_counter()
        done = settle(session, item.cell)
        seconds = time.perf_counter() - started if done.how == "computed" else None
        self.shows.cell_done(done.record.status if done.how == "computed" else "reused", seconds)
        return done

    def _hold(self, item: Item) -> CellLock:
        return CellLock(item.job.results, item.cell.id, self.locks)

    def _order(self, left: list[Item]) -> list[Item]:
        at = self._at
        open_cells: Counter[int] = Counter()
        if at is not None and not any(item.job is at and item.cell.id not in self._last for item in left):
            # Workers that spread over the variants load each the fewest times (``harness.execute.simulate``).
            for item in left:
                open_cells[id(item.job)] += not (item.job.results / item.cell.path / store.RECORD).exists()

        other = {id(job): at is not None and _backbone(job) != _backbone(at) for job in _jobs(left)}

        def rank(item: Item) -> tuple[bool, bool, bool, int, int]:
            key = id(item.job)
            away = (self._places[key] - self.number) % len(self._places)
            return item.cell.id in self._last, other[key], item.job is not at, -open_cells[key], away

        return sorted(left, key=rank)


@dataclass
class Scorer:
    """Scores the videos of a run as they come, until its worker makes no more."""

    run: Run
    worker: str
    shows: Shows
    locks: Locks = "auto"

    def work(self, open_items: Sequence[Item]) -> None:
        """Of these items."""
        left = list(open_items)
        session: Session | None = None
        while left:
            last = self.run.is_all_made(self.worker)
            before = len(left)
            for item in list(left):
                state = self._state(item)
                if state == "settled":
                    left.remove(item)
                elif state == "waits":
                    if session is None or session.job is not item.job:
                        load = lru_cache(maxsize=1)(item.job.dataset.load)
                        session = Session(item.job, self.shows, load, Loaded(), self.run)
                    self._score(session, item)
            if len(left) < before:
                continue
            if last:
                return
            time.sleep(POLL)

    def _state(self, item: Item) -> Literal["absent", "waits", "settled"]:
        folder = item.job.results / item.cell.path
        if not (folder / store.RECORD).exists() or (record := store.read_record(folder)) is None:
            return "absent"
        if record.status == "unscored":
            # One more than tries: the last only notes that it is given up.
            return "waits" if self.run.scoring(item.cell.id) <= self.run.retries + 1 else "settled"
        return "settled" if record.run == self.run.id or record.status == "ok" else "absent"

    def _score(self, session: Session, item: Item) -> None:
        hold = CellLock(item.job.results, item.cell.id, self.locks)
        if not hold.take():
            return
        try:
            self.shows.cell(item.place, item.total, label(item), item.cell)
            self.shows.stage("score")
            session.check = hold.check
            score_video(session, item.cell)
            self.shows.cell_done("scored")
        finally:
            hold.release()


def _backbone(job: Job) -> str:
    return json.dumps([job.node("backbone"), job.device, job.frames], sort_keys=True)


def _jobs(some: Sequence[Item]) -> list[Job]:
    """Their jobs, each once, in order."""
    return list({id(item.job): item.job for item in some}.values())


def _is_of(job: Job, item: Item) -> bool:
    return item.job is job


def label(item: Item) -> str:
    """What the item is called in a line."""
    seed = f" seed {item.cell.seed}" if len(item.job.seeds) > 1 else ""
    return f"{item.job.label} {item.cell.clip.name}{seed}"


def run(job: Job, plan: Plan, cells: Sequence[Cell], loaded: Loaded | None = None) -> Outcome:
    """Compute the cells that have no ``ok`` record of this device in this process, reuse the others.

    At the end the plan is written with its levels. ``loaded`` hands the backbone from one job to the next.
    Raises InputError when the weights turn out unusable. KeyboardInterrupt passes through and leaves no
    record of its cell.
    """
    with Progress() as progress:
        worker = Worker(Run(job.results, job.engine.retries), progress, loaded=loaded or Loaded())
        ended = worker.work(items(job, cells))
        progress.phase("scoring what is scored together")
        together = score_together(job, cells, progress.note)
        outcome = outcome_of([(item, done.after(together.changed)) for item, done in ended])
        outcome.fault = together.fault
        progress.phase("measuring what chance and true clips score")
        score.store_levels(job, plan, cells, progress.note)
    return outcome


def outcome_of(ended: Sequence[tuple[Item, Ended]]) -> Outcome:
    """One job's records in the plan's order, and how many were computed, rescored, reused."""
    by_place = sorted(ended, key=lambda pair: pair[0].place)
    how = Counter(done.how for _, done in ended)
    records = [done.record for _, done in by_place]
    return Outcome(records, computed=how["computed"], reused=how["reused"], rescored=how["rescored"])


__all__ = ["Item", "Scorer", "Shows", "Worker", "items", "label", "outcome_of", "run"]
