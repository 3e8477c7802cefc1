"""Does the suite notice? Wrong changes, one at a time, in a copy of the project, judged by its tests.

    python tests/mutate.py                            # the list of tests/mutations.py
    python tests/mutate.py --only conf/ ropecraft     # those whose file or sentence has one of these words
    python tests/mutate.py --generic 100 --seed 0     # changes made by rule, which no list knows

Not part of the suite: it takes hours. A change is caught where a test fails; the tests that name its module
run first, all others only where those pass (``--quick`` leaves them out). Verdicts are kept in ``--log``: one
that a test caught while its file and that test's stay the same, a survivor while the whole project does.
Prints the share caught and each survivor. Exit 1 where a change of the list no longer applies: its old text
must stand in its file once.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datasets", "metrics", "methods", "harness", "reports")
# conf/ has no module that a test could name: by its groups, and the rest.
DECISIONS = ("tests/methods/test_methods_decisions.py", "tests/methods/test_methods_configs.py")
OF_CONF = {
    "backbone": DECISIONS,
    "method": DECISIONS,
    "tuned": DECISIONS,
    "experiment": ("tests/harness/test_harness_experiment_rows.py",),
}
DEFAULTS = ("tests/harness/test_harness_defaults.py",)
# Quick, and concerned with all of a package.
OF_ALL = {
    "methods": ["tests/methods/test_methods_by_hand.py"],
    "harness": ["tests/harness/test_harness_accounts.py", "tests/harness/test_harness_handed_over.py"],
    "metrics": ["tests/metrics/test_metrics_references.py"],
    "reports": ["tests/reports/test_reports_by_hand.py"],
}
MARKS = "not browser and not tex and not gpu"
TIMEOUT = 120  # seconds for one test: a change may well loop for ever


@dataclass(frozen=True)
class Change:
    """``old``, which stands once in ``file``, becomes ``new``; ``breaks`` says what is wrong then.

    ``first``: the tests to run first, where those that name the module are not the ones. ``at``: the line of
    a change made by rule, whose ``old`` may stand elsewhere too.
    """

    file: str
    old: str
    new: str
    breaks: str
    first: tuple[str, ...] = ()
    at: int = 0

    @property
    def key(self) -> str:
        return hashlib.sha256(repr((self.file, self.old, self.new, self.at)).encode()).hexdigest()[:12]

    def applied(self, text: str) -> str | None:
        """The file's text with the change; None where it does not apply, or is no Python any more."""
        lines = text.splitlines(keepends=True) if self.at else [text]
        place = max(self.at - 1, 0)
        if place >= len(lines) or lines[place].count(self.old) != 1:
            return None
        lines[place] = lines[place].replace(self.old, self.new)
        wrong = "".join(lines)
        try:
            return wrong if not self.file.endswith(".py") or ast.parse(wrong) else None
        except SyntaxError:
            return None


# --- changes made by rule ------------------------------------------------------------------------

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def changed(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What may stand in place of a node, and what was done to it."""
    other = copy.deepcopy(node)
    match other:
        case ast.Compare(ops=[operator]) if type(operator) in SWAPS:
            other.ops = [SWAPS[type(operator)]()]
            yield other, "another comparison"
        case ast.BinOp(op=operator) if type(operator) in SWAPS and not isinstance(other.left, ast.Constant):
            other.op = SWAPS[type(operator)]()
            yield other, "another operation"
        case ast.BoolOp(op=operator):
            other.op = SWAPS[type(operator)]()
            yield other, "and for or"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand, "no not"
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value), "the other truth"
        case ast.Constant(value=int() as value):
            yield ast.Constant(value + 1), "off by one"
        case ast.Constant(value=float() as value):
            yield ast.Constant(value * 1.25 + 0.001), "another number"
        case ast.Call(args=[first, second, *rest]) if not any(
            isinstance(one, ast.Starred) for one in (first, second)
        ):
            other.args = [second, first, *rest]
            yield other, "arguments swapped"
        case ast.IfExp(body=body, orelse=orelse):
            other.body, other.orelse = orelse, body
            yield other, "the other branch"


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that run: no annotation, no part of an f-string, whose places are not known."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from inside(child)


def by_rule(root: Path) -> list[Change]:
    """Every change of one node on one line that the rules can make in the five packages."""
    found = []
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        text = path.read_text()
        lines = text.splitlines()
        for node in inside(ast.parse(text)):
            if not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
                continue
            line = lines[node.lineno - 1].encode()
            old = line[node.col_offset : node.end_col_offset].decode()
            # Signals that go astray could end other programs.
            if not old or "kill" in lines[node.lineno - 1] or lines[node.lineno - 1].count(old) != 1:
                continue
            for other, what in changed(node):
                new = ast.unparse(other)
                new = new if isinstance(other, ast.Constant) else f"({new})"
                file = path.relative_to(root).as_posix()
                found.append(Change(file, old, new, f"{what}: {old} -> {new}", at=node.lineno))
    return found


# --- judging -------------------------------------------------------------------------------------


def files_of(root: Path) -> list[str]:
    """The project's files, uncommitted ones too."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(name for name in names if name and (root / name).is_file())


def digest_of(root: Path, names: Sequence[str]) -> str:
    """Of what a verdict depends on."""
    found = hashlib.sha256()
    for name in names:
        found.update(name.encode() + b"\0" + (root / name).read_bytes())
    return found.hexdigest()[:12]


def tests_naming(root: Path, file: str) -> list[str]:
    """The test files that import a module, those of its name first; its package's where none does."""
    if file.startswith("conf/"):
        return [*OF_CONF.get(file.split("/")[1], DEFAULTS)]
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    parent, _, name = module.rpartition(".")
    wanted = re.compile(
        rf"(from {re.escape(module)} import|import {re.escape(module)}\b"
        rf"|from {re.escape(parent)} import [^\n]*\b{name}\b)"
    )
    every = sorted((root / "tests").rglob("test_*.py"))
    found = [path for path in every if wanted.search(path.read_text())]
    found.sort(key=lambda path: name not in path.stem)
    names = [path.relative_to(root).as_posix() for path in found]
    package = file.partition("/")[0]
    return list(dict.fromkeys([*OF_ALL.get(package, []), *(names or [f"tests/{package}"])]))


@dataclass
class Judge:
    """A copy of the project in which changes are made, one at a time.

    ``sound``: tests that pass without any change, each of which is asked once.
    """

    folder: Path
    quick: bool
    sound: set[str]

    def __post_init__(self) -> None:
        for name in files_of(ROOT):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.folder / name)

    def verdict(self, change: Change) -> dict[str, str]:
        """``verdict``: caught, survived or stale; ``by``: the test that failed."""
        path = self.folder / change.file
        text = path.read_text() if path.is_file() else ""
        wrong = change.applied(text)
        if wrong is None or wrong == text:
            return {"verdict": "stale", "by": ""}
        first = change.first or tuple(tests_naming(self.folder, change.file))
        selections = [first] if self.quick else [first, ("tests", *(f"--ignore={name}" for name in first))]
        for selection in selections:
            path.write_text(wrong)
            try:
                by = self.failing(selection)
            finally:
                path.write_text(text)
            if by:
                known = by in self.sound or not (self.folder / by.partition("::")[0]).is_file()
                if not known and self.failing([by]):
                    sys.exit(f"{by} fails without any change; mend it first")
                self.sound.add(by)
                return {"verdict": "caught", "by": by}
        return {"verdict": "survived", "by": ""}

    def failing(self, selection: Sequence[str]) -> str | None:
        """The first test that fails, or None."""
        out = self.folder / "pytest.txt"
        child = FORKS.Process(target=run_pytest, args=(self.folder, out, tuple(selection)))
        child.start()
        child.join()
        if child.exitcode == 0:
            return None
        failed = re.search(
            r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", out.read_text(errors="replace"), re.MULTILINE
        )
        return failed[1] if failed else f"pytest: exit {child.exitcode}"


# Processes that have the libraries already: importing them takes longer than most tests.
FORKS = multiprocessing.get_context("forkserver")
LIBRARIES = (
    "cv2",
    "diffusers.pipelines.cogvideo.pipeline_cogvideox",
    "diffusers.pipelines.wan.pipeline_wan",
    "hydra",
    "matplotlib.pyplot",
    "pandas",
    "peft",
    "pydantic",
    "pytest",
    "scipy.stats",
    "torchmetrics",
    "torchvision",
    "transformers.models.umt5.modeling_umt5",
)


def run_pytest(folder: Path, out: Path, selection: tuple[str, ...]) -> None:
    """Runs tests of ``folder`` in this process, and ends it with pytest's status."""
    import pytest

    for name in list(sys.modules):
        # A library may have looked for a package of the name of ours.
        if name.partition(".")[0] in (*PACKAGES, "conf"):
            del sys.modules[name]
    # A wrong signal to the process group shall reach these tests alone.
    os.setsid()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    # Without byte code: a change of the same length in the same second would not be seen.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with out.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={TIMEOUT}", "-m", MARKS]
        status = pytest.main([*options, *selection])
        sys.stdout.flush()
    os._exit(int(status))


class Log:
    """Verdicts by change, and what they depend on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.known = {line["key"]: line for line in map(json.loads, lines)}
        self.whole = digest_of(ROOT, [name for name in files_of(ROOT) if not name.startswith("tests/mut")])

    def depends(self, change: Change, verdict: dict[str, str]) -> str:
        test = verdict["by"].partition("::")[0]
        if verdict["verdict"] == "caught" and (ROOT / test).is_file():
            return digest_of(ROOT, [change.file, test])
        return self.whole

    def verdict(self, change: Change, quick: bool) -> dict[str, str] | None:
        """What is known of a change, where it still holds."""
        found = self.known.get(change.key)
        if found is None or found["of"] != self.depends(change, found):
            return None
        # A survivor of the first tests alone says nothing of the others.
        return found if quick or not found["quick"] or found["verdict"] == "caught" else None

    def keep(self, change: Change, quick: bool, verdict: dict[str, str]) -> None:
        line = {"key": change.key, "of": self.depends(change, verdict), "quick": quick, **verdict}
        self.known[change.key] = line
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def judged(changes: Sequence[Change], log: Log, jobs: int, quick: bool) -> dict[str, dict[str, str]]:
    """A verdict by the key of each change."""
    found = {change.key: log.verdict(change, quick) for change in changes}
    wanted = [change for change in changes if found[change.key] is None]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        judges: Queue[Judge] = Queue()
        sound: set[str] = set()
        for number in range(min(jobs, len(wanted))):
            judges.put(Judge(Path(folder) / str(number), quick, sound))

        def one(change: Change) -> None:
            judge = judges.get()
            try:
                verdict = judge.verdict(change)
            finally:
                judges.put(judge)
            log.keep(change, quick, verdict)
            found[change.key] = verdict
            print(f"{verdict['verdict']:<9} {change.file}: {change.breaks}  {verdict['by']}", flush=True)

        list(pool.map(one, wanted))
    return {key: verdict for key, verdict in found.items() if verdict is not None}


def report(changes: Sequence[Change], verdicts: dict[str, dict[str, str]]) -> int:
    """Prints the shares and the survivors; 1 where a change no longer applies."""
    found = {change: verdicts[change.key]["verdict"] for change in changes if change.key in verdicts}
    valid = [change for change, verdict in found.items() if verdict != "stale"]
    print()
    for part in ("conf", *PACKAGES, ""):
        here = [change for change in valid if change.file.startswith(part and f"{part}/")]
        caught = sum(found[change] == "caught" for change in here)
        if here:
            print(f"{part or 'all'}: {caught} of {len(here)} caught, {caught / len(here):.1%}")
    for verdict in ("survived", "stale"):
        for change in found:
            if found[change] == verdict:
                line = f":{change.at}" if change.at else ""
                print(f"{verdict}: {change.file}{line}: {change.breaks}")
    return int("stale" in found.values())


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help="words: of a change's file or of what it breaks"
    )
    parser.add_argument("--jobs", type=int, default=1, help="copies worked on side by side")
    parser.add_argument("--quick", action="store_true", help="only the tests that run first")
    parser.add_argument("--list", action="store_true", help="run nothing; say which changes apply")
    parser.add_argument("--generic", type=int, default=0, help="so many changes made by rule instead")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "vmtbench-mutations.jsonl")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload([*LIBRARIES])
    if given.generic:
        every = by_rule(ROOT)
        changes = random.Random(given.seed).sample(every, min(given.generic, len(every)))
        print(f"{len(changes)} of {len(every)} changes made by rule")
    else:
        from mutations import CHANGES

        changes = list(CHANGES)
    if given.only:
        changes = [one for one in changes if any(word in f"{one.file} {one.breaks}" for word in given.only)]
    if given.list:
        stale = [one for one in changes if one.applied((ROOT / one.file).read_text()) is None]
        print(f"{len(changes)} changes, {sum(one.file.startswith('conf/') for one in changes)} in conf/")
        print("\n".join(f"stale: {one.file}: {one.breaks}" for one in stale))
        return int(bool(stale))
    return report(changes, judged(changes, Log(given.log), given.jobs, given.quick))


if __name__ == "__main__":
    sys.exit(main())
