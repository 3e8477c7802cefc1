"""What the command line says: help, and lines on standard error. Nothing heavy: --help answers at once."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records.printable import printable

if TYPE_CHECKING:
    from harness.records.record import Plan

HOME = Path(__file__).resolve().parents[2]
PACKAGES = ("datasets", "methods", "metrics", "reports")

HELP = """\
python -m harness [key=value ...] [-m] [--config-dir DIR]

Runs video motion transfer methods over clips, measures them and prints a table.
Without method=... and experiment=..., run, plan, cost and score take
  the embedded world  experiment=first: none and fastvmt on four clips, and a page to look at
  other clips         method=fastvmt (dataset=davis dataset.root=DIR)
method=NAME is that method alone, on all clips; limit=N the first N of them.

Actions (action=...)
{actions}

Groups (group=option)
{groups}

Keys
{keys}
  GROUP.KEY=VALUE changes a key of a group (backbone.steps=10, metrics.required=[clip_t])

Flags
  -m, --multirun    run every combination of comma-separated values
  --config-dir DIR  a folder with groups of yours (DIR/method/mine.yaml)
  --cfg job         print the composed configuration
  --hydra-help      Hydra's own flags

Examples
  python -m harness
  python -m harness action=plan limit=2
  python -m harness method=fastvmt dataset=davis dataset.root=DIR backbone=wan2.1-1.3b
  python -m harness -m method=fastvmt,full_attention,no_skipping seed=0,1,2
  python -m harness experiment=ablation_components limit=4

Exit codes: 0 all cells ok; 1 some cell failed; 2 bad input; 130 interrupted.
"""


def say(text: str) -> None:
    """One line on standard error, without the control characters that names may hold."""
    print(printable(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """As ``say``, on standard output: what was asked for."""
    print(printable(text), flush=True)


def escape_output() -> None:
    """Print what the terminal cannot show as ``\\udcff``: the name of a clip may be no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say_left_out(plan: Plan) -> None:
    """A line for each variant of an experiment that its plan leaves out, and for what its clips are like."""
    for one in plan.variants_out:
        say(f"{plan.name}: variant {one.label} is left out: {one.reason}")
    from harness.records.record import left_out_lines

    for line in left_out_lines(plan.remarks):
        say(f"{plan.name}: {line}")


def misplaced() -> str | None:
    """One line when a top-level package is not ours, else None.

    ``datasets`` shares its name with a package on PyPI.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec else []
        ours = any(Path(place).resolve() == HOME / name for place in places)
        if not ours or (name == "datasets" and (HOME / name / "arrow_dataset.py").exists()):
            where = places[0] if places else "not found"
            return f"the package {name!r} is not ours ({where}); use a virtual environment of its own"
    return None


def help_text(extra: Sequence[Path] = ()) -> str:
    """The help, with groups and keys read from ``conf`` and the folders ``extra``."""
    options: dict[str, list[str]] = {}
    actions: list[str] = []
    for folder in (HOME / "conf", *extra):
        # The first comment of an action's file is its documentation, as those of config.yaml are its keys'.
        for path in sorted((folder / "action").glob("*.yaml")):
            comments = (line for line in path.read_text().splitlines() if re.match("# [^@]", line))
            does = next(comments, "").removeprefix("# ")
            actions.append(f"  {path.stem:<9}{does}")
        for group in sorted(path for path in folder.glob("*") if path.is_dir()):
            names = sorted(path.stem for path in group.glob("*.yaml"))
            if names and group.name != "action":
                options.setdefault(group.name, []).extend(names)
    groups = [f"  {group:<11}{', '.join(names)}" for group, names in sorted(options.items())]
    keys: list[str] = []
    parent = ""
    for line in (HOME / "conf" / "config.yaml").read_text().splitlines():
        if found := re.fullmatch(r"(\w+):\s*", line):
            parent = found[1] + "."
        elif found := re.fullmatch(r"( *)(\w+): (.*?)\s+# (.*)", line):
            name = (parent if found[1] else "") + found[2]
            keys.append(f"  {name + '=' + found[3]:<36}{found[4]}")
    return HELP.format(actions="\n".join(actions), groups="\n".join(groups), keys="\n".join(keys))


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    found = re.findall(r"(?:^|\0)(?:--config-dir|-cd)[=\0]([^\0]+)", "\0".join(arguments))
    return [Path(folder) for folder in found]
