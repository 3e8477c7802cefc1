"""Commands on hostile cells, disturbed at random; ids, frames and values end as an undisturbed run's do.

    python tests/execute/torture.py FOLDER --disturbances 100 --seed 0

Prints how many of each kind were survived. A short form of it is a test. Disturbances: SIGKILL of a worker or
of a scorer, SIGKILL, SIGTERM and SIGHUP of the command, a second command on the same folder, and cells that
on their first try segfault, hang, leave by ``os._exit`` or run out of memory.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]

from conftest import Command, children, made  # noqa: E402

ACTS = ("kill", "hang", "segfault", "leave", "memory")
KINDS = ("worker killed", "scorer killed", "command killed", "SIGTERM", "SIGHUP", "two commands")
WORDS = ("execute.cell_timeout=4", "execute.retries=3", "method.seconds=0.1", "seed=[0,1]")
GROUPS = ("dataset.clips=6", "metrics.metrics.brightness.seconds=0.1")


def processes(pid: int, role: str) -> list[int]:
    """A command's children of a role."""
    found = []
    for child in children(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if role.encode() in words and b"harness.execute.child" in words:
            found.append(child)
    return found


def torture(folder: Path, disturbances: int, seed: int, each: int = 3, log: bool = False) -> Counter[str]:
    """Disturb runs so often, ``each`` in its turn; AssertionError where the end differs. What struck."""
    rng = random.Random(seed)
    undisturbed = made(folder / "undisturbed")
    assert undisturbed(*WORDS, *GROUPS).code == 0
    wanted = undisturbed.ending()
    struck: Counter[str] = Counter()
    turn = 0
    while struck.total() < disturbances:
        turn += 1
        command = made(folder / f"disturbed-{turn}")
        once = command.folder / "once"
        acts = {f"c{number}": rng.choice(ACTS) for number in rng.sample(range(6), 2)}
        beside = rng.choice(("true", "false"))
        words = [*WORDS, *GROUPS, f"method.once={once}", f"measure.quiet={beside}"]
        words.append(f"+method.acts={{{', '.join(f'{clip}: {act}' for clip, act in acts.items())}}}")
        for _ in range(each):
            struck[_strike(command, words, rng)] += 1
        done = command(*words)
        assert done.code == 0, done.err
        assert command.ending() == wanted
        torn = [path for path in command.results.rglob(".*") if path.is_file()]
        assert not [path for path in torn if "hydra" not in path.parts], torn
        for clip, act in acts.items():
            struck[f"cell: {act}"] += len(list(once.glob(f"{clip}-*")))
        struck.pop("ended first", None)
        if log:
            print(f"{turn}: {dict(struck)}", flush=True)
    return struck


def _strike(command: Command, words: list[str], rng: random.Random) -> str:
    kind = rng.choice(KINDS)
    started = [command.start(*words) for _ in range(2 if kind == "two commands" else 1)]
    first = started[0]
    time.sleep(rng.uniform(1.5, 8))
    if first.poll() is not None:
        kind = "ended first"
    elif kind in ("worker killed", "scorer killed"):
        for pid in processes(first.pid, "generate" if kind == "worker killed" else "score")[:1]:
            os.kill(pid, signal.SIGKILL)
            break
        else:
            kind = "ended first"
    elif kind == "command killed":
        first.kill()
    elif kind.startswith("SIG"):
        first.send_signal(signal.Signals[kind])
    for process in started:
        process.communicate(timeout=200)
    return kind


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--disturbances", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    struck = torture(options.folder, options.disturbances, options.seed, log=True)
    for kind, count in sorted(struck.items()):
        print(f"{kind}: {count}")
    print(f"survived: {struck.total()}")


if __name__ == "__main__":
    main()
