"""All jobs of a command are checked and planned before the first one begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from datasets.errors import InputError
from datasets.plugin import Plugin
from harness.cells.job import ExperimentVariant, Job
from harness.cells.plan import DoesNotFit, together, unmatched
from harness.command.config import make_job
from harness.command.experiment import Composed
from harness.command.interface import Action, Prepared, plans_of
from harness.command.plugins import build, check_trust
from harness.command.terminal import say
from harness.records.hidden import Hidden
from harness.records.record import Plan, VariantOut
from methods.interface import Method

Checked = tuple[Action, list[Prepared]]


def prepare(composed: Sequence[Sequence[Composed]]) -> list[Checked]:
    """The command's actions, each with its jobs.

    Variants of an experiment that do not fit the backbone are left out, as their plan says. Raises
    InputError with one line for each job that cannot be planned.
    """
    found: dict[str, Checked] = {}
    problems: dict[str, None] = {}
    for number, parts in enumerate(composed):
        try:
            mine, out = _variants(parts)
        except InputError as error:
            problems |= dict.fromkeys(str(error).split("\n"))
            continue
        mine = _as_one(mine, out)
        for action, one in mine:
            one.job.number = number
            found.setdefault(action.name, (action, []))[1].append(one)
    if problems:
        raise InputError("\n".join(problems))
    _unique_names([one for _, prepared in found.values() for one in prepared])
    return list(found.values())


def _as_one(mine: list[tuple[Action, Prepared]], out: Sequence[VariantOut]) -> list[tuple[Action, Prepared]]:
    """The variants of an experiment under one plan; those that repeat another are gone."""
    plans = [one.plan for _, one in mine if one.plan is not None]
    first = mine[0][1].job
    if not plans or first.variant is None:
        for left in out:
            say(f"{left.label} is left out: {left.reason}")
        return mine
    plan = together(plans, first, first.variant, out)
    shown = {id(variant) for variant in plan.variants}
    kept = [(action, one) for action, one in mine if one.plan and id(one.plan.variants[0]) in shown]
    for _, one in kept:
        one.plan = plan
    return kept


def _variants(parts: Sequence[Composed]) -> tuple[list[tuple[Action, Prepared]], list[VariantOut]]:
    """One Hydra job, its variants each by themselves, and those that do not fit."""
    found: list[tuple[Action, Prepared]] = []
    out: list[VariantOut] = []
    problems: dict[str, list[str]] = {}
    for one in (each for part in parts for each in _by_method(part)):
        label = one.variant.label if one.variant else ""
        if one.problem is not None:
            out.append(VariantOut(label=label, reason=one.problem))
            continue
        try:
            job, action = make_job(one.resolved, one.overrides, one.variant, one.secrets)
            _check_trust(job)
            found.append((action, action.prepare(job)))
        except InputError as error:
            said = Hidden(values=tuple(one.secrets.values())).secrets(str(error))
            if one.variant and (one.variant.optional or isinstance(error, DoesNotFit)):
                out.append(VariantOut(label=label, reason=said))
            else:
                problems.setdefault(said, []).append(label)
    if not problems and out and not found:
        problems = {one.reason: [] for one in out}
    named = parts[0].variant
    lines = []
    for line, labels in problems.items():
        some = named is not None and 0 < len(labels) < len(parts)
        lines.append(
            f"{line} (experiment={named.experiment}: {', '.join(labels)})" if some and named else line
        )
    if lines:
        raise InputError("\n".join(lines))
    return found, out


def _by_method(one: Composed) -> list[Composed]:
    """One configuration for each method whose finished videos a list holds, unless one of them is chosen."""
    if one.problem is not None or one.variant is not None:
        return [one]
    try:
        method = build(one.resolved["method"], "method", Method, one.resolved["trust"])
        names = method.methods()
    except InputError:
        # Said where the job is made.
        return [one]
    if not names or any(word.startswith("method.name=") for word in one.overrides):
        return [one]
    found = []
    for name in names:
        variant = ExperimentVariant(method.name, name, None, tuple(one.overrides))
        resolved = {**one.resolved, "method": {**one.resolved["method"], "name": name}}
        found.append(
            replace(
                one, resolved=resolved, overrides=[*one.overrides, f"method.name={name}"], variant=variant
            )
        )
    return found


def _check_trust(job: Job) -> None:
    plugins: dict[str, Plugin] = {
        "method": job.method,
        "backbone": job.backbone,
        "dataset": job.dataset,
        "tracker": job.tracker,
        **{f"metrics.metrics.{name}": metric for name, metric in job.metrics.items()},
    }
    for key, plugin in plugins.items():
        check_trust(plugin, key, job.resolved["trust"])


def _unique_names(prepared: Sequence[Prepared]) -> None:
    """Jobs of one sweep that were given the same name get a number each."""
    plans: list[Plan] = [plan for plan, _ in plans_of(prepared)]
    counts = Counter(plan.name for plan in plans)
    seen: Counter[str] = Counter()
    cells: dict[str, list[str]] = {}
    for plan in plans:
        name = plan.name
        ids = [cell.path for variant in plan.variants for cell in variant.cells]
        if counts[name] > 1 and cells.setdefault(name, ids) != ids:
            seen[name] += 1
            plan.name = f"{name}-{seen[name] + 1}"


def notices(prepared: Sequence[Prepared]) -> list[str]:
    """What to know before the jobs begin, a line each."""
    planned = [(one.job, one.plan) for one in prepared if one.plan is not None]
    lines = [
        _own_world(one.job)
        for one in prepared
        if one.plan is not None
        and one.job.method.uses_backbone
        and one.job.dataset.real_footage
        and one.job.backbone.own_world_only
    ]
    lines += [note for job, _ in planned if job.variant for note in job.variant.notes]
    lines += [f"dataset={job.dataset.name}: {job.dataset.source}" for job, _ in planned if job.dataset.source]
    return list(dict.fromkeys([*lines, *unmatched(planned)]))


def _own_world(job: Job) -> str:
    """What to know before real footage meets a backbone that has never seen any."""
    backbone = job.backbone
    return (
        f"backbone={backbone.name} knows only its own world, not footage like "
        f"dataset={job.dataset.name}: use backbone=wan2.1-1.3b for real work"
    )


__all__ = ["Checked", "notices", "prepare"]
