"""The worker function of every engine: one child process at a time takes cells; this one watches it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.execute.child import GRACE, Role
from harness.execute.interface import Message
from harness.execute.orders import Orders
from harness.records.runs import Death

LINES, WIDTH = 40, 200
"""Last lines of a process's output that a record keeps, and characters of each."""


@dataclass
class Watched:
    """What a child said last: the cell it is at, the stage, since when; ``bye`` its exit code."""

    cell: str = ""
    stage: str = "start"
    since: float = field(default_factory=time.monotonic)
    bye: int | None = None

    def hear(self, message: Message) -> None:
        if "cell" in message:
            self.cell, self.stage, self.since = message["cell"], "start", time.monotonic()
        elif "stage" in message:
            if "load" in (self.stage, message["stage"]):
                # What loading the weights takes is not the cell's; it may hang as well.
                self.since = time.monotonic()
            self.stage = message["stage"]
        elif "done" in message:
            self.cell = ""
        elif "bye" in message:
            self.bye = message["bye"]


def drain(
    run: str,
    worker: str = "0",
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    listen: Callable[[Message], None] | None = None,
    stop: threading.Event | None = None,
) -> int:
    """Take cells of the run whose file this is until none is left; the exit code: 0, 2 (bad input) or 1.

    A child that is killed, hangs (``cell_timeout``), or ends in any other way while it works on a cell
    leaves a note of that and is followed by another; whoever takes the cell next counts the tries. ``stop``
    ends the child and returns.
    """
    orders = Orders.load(Path(run))
    told = listen or _ignore
    child = Child(orders, worker, dict(environment or {}), tuple(overrides))
    if not orders.scoring:
        return _supervise(child, told, stop)
    # No card and no cell of its own: it reads videos, and waits for them.
    scorer = replace(
        child,
        role="score",
        environment={**child.environment, "CUDA_VISIBLE_DEVICES": ""},
        overrides=(*child.overrides, "device=cpu"),
    )
    # The generator's cells are shown; of the scorer, what goes wrong.
    scoring = threading.Thread(target=_supervise, args=(scorer, partial(_notes_only, told), stop))
    scoring.start()
    try:
        return _supervise(child, told, stop)
    finally:
        orders.run.all_made(worker)
        scoring.join()


@dataclass(frozen=True)
class Child:
    """How a worker's process is started, again and again."""

    orders: Orders
    worker: str
    environment: dict[str, str]
    overrides: tuple[str, ...]
    role: Role = "generate"


def _supervise(child: Child, listen: Callable[[Message], None], stop: threading.Event | None) -> int:
    before_any = 0
    while True:
        watched, how, output = _one(child, listen, stop)
        if watched.bye is not None:
            return watched.bye
        if how is None:
            return 130
        if watched.cell:
            message = f"{how} in stage {watched.stage}"
            kind = "Timeout" if how.startswith("it took") else "Killed"
            child.orders.run.note_death(watched.cell, Death(kind, message, output))
            continue
        before_any += 1
        if before_any > child.orders.retries:
            listen({"note": f"a worker gave up before its first cell: {how}; {output[-500:]}"})
            return 1


def _ignore(_: Message) -> None:
    pass


def _notes_only(listen: Callable[[Message], None], message: Message) -> None:
    if "note" in message:
        listen(message)


def _one(
    child: Child, listen: Callable[[Message], None], stop: threading.Event | None
) -> tuple[Watched, str | None, str]:
    """One child to its end: what it said last, how it ended (None: it was told to), its last lines."""
    orders = child.orders
    log = orders.run.folder / f"worker-{child.worker}-{child.role}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    read, write = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "harness.execute.child", str(orders.file)),
                *(str(write), child.role, child.worker, *child.overrides),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=[write],
            cwd=orders.folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(orders.path),
                "PYTHONUNBUFFERED": "1",
                "TTY_COMPATIBLE": "0",
                **child.environment,
            },
            start_new_session=True,
        )
    os.close(write)
    watched = Watched()
    how: str | None = None
    try:
        how = _watch(read, watched, orders.cell_timeout, listen, stop)
        if how == "":
            how = _ended(process.wait())
    finally:
        os.close(read)
        end(process, at_once=how is not None)
    return watched, how, _last_lines(log, begin)


def _watch(
    read: int,
    watched: Watched,
    timeout: float | None,
    listen: Callable[[Message], None],
    stop: threading.Event | None,
) -> str | None:
    """Hear a child until it closes its pipe (empty), hangs (how long) or shall stop (None)."""
    waiting = b""
    while True:
        ready, _, _ = select.select([read], [], [], 0.2)
        if stop is not None and stop.is_set():
            return None
        if ready:
            data = os.read(read, 65536)
            if not data:
                return ""
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                watched.hear(message)
                listen(message)
        took = time.monotonic() - watched.since
        if timeout is not None and watched.cell and took > timeout:
            return f"it took longer than execute.cell_timeout={timeout:g} s,"


def _ended(code: int) -> str:
    if code < 0:
        try:
            return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            return f"its process was ended by signal {-code}"
    return f"its process ended with exit code {code}"


def end(process: subprocess.Popen[bytes], at_once: bool = False) -> None:
    """End a child and all that it started: SIGINT first, unless ``at_once``, then SIGKILL."""
    if process.poll() is None and not at_once:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _last_lines(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    return "\n".join(line[:WIDTH] for line in deque(text.splitlines(), maxlen=LINES))


__all__ = ["drain", "end"]
