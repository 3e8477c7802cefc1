"""A command line on hostile plug-ins, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.records import store
from harness.records.record import Record

ROOT = Path(__file__).resolve().parents[2]
METRIC = "metrics/hostile"
CONFIGS = {
    "method/hostile": "_target_: hostile.Hostile\nname: hostile\nacts: {}\nonce: null\nseconds: 0.0\n",
    "method/latent": "_target_: hostile.Latent\nname: latent\n",
    "backbone/hostile": "_target_: hostile.Backbone\nname: hostile\n",
    "dataset/hostile": (
        "_target_: hostile.Clips\nname: hostile\nframes: ${frames}\ndefault_frames: 5\nclips: 4\n"
    ),
    METRIC: (
        "required: []\nmetrics:\n  brightness:\n    _target_: hostile.Brightness\n    name: brightness\n"
        "    seconds: 0.0\n"
    ),
    "tracker/hostile": "_target_: hostile.Points\nname: hostile\n",
}


@dataclass
class Done:
    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Command:
    """``python -m harness`` in ``folder``."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def words(self, *arguments: str) -> list[str]:
        groups = ("method", "backbone", "dataset", "metrics", "tracker")
        given = {argument.partition("=")[0] for argument in arguments}
        chosen = [f"{group}=hostile" for group in groups if group not in given]
        fixed = ["device=cpu", "trust=[hostile]", "wandb=disabled"]
        config = ["--config-dir", str(self.folder / "groups")]
        return [sys.executable, "-m", "harness", *config, *chosen, *fixed, *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        places = [str(Path(__file__).parent), str(ROOT)]
        return subprocess.Popen(
            self.words(*arguments),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> Done:
        started = time.monotonic()
        process = self.start(*arguments)
        out, err = process.communicate(timeout=200)
        return Done(process.returncode, out, err, time.monotonic() - started)

    def records(self, results: str = "results") -> dict[str, Record]:
        """By clip and seed, those that can be read."""
        paths = (self.folder / results).glob("cells/*/*/*/record.json")
        found = [store.load_record(path.parent) for path in paths]
        return {f"{record.clip}-{record.seed}": record for record in sorted(found, key=lambda r: r.clip)}

    def ending(self, results: str = "results") -> dict[str, Any]:
        """What does not depend on when a cell ran."""
        return {
            name: (record.id, record.status, record.frames_sha256, record.metrics["brightness"].value)
            for name, record in self.records(results).items()
        }


def made(folder: Path) -> Command:
    """A command in a folder of its own."""
    for name, text in CONFIGS.items():
        path = folder / "groups" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Command(folder)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return made(tmp_path)


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something; what it is."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()


def children(pid: int) -> list[int]:
    """All processes below one."""
    below = [int(p) for p in Path(f"/proc/{pid}/task").glob("*/children") for p in p.read_text().split()]
    return [*below, *(deeper for child in below for deeper in children(child))]


__all__ = ["Command", "alive", "children", "json", "signal", "until"]
