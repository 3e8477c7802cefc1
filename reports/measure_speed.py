"""Everything about speed in one go, on the machine at hand: ``python -m reports.measure_speed --out DIR``.

For a lent GPU: Wan2.1-1.3B with random weights, 480x832, 81 frames. Runs ``experiment=speed_wan`` and
``experiment=speed_backends``, profiles ``fastvmt``'s first step as it is and not compiled, and writes to
``--out`` for each of them the table (``.txt``, under its command) and the JSON. Further ``key=value`` go to
every command; what was measured already is not run again. The tables of what was run need no GPU:
``--only run`` on the lent machine, and at home, with its results folder, ``--only print``.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SIZE = ("backbone=wan2.1-1.3b", "backbone.weights=random", "frames=81", "limit=1")
# What is run first, what is printed of it, and the folder of its JSON.
PARTS = (
    ("speed_wan", ("experiment=speed_wan",), "speed"),
    ("speed_backends", ("experiment=speed_backends",), "speed"),
    ("profile", ("method=fastvmt",), "profile"),
    ("profile_not_compiled", ("method=fastvmt", "backbone.compile=false"), "profile"),
)


def command(name: str, *given: str) -> list[str]:
    """The words of one run of the harness, whose plan is called ``name``."""
    return ["python", "-m", "harness", *SIZE, f"name={name}", *given]


def measure(out: Path, results: Path, overrides: Sequence[str], only: str | None = None) -> int:
    """Run and print all parts; how many are not whole. A variant that fails is missing from its table only.

    ``only``: ``run`` prints no table of records, ``print`` runs nothing; None does both.
    """
    out.mkdir(parents=True, exist_ok=True)
    broken = 0
    for name, words, action in PARTS:
        where = [f"results={results}", *overrides]
        if action == "speed" and only != "print":
            _run(command(name, *words, *where))
        if only == ("run" if action == "speed" else "print"):
            continue
        kept = results / action / f"{name}.json"
        kept.unlink(missing_ok=True)
        shown = command(name, *words, *where, f"action={action}")
        done = _run(shown)
        broken += bool(done.returncode)
        if kept.is_file():
            (out / f"{name}.txt").write_text(f"{shlex.join(shown)}\n{done.stdout}")
            shutil.copyfile(kept, out / f"{name}.json")
            print(done.stdout, end="", flush=True)
    return broken


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    print(f"$ {shlex.join(words)}", flush=True)
    return subprocess.run([sys.executable, *words[1:]], stdout=subprocess.PIPE, text=True, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when every variant was measured, else 1."""
    parser = argparse.ArgumentParser(prog="python -m reports.measure_speed", description=__doc__)
    parser.add_argument(
        "overrides", nargs="*", help="key=value for the harness, for example backbone.steps=10"
    )
    parser.add_argument("--out", type=Path, default=Path("reports/measured"), help="where tables and JSON go")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where records go")
    parser.add_argument("--only", choices=("run", "print"), help="one half of the work")
    given = parser.parse_intermixed_args(arguments)
    return 1 if measure(given.out, given.results, given.overrides, given.only) else 0


if __name__ == "__main__":
    sys.exit(main())
