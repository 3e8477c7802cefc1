"""A command's cells by the workers of an engine: started, waited for, and read from their records."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.cells import score
from harness.cells.batch import Together, score_together
from harness.cells.compute import finished
from harness.cells.job import Job
from harness.cells.plan import Cell
from harness.cells.progress import Progress
from harness.cells.run import items, label
from harness.cells.score import Outcome
from harness.command.interface import Ended, Prepared
from harness.command.terminal import say
from harness.execute.interface import Message, WorkerEngine
from harness.execute.orders import Orders, kept, modules
from harness.records import store
from harness.records.record import Record
from harness.records.runs import Run

POLL = 0.2
"""Seconds between looks at the workers."""


def work(
    engine: WorkerEngine, prepared: Sequence[Prepared], arguments: Sequence[str]
) -> tuple[list[Ended], int]:
    """As the cells of all jobs in this process would be: the jobs that ended, and the exit code.

    Ends its workers when it is interrupted. With ``execute.wait=false`` it leaves once they have started.
    """
    planned = [one for one in prepared if one.plan is not None]
    if not planned:
        return [], 0
    with Progress() as progress:
        todo = _unfinished(planned, progress, engine.remote)
        codes: list[int] = []
        orders = _at_work(engine, planned)
        if orders is not None:
            say(f"execute={engine.name}: {len(orders.ids)} workers are at these cells already")
        elif todo:
            orders = _orders(engine, planned, arguments, list(dict.fromkeys(todo)))
            orders.save()
        if orders is not None:
            watch = Watch(progress, planned, orders)
            codes = _until_done(engine, orders, watch)
            if not engine.wait:
                return [], 0
            # It holds the command's words and this machine's folders.
            orders.file.unlink(missing_ok=True)
            for one in planned:
                one.job.hidden.scrub(orders.run.folder)
        ended: list[Ended] = []
        progress.phase("scoring what is scored together")
        for one in planned:
            assert one.plan is not None
            together = score_together(one.job, one.cells, progress.note, engine.locks)
            ended.append((one.job, one.plan, _outcome(one, orders, together)))
        progress.phase("measuring what chance and true clips score")
        for one in planned:
            assert one.plan is not None
            score.store_levels(one.job, one.plan, one.cells, progress.note)
    found = [_code(one, outcome) for one, (_, _, outcome) in zip(planned, ended, strict=True)]
    return ended, max([*found, *(code for code in codes if code != 130)])


def _unfinished(planned: Sequence[Prepared], progress: Progress, remote: bool) -> list[str]:
    """The ids of the cells that need something; the others are shown as reused."""
    todo = []
    for one in planned:
        for item in items(one.job, one.cells):
            if finished(item.job, item.cell, remote):
                progress.cell(item.place, item.total, label(item))
                progress.cell_done("reused")
            else:
                todo.append(item.cell.id)
    return todo


def _code(one: Prepared, outcome: Outcome) -> int:
    missing = len(one.cells) - len(outcome.records)
    if outcome.fault:
        return 2
    return 1 if outcome.failed or (missing and one.job.engine.on_error != "stop") else 0


def _orders(
    engine: WorkerEngine, planned: Sequence[Prepared], arguments: Sequence[str], todo: list[str]
) -> Orders:
    job = planned[0].job
    devices = engine.places(job.device)
    run = Run(job.results.absolute(), engine.retries)
    return Orders(
        id=run.id,
        results=run.results,
        arguments=list(arguments),
        folder=Path.cwd(),
        path=modules(),
        todo=todo,
        plans=_names(planned),
        engine=engine.name,
        devices=devices,
        retries=engine.retries,
        cell_timeout=engine.cell_timeout,
        locks=engine.locks,
        began=datetime.now(UTC).isoformat(timespec="microseconds"),
        scoring=any(one.job.scored_beside for one in planned),
        workers=sum(device == "cpu" for device in devices) or 1,
    )


def _names(planned: Sequence[Prepared]) -> list[str]:
    return list(dict.fromkeys(one.plan.name for one in planned if one.plan is not None))


def _at_work(engine: WorkerEngine, planned: Sequence[Prepared]) -> Orders | None:
    """The run of an earlier command with these plans whose workers still work."""
    if not engine.remote:
        return None
    names = _names(planned)
    for orders in kept(planned[0].job.results):
        if orders.engine == engine.name and orders.plans == names and engine.running(orders.ids):
            return orders
    return None


def _until_done(engine: WorkerEngine, orders: Orders, watch: Watch) -> list[int]:
    """Start the workers, unless they work already, and wait; their exit codes where they are known."""
    ids = orders.ids
    try:
        attached = bool(ids)
        if not attached:
            ids = engine.start(orders.file, watch.hear)
            orders.ids = ids
            orders.save()
        if not engine.wait and attached:
            return []
        if not engine.wait:
            say(f"execute={engine.name}: started {', '.join(ids)}; the same command waits for them")
            return []
        while engine.running(ids):
            time.sleep(POLL)
            if engine.remote:
                watch.look()
    except BaseException:
        for line in engine.stop(ids):
            say(line)
        orders.file.unlink(missing_ok=True)
        raise
    if engine.remote:
        watch.look()
    return engine.codes()


def _outcome(one: Prepared, orders: Orders | None, together: Together) -> Outcome:
    """One job's records in the plan's order, and how many this run computed or rescored."""
    found = [store.read_record(one.job.results / cell.path) for cell in one.cells]
    records = [record for record in found if record is not None]
    others = [record for record in records if orders is None or record.run != orders.id]
    rescored = sum(
        record.id in together.changed or (orders is not None and record.scored >= orders.began)
        for record in others
    )
    computed = len(records) - len(others)
    return Outcome(records, computed, len(others) - rescored, rescored, together.fault)


class Watch:
    """Shows how far the workers are: by what they say, or by the records that appear."""

    def __init__(self, progress: Progress, planned: Sequence[Prepared], orders: Orders) -> None:
        self._progress, self._orders = progress, orders
        self._lock = threading.Lock()
        wanted = set(orders.todo)
        self._open: list[tuple[Job, Cell]] = [
            (one.job, cell) for one in planned for cell in one.cells if cell.id in wanted
        ]
        self._total = len(self._open)
        self._done = 0
        self._variants = {cell.id: str(place) for place, one in enumerate(planned) for cell in one.cells}
        progress.total([self._variants[cell.id] for _, cell in self._open])

    def hear(self, worker: int, message: Message) -> None:
        """What a worker says."""
        with self._lock:
            shows = self._progress.worker(worker)
            if "cell" in message:
                variant = self._variants.get(message["cell"], "")
                shows.cell(message["index"], message["total"], message["label"], variant=variant)
            elif "stage" in message:
                shows.stage(message["stage"])
            elif "step" in message:
                shows.step(message["step"], message["total"])
            elif "done" in message:
                shows.cell_done(message["done"], message["seconds"])
            elif "note" in message:
                shows.note(message["note"])

    def look(self) -> None:
        """A line for each record that this run has written since."""
        still = []
        for job, cell in self._open:
            record = store.read_record(job.results / cell.path)
            if record is None or not self._new(record):
                still.append((job, cell))
                continue
            shows = self._progress.worker(0)
            shows.cell(
                self._done, self._total, f"{job.label} {cell.clip.name}", variant=self._variants[cell.id]
            )
            shows.cell_done(record.status)
            self._done += 1
        self._open = still

    def _new(self, record: Record) -> bool:
        return record.run == self._orders.id or record.scored >= self._orders.began


__all__ = ["work"]
