"""Tables from plans and records alone: no torch, no weights, no videos.

``tables`` builds the numbers once, one ``Table`` for each backbone and dataset;
``to_markdown``, ``to_latex``, ``to_csv`` and ``to_rich`` only write them down.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from datasets.errors import InputError
from harness.records import PlannedCell, Record, Timing, Variant, load_plan, load_record
from reports.statistics import (
    Difference,
    Pair,
    bootstrap_interval,
    cluster_means,
    holm,
    paired_difference,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table as RichTable

    from harness.records import Plan, PlannedOut


@dataclass(frozen=True)
class Column:
    """A column. ``higher_is_better`` is None where nothing is better. ``unit`` is that of the numbers."""

    key: str
    label: str
    unit: str = ""
    higher_is_better: bool | None = True


STANDARD = (
    Column("clip_t", "Text sim."),
    Column("motion_fidelity", "Motion fid."),
    Column("clip_f", "Temp. cons."),
    Column("position_error", "Position err.", "px", False),
    Column("direction_cosine", "Direction cos."),
)
COSTS = (
    Column("time", "Time", "s", False),
    Column("memory", "Memory", "B", False),
    Column("forward_equivalents", "Forward eq.", "", False),
)
GRADIENTS = Column("gradients", "True gradients", "", None)
"""True gradients of the latent taken for one video; shown where it is asked for."""
FURTHER = Column("further", "Further video", "s", False)
SPEEDUP = Column("speedup", "Speed-up", "x")
COUNT = Column("n", "n", "", None)

SECONDARY = (
    "warp_consistency",
    "motion_fidelity_legacy",
    "motion_fidelity_speed",
    "objects_right",
    "background_right",
    "count_right",
)
"""Metrics that need ``everything=True`` to be shown, as do those without a value in any row."""

MOTION = (
    "motion_fidelity",
    "motion_fidelity_speed",
    "motion_fidelity_legacy",
    "position_error",
    "direction_cosine",
)
"""A frozen video wins every consistency metric, so ``warp_consistency`` needs one of these beside it."""

TIES = {"tied": "=1", "tied second": "=2"}
"""What stands behind a number that cannot be told from the first, or second, of its column."""

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


@dataclass
class Row:
    """A variant, its cells pooled over the plans that hold it, and the records that exist for them."""

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
    def untrained(self) -> bool:
        return any(record.backbone.config.get("weights") == "random" for record in self.records.values())

    def pairs(self, key: str) -> dict[Pair, float]:
        """The metric's finite values by (clip, prompt, seed)."""
        found: dict[Pair, float] = {}
        for record in self.finished:
            value = value_of(record, key)
            if value is not None:
                found[(record.clip, record.prompt, record.seed)] = value
        return found

    def setting(self, read: Callable[[Record], Any]) -> tuple[str, ...]:
        """The distinct values of a setting over the records that know it."""
        known = (read(record) for record in self.records.values())
        return tuple(sorted({_short(value) for value in known if value is not None}))


@dataclass(frozen=True)
class Table:
    """The rows of one backbone and dataset.

    ``notes`` stand under it. ``values``, ``lows`` and ``highs`` (the 95 % interval) share index (rows'
    labels) and columns (keys of ``columns``); NaN where there is no number.
    Seconds, bytes and the metrics' own units. ``marks``, of the same shape, are what ``ranks`` gives;
    ``failed`` counts a row's cells without a video by what ended them.
    """

    backbone: str
    dataset: str
    columns: tuple[Column, ...]
    values: pd.DataFrame
    lows: pd.DataFrame
    highs: pd.DataFrame
    notes: list[str]
    config_ids: tuple[str, ...]
    marks: pd.DataFrame
    failed: dict[str, Counter[str]]

    @property
    def title(self) -> str:
        return f"{self.dataset} on {self.backbone}"

    def flat(self) -> pd.DataFrame:
        """One line a row: where it belongs, and each column with its ``_low`` and ``_high``."""
        import pandas as pd

        flat = pd.DataFrame(
            {
                "dataset": self.dataset,
                "backbone": self.backbone,
                "variant": self.values.index,
                "config_id": self.config_ids,
            }
        )
        for column in self.columns:
            flat[column.key] = self.values[column.key].to_numpy()
            if column.key in ("n", "memory", "forward_equivalents", "gradients"):
                continue
            flat[f"{column.key}_low"] = self.lows[column.key].to_numpy()
            flat[f"{column.key}_high"] = self.highs[column.key].to_numpy()
        flat["failed"] = [failures(self.failed.get(str(label), Counter())) for label in self.values.index]
        return flat


def value_of(record: Record, key: str) -> float | None:
    """A metric's value; None when it is missing, null or not finite."""
    value = record.metrics[key].value if key in record.metrics else None
    return value if value is not None and math.isfinite(value) else None


def find_plans(results: Path, names: Sequence[str] = (), experiments: Sequence[str] = ()) -> list[Plan]:
    """The plans of a results folder by name, by experiment, or all of them.

    InputError when the folder, its plans or a name are missing, or a plan cannot be read.
    """
    if not results.is_dir():
        raise InputError(f"{results}: no such results folder; name one that `python -m harness` has written")
    found = []
    for path in sorted((results / "plans").glob("*.json")):
        try:
            found.append(load_plan(path))
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
            raise InputError(f"--plan {name}: no such plan in {results}{_nearest(name, known)}")
    ran = {plan.name: _experiments(plan) for plan in found}
    for name in experiments:
        if not any(name in of_plan for of_plan in ran.values()):
            every = sorted(set().union(*ran.values()))
            raise InputError(f"--experiment {name}: no plan in {results} ran it{_nearest(name, every)}")
    return [plan for plan in found if plan.name in names or ran[plan.name] & set(experiments)]


def _experiments(plan: Plan) -> set[str]:
    words = (word for argument in plan.command for word in argument.split())
    given = {name for word in words if word.startswith("experiment=") for name in word[11:].split(",")}
    return given | {plan.name}


@dataclass(frozen=True)
class Group:
    """The rows of one backbone and dataset, labels all different, and the plans that hold them."""

    backbone: str
    dataset: str
    rows: list[Row]
    plans: list[Plan]

    @property
    def base(self) -> Row | None:
        """The row others are compared with: the plans' baseline, else the plain backbone."""
        return _base(self.rows, self.plans)

    def dropped(self, key: str) -> set[Pair]:
        """(clip, prompt, seed) that a metric's comparison leaves out: null in one row, not in another."""
        return _null_somewhere(self.rows, key)


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
        raise InputError(f"--baseline {baseline}: no such row{_nearest(baseline, list(names))}")
    return [plan.model_copy(update={"baseline": baseline}) for plan in plans]


def tables(
    results: Path,
    plans: Sequence[Plan],
    everything: bool = False,
    p_values: bool = False,
    only: Sequence[str] = (),
) -> list[Table]:
    """One table for each backbone and dataset of the plans, in their order.

    ``everything`` shows the secondary metrics too, ``p_values`` the p of each paired difference;
    ``only`` names the columns to show, by key and in their order. Reads records from ``results``; one
    that cannot be read is named in the notes. InputError for a column that no table has.
    """
    found = groups(results, plans)
    known = {column.key for group in found for column in _metric_columns(group.rows)}
    known |= {column.key for column in (*COSTS, SPEEDUP, FURTHER, GRADIENTS)}
    for key in only:
        if key not in known:
            raise InputError(f"--columns {key}: no such column{_nearest(key, sorted(known))}")
    return [
        _table(group.backbone, group.dataset, group.rows, group.plans, everything, p_values, only)
        for group in found
    ]


def _pool(row: Row, plan: str, variant: Variant, results: Path) -> None:
    row.plans.append(plan)
    for metric, levels in variant.levels.items():
        row.levels.setdefault(metric, []).append(levels)
    for cell in variant.cells:
        if cell.id in row.cells:
            continue
        row.cells[cell.id] = cell
        path = results / cell.path / "record.json"
        try:
            row.records[cell.id] = load_record(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, ValidationError):
            row.unreadable.append(str(path))


def _table(
    backbone: str,
    dataset: str,
    rows: list[Row],
    plans: Sequence[Plan],
    everything: bool,
    p_values: bool,
    only: Sequence[str],
) -> Table:
    import pandas as pd

    metrics = _metric_columns(rows)
    dropped = {column.key: _null_somewhere(rows, column.key) for column in metrics}
    columns, hidden = _shown(rows, metrics, everything or bool(only))
    if any(record.timing.once for row in rows for record in row.finished):
        columns.insert(columns.index(COSTS[0]) + 1, FURTHER)
    base = _named_base(rows, plans)
    if base is not None and len(rows) > 1:
        columns.insert(columns.index(COSTS[0]) + 1, SPEEDUP)
    if only:
        columns.append(GRADIENTS)
        columns = [column for key in only for column in columns if column.key == key] + [COUNT]
    numbers: list[dict[str, tuple[float, float, float]]] = []
    for row in rows:
        of_row = {
            column.key: _quality(row, column.key, dropped[column.key])
            for column in columns
            if column in metrics
        }
        of_row.update(_costs(row))
        if SPEEDUP in columns and base is not None:
            of_row[SPEEDUP.key] = _speedup(row, base)
        numbers.append(of_row)
    labels = [row.label for row in rows]
    values, lows, highs = (
        pd.DataFrame(
            [[of_row[column.key][part] for column in columns] for of_row in numbers],
            index=labels,
            columns=[column.key for column in columns],
            dtype=float,
        )
        for part in range(3)
    )
    shown = [column for column in columns if column in metrics]
    marks, ranked = _marks(rows, columns, values, dropped)
    # A metric without a value in any row is not shown, but why it has none is said.
    told = [column for column in metrics if column in shown or not (only or column.key in SECONDARY)]
    notes = [
        *_unlike(rows),
        *_level_notes(rows, shown, values),
        *_difference_notes(rows, shown, plans, dropped, p_values),
        *([_speedup_note(rows, base)] if SPEEDUP in columns and base is not None else []),
        *ranked,
        *_cost_notes(rows, {column.key for column in columns}),
        *_failure_notes(rows),
        *_count_notes(rows, shown, dropped),
        *_null_notes(rows, told, shown, dropped),
        *hidden,
        *_left_out(plans),
    ]
    config_ids = tuple(row.variant.config_id for row in rows)
    failed = {row.label: _failed(row) for row in rows}
    return Table(backbone, dataset, tuple(columns), values, lows, highs, notes, config_ids, marks, failed)


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


def _metric_columns(rows: list[Row]) -> list[Column]:
    """The metrics the records hold: ours first, in the table's order, then the others by name."""
    found: dict[str, Column] = {}
    for row in rows:
        for record in row.records.values():
            for key, metric in record.metrics.items():
                known = next((column for column in STANDARD if column.key == key), None)
                label = metric.label or (known.label if known else key)
                found.setdefault(key, Column(key, label, metric.unit, metric.higher_is_better))
    order = [column.key for column in STANDARD]
    return sorted(
        found.values(),
        key=lambda column: (order.index(column.key), "") if column.key in order else (99, column.key),
    )


def _shown(rows: list[Row], metrics: list[Column], everything: bool) -> tuple[list[Column], list[str]]:
    notes = []
    always = {column.key for column in STANDARD[:3]}
    chosen = [
        column
        for column in metrics
        if everything
        or column.key in always
        or (column.key not in SECONDARY and any(row.untrained or row.pairs(column.key) for row in rows))
    ]
    judged = {key for key in MOTION if any(row.pairs(key) for row in rows)}
    if not judged & {column.key for column in chosen}:
        without = [column for column in chosen if column.key != "warp_consistency"]
        if without != chosen:
            notes.append("warp_consistency is not shown: there is no motion score to read it against.")
        chosen = without
    return [*chosen, *COSTS, COUNT], notes


def _null_somewhere(rows: list[Row], key: str) -> set[Pair]:
    """(clip, prompt, seed) whose finished cell has no value in one row and has one in another."""
    measured = [row for row in rows if not row.untrained and row.pairs(key)]
    null: set[Pair] = set()
    for row in measured:
        finished = {(record.clip, record.prompt, record.seed) for record in row.finished}
        null |= finished - row.pairs(key).keys()
    return null & {pair for row in measured for pair in row.pairs(key)}


def _quality(row: Row, key: str, dropped: set[Pair]) -> tuple[float, float, float]:
    pairs = {} if row.untrained else row.pairs(key)
    kept = {pair: value for pair, value in pairs.items() if pair not in dropped}
    clips = cluster_means(kept.values(), (pair[0] for pair in kept))
    if not clips:
        return math.nan, math.nan, math.nan
    means = list(clips.values())
    return float(np.mean(means)), *bootstrap_interval(means)


def _costs(row: Row) -> dict[str, tuple[float, float, float]]:
    """Median seconds over clips with their interval, the highest peak, mean counts, clips."""
    nothing = (math.nan, math.nan)
    forward = _mean(row, lambda record: record.flops.forward_equivalents)
    gradients = _mean(row, lambda record: record.calls.get("gradient", 0) if record.calls else None)
    peak = _peak(row)[0]
    return {
        "time": _median_seconds(row, lambda timing: timing.first_video),
        "further": _median_seconds(row, lambda timing: timing.further_video),
        "memory": (math.nan if peak is None else float(peak), *nothing),
        "forward_equivalents": (forward, *nothing),
        "gradients": (gradients, *nothing),
        "n": (float(len({record.clip for record in row.finished})), *nothing),
    }


def _mean(row: Row, read: Callable[[Record], float | None]) -> float:
    """Mean over clips of the means within each; NaN where no cell has a value."""
    found = [(value, record.clip) for record in row.finished if (value := read(record)) is not None]
    clips = cluster_means((value for value, _ in found), (clip for _, clip in found))
    return float(np.mean(list(clips.values()))) if clips else math.nan


def _median_seconds(row: Row, read: Callable[[Timing], float | None]) -> tuple[float, float, float]:
    """Median over clips (of the medians within each) with its interval; NaN when nothing was timed."""
    timed = [
        (seconds, record.clip) for record in row.finished if (seconds := read(record.timing)) is not None
    ]
    clips = cluster_means((seconds for seconds, _ in timed), (clip for _, clip in timed), np.median)
    if not clips:
        return math.nan, math.nan, math.nan
    seconds = list(clips.values())
    return float(np.median(seconds)), *bootstrap_interval(seconds, np.median, method="percentile")


def _peak(row: Row) -> tuple[int | None, str]:
    """Highest peak bytes of any stage, and whose: the device's allocations if known, else the process's."""
    return _peak_of(row.finished)


def _peak_of(records: Sequence[Record]) -> tuple[int | None, str]:
    stages = [stage for record in records for stage in record.memory.values()]
    for kind in ("allocated", "process"):
        peaks = [peak for stage in stages if (peak := getattr(stage, kind)) is not None]
        if peaks:
            return max(peaks), kind
    return None, ""


# Ranks and speed-ups


def _by_pair(row: Row, key: str) -> dict[Pair, float]:
    """A column's number for each finished cell that has one; seconds, bytes, or the metric's value."""
    if key not in {column.key for column in (*COSTS, FURTHER)}:
        return {} if row.untrained else row.pairs(key)
    found: dict[Pair, float] = {}
    for record in row.finished:
        value = {
            "time": record.timing.first_video,
            "further": record.timing.further_video,
            "memory": _peak_of([record])[0],
            "forward_equivalents": record.flops.forward_equivalents,
        }[key]
        if value is not None and math.isfinite(value):
            found[record.clip, record.prompt, record.seed] = float(value)
    return found


def _leads(better: dict[Pair, float], worse: dict[Pair, float], higher: bool) -> bool | None:
    """Whether the paired interval of the difference excludes 0; None when there are too few clips for one."""
    shared = better.keys() & worse.keys()
    if len({pair[0] for pair in shared}) < 2:
        return None
    difference = paired_difference({pair: better[pair] for pair in sorted(shared)}, worse, with_p=False)
    assert difference is not None
    return difference.low > 0 if higher else difference.high < 0


def _withheld(rows: list[Row], key: str) -> bool:
    """Whether the rows' numbers are of things too unlike to be ranked: sizes, weights or devices."""
    for name in ("frames", "frame size", "weights", "device"):
        found = {row.setting(SETTINGS[name]) for row in rows}
        if name == "device":
            # Finished videos were made on a device nobody told us.
            if key in ("time", "further", "memory") and len(found) > 1:
                return True
        elif len(found - {()}) > 1:
            return True
    return False


def _marks(
    rows: list[Row], columns: Sequence[Column], values: pd.DataFrame, dropped: dict[str, set[Pair]]
) -> tuple[pd.DataFrame, list[str]]:
    """Best and second of each column where their intervals say so, and notes on what is not marked."""
    marks = values.astype(object).map(lambda _: "")
    withheld: list[str] = []
    for column in columns:
        known = [row for row in rows if math.isfinite(values.at[row.label, column.key])]
        if column.higher_is_better is None or column is SPEEDUP or len(known) < 2:
            continue
        if _withheld(known, column.key):
            withheld.append(column.label)
            continue
        for label, mark in _column_marks(known, column, values, dropped.get(column.key, set())).items():
            marks.at[label, column.key] = mark
    notes = []
    if withheld:
        notes.append(f"Best and second are not marked between rows this unlike: {', '.join(withheld)}.")
    if any(mark in TIES for mark in marks.to_numpy().ravel()):
        notes.append(
            "Best and second are marked where the paired 95 % interval over clips leaves no doubt; "
            "=1 and =2: not told from the first, from the second."
        )
    return marks, notes


def _column_marks(rows: list[Row], column: Column, table: pd.DataFrame, dropped: set[Pair]) -> dict[str, str]:
    """The marks of one column by row label, of the rows that have a number in it."""
    higher = bool(column.higher_is_better)
    values = {row.label: float(table.at[row.label, column.key]) for row in rows}
    digits = _digits(column, values.values())
    cells = {
        row.label: {pair: value for pair, value in _by_pair(row, column.key).items() if pair not in dropped}
        for row in rows
    }

    def leads(one: Row, other: Row) -> bool | None:
        if column.key == "forward_equivalents":
            # A count, without chance: what differs as it is shown differs.
            shown = [_number(values[row.label], digits) for row in (one, other)]
            return shown[0] != shown[1]
        return _leads(cells[one.label], cells[other.label], higher)

    found: dict[str, str] = {}
    rest = sorted(rows, key=lambda row: values[row.label], reverse=higher)
    for clear, tied in (("best", "tied"), ("second", "tied second")):
        if not rest:
            break
        verdicts = [leads(rest[0], other) for other in rest[1:]]
        if None in verdicts:
            break
        level = [row for row, verdict in zip(rest[1:], verdicts, strict=True) if not verdict]
        if level:
            found |= {row.label: tied for row in [rest[0], *level]}
            break
        found[rest[0].label] = clear
        rest = rest[1:]
    return found


def _same_machine(row: Row, base: Row) -> bool:
    names = ("device", "frames", "frame size")
    return all(row.setting(SETTINGS[name]) == base.setting(SETTINGS[name]) for name in names)


def _speedup(row: Row, base: Row) -> tuple[float, float, float]:
    """Geometric mean over clips of base seconds / own seconds, with its interval; NaN across devices."""
    ours, theirs = _by_pair(row, "time"), _by_pair(base, "time")
    shared = [pair for pair in ours if pair in theirs and ours[pair] > 0 and theirs[pair] > 0]
    if not shared or not _same_machine(row, base):
        return math.nan, math.nan, math.nan
    if row is base:
        return 1.0, math.nan, math.nan
    logs = cluster_means(
        (math.log(theirs[pair] / ours[pair]) for pair in shared), (pair[0] for pair in shared)
    )
    low, high = bootstrap_interval(list(logs.values()))
    return math.exp(float(np.mean(list(logs.values())))), math.exp(low), math.exp(high)


def _speedup_note(rows: list[Row], base: Row) -> str:
    text = f"Speed-up: over {base.label}, geometric mean of the clips' ratios"
    apart = [row.label for row in rows if row.finished and not _same_machine(row, base)]
    return f"{text}; none across devices or sizes ({', '.join(apart)})." if apart else f"{text}."


# Notes


def _unlike(rows: list[Row]) -> Iterator[str]:
    """What rows do not share, so that no difference is read as one of methods."""
    if len(rows) > 1:
        clips = [frozenset(cell.clip for cell in row.cells.values()) for row in rows]
        if len(set(clips)) > 1:
            common = len(frozenset.intersection(*clips))
            sizes = "; ".join(f"{row.label} {len(own)}" for row, own in zip(rows, clips, strict=True))
            yield f"Not the same clips: {sizes} ({common} in common). Compare the paired differences instead."
        shared = frozenset.intersection(*clips)
        prompts = [
            frozenset((cell.clip, cell.prompt) for cell in row.cells.values() if cell.clip in shared)
            for row in rows
        ]
        if len(set(prompts)) > 1:
            kinds = "; ".join(
                f"{row.label} {', '.join(sorted({cell.prompt_kind for cell in row.cells.values()}))}"
                f" ({len(own)} on the shared clips)"
                for row, own in zip(rows, prompts, strict=True)
            )
            yield f"Not the same prompts: {kinds}."
        seeds = [tuple(sorted({cell.seed for cell in row.cells.values()})) for row in rows]
        if len(set(seeds)) > 1:
            yield f"Not the same seeds: {_by_row(rows, [', '.join(map(str, own)) for own in seeds])}."
        for name, read in SETTINGS.items():
            values = [row.setting(read) for row in rows]
            if len({value for value in values if value}) > 1 or any(len(value) > 1 for value in values):
                yield f"Not the same {name}: {_by_row(rows, [', '.join(value) or '-' for value in values])}."
    starts = [row.setting(start_of) for row in rows]
    if len(set(starts) - {()}) > 1 or any(len(start) > 1 for start in starts):
        yield f"Not the same start: {_by_row(rows, [', '.join(start) or '-' for start in starts])}."
    elif any(starts):
        yield f"Start: {next(start for start in starts if start)[0]}."


def _by_row(rows: list[Row], texts: list[str]) -> str:
    return "; ".join(f"{row.label} {text}" for row, text in zip(rows, texts, strict=True))


def _pooled_level(levels: list[dict[str, float]], name: str) -> float | None:
    """A level averaged over plans, weighted by the pairs it was taken from."""
    known = [(one[name], one.get("pairs", 1.0) or 1.0) for one in levels if _finite(one.get(name))]
    return (
        sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None
    )


def _level_notes(rows: list[Row], columns: list[Column], values: pd.DataFrame) -> Iterator[str]:
    for column in columns:
        of_rows: dict[str, dict[str, str]] = {}
        for row in rows:
            levels = row.levels.get(column.key, [])
            chance, true = _pooled_level(levels, "chance"), _pooled_level(levels, "true")
            value = float(values.at[row.label, column.key])
            if row.untrained or (chance is None and true is None):
                continue
            found = {"chance": chance, "true clips": true}
            if chance is not None and true is not None and true != chance and math.isfinite(value):
                found["(value - chance) / (true - chance)"] = (value - chance) / (true - chance)
            of_rows[row.label] = {
                name: _number(level, 3) for name, level in found.items() if level is not None
            }
        parts = []
        for name in dict.fromkeys(name for texts in of_rows.values() for name in texts):
            known = {label: texts[name] for label, texts in of_rows.items() if name in texts}
            alike = len(set(known.values())) == 1 and len(known) == len(rows) > 1
            text = next(iter(known.values())) if alike else ", ".join(map(" ".join, known.items()))
            parts.append(f"{name}: {text}")
        if parts:
            yield f"{column.label}: {'; '.join(parts)}."


def differences(
    rows: list[Row], columns: Sequence[Column], base: Row, dropped: dict[str, set[Pair]]
) -> dict[str, dict[str, Difference]]:
    """Row label -> metric -> paired difference from the base row; p adjusted over all of them (Holm)."""
    found: dict[str, dict[str, Difference]] = {}
    for row in rows:
        if row is base or row.untrained or base.untrained:
            continue
        of_row: dict[str, Difference] = {}
        for column in columns:
            left_out = dropped.get(column.key, set())
            ours, theirs = (
                {pair: value for pair, value in one.pairs(column.key).items() if pair not in left_out}
                for one in (row, base)
            )
            difference = paired_difference(ours, theirs)
            if difference is not None:
                of_row[column.key] = difference
        found[row.label] = of_row
    places = [(label, key) for label, of_row in found.items() for key in of_row]
    for (label, key), p in zip(places, holm([found[label][key].p for label, key in places]), strict=True):
        found[label][key] = replace(found[label][key], p=p)
    return found


def _named_base(rows: list[Row], plans: Sequence[Plan]) -> Row | None:
    """The row that a plan names as its baseline: by label, else by method."""
    named = [plan.baseline for plan in plans if plan.baseline]
    for name in (
        lambda row: row.label,
        lambda row: row.variant.label,
        lambda row: row.variant.method,
    ):
        for row in rows:
            if name(row) in named:
                return row
    return None


def _base(rows: list[Row], plans: Sequence[Plan]) -> Row | None:
    """The plans' baseline, else the plain backbone."""
    named = _named_base(rows, plans)
    return named or next((row for row in rows if row.variant.method == "none"), None)


def _difference_notes(
    rows: list[Row],
    columns: list[Column],
    plans: Sequence[Plan],
    dropped: dict[str, set[Pair]],
    p_values: bool,
) -> Iterator[str]:
    base = _base(rows, plans)
    if base is None:
        return
    for label, of_row in differences(rows, columns, base, dropped).items():
        counts = {one.clips for one in of_row.values()}
        parts = []
        for column in columns:
            if column.key not in of_row:
                continue
            one = of_row[column.key]
            digits = _digits(column, [abs(one.mean)])
            text = f"{column.label} {_number(one.mean, digits, sign=True)}"
            if math.isfinite(one.low):
                text += f" [{_number(one.low, digits, sign=True)}, {_number(one.high, digits, sign=True)}]"
                if p_values:
                    text += " p < .001" if one.p < 0.001 else f" p {_number(one.p, 3)}"
            parts.append(text if len(counts) == 1 else f"{text} (n {one.clips})")
        if parts:
            over = f" over {counts.pop()} clips" if len(counts) == 1 else ""
            how = " (p: sign flips, Holm over the table)" if p_values else ""
            yield f"{label} - {base.label}, paired{over}{how}: {'; '.join(parts)}."


def _cost_notes(rows: list[Row], shown: set[str]) -> Iterator[str]:
    if any(row.untrained for row in rows):
        names = ", ".join(row.label for row in rows if row.untrained)
        yield f"weights=random ({names}): quality means nothing and is not shown."
    timed = [record for row in rows for record in row.finished if record.timing.total is not None]
    if any(record.timing.once for record in timed) and "time" in shown:
        yield "Time: to the first video of a clip. Further video: to one more of the same clip."
    if any(record.timing.amortised for record in timed) and "forward_equivalents" in shown:
        yield "Forward eq. leaves out what is done once a clip (measure.amortise=true)."
    if shown & {"time", "further", "speedup"}:
        yield from _time_notes(rows, timed)
    devices = sorted({device for row in rows for device in row.setting(SETTINGS["device"])})
    if devices:
        yield f"Device: {'; '.join(devices)}."
    kinds = {kind for row in rows if (kind := _peak(row)[1])} if "memory" in shown else set()
    meaning = {"allocated": "allocated on the device", "process": "of the process, weights included"}
    if len(kinds) > 1:
        whose = _by_row(rows, [meaning.get(_peak(row)[1], "-") for row in rows])
        yield f"Memory is not the same peak in all rows: {whose}."
    elif kinds:
        yield f"Memory: peak {meaning[kinds.pop()]}."
    pooled = sorted({len({cell.seed for cell in row.cells.values()}) for row in rows})
    if pooled and pooled[-1] > 1:
        yield "Prompts and seeds are averaged within a clip; intervals are over clips."


def _time_notes(rows: list[Row], timed: list[Record]) -> Iterator[str]:
    trained = {row.label: _median_seconds(row, _training)[0] for row in rows}
    trained = {label: seconds for label, seconds in trained.items() if math.isfinite(seconds)}
    if trained:
        whose = ", ".join(f"{label} {seconds:.1f} s" for label, seconds in trained.items())
        yield f"Training, once a clip, part of the time to its first video: {whose}."
    if any(record.timing.repeats == 1 for record in timed):
        yield "Times from one run (measure.repeats=1) are indicative."
    beside = sorted({str(r.environment["launcher"]) for r in timed if r.environment.get("launcher")})
    if beside:
        which = f"hydra/launcher={', '.join(beside)}"
        yield f"Times were taken while other jobs ran ({which}): do not compare them."


def _training(timing: Timing) -> float | None:
    """Seconds of training, in the cell or shared; None where nothing was trained."""
    if timing.total is None or not {"train"} & (timing.stages.keys() | timing.amortised.keys()):
        return None
    return timing.stages.get("train", 0.0) + timing.amortised.get("train", 0.0)


def ending(record: Record) -> str:
    """How a cell ended, as tables say it: ``ok``, ``OOM``, ``NaN``, ``error``, or its status."""
    if record.status == "failed":
        return "NaN" if record.error is not None and record.error.kind == "FloatingPointError" else "error"
    return "OOM" if record.status == "oom" else record.status


def _failed(row: Row) -> Counter[str]:
    return Counter(ending(record) for record in row.records.values() if record.status != "ok")


def failures(failed: Counter[str]) -> str:
    """``OOM 2, error 1``."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(failed.items()))


def _failure_notes(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        ended = _failed(row)
        absent = len(row.cells) - len(row.records) - len(row.unreadable)
        parts = [failures(ended)] if ended else []
        if row.unreadable:
            parts.append(f"{len(row.unreadable)} with an unreadable record ({row.unreadable[0]})")
        if absent:
            parts.append(f"{absent} not run yet")
        if parts:
            clips = sorted(
                {
                    cell.clip
                    for key, cell in row.cells.items()
                    if key not in row.records or row.records[key].status != "ok"
                }
            )
            names = ", ".join(clips[:5]) + (f" and {len(clips) - 5} more" if len(clips) > 5 else "")
            yield f"{row.label}: of {len(row.cells)} cells {', '.join(parts)} ({names}); not in its numbers."


def _count_notes(rows: list[Row], shown: list[Column], dropped: dict[str, set[Pair]]) -> Iterator[str]:
    """Columns over fewer clips than their row's n; those of equal counts in one line."""
    rows = [row for row in rows if row.finished and not row.untrained]
    columns: dict[str, list[str]] = {}
    for column in shown:
        counts = [
            (
                len({pair[0] for pair in row.pairs(column.key).keys() - dropped[column.key]}),
                len({record.clip for record in row.finished}),
            )
            for row in rows
        ]
        if any(own for own, _ in counts) and any(own < every for own, every in counts):
            said = [f"{own} of {every} clips" for own, every in counts]
            text = said[0] if len(set(said)) == 1 else _by_row(rows, said)
            columns.setdefault(text, []).append(column.label)
    for text, labels in columns.items():
        yield f"{', '.join(labels)}: over {text}."


def _null_notes(
    rows: list[Row], told: list[Column], shown: list[Column], dropped: dict[str, set[Pair]]
) -> Iterator[str]:
    """One line a reason with the metrics it made null, and one for those that do not apply at all."""
    reasons: dict[str, dict[str, Counter[str]]] = {}
    idle: list[str] = []
    for column in told:
        measured, applies = 0, False
        for row in rows:
            for record in [] if row.untrained else row.finished:
                metric = record.metrics.get(column.key)
                if metric is None:
                    continue
                measured += 1
                applies = applies or metric.applies
                if metric.applies and value_of(record, column.key) is None:
                    reason = " ".join((metric.reason or "not a finite number").split()).rstrip(".")
                    counts = reasons.setdefault(reason, {}).setdefault(column.label, Counter())
                    counts[row.label] += 1
        if measured and not applies and column in shown:
            idle.append(column.label)
        if column in shown and dropped[column.key] and len(rows) > 1:
            yield (
                f"{column.label}: {len(dropped[column.key])} (clip, prompt, seed) null in some row"
                " are left out of all of them."
            )
    for reason, of_columns in reasons.items():
        labels: dict[str, list[str]] = {}
        for label, counts in of_columns.items():
            where = ", ".join(f"{row} {count}" for row, count in counts.items())
            labels.setdefault(f"in {plural(counts.total(), 'cell')} ({where})", []).append(label)
        parts = "; ".join(f"{', '.join(names)} null {where}" for where, names in labels.items())
        yield f"{parts}: {reason}."
    if idle:
        yield f"Does not apply to these clips: {', '.join(idle)}."


def _left_out(plans: Iterable[Plan]) -> Iterator[str]:
    outs: dict[str, PlannedOut] = {}
    for plan in plans:
        for one in plan.left_out:
            outs.setdefault(one.clip, one)
    for line in left_out_lines(list(outs.values())):
        yield f"Left out: {line.rstrip('.')}."
    rows = {one.label for plan in plans for one in plan.variants}
    variants = {one.label: one.reason for plan in plans for one in plan.variants_out if one.label not in rows}
    for label, reason in variants.items():
        yield f"Variant left out: {label}: {reason.rstrip('.')}."


def left_out_lines(outs: Sequence[PlannedOut]) -> list[str]:
    """``clip: reason`` in their order; clips that share a reason with more than two others stand in one line.

    A partial copy of a dataset lacks dozens of clips for one reason.
    """
    clips: dict[str, list[str]] = {}
    for one in outs:
        clips.setdefault(one.reason, []).append(one.clip)
    lines = []
    for reason, names in clips.items():
        together = [", ".join(names)] if len(names) > 3 else names
        lines += [f"{clips_of_line}: {reason}" for clips_of_line in together]
    return lines


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# How numbers look


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _number(value: float, digits: int, *, sign: bool = False) -> str:
    """Fixed digits, without the zero before the point."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def _digits(column: Column, values: Iterable[float]) -> int:
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if column == SPEEDUP:
        return 2
    if column == GRADIENTS:
        return 1
    if not column.unit and column.key not in {cost.key for cost in COSTS} and largest < 10:
        return 4
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2


def _scale(table: Table, column: Column) -> tuple[float, str]:
    """What to divide by, and the unit to show: bytes become GB or MB (powers of ten)."""
    if column.unit != "B":
        return 1.0, column.unit
    largest = table.values[column.key].max(skipna=True)
    return (1e9, "GB") if _finite(largest) and largest >= 1e9 else (1e6, "MB")


def headers(table: Table) -> list[str]:
    """Column headings: label, unit, and an arrow towards the better end."""
    found = []
    for column in table.columns:
        unit = _scale(table, column)[1]
        arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
        found.append(f"{column.label}{f' ({unit})' if unit else ''}{arrow}")
    return found


def texts(table: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values and intervals as text, same shape as ``table.values``; ``-`` and nothing where there is none."""
    values, intervals = table.values.astype(object), table.values.astype(object)
    for column in table.columns:
        by, _ = _scale(table, column)
        numbers = table.values[column.key] / by
        digits = 0 if column.key == "n" else _digits(column, numbers)
        for label in table.values.index:
            ended = table.failed.get(str(label), Counter())
            # A row that failed for one reason throughout says it in place of its numbers.
            nothing = next(iter(ended)) if len(ended) == 1 and not table.values.at[label, "n"] else "-"
            value = numbers.at[label]
            low, high = table.lows.at[label, column.key] / by, table.highs.at[label, column.key] / by
            values.at[label, column.key] = _number(value, digits) if _finite(value) else nothing
            few = min(digits, 3)
            intervals.at[label, column.key] = (
                f"[{_number(low, few)}, {_number(high, few)}]" if _finite(low) and _finite(high) else ""
            )
            if column.key == "n" and ended:
                intervals.at[label, column.key] = f"({failures(ended)})"
    return values, intervals


def ranks(table: Table) -> pd.DataFrame:
    """``best``, ``second``, ``tied`` (for best), ``tied second`` or nothing for each number.

    A number is best when the paired 95 % interval of its difference from every other row's excludes
    0, else it is tied with those it cannot be told from; the second likewise among the others.
    Nothing with fewer than two clips in common, and between rows of other sizes, weights or, for
    time and memory, devices. Forward-equivalents are counts, and compared as they are shown.
    """
    return table.marks


def _cells(table: Table, best: str, second: str, between: str = " ") -> list[list[str]]:
    """Rows of text: label, then value and interval, the value wrapped by its rank."""
    values, intervals = texts(table)
    marks = ranks(table)
    wrap = {"best": best, "second": second, "": "{}"} | {mark: f"{{}} {tie}" for mark, tie in TIES.items()}
    rows = []
    for label in table.values.index:
        row = [str(label)]
        for column in table.columns:
            text = wrap[marks.at[label, column.key]].format(values.at[label, column.key])
            interval = intervals.at[label, column.key]
            row.append(f"{text}{between}{interval}" if interval else text)
        rows.append(row)
    return rows


def to_markdown(table: Table) -> str:
    """A heading, a pipe table (best bold, second underlined) and the notes as a list."""
    from tabulate import tabulate

    rows = [[row[0].replace("|", "\\|"), *row[1:]] for row in _cells(table, "**{}**", "<u>{}</u>")]
    body = tabulate(
        rows,
        headers=["", *headers(table)],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * len(table.columns)],
    )
    return "\n".join([f"### {table.title}", "", body, "", *(f"- {note}" for note in table.notes)]) + "\n"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
    }
)


def latex_text(text: str) -> str:
    """Plain text for LaTeX, its special characters escaped."""
    return text.translate(_LATEX)


def _stacked(heading: str) -> str:
    """A heading of several words over two lines."""
    first, _, rest = heading.partition(" ")
    if not rest or len(heading) <= 10:
        return latex_text(heading)
    return rf"\shortstack{{{latex_text(first)}\\{latex_text(rest)}}}"


def latex_table(title: str, frame: pd.DataFrame, notes: Sequence[str]) -> str:
    """A ``table`` environment around a frame of LaTeX, no wider than the text; title and notes are plain."""
    body = frame.style.to_latex(hrules=True, column_format="l" + "r" * len(frame.columns))
    below = " ".join(latex_text(note) for note in notes)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{latex_text(title)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            body.rstrip() + "}",
            rf"\par\smallskip\parbox{{\linewidth}}{{\raggedright\scriptsize {below}}}",
            r"\end{table}",
            "",
        ]
    )


def to_latex(table: Table) -> str:
    """A ``table`` environment with booktabs rules, as wide as the text at most, notes below.

    Needs ``\\usepackage{booktabs,graphicx}``.
    """
    import pandas as pd

    values, intervals = texts(table)
    marks = ranks(table)
    before = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    before |= {mark: f"%s$^{{{tie}}}$" for mark, tie in TIES.items()}
    rows: dict[str, list[str]] = {}
    for label in values.index:
        rows[latex_text(str(label))] = [
            before[marks.at[label, key]] % latex_text(values.at[label, key]) for key in values.columns
        ]
        below = [latex_text(intervals.at[label, key]) for key in values.columns]
        if any(below):
            # An empty name of its own: pandas' rows are told apart by theirs.
            rows["{}" * (len(rows) + 1)] = [rf"{{\scriptsize {text}}}" if text else "" for text in below]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[_stacked(text) for text in headers(table)])
    return latex_table(table.title, frame, table.notes)


def to_csv(made: Sequence[Table]) -> str:
    """All tables in one: plain numbers (seconds, bytes), ``_low`` and ``_high`` columns, empty where null."""
    import pandas as pd

    flat = pd.concat([table.flat() for table in made], ignore_index=True)
    flat["n"] = flat["n"].astype(int)
    return str(flat.to_csv(index=False, lineterminator="\n"))


def to_rich(table: Table) -> RichTable:
    """The table for a terminal: best bold, second underlined, the interval under its value."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(title=table.title, box=box.SIMPLE_HEAVY, title_justify="left")
    made.add_column("", no_wrap=True)
    for heading in headers(table):
        made.add_column(heading, justify="right", overflow="fold")
    values, intervals = texts(table)
    marks = ranks(table)
    styles = {"best": "bold", "second": "underline"}
    for label in values.index:
        row = [Text(str(label))]
        for column in table.columns:
            mark = marks.at[label, column.key]
            text = Text(values.at[label, column.key], style=styles.get(mark, ""))
            if mark in TIES:
                text = Text.assemble(text, f" {TIES[mark]}")
            interval = intervals.at[label, column.key]
            row.append(Text.assemble(text, f"\n{interval}") if interval else text)
        made.add_row(*row)
    return made


def print_plans(
    results: Path, plans: Sequence[Plan], console: Console | None = None, everything: bool = False
) -> None:
    """Print the plans' tables and notes; off a terminal as wide as they need."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    for table in tables(results, plans, everything):
        made = to_rich(table)
        if console.is_terminal:
            console.print(made)
        else:
            needed = console.measure(made, options=console.options.update_width(1000)).maximum
            Console(file=console.file, width=needed, highlight=False).print(made)
        for note in table.notes:
            console.print(Text(f"  {note}"), soft_wrap=True)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; nearest: {close[0]}"
    return f"; there are: {', '.join(known[:10])}" if known else ""


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def render(made: Sequence[Table], form: str, published: bool = False) -> str:
    """All tables as ``md``, ``latex`` or ``csv``; ``published`` puts the paper's own below (not in csv)."""
    if form == "csv":
        return to_csv(made)
    write = {"md": to_markdown, "latex": to_latex}[form]
    texts_ = [write(table) for table in made]
    if published:
        from reports.published import blocks

        texts_ += [block.to_markdown() if form == "md" else block.to_latex() for block in blocks()]
    return "\n".join(texts_)
