"""A worker's own process: ``python -m harness.execute.child RUN_FILE PIPE ROLE WORKER [device=...]``.

It may be killed at any moment: what it is doing goes through the pipe, a line of JSON at a time, and
``harness.execute.drain`` on the other end sees to the rest.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from datasets.errors import InputError
from datasets.files import unwritable

if TYPE_CHECKING:
    from harness.cells.plan import Cell

Role = Literal["generate", "score"]

GRACE = 10.0
"""Seconds that a process has to end by itself once it is told to."""


class Pipe:
    """``Shows`` by lines of JSON."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, **words: Any) -> None:
        # One write: a line is never torn, whatever kills this process.
        os.write(self._descriptor, json.dumps(words).encode() + b"\n")

    def cell(self, index: int, total: int, label: str, cell: Cell) -> None:
        self.send(cell=cell.id, path=cell.path, index=index, total=total, label=label)

    def stage(self, name: str) -> None:
        self.send(stage=name)

    def step(self, index: int, total: int) -> None:
        self.send(step=index, total=total)

    def cell_done(self, status: str, seconds: float | None = None) -> None:
        self.send(done=status, seconds=seconds)

    def note(self, text: str) -> None:
        self.send(note=text)


def end_with_parent() -> None:
    """End this process, and those it started, when the one that watches it is gone."""

    def watch() -> None:
        # Not sys.stdin, which Python cannot close while a thread reads it.
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGINT)
        # It may hang in C code, where no signal is heard.
        threading.Event().wait(GRACE)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def work(pipe: Pipe, run_file: Path, role: Role, worker: str, overrides: list[str]) -> int:
    """Take cells until none is left. Exit code 2 for input found bad late."""
    from harness.cells import environment
    from harness.cells.run import Scorer, Worker, items
    from harness.command.compose import compose
    from harness.command.prepare import prepare
    from harness.execute.orders import Orders

    orders = Orders.load(run_file)
    replaced = {override.partition("=")[0] for override in overrides}
    words = [word for word in orders.arguments if word.partition("=")[0] not in replaced]
    checked = prepare(compose([*words, *overrides]))
    todo = set(orders.todo)
    found = []
    for one in (one for _, prepared in checked for one in prepared):
        one.job.workers = orders.workers
        found += [item for item in items(one.job, one.cells) if item.cell.id in todo]
    if role == "score":
        Scorer(orders.run, worker, pipe, orders.locks).work(found)
        return 0
    for item in found[:1]:
        # Importing torch is none of the first cell's seconds.
        environment.describe(item.job.device)
    try:
        Worker(orders.run, pipe, orders.locks, scorer=orders.scoring, number=int(worker)).work(found)
    except InputError as error:
        pipe.note(str(error))
        return 2
    return 0


def main() -> int:
    faulthandler.enable()
    run_file, descriptor, role, worker, *overrides = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    # Slurm sends it to every process ahead of the time limit; it is meant for the worker that watches.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    end_with_parent()
    pipe = Pipe(int(descriptor))
    try:
        code = work(pipe, Path(run_file), cast("Role", role), worker, overrides)
    except InputError as error:
        pipe.note(str(error))
        code = 2
    except OSError as error:
        if error.filename is None and unwritable(error) is None:
            raise
        pipe.note(unwritable(error) or f"{error.filename}: {error.strerror}; correct or remove it")
        code = 2
    except KeyboardInterrupt:
        code = 130
    pipe.send(bye=code)
    return code


if __name__ == "__main__":
    sys.exit(main())
