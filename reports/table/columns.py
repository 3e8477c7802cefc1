"""Columns of a table: how each is headed, how its numbers are read, and the numbers themselves.

A metric declares its column (``metrics.interface.Column``) and every record keeps that declaration, so that
nothing here names a metric. What a video costs is declared below: a further column is one entry of ``COSTS``.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from harness.command.plugins import OURS
from harness.records.record import Memory, MetricValue, Record, Timing
from reports.table.rows import SETTINGS, Group, Row, untrained
from reports.table.statistics import (
    FEWEST,
    Pair,
    clip_differences,
    clip_means,
    cluster_means,
    difference_interval,
    mean_interval,
    median_interval,
)


class Number(NamedTuple):
    """A row's number and its 95 % interval; NaN where there is none.

    ``points``: its clips' values, by the clips' names, where they are too few for an interval.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    points: tuple[float, ...] = ()


Read = Callable[[Record], float | None]
Pool = Callable[[Mapping[Pair, float], Row, Group], Number]


def mean(cells: Mapping[Pair, float], _row: Row, _group: Group) -> Number:
    """Mean over clips, prompts and seeds averaged within each, and its interval."""
    clips = list(clip_means(cells).values())
    return Number(float(np.mean(clips)), *mean_interval(clips), points_of(clips)) if clips else Number()


def points_of(clips: Sequence[float]) -> tuple[float, ...]:
    """The values that stand in an interval's place: all of them where they are few."""
    return tuple(clips) if 1 < len(clips) < FEWEST else ()


def _bare_mean(cells: Mapping[Pair, float], _row: Row, _group: Group) -> Number:
    """``mean`` of what has no chance in it."""
    clips = list(clip_means(cells).values())
    return Number(float(np.mean(clips))) if clips else Number()


def _median(cells: Mapping[Pair, float], _row: Row, _group: Group) -> Number:
    """Median over clips (of the medians within each) and its interval."""
    clips = list(clip_means(cells, np.median).values())
    return Number(float(np.median(clips)), *median_interval(clips), points_of(clips)) if clips else Number()


def _highest_peak(_cells: Mapping[Pair, float], row: Row, _group: Group) -> Number:
    found = peak(row.finished)[0]
    return Number() if found is None else Number(float(found))


def _clips(_cells: Mapping[Pair, float], row: Row, _group: Group) -> Number:
    return Number(float(len({record.clip for record in row.finished})))


def _speedup(_cells: Mapping[Pair, float], row: Row, group: Group) -> Number:
    """Geometric mean over clips of base seconds / own seconds, with its interval; NaN across devices."""
    base = group.named_base
    if base is None:
        return Number()
    ours, theirs = TIME.cells(row), TIME.cells(base)
    logs = list(clip_differences(_logs(theirs), _logs(ours)).values())
    if not logs or not same_machine(row, base):
        return Number()
    if row is base:
        return Number(1.0)
    value, low, high = (math.exp(end) for end in (float(np.mean(logs)), *difference_interval(logs)))
    return Number(value, low, high, points_of([math.exp(one) for one in logs]))


def _logs(cells: Mapping[Pair, float]) -> dict[Pair, float]:
    return {pair: math.log(seconds) for pair, seconds in cells.items() if seconds > 0}


def _always(_group: Group) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    ``description`` says in a sentence what it is, a metric's docstring where it is empty: ``target`` names
    the metric's class. ``unit`` is that of the numbers; ``higher_is_better`` is None where nothing is better;
    ``digits`` stand after the point. ``primary`` columns are shown unasked, where they ``fit`` the rows.

    ``read``: a cell's number, None where it has none. ``pool``: a row's number, from those of its cells.

    ``paired``: differences from the baseline are noted, and what is null in one row is left out of all.
    ``sees_motion``, ``beside_motion``, ``truth``: as a metric declares them.
    ``interval``: its numbers have one. ``ranked``: the best, or those tied for it, are marked.
    ``exact``: counts, without chance, so that what differs as it is shown differs.
    ``of_device``: not compared across devices. ``ratio``: rows are ranked by their ratios, as times are.
    ``of_video``: stands under each video too.
    """

    key: str
    label: str
    description: str = ""
    target: str = ""
    unit: str = ""
    higher_is_better: bool | None = True
    digits: int = 4
    primary: bool = True
    read: Read = field(compare=False)
    pool: Pool = field(default=mean, compare=False)
    fits: Callable[[Group], bool] = field(default=_always, compare=False)
    paired: bool = False
    sees_motion: bool = False
    beside_motion: bool = False
    truth: bool = False
    interval: bool = True
    ranked: bool = True
    exact: bool = False
    of_device: bool = False
    ratio: bool = False
    of_video: bool = True

    @cached_property
    def sentence(self) -> str:
        """What it measures; empty where a metric's class is not ours or cannot be imported."""
        return self.description or _first_sentence(self.target)

    def number(self, record: Record) -> float | None:
        """A cell's number; None where it has none that is finite."""
        value = self.read(record)
        return float(value) if value is not None and math.isfinite(value) else None

    def cells(self, row: Row) -> dict[Pair, float]:
        """The numbers of a row's finished cells by (clip, prompt, seed)."""
        return row.numbers(self.number)

    def dropped(self, rows: Sequence[Row]) -> set[Pair]:
        """(clip, prompt, seed) whose finished cell has no number in one row and has one in another."""
        if not self.paired:
            return set()
        of_rows = [(row, cells) for row in rows if (cells := self.cells(row))]
        null: set[Pair] = set()
        for row, cells in of_rows:
            null |= {(record.clip, record.prompt, record.seed) for record in row.finished} - cells.keys()
        return null & {pair for _, cells in of_rows for pair in cells}

    def kept(self, rows: Sequence[Row]) -> dict[str, dict[Pair, float]]:
        """Row's label -> the numbers of its cells that rows are compared by: without those ``dropped``."""
        dropped = self.dropped(rows)
        return {
            row.label: {pair: value for pair, value in self.cells(row).items() if pair not in dropped}
            for row in rows
        }


TIME = Column(
    key="time",
    label="Time",
    description="Seconds to the first video of a clip, from its reference frames on: median over clips.",
    unit="s",
    higher_is_better=False,
    digits=2,
    read=lambda record: record.timing.first_video,
    pool=_median,
    of_device=True,
    ratio=True,
)
SPEEDUP = Column(
    key="speedup",
    label="Speed-up",
    description="The baseline's seconds over the row's, geometric mean over clips; none across devices.",
    unit="x",
    digits=2,
    read=lambda _: None,
    pool=_speedup,
    fits=lambda group: group.named_base is not None and len(group.rows) > 1,
    ranked=False,
)
FURTHER = Column(
    key="further",
    label="Further video",
    description="Seconds to one more video of the same clip, without what is done once a clip.",
    unit="s",
    higher_is_better=False,
    digits=2,
    read=lambda record: record.timing.further_video,
    pool=_median,
    fits=lambda group: any(record.timing.once for row in group.rows for record in row.finished),
    of_device=True,
)
MEMORY = Column(
    key="memory",
    label="Memory",
    description="Highest peak of any clip, allocated on the device or, without a GPU, of the process.",
    unit="B",
    higher_is_better=False,
    digits=2,
    read=lambda record: peak([record])[0],
    pool=_highest_peak,
    interval=False,
    of_device=True,
    of_video=False,
)
FORWARDS = Column(
    key="forward_equivalents",
    label="Forward eq.",
    description="The cost of a video in FLOPs over those of one forward pass of the backbone's transformer.",
    higher_is_better=False,
    digits=2,
    read=lambda record: record.flops.forward_equivalents,
    pool=_bare_mean,
    interval=False,
    exact=True,
    of_video=False,
)
GRADIENTS = Column(
    key="gradients",
    label="True gradients",
    description="Backward passes through the transformer a video; reused gradients do not count.",
    higher_is_better=None,
    digits=1,
    primary=False,
    read=lambda record: record.calls.get("gradient", 0) if record.calls else None,
    pool=_bare_mean,
    interval=False,
    of_video=False,
)
COUNT = Column(
    key="n",
    label="n",
    description="Clips with a finished video; what failed stands behind it.",
    higher_is_better=None,
    digits=0,
    read=lambda _: None,
    pool=_clips,
    interval=False,
)
"""Clips with a finished cell: the last column of every table."""

COSTS = (TIME, SPEEDUP, FURTHER, MEMORY, FORWARDS, GRADIENTS)
"""The columns that are no metric's, as they stand in a table."""


def metric_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that the records' metrics declare, in the records' order."""
    found: dict[str, Column] = {}
    for row in rows:
        for record in row.records.values():
            for key, metric in record.metrics.items():
                if key not in found:
                    found[key] = _metric_column(key, metric, _target(record, key))
    return list(found.values())


def _target(record: Record, key: str) -> str:
    """The class of a metric, as its command was configured; empty where the record does not say."""
    node: Any = record.config
    for name in ("metrics", "metrics", key, "_target_"):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, str) else ""


def _first_sentence(target: str) -> str:
    """That of a class's docstring, without its markup."""
    package, _, name = target.rpartition(".")
    if target.partition(".")[0] not in OURS:
        return ""
    try:
        text = inspect.getdoc(getattr(importlib.import_module(package), name)) or ""
    except (ImportError, AttributeError):
        return ""
    paragraph = " ".join(text.partition("\n\n")[0].split()).replace("``", "")
    return re.split(r"(?<=[.?])\s+(?=[A-Z])", paragraph, maxsplit=1)[0]


def _metric_column(key: str, metric: MetricValue, target: str) -> Column:
    return Column(
        key=key,
        label=metric.label or key,
        target=target,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        digits=metric.digits,
        primary=metric.primary,
        read=partial(_metric_value, key),
        fits=partial(_applies, key),
        paired=True,
        sees_motion=metric.sees_motion,
        beside_motion=metric.beside_motion,
        truth=metric.truth,
    )


def _metric_value(key: str, record: Record) -> float | None:
    return record.metrics[key].value if key in record.metrics and not untrained(record) else None


def _applies(key: str, group: Group) -> bool:
    """Whether a metric applies to some clip of some row."""
    records = (record for row in group.rows for record in row.records.values())
    return any(record.metrics[key].applies for record in records if key in record.metrics)


@dataclass(frozen=True)
class Body:
    """A group's numbers in the columns to show, before they are ranked and noted.

    ``numbers``: row's label -> column's key -> number. ``cells``: column's key -> row's label -> the numbers
    that the row's is pooled from. ``hidden`` are columns not shown for want of one that sees motion.
    """

    group: Group
    columns: tuple[Column, ...]
    hidden: tuple[Column, ...]
    cells: dict[str, dict[str, dict[Pair, float]]]
    numbers: dict[str, dict[str, Number]]

    @property
    def paired(self) -> list[Column]:
        """The columns that are compared with the baseline, clip by clip."""
        return [column for column in self.columns if column.paired]


def body(group: Group, everything: bool, only: Sequence[str], outside: Sequence[Column]) -> Body:
    """The numbers of a group; for ``everything``, ``only`` and ``outside`` see ``tables.tables``."""
    metrics, hidden = _shown_metrics(group, everything or bool(only))
    costs = [column for column in COSTS if column.fits(group)]
    if only:
        known = {column.key: column for column in (*metrics, *outside, *costs)}
        columns = [known[key] for key in dict.fromkeys(only) if key in known]
        hidden = [column for column in hidden if column.key in only]
    else:
        primary = (column for column in costs if column.primary)
        columns = list({column.key: column for column in (*metrics, *outside, *primary)}.values())
    columns.append(COUNT)
    cells = {column.key: column.kept(group.rows) for column in columns}
    numbers = {
        row.label: {column.key: column.pool(cells[column.key][row.label], row, group) for column in columns}
        for row in group.rows
    }
    return Body(group, tuple(columns), tuple(hidden), cells, numbers)


def by_importance(columns: Sequence[Column]) -> list[str]:
    """Keys of columns, the most important first: one of each kind, then the second of each, and so on.

    Kinds in their order: the user's own metrics, motion against the truth, motion, other metrics, costs.
    """
    kinds: dict[int, list[str]] = {}
    for column in columns:
        if column != COUNT:
            kinds.setdefault(_kind(column), []).append(column.key)
    turns = zip_longest(*(keys for _, keys in sorted(kinds.items())))
    return [key for turn in turns for key in turn if key is not None]


def _kind(column: Column) -> int:
    if column in COSTS:
        return 4
    if column.target and column.target.partition(".")[0] not in OURS:
        return 0
    return 1 if column.truth else 2 if column.sees_motion else 3


def _shown_metrics(group: Group, everything: bool) -> tuple[list[Column], list[Column]]:
    """The metrics' columns to show, and those that a frozen video wins and no other column outweighs."""
    chosen = [
        column
        for column in metric_columns(group.rows)
        if everything or (column.primary and column.fits(group))
    ]
    if any(column.sees_motion and any(map(column.cells, group.rows)) for column in chosen):
        return chosen, []
    return (
        [column for column in chosen if not column.beside_motion],
        [column for column in chosen if column.beside_motion],
    )


PEAKS: dict[str, Callable[[Memory], int | None]] = {
    "allocated": lambda memory: memory.allocated,
    "process": lambda memory: memory.process,
}
"""Kinds of peak, never mixed: bytes allocated on the device, else those of the process."""


def peak(records: Sequence[Record]) -> tuple[int | None, str]:
    """Highest peak bytes of any stage, and its kind."""
    stages = [stage for record in records for stage in record.memory.values()]
    for kind, read in PEAKS.items():
        peaks = [found for stage in stages if (found := read(stage)) is not None]
        if peaks:
            return max(peaks), kind
    return None, ""


def median_seconds(row: Row, read: Callable[[Timing], float | None]) -> float:
    """Median over clips (of the medians within each) of a time; NaN when nothing was timed."""
    timed = [(found, record.clip) for record in row.finished if (found := read(record.timing)) is not None]
    clips = cluster_means((seconds for seconds, _ in timed), (clip for _, clip in timed), np.median)
    return float(np.median(list(clips.values()))) if clips else math.nan


def same_machine(row: Row, base: Row) -> bool:
    """Whether two rows' times may be compared."""
    names = ("device", "threads", "frames", "frame size")
    return all(row.setting(SETTINGS[name]) == base.setting(SETTINGS[name]) for name in names)
