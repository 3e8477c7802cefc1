"""The command line on the embedded world, killed while it works: it ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from brief import WITHOUT_SLOW

ROOT = Path(__file__).resolve().parents[2]

# What has appeared when the kill comes: the first cell is written then. test_harness_resume
# kills between any two files that are written.
MOMENT = "cells/*/*/*/video.mp4"


def start(results: Path) -> subprocess.Popen[bytes]:
    words = [
        "limit=2",
        *WITHOUT_SLOW,
        "frames=9",
        "backbone.steps=3",
        "method.optimiser.iterations=2",
        "wandb=disabled",
        "device=cpu",
        f"results={results}",
    ]
    with (results.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *words],
            cwd=results.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )


def finish(results: Path) -> str:
    """Run to the end; what was printed."""
    code = start(results).wait(250)
    log = (results.parent / "log").read_text()
    assert code == 0, log[-2000:]
    return log


def kill_when(results: Path, pattern: str) -> None:
    process = start(results)
    deadline = time.monotonic() + 200
    while not any(results.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9


def ending(results: Path) -> dict[str, object]:
    """Every cell's id, status, frames and metric values, and the names of its files; the plan's levels."""
    cells = {}
    for path in sorted(results.glob("cells/**/record.json")):
        record = json.loads(path.read_text())
        cells[path.parent.name] = {
            **{key: record[key] for key in ("id", "status", "frames_sha256")},
            "metrics": {
                name: [metric["value"], metric["reason"]] for name, metric in record["metrics"].items()
            },
            "files": sorted(file.name for file in path.parent.iterdir()),
        }
    (plan,) = results.glob("plans/*.json")
    return {
        "cells": cells,
        "plan": plan.name,
        "levels": json.loads(plan.read_text())["variants"][0]["levels"],
    }


def table(log: str) -> list[str]:
    """The last table of a log, and what stands below it."""
    return log[log.rindex("embedded world") :].split("\n")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_killed_or_repeated_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    undisturbed, killed = (tmp_path / name / "results" for name in ("undisturbed", "killed"))
    first = finish(undisturbed)
    expected = ending(undisturbed)
    assert len(expected["cells"]) == 2  # type: ignore[arg-type]
    kill_when(killed, MOMENT)
    assert len(list(killed.glob("cells/**/record.json"))) < 2
    finish(killed)
    assert ending(killed) == expected
    attempts = [json.loads(path.read_text())["attempts"] for path in killed.glob("cells/**/record.json")]
    assert max(attempts) > 1

    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("cells/**/*")}
    second = finish(undisturbed)
    assert table(second) == table(first) and second.count("embedded world") == 2
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("cells/**/*")} == before
