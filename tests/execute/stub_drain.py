"""A worker's function in small, sent to workers by value: numbered cells, locks and records as files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


def work(run: str, worker: str) -> int:
    """Take cells that nobody holds until each has a record, which names who made it on what device.

    ``run`` is a JSON file beside which all lies: how many ``cells``, ``seconds`` each takes, and the
    ``hung`` one, which its first taker gives up after ``timeout`` seconds, as ours would by killing a child.
    """
    from filelock import FileLock, Timeout

    folder, said = Path(run).parent, json.loads(Path(run).read_text())
    names = [str(cell) for cell in range(said["cells"])]
    while missing := [name for name in names if not (folder / f"{name}.json").exists()]:
        for name in missing:
            try:
                with FileLock(folder / f"{name}.lock", timeout=0):
                    if (folder / f"{name}.json").exists():
                        continue
                    taken = {
                        "pid": os.getpid(),
                        "worker": worker,
                        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
                    }
                    with (folder / f"{name}.tries").open("a") as tries:
                        tries.write(f"{os.getpid()}\n")
                    hung = name == str(said.get("hung"))
                    time.sleep(said["timeout"] if hung else said["seconds"])
                    record = {**taken, "status": "timeout" if hung else "ok"}
                    (folder / f"{name}.part").write_text(json.dumps(record))
                    (folder / f"{name}.part").replace(folder / f"{name}.json")
            except Timeout:
                continue
        time.sleep(0.1)
    return 0


@contextmanager
def sent_by_value(cloudpickle: Any, module: ModuleType) -> Iterator[None]:
    """Workers need not find the module."""
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def write_run(folder: Path, **said: float) -> Path:
    """What workers are to do, in a folder of its own."""
    folder.mkdir(parents=True)
    run = folder / "run.json"
    run.write_text(json.dumps(said))
    return run


def unheard(worker: int, message: dict[str, Any]) -> None:
    """What workers of other hosts say reaches nobody."""
    raise AssertionError(worker, message)


def records(run: Path) -> list[dict[str, Any]]:
    """The records there are, by cell."""
    paths = sorted(run.parent.glob("[0-9]*.json"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text()) for path in paths]


def takers(run: Path) -> dict[int, list[int]]:
    """Who took each cell, first to last: process ids."""
    paths = sorted(run.parent.glob("*.tries"))
    return {int(path.stem): [int(line) for line in path.read_text().split()] for path in paths}


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for it. Raises AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
