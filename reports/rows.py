"""Rows of a table: the variants of a results folder's plans, and the records of their cells.

Variants of one configuration and label, planned by several commands, are one row. The rows of one backbone
and dataset are a ``Group``; each group becomes a table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError, nearest
from harness.records import store
from harness.records.record import PlannedCell, Record, Variant

if TYPE_CHECKING:
    from harness.records.record import Plan


SETTINGS: dict[str, Callable[[Record], Any]] = {
    "steps": lambda record: _chosen(record, "steps"),
    "frames": lambda record: record.dataset.config.get("frames"),
    "frame size": lambda record: (
        f"{record.backbone.config.get('width')}x{record.backbone.config.get('height')}"
    ),
    "guidance scale": lambda record: _chosen(record, "guidance_scale"),
    "shift": lambda record: record.backbone.config.get("shift"),
    "weights": lambda record: (record.identity.get("backbone") or record.backbone.config).get("weights"),
    "device": lambda record: record.environment.get("device"),
}
"""What rows must share before their numbers are compared."""


def _chosen(record: Record, key: str) -> Any:
    """A key that methods interpolate from the backbone, and may set otherwise."""
    return record.method.config.get(key, record.backbone.config.get(key))


def start_of(record: Record) -> str | None:
    """How sampling started: from pure noise or, a confound, from the noised reference (SDEdit).

    None for methods without a ``start`` (finished videos).
    """
    start = record.method.config.get("start", {})
    if not isinstance(start, dict) or "strength" not in start:
        return None
    return "pure noise" if start["strength"] is None else f"SDEdit, strength {_short(start['strength'])}"


def untrained(record: Record) -> bool:
    """Whether its weights are random, so that no metric of it means anything."""
    return record.backbone.config.get("weights") == "random"


def ending(record: Record) -> str:
    """How a cell ended, as tables say it: ``ok``, ``OOM``, ``NaN``, ``error``, or its status."""
    if record.status == "failed":
        return "NaN" if record.error is not None and record.error.kind == "FloatingPointError" else "error"
    return "OOM" if record.status == "oom" else record.status


def failures(failed: Counter[str]) -> str:
    """``OOM 2, error 1``."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(failed.items()))


@dataclass
class Row:
    """A variant, its cells pooled over the plans that hold it, and the records that exist for them.

    ``unreadable`` are the files of records that cannot be read.
    """

    label: str
    variant: Variant
    plans: list[str] = field(default_factory=list)
    cells: dict[str, PlannedCell] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    levels: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    @property
    def finished(self) -> list[Record]:
        return [record for record in self.records.values() if record.status == "ok"]

    @property
    def failed(self) -> Counter[str]:
        """How many of its cells ended without a video, by what ended them."""
        return Counter(ending(record) for record in self.records.values() if record.status != "ok")

    @property
    def untrained(self) -> bool:
        return any(untrained(record) for record in self.records.values())

    def setting(self, read: Callable[[Record], Any]) -> tuple[str, ...]:
        """The distinct values of a setting over the records that know it."""
        known = (read(record) for record in self.records.values())
        return tuple(sorted({_short(value) for value in known if value is not None}))


@dataclass(frozen=True)
class Group:
    """The rows of one backbone and dataset, labels all different, and the plans that hold them."""

    backbone: str
    dataset: str
    rows: list[Row]
    plans: list[Plan]

    @property
    def named_base(self) -> Row | None:
        """The row that a plan names as its baseline: by label, else by method."""
        named = [plan.baseline for plan in self.plans if plan.baseline]
        for names in (
            [row.label for row in self.rows],
            [row.variant.label for row in self.rows],
            [row.variant.method for row in self.rows],
        ):
            for row, name in zip(self.rows, names, strict=True):
                if name in named:
                    return row
        return None

    @property
    def base(self) -> Row | None:
        """The row others are compared with: the plans' baseline, else the plain backbone."""
        return self.named_base or next((row for row in self.rows if row.variant.method == "none"), None)


def find_plans(results: Path, names: Sequence[str] = (), experiments: Sequence[str] = ()) -> list[Plan]:
    """The plans of a results folder by name, by experiment, or all of them.

    InputError when the folder, its plans or a name are missing, or a plan cannot be read.
    """
    if not results.is_dir():
        raise InputError(f"{results}: no such results folder; name one that `python -m harness` has written")
    found = []
    for path in store.plan_paths(results):
        try:
            found.append(store.load_plan(path))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not a readable plan ({_first_line(error)}); remove it or run its command again"
            ) from error
    if not found:
        raise InputError(f"{results}: no plans in it; run `python -m harness results={results}` first")
    if not names and not experiments:
        return found
    known = [plan.name for plan in found]
    for name in names:
        if name not in known:
            raise InputError(f"--plan {name}: no such plan in {results}; {nearest(name, known)}")
    ran = {plan.name: _experiments(plan) for plan in found}
    for name in experiments:
        if not any(name in of_plan for of_plan in ran.values()):
            every = set().union(*ran.values())
            raise InputError(f"--experiment {name}: no plan in {results} ran it; {nearest(name, every)}")
    return [plan for plan in found if plan.name in names or ran[plan.name] & set(experiments)]


def _experiments(plan: Plan) -> set[str]:
    words = (word for argument in plan.command for word in argument.split())
    given = {name for word in words if word.startswith("experiment=") for name in word[11:].split(",")}
    return given | {plan.name}


def groups(results: Path, plans: Sequence[Plan]) -> list[Group]:
    """The rows of each backbone and dataset of the plans, in their order, with their records.

    Variants with the same label and ``config_id`` become one row. A record that cannot be read is
    named in its row's ``unreadable``.
    """
    found: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for plan in plans:
        for variant in plan.variants:
            rows = found.setdefault((variant.backbone, variant.dataset), {})
            row = rows.setdefault((variant.config_id, variant.label), Row(variant.label, variant))
            _pool(row, plan.name, variant, results)
    made = []
    for (backbone, dataset), by_config in found.items():
        rows_of_group = list(by_config.values())
        _tell_apart(rows_of_group)
        chosen = {name for row in rows_of_group for name in row.plans}
        made.append(Group(backbone, dataset, rows_of_group, [plan for plan in plans if plan.name in chosen]))
    return made


def with_baseline(results: Path, plans: Sequence[Plan], baseline: str) -> list[Plan]:
    """The plans with another baseline: a row's label, or the method of the first row that has it.

    InputError when no row of theirs has that label or method.
    """
    names = {name: None for plan in plans for one in plan.variants for name in (one.label, one.method)}
    names |= {row.label: None for group in groups(results, plans) for row in group.rows}
    if baseline not in names:
        raise InputError(f"--baseline {baseline}: no such row; {nearest(baseline, names)}")
    return [plan.model_copy(update={"baseline": baseline}) for plan in plans]


def _pool(row: Row, plan: str, variant: Variant, results: Path) -> None:
    row.plans.append(plan)
    for metric, levels in variant.levels.items():
        row.levels.setdefault(metric, []).append(levels)
    for cell in variant.cells:
        if cell.id in row.cells:
            continue
        row.cells[cell.id] = cell
        try:
            row.records[cell.id] = store.load_record(results / cell.path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            row.unreadable.append(str(results / cell.path / store.RECORD))


def _tell_apart(rows: list[Row]) -> None:
    """Give rows of one label but different configurations different labels."""
    counts = Counter(row.label for row in rows)
    for row in rows:
        if counts[row.label] > 1:
            twins = [other for other in rows if other.variant.label == row.variant.label]
            common = set.intersection(*(set(twin.variant.overrides) for twin in twins))
            own = [override for override in row.variant.overrides if override not in common]
            row.label = f"{row.label} ({', '.join(own) or row.variant.config_id[:8]})"
    counts = Counter(row.label for row in rows)
    for row in rows:
        if counts[row.label] > 1:
            row.label = f"{row.label} [{row.variant.config_id[:8]}]"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
