"""Weights & Biases as a mirror of a command's records, cell by cell while it runs.

One process of its own sends what all workers finish (``python -m reports.wandb_runs JOB.json``): it watches
the records, and no cell waits for it. When the command is done it is given ``timeout_s`` at a time as long
as it gets on, so that a W&B that is missing, refuses or hangs costs one warning line and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from datasets.errors import InputError
from harness.command.config import WandbSettings
from harness.command.terminal import say
from harness.records.record import Plan

if TYPE_CHECKING:
    from harness.cells.job import Job


def settings(wandb: Mapping[str, Any]) -> WandbSettings:
    """Check the ``wandb`` group. InputError that names the first wrong key."""
    try:
        return WandbSettings.model_validate(dict(wandb))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["wandb", *map(str, first["loc"])])
        raise InputError(f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


@contextlib.contextmanager
def mirrored(jobs: Sequence[tuple[Job, Plan]]) -> Iterator[None]:
    """Send the cells of these plans to W&B as they end; a line on standard error where that did not work.

    An exception passes through: what has been sent is then completed without anybody waiting.
    """
    senders = start(jobs)
    try:
        yield
    except BaseException:
        for sender in senders:
            sender.leave()
        raise
    for sender in senders:
        warning = sender.finish()
        if warning is not None:
            say(warning)


def start(jobs: Sequence[tuple[Job, Plan]]) -> list[Sender]:
    """A sender for each results folder and ``wandb`` group of the jobs; none for ``mode`` ``disabled``."""
    together: dict[str, list[tuple[Job, Plan]]] = {}
    for job, plan in jobs:
        key = json.dumps([str(job.results), job.wandb], sort_keys=True, default=str)
        together.setdefault(key, []).append((job, plan))
    return [
        Sender(
            same[0][0].results,
            [plan for _, plan in same],
            same[0][0].wandb,
            [job.resolved for job, _ in same],
        )
        for same in together.values()
        if same[0][0].wandb.get("mode") != "disabled"
    ]


def publish(results: Path, plans: Sequence[Plan], wandb: Mapping[str, Any]) -> str | None:
    """Send what the records of these plans hold now; a warning line where that did not work."""
    return Sender(results, plans, wandb).finish()


class Sender:
    """The process that sends the cells of some plans, from its start on. Never raises.

    ``configs`` are the plans' composed configurations.
    """

    def __init__(
        self,
        results: Path,
        plans: Sequence[Plan],
        wandb: Mapping[str, Any],
        configs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._problem: str | None = None
        try:
            self._settings = settings(wandb)
            self._scratch = Path(tempfile.mkdtemp(prefix="vmtbench-wandb-"))
            job = {
                "results": str(results.resolve()),
                "plans": [plan.model_dump(mode="json", by_alias=True) for plan in plans],
                "wandb": self._settings.model_dump(mode="json") | {"dir": str(self._settings.dir.resolve())},
                "configs": [dict(config) for config in configs] or [{} for _ in plans],
            }
            (self._scratch / "job.json").write_text(json.dumps(job, default=str))
            # A file for its output: a pipe would stay open as long as W&B's own service lives.
            with (self._scratch / "log").open("wb") as output:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "reports.wandb_runs", str(self._scratch / "job.json")],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_environment(self._settings),
                    start_new_session=True,
                )
        except Exception as error:
            self._problem = f"{type(error).__name__}: {error}"

    def leave(self) -> None:
        """Let it complete what there is to send, and end by itself."""
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()

    def finish(self) -> str | None:
        """Wait until all is sent, as long as it gets on; a warning line where that did not work."""
        self.leave()
        if self._child is not None:
            try:
                self._problem = self._wait(self._child)
            except BaseException:
                _end(self._child)
                raise
            shutil.rmtree(self._scratch, ignore_errors=True)
        if self._problem is None:
            return None
        line = " ".join(self._problem.split())
        return f"W&B mirror failed ({line[:300]}); the results are complete without it"

    def _wait(self, child: subprocess.Popen[bytes]) -> str | None:
        sent, timeout = self._scratch / "sent", self._settings.timeout_s
        code = None
        while code is None:
            before = sent.stat().st_size if sent.exists() else 0
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                if (sent.stat().st_size if sent.exists() else 0) == before:
                    _end(child)
                    return f"stopped after wandb.timeout_s={timeout:g} seconds in which nothing was sent"
        if code == 0:
            return None
        lines = (self._scratch / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"


def _environment(chosen: WandbSettings) -> dict[str, str]:
    """Ours, with W&B quiet and its files under ``dir``."""
    folder = chosen.dir.resolve() / "wandb"
    root = str(Path(__file__).resolve().parent.parent)
    # A run or service of the caller's own must not be taken over.
    inherited = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_SWEEP_ID")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Last, so that our folder shadows nothing of the user's.
    environment["PYTHONPATH"] = os.pathsep.join([*paths, root])
    environment |= {
        "WANDB_DIR": str(folder.parent),
        "WANDB_MODE": chosen.mode,
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_ERROR_REPORTING": "false",
        # Host, user, paths and load of the sender's machine; the records say what the cells' were.
        "WANDB_X_DISABLE_META": "true",
        "WANDB_X_DISABLE_MACHINE_INFO": "true",
        "WANDB_X_DISABLE_STATS": "true",
    }
    environment.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
    environment.setdefault("WANDB_DATA_DIR", str(folder / "cache"))
    return environment


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started (its session is its own)."""
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()
