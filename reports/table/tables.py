"""Tables from plans and records alone: no torch, no weights, no videos.

``tables`` makes one ``Table`` for each backbone and dataset; ``reports.table.formats`` writes them down.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.errors import InputError, nearest
from reports.table.brief import brief_notes
from reports.table.caption import caption, name
from reports.table.columns import COSTS, COUNT, Column, Number, body, by_importance, metric_columns
from reports.table.notes import notes_of
from reports.table.ranking import rank
from reports.table.rows import Group, Row, added_metrics, failures, groups
from reports.table.statistics import Difference

if TYPE_CHECKING:
    import pandas as pd

    from harness.records.record import Plan


MOST = 5
"""Columns of a main table beside the rows' names, where nobody chose them."""


@dataclass(frozen=True)
class Table:
    """The rows of one backbone and dataset.

    ``numbers``: row's label -> column's key -> number with its 95 % interval, NaN where there is none; in
    seconds, bytes and the metrics' own units. ``marks``, of the same shape, are ``reports.table.ranking``'s.
    ``differences``, likewise, are those from the row ``base``, of the columns that have some.

    ``importance``: keys of columns, the first to be kept where not all fit. ``chosen``: somebody asked for
    these columns, so that all are shown. ``brief`` notes stand under the table, ``notes`` are all there are.
    ``failed`` counts a row's cells without a video by what ended them. ``backbone_used`` is False where all
    videos came from elsewhere. ``caption`` says in words what the table is of, ``stratum`` the kind of clips
    or prompts, empty for all; ``name`` is for files and references.
    """

    backbone: str
    dataset: str
    columns: tuple[Column, ...]
    numbers: dict[str, dict[str, Number]]
    marks: dict[str, dict[str, str]]
    notes: list[str]
    config_ids: tuple[str, ...]
    failed: dict[str, Counter[str]]
    backbone_used: bool = True
    stratum: str = ""
    caption: str = ""
    name: str = ""
    brief: tuple[str, ...] = ()
    base: str = ""
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    importance: tuple[str, ...] = ()
    chosen: bool = False

    @property
    def title(self) -> str:
        where = f"{self.dataset} on {self.backbone}" if self.backbone_used else self.dataset
        return ", ".join(filter(None, (self.caption or where, self.stratum)))

    def main(self, most: int = MOST) -> tuple[Column, ...]:
        """The ``most`` most important columns, in the table's order; all where they were ``chosen``.

        Clips are counted in the caption, and in a column only where rows' counts differ.
        """
        keys = self.importance or tuple(column.key for column in self.columns)
        kept = keys[: None if self.chosen else most]
        counts = {of_row[COUNT.key].value for of_row in self.numbers.values() if COUNT.key in of_row}
        if len(counts) > 1 or any(self.failed.values()):
            kept = (*kept, COUNT.key)
        return tuple(column for column in self.columns if column.key in kept)

    @property
    def values(self) -> pd.DataFrame:
        """The numbers: index the rows' labels, columns the columns' keys."""
        return self._frame(0)

    @property
    def lows(self) -> pd.DataFrame:
        """The lower ends of their intervals."""
        return self._frame(1)

    @property
    def highs(self) -> pd.DataFrame:
        """The upper ends of their intervals."""
        return self._frame(2)

    def _frame(self, part: int) -> pd.DataFrame:
        import pandas as pd

        keys = [column.key for column in self.columns]
        parts = [[of_row[key][part] for key in keys] for of_row in self.numbers.values()]
        return pd.DataFrame(parts, index=list(self.numbers), columns=keys, dtype=float)

    def flat(self) -> pd.DataFrame:
        """One line a row: where it belongs, and each column with its ``_low`` and ``_high``.

        Where few clips stand in place of intervals, ``_points`` holds them, apart by spaces. ``_diff`` is the
        difference from the base row, with its ``_diff_low``, ``_diff_high``, ``_diff_p`` and ``_diff_n``.
        """
        import pandas as pd

        flat = pd.DataFrame(
            {
                "dataset": self.dataset,
                "backbone": self.backbone,
                "variant": list(self.numbers),
                "config_id": self.config_ids,
            }
        )
        for column in self.columns:
            numbers = [of_row[column.key] for of_row in self.numbers.values()]
            flat[column.key] = [number.value for number in numbers]
            if column.interval:
                flat[f"{column.key}_low"] = [number.low for number in numbers]
                flat[f"{column.key}_high"] = [number.high for number in numbers]
            if any(number.points for number in numbers):
                flat[f"{column.key}_points"] = [" ".join(map(str, number.points)) for number in numbers]
            for end, values in self._flat_differences(column.key).items():
                count = end == "diff_n"
                flat[f"{column.key}_{end}"] = pd.array(values, dtype="Int64") if count else values
        flat["failed"] = [failures(self.failed[label]) for label in self.numbers]
        return flat

    def _flat_differences(self, key: str) -> dict[str, list[float | None]]:
        """A column's differences from the base row: the mean, its interval, p and number of clips."""
        found = [self.differences.get(label, {}).get(key) for label in self.numbers]
        if not any(found):
            return {}
        ends = [(math.nan, math.nan) if one is None else one.interval for one in found]
        return {
            "diff": [None if one is None else one.mean for one in found],
            "diff_low": [low for low, _ in ends],
            "diff_high": [high for _, high in ends],
            "diff_p": [None if one is None else one.p for one in found],
            "diff_n": [None if one is None else len(one.values) for one in found],
        }


def tables(
    results: Path,
    plans: Sequence[Plan],
    everything: bool = False,
    only: Sequence[str] = (),
    outside: Sequence[Column] = (),
) -> list[Table]:
    """One table for each backbone and dataset of the plans, in their order.

    ``everything`` shows the metrics that are not primary too; ``only`` names the columns to show, by key and
    in their order, as the plans may; ``outside`` are columns besides ours. Records are read from ``results``;
    one that cannot be read is named in the notes. InputError for a column that no table has, and for an
    outside one whose key is taken.
    """
    found = groups(results, plans)
    known = known_columns([row for group in found for row in group.rows])
    for column in outside:
        if column.key in known:
            raise InputError(f"--column {column.key}: there is such a column already; give it another key")
        known[column.key] = column
    for key in only:
        if key not in known:
            near = difflib.get_close_matches(key, known, cutoff=0.4)
            like = f"near it: {', '.join(near)}; " if near else ""
            raise InputError(f"--columns {key}: no such column; {like}`--columns help` lists them all")
    return [_table(group, everything, only, outside) for group in found]


def known_columns(rows: Sequence[Row]) -> dict[str, Column]:
    """By key, the columns that can be asked for: the metrics' of some rows, and costs."""
    return {column.key: column for column in (*metric_columns(rows), *COSTS)}


def _own_columns(group: Group) -> list[str]:
    """The columns that the plans name, where all name the same."""
    named = [plan.columns for plan in group.plans]
    return named[0] if named and all(columns == named[0] for columns in named) else []


def _table(group: Group, everything: bool, only: Sequence[str], outside: Sequence[Column]) -> Table:
    known = known_columns(group.rows)
    own: list[str] = []
    if not (only or everything):
        own = _own_columns(group)
        # What the command added by name was added to be seen.
        added = [name for plan in group.plans for name in added_metrics(plan) if name in known]
        outside = (*outside, *(known[name] for name in dict.fromkeys(added) if name not in own))
    scored = any(record.metrics for row in group.rows for record in row.records.values())
    unknown = {key: nearest(key, known) for key in own if scored and key not in known}
    made = body(group, everything, [*own, *(one.key for one in outside)] if own else only, outside)
    ranking = rank(made)
    chosen = bool(only or own)
    keys = [column.key for column in made.columns if column != COUNT]
    asked = [column.key for column in outside]
    rest = keys if chosen else by_importance(made.columns)
    importance = tuple(dict.fromkeys([*([] if chosen else asked), *rest]))
    shown = importance[: None if chosen or everything else MOST]
    return Table(
        backbone=group.backbone,
        dataset=group.dataset,
        columns=made.columns,
        numbers=made.numbers,
        marks=ranking.marks,
        notes=notes_of(made, ranking, unknown),
        config_ids=tuple(row.variant.config_id for row in group.rows),
        failed={row.label: row.failed for row in group.rows},
        backbone_used=any(row.uses_backbone for row in group.rows),
        caption=caption(group),
        name=name(group),
        brief=brief_notes(made, ranking, unknown, shown),
        base=group.base.label if group.base else "",
        differences=ranking.differences,
        importance=importance,
        chosen=chosen or everything,
    )
