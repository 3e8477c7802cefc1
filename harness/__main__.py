"""The command line: ``python -m harness``; ``--help`` says what it takes."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# Nothing heavy up here: --help answers before Hydra or torch are imported.
if TYPE_CHECKING:
    from omegaconf import DictConfig

    from harness.cells.job import Job
    from harness.cells.plan import Cell
    from harness.cells.score import Outcome
    from harness.command.experiment import Composed
    from harness.records.record import Plan, Record, VariantOut

    # The variants of an experiment share one plan.
    Planned = tuple[Job, Plan, list[Cell]]
    Costed = tuple[Job, list[dict[str, Any]]]
    Ended = tuple[Job, Plan, Outcome]
    Start = Callable[[Sequence[Planned]], tuple[list[Ended], int]]

HOME = Path(__file__).resolve().parent.parent
PACKAGES = ("conf", "datasets", "methods", "metrics", "reports")

HELP = """\
python -m harness [key=value ...] [-m] [--config-dir DIR]

Runs video motion transfer methods over clips, measures them and prints a table.
Without arguments: FastVMT on the embedded sprites world, on this machine, in minutes.

Actions (action=...)
  run    run the cells that have no record yet, then print the table (default)
  plan   print what would run, and which clips are left out
  cost   print what it would cost; needs no weights and no GPU
  score  compute the metrics anew from the kept frames
  speed  what finished cells took, stage by stage, beside the roofline of their GPU
  profile  which operators (on a GPU, kernels) a method's first step spends its time in
  amf    time attention motion flow as a loop, dense and windowed, and measure its memory

Groups (group=option)
{groups}

Keys
{keys}
  GROUP.KEY=VALUE changes a key of a group (backbone.steps=10, metrics.required=[clip_t])

Flags
  -m, --multirun    run every combination of comma-separated values; with hydra/launcher=joblib
                    at the same time, in processes of their own (times then disturb each other)
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
    for folder in (HOME / "conf", *extra):
        for group in sorted(path for path in folder.glob("*") if path.is_dir()):
            names = sorted(path.stem for path in group.glob("*.yaml"))
            if names:
                options.setdefault(group.name, []).extend(names)
    groups = [f"  {group:<11}{', '.join(names)}" for group, names in sorted(options.items())]
    keys: list[str] = []
    parent = ""
    # The comments of the file are the keys' documentation: there is one place for both.
    for line in (HOME / "conf" / "config.yaml").read_text().splitlines():
        if found := re.fullmatch(r"(\w+):\s*", line):
            parent = found[1] + "."
        elif found := re.fullmatch(r"( *)(\w+): (.*?)\s+# (.*)", line):
            name = (parent if found[1] else "") + found[2]
            keys.append(f"  {name + '=' + found[3]:<36}{found[4]}")
    return HELP.format(groups="\n".join(groups), keys="\n".join(keys))


def _config_dirs(arguments: Sequence[str]) -> list[Path]:
    found = re.findall(r"(?:^|\0)(?:--config-dir|-cd)[=\0]([^\0]+)", "\0".join(arguments))
    return [Path(folder) for folder in found]


def _flags_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with all ``key=value`` first: Hydra wants them in one piece.

    Raises InputError for a flag that Hydra does not know.
    """
    from hydra._internal.utils import get_args_parser

    from datasets.errors import InputError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            overrides = get_args_parser().parse_intermixed_args(arguments).overrides
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"{reason}; --help lists the flags") from None
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return [*overrides, *flags]


@contextlib.contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _hydra(arguments: Sequence[str], task: Callable[[DictConfig], None]) -> None:
    """Run ``task`` on every job of the command line. Raises Hydra's errors, and InputError."""
    import hydra
    from hydra.errors import HydraException

    from datasets.errors import InputError

    # Hydra prints errors in several lines and exits with 1, unless it is told not to.
    with _environment("HYDRA_FULL_ERROR", "1"), _command_line(_flags_last(arguments)):
        try:
            hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(task)()
        except OSError as error:
            if isinstance(error, HydraException):
                raise
            # Hydra's own folder lies in the results folder.
            raise InputError(
                f"results: cannot write {error.filename} ({error.strerror}); choose another with results=DIR"
            ) from error


def _launcher(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without a sweep's launcher, and its name when its jobs run in other processes."""
    if not {"-m", "--multirun"} & set(arguments):
        return list(arguments), None
    launching = [word for word in arguments if re.match(r"[+~]*hydra[./]launcher\b", word)]
    names = [word.partition("=")[2] for word in launching if re.match(r"[+]*hydra/launcher=", word)]
    others = [word for word in arguments if word not in launching]
    if not names or names[-1] == "basic":
        return list(arguments), None
    return others, names[-1]


def compose(arguments: Sequence[str]) -> list[list[Composed]]:
    """The configuration of every job of the command line; an experiment's job has one for each variant.

    Raises Hydra's, OmegaConf's and YAML's errors. The jobs run when all of them are
    composed and planned, so a bad value anywhere in a sweep costs nothing.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from datasets.errors import InputError
    from harness.command.experiment import expand
    from harness.command.explain import CONFIG_ERRORS

    jobs: list[list[Composed]] = []
    problems: list[Exception] = []

    def collect(config: DictConfig) -> None:
        chosen = HydraConfig.get()
        choices = chosen.runtime.choices
        try:
            if choices.get("hydra/launcher", "basic") != "basic" and chosen.mode == RunMode.MULTIRUN:
                raise InputError("hydra/launcher: name it on the command line, not in a file")
            # Unresolved: an override may hold an interpolation, which is not the list's own.
            words = cast("list[str]", OmegaConf.to_container(chosen.overrides.task, resolve=False))
            jobs.append(expand(config, words, choices.get("experiment")))
        except (InputError, *CONFIG_ERRORS) as error:
            # Raised here, Hydra would print it in its own way.
            problems.append(error)

    _hydra(arguments, collect)
    for problem in problems:
        raise problem
    return jobs


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _unique_names(planned: Sequence[Planned]) -> None:
    """Jobs of one sweep that were given the same name get a number each."""
    plans = _once(plan for _, plan, _ in planned)
    counts = Counter(plan.name for plan in plans)
    seen: Counter[str] = Counter()
    cells: dict[str, list[str]] = {}
    for plan in plans:
        name = plan.name
        ids = [cell.path for variant in plan.variants for cell in variant.cells]
        if counts[name] > 1 and cells.setdefault(name, ids) != ids:
            seen[name] += 1
            plan.name = f"{name}-{seen[name] + 1}"


def _once(plans: Iterable[Plan]) -> list[Plan]:
    """The plans, each once."""
    return list({id(plan): plan for plan in plans}.values())


def prepare(composed: Sequence[Sequence[Composed]]) -> tuple[list[Planned], list[Costed]]:
    """Plan every job, or ask what it would cost.

    Variants of an experiment that do not fit the backbone are left out, as their plan says. Raises
    InputError with one line for each job that cannot be planned.
    """
    from datasets.errors import InputError
    from harness.cells.plan import together

    planned: list[Planned] = []
    costed: list[Costed] = []
    problems: dict[str, None] = {}
    for number, parts in enumerate(composed):
        try:
            mine, costs, out = _prepare(parts)
        except InputError as error:
            problems |= dict.fromkeys(str(error).split("\n"))
            continue
        costed += costs
        if mine and mine[0][0].part is not None:
            plan = together([plan for _, plan, _ in mine], mine[0][0], out)
            shown = {id(variant) for variant in plan.variants}
            mine = [(job, plan, cells) for job, own, cells in mine if id(own.variants[0]) in shown]
        else:
            for one in out:
                _say(f"{one.label} is left out: {one.reason}")
        for job, _, _ in mine:
            job.number = number
        planned += mine
    if problems:
        raise InputError("\n".join(problems))
    _unique_names(planned)
    return planned, costed


def _prepare(parts: Sequence[Composed]) -> tuple[list[Planned], list[Costed], list[VariantOut]]:
    """One Hydra job's plans (or costs), one for each variant, and the variants that do not fit."""
    from datasets.errors import InputError
    from harness.cells.plan import DoesNotFit, check_operations, make_plan
    from harness.command.config import make_job
    from harness.records.record import VariantOut

    planned: list[Planned] = []
    costed: list[Costed] = []
    out: list[VariantOut] = []
    problems: dict[str, list[str]] = {}
    for one in parts:
        label = one.part.label if one.part else ""
        if one.problem is not None:
            out.append(VariantOut(label=label, reason=one.problem))
            continue
        try:
            job = make_job(one.resolved, one.overrides, one.part)
            if job.action == "amf":
                from harness.actions.amf import size_of

                size_of(job)
                costed.append((job, []))
            elif job.action == "cost":
                from harness.cost.model import cost_report
                from methods.interface import LatentMethod

                check_operations(job)
                method = job.method
                rows = []
                if isinstance(method, LatentMethod):
                    rows = cost_report(method, job.backbone, job.frames)
                costed.append((job, rows))
            else:
                planned.append((job, *make_plan(job)))
        except InputError as error:
            if one.part and (one.part.optional or isinstance(error, DoesNotFit)):
                out.append(VariantOut(label=label, reason=str(error)))
            else:
                problems.setdefault(str(error), []).append(label)
    if not problems and out and not planned and not costed:
        problems = {one.reason: [] for one in out}
    named = parts[0].part
    lines = []
    for line, labels in problems.items():
        some = named is not None and 0 < len(labels) < len(parts)
        lines.append(
            f"{line} (experiment={named.experiment}: {', '.join(labels)})" if some and named else line
        )
    if lines:
        raise InputError("\n".join(lines))
    return planned, costed, out


def _done(job: Job, cell: Cell) -> bool:
    from harness.records.record import load_record

    try:
        return load_record(job.results / cell.path / "record.json").status == "ok"
    except (OSError, ValueError):
        return False


def _print_left_out(plan: Plan) -> None:
    from reports.rows import left_out_lines

    for line in left_out_lines(plan.left_out):
        print(f"left out: {line}")


def print_plan(plan: Plan, parts: Sequence[tuple[Job, Sequence[Cell]]]) -> None:
    """What would run, what is done, what is left out; ``parts`` are the jobs of the plan's variants."""
    from harness.cells.plan import plan_path

    for job, cells in parts:
        done = [_done(job, cell) for cell in cells]
        label = job.part.label if job.part else job.method.name
        print(
            f"{plan.name}: {label} on {job.backbone.name}, {job.dataset.name}: {len(cells)} cells, "
            f"{sum(done)} done, {len(cells) - sum(done)} to run"
        )
        for cell, finished in zip(cells, done, strict=True):
            print(f'  {"done" if finished else "todo"}  {cell.path}  seed {cell.seed}  "{cell.prompt.text}"')
    for one in plan.variants_out:
        print(f"variant left out: {one.label}: {one.reason}")
    _print_left_out(plan)
    print(f"plan: {plan_path(parts[0][0].results, plan.name)}")


def print_cost(job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
    """What one cell would cost, and how many there are, if the dataset can say so."""
    from datasets.errors import InputError
    from harness.cost.model import limit_lines
    from methods.interface import LatentMethod

    name = job.part.label if job.part else job.method.name
    print(f"{name} on {job.backbone.name}, {job.frames} frames of {job.dataset.name}, one cell:")
    if not rows:
        program = job.method.made_here
        print("  not known: a program of its own" if program else "  nothing: its videos are finished")
        return
    print(f"  {'stage':<9} {'operation':<50} {'calls':>6} {'TFLOPs':>12} {'executed':>12} {'forwards':>9}")
    for row in rows:
        calls = "" if row["calls"] is None else row["calls"]
        forwards = "" if row["forward_equivalents"] is None else f"{row['forward_equivalents']:.1f}"
        print(
            f"  {row['stage']:<9} {row['operation']:<50} {calls:>6} {row['flops'] / 1e12:>12.4f} "
            f"{row['executed_flops'] / 1e12:>12.4f} {forwards:>9}"
        )
    if isinstance(job.method, LatentMethod):
        for line in limit_lines(job.method, job.backbone, job.frames):
            print(f"  {line}")
    try:
        clips = job.dataset.listing().clips[: job.limit]
    except InputError as error:
        print(f"  cells: unknown ({error})")
        return
    cells = len(job.seeds) * sum(len(clip.prompts) for clip in clips)
    print(f"  {cells} cells: {cells * rows[-1]['flops'] / 1e12:.4f} TFLOPs")


def print_outcome(jobs: Sequence[tuple[Job, Plan]], failed: Sequence[Record]) -> None:
    """The table with its notes (left out, null), then where the videos are and what failed."""
    from reports.formats import print_plans

    plans: dict[Path, list[Plan]] = {}
    for job, plan in jobs:
        of_job = plans.setdefault(job.results, [])
        if not any(plan is known for known in of_job):
            of_job.append(plan)
    folders: dict[Path, None] = {}
    sheets: list[Path] = []
    for results, of_results in plans.items():
        print_plans(results, of_results)
        for plan in of_results:
            for cell in (cell for variant in plan.variants for cell in variant.cells):
                folder = results / cell.path
                if (folder / "video.mp4").exists():
                    folders[folder.parent] = None
                if not sheets and (folder / "sheet.png").exists():
                    sheets.append(folder / "sheet.png")
    for folder in folders:
        print(f"videos: {folder}/*/video.mp4")
    for sheet in sheets:
        print(f"reference over generation: {sheet}")
    for record in failed:
        words = (record.error.message if record.error is not None else "").split()
        reason = " ".join(words)[:300] or "no message"
        which = f'{record.method.name}, {record.clip}, seed {record.seed}, "{record.prompt}"'
        print(f"{record.status}: {which}: {reason}")


def work(planned: Sequence[Planned]) -> tuple[list[Ended], int]:
    """Run (or score) the jobs one after another. Returns those that ended and the exit code."""
    from datasets.errors import InputError
    from harness.cells import run, score
    from harness.cells.plan import save_plan

    ended: list[Ended] = []
    loaded = run.Loaded()
    code = 0
    for job, plan, cells in planned:
        try:
            if job.action == "score":
                outcome = score.rescore(job, plan, cells, everything=not job.resume, note=_say)
            else:
                outcome = run.run(job, plan, cells, loaded)
        except InputError as error:
            # Found late (a download that failed): the other jobs go on.
            _say(str(error))
            code = 2
            continue
        save_plan(job.results, plan)
        ended.append((job, plan, outcome))
        if outcome.failed:
            code = max(code, 1)
            if job.on_error == "stop":
                break
    return ended, code


def work_beside(parts: Sequence[Composed], name: str, launcher: str) -> None:
    """One job of a sweep whose jobs run at the same time, under the plan name it was given.

    Raises InputError, once it has told it, for input found bad late.
    """
    from datasets.errors import InputError

    planned, _ = prepare([parts])
    running = [one for one in planned if one[0].action in ("run", "score")]
    for job, plan, _ in running:
        plan.name, job.launcher = name, launcher
    # Bars of several processes would write over each other.
    with _environment("TTY_COMPATIBLE", "0"):
        _, code = work(running)
    if code == 2:
        raise InputError("told already")


def launch(
    arguments: Sequence[str],
    launcher: str,
    composed: Sequence[Sequence[Composed]],
    planned: Sequence[Planned],
) -> tuple[list[Ended], int]:
    """As ``work``, by Hydra's launcher: each job of the sweep in a process of its own.

    They work on what was planned here; the records tell how it went.
    """
    from datasets.errors import InputError
    from harness.cells.plan import plan_path
    from harness.cells.score import Outcome, read_record
    from harness.command.explain import CONFIG_ERRORS, explain
    from harness.records.record import load_plan

    names = {job.number: plan.name for job, plan, _ in planned}

    def task(config: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        # By its name: this module is __main__ in the parent only.
        from harness.__main__ import work_beside

        number = HydraConfig.get().job.num
        if number in names:
            work_beside(composed[number], names[number], launcher)

    code = 0
    try:
        _hydra(arguments, task)
    except CONFIG_ERRORS as error:
        _say(explain(error))
        return [], 2
    except InputError:
        code = 2
    except Exception as error:
        _say(f"hydra/launcher={launcher}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        code = 1
    ended: list[Ended] = []
    for job, plan, cells in planned:
        found = [read_record(job.results / cell.path) for cell in cells]
        outcome = Outcome([record for record in found if record is not None])
        with contextlib.suppress(OSError, ValueError):
            kept = load_plan(plan_path(job.results, plan.name))
            levels = {(one.config_id, one.label): one.levels for one in kept.variants}
            for variant in plan.variants:
                variant.levels = levels.get((variant.config_id, variant.label), variant.levels)
        ended.append((job, plan, outcome))
        if outcome.failed:
            code = max(code, 1)
    return ended, code


def run_jobs(planned: Sequence[Planned], start: Start | None = None) -> int:
    """Run (or score) the jobs, print one table, mirror to W&B. Returns the exit code.

    ``start`` runs them, in place of ``work``.
    """
    from harness.cells.plan import save_plan
    from reports import wandb_mirror as tracking

    for job, plan, _ in planned:
        save_plan(job.results, plan)
    ended, code = (start or work)(planned)
    if ended:
        failed = [record for _, _, outcome in ended for record in outcome.failed]
        print_outcome([(job, plan) for job, plan, _ in ended], failed)
    mirrored: dict[int, tuple[Job, Plan]] = {}
    for job, plan, outcome in ended:
        if outcome.records:
            mirrored.setdefault(id(plan), (job, plan))
    for warning in tracking.mirror(list(mirrored.values())):
        _say(warning)
    return code


def _own_world(job: Job) -> str:
    """What to know before real footage meets a backbone that has never seen any."""
    backbone = job.backbone
    if job.method.uses_backbone:
        return (
            f"backbone={backbone.name} knows only its own world, not footage like "
            f"dataset={job.dataset.name}: use backbone=wan2.1-1.3b for real work"
        )
    return (
        f"method={job.method.name}: its videos are compared at backbone.height x backbone.width = "
        f"{backbone.height}x{backbone.width}; use backbone=wan2.1-1.3b (no weights are needed)"
    )


def act(planned: Sequence[Planned], costed: Sequence[Costed] = (), start: Start | None = None) -> int:
    """Do what ``action`` says; ``start`` runs the jobs, in place of ``work``. Returns the exit code."""
    from datasets.errors import InputError
    from harness.cells.plan import save_plan, unmatched

    notices = [
        _own_world(job) for job, _, _ in planned if job.dataset.real_footage and job.backbone.own_world_only
    ]
    notices += [note for job, _, _ in planned if job.part for note in job.part.notes]
    for text in dict.fromkeys([*notices, *unmatched([(job, plan) for job, plan, _ in planned])]):
        _say(text)
    for plan in _once(plan for job, plan, _ in planned if job.action == "plan"):
        parts = [(job, cells) for job, of_job, cells in planned if of_job is plan]
        save_plan(parts[0][0].results, plan)
        print_plan(plan, parts)
    for job, rows in costed:
        if job.action == "amf":
            from harness.actions.amf import print_amf

            print_amf(job)
        else:
            print_cost(job, rows)
    for plan in _once(plan for job, plan, _ in planned if job.action in ("run", "score", "speed", "profile")):
        for one in plan.variants_out:
            _say(f"{plan.name}: variant {one.label} is left out: {one.reason}")
    code = 0
    for plan in _once(plan for job, plan, _ in planned if job.action == "speed"):
        from harness.actions.speed import print_speed

        for line in print_speed(plan, [(job, cells) for job, of_job, cells in planned if of_job is plan]):
            _say(line)
            code = 2
    for plan in _once(plan for job, plan, _ in planned if job.action == "profile"):
        from harness.actions.profile import print_profiles

        try:
            print_profiles(plan, [(job, cells) for job, of_job, cells in planned if of_job is plan])
        except InputError as error:
            _say(str(error))
            code = 2
    running = [one for one in planned if one[0].action in ("run", "score")]
    return run_jobs(running, start) if running else code


def main() -> int:
    """Run the command line. Returns the exit code."""
    arguments = sys.argv[1:]
    problem = misplaced()
    if problem is not None:
        _say(problem)
        return 2
    if "--help" in arguments or "-h" in arguments:
        print(help_text(_config_dirs(arguments)), end="")
        return 0
    full = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    try:
        from datasets.errors import InputError
        from harness.command.explain import CONFIG_ERRORS, explain

        try:
            others, launcher = _launcher(arguments)
            composed = compose(others)
            planned, costed = prepare(composed)
        except (*CONFIG_ERRORS, InputError) as error:
            if full:
                traceback.print_exc()
            _say(str(error) if isinstance(error, InputError) else explain(error))
            return 2
        return act(planned, costed, partial(launch, arguments, launcher, composed) if launcher else None)
    except KeyboardInterrupt:
        _say("interrupted: finished cells are kept; the same command goes on where this one stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
