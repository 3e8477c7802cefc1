"""Runs cells of fakes in forked children and kills them; prints what each results folder ends with.

    python kill_script.py FOLDER KILLS SEED

A child counts its file operations (audit events) and sends itself SIGKILL at a
chosen one, so that a kill hits between any two of them, not only where time is spent.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[up]) for up in (0, 1, 2)]

import torch
from harness_fakes import Squares, make_job, planned

from harness.cells import environment, run

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "shutil.rmtree", "os.truncate")


def attempt(results: Path, kill_at: int | None, count_file: Path | None = None) -> bool:
    """One run in a child process; False when it was killed."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        seen = 0
        prefix = str(results)

        def count(event: str, arguments: tuple) -> None:
            nonlocal seen
            if event in EVENTS and str(arguments[0]).startswith(prefix):
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        code = 1
        try:
            job = make_job(results, dataset=Squares(clips=2), seeds=[0, 1])
            plan, cells = planned(job)
            sys.addaudithook(count)
            outcome = run.run(job, plan, cells)
            if count_file is not None:
                count_file.write_text(str(seen))
            code = 0 if outcome.ok else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status) != 0:
        raise SystemExit("a run failed by itself")
    return True


def ending(results: Path) -> dict:
    """Ids, statuses, frame hashes and metric values, and the names of all files."""
    cells = {}
    for path in sorted(results.glob("cells/**/record.json")):
        record = json.loads(path.read_text())
        cells[str(path.parent.relative_to(results))] = {
            "id": record["id"],
            "status": record["status"],
            "frames": record["frames_sha256"],
            "metrics": {name: [m["value"], m["per_frame"]] for name, m in record["metrics"].items()},
            "attempts": record["attempts"],
            "files": sorted(file.name for file in path.parent.iterdir()),
        }
    levels = json.loads((results / "plans" / "trial.json").read_text())["variants"][0]["levels"]
    return {"cells": cells, "levels": levels}


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # A git call in every child would only cost time.
    found = environment.describe("cpu")
    environment.describe = lambda device: dict(found)
    count_file = folder / "count"
    attempt(folder / "undisturbed", None, count_file)
    events = int(count_file.read_text())
    generator = random.Random(seed)
    endings = []
    for number in range(kills):
        results = folder / f"killed{number}"
        # Spread the first kill over the whole run, the second falls anywhere.
        first = (number * events + generator.randrange(events)) // kills
        for kill_at in (first, generator.randrange(events)):
            attempt(results, kill_at)
        attempt(results, None)
        endings.append({"kill_at": first, **ending(results)})
    print(json.dumps({"events": events, "undisturbed": ending(folder / "undisturbed"), "killed": endings}))


if __name__ == "__main__":
    main()
