"""Tables from plans and records alone: no torch, no weights, no videos.

``tables`` makes one ``Table`` for each backbone and dataset; ``reports.formats`` writes them down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.errors import InputError, nearest
from reports.columns import COSTS, Column, Number, body, metric_columns
from reports.notes import notes_of
from reports.ranking import rank
from reports.rows import Group, failures, groups

if TYPE_CHECKING:
    import pandas as pd

    from harness.records.record import Plan


@dataclass(frozen=True)
class Table:
    """The rows of one backbone and dataset.

    ``numbers``: row's label -> column's key -> number with its 95 % interval, NaN where there is none; in
    seconds, bytes and the metrics' own units. ``marks``, of the same shape, are ``reports.ranking``'s.
    ``notes`` stand under the table; ``failed`` counts a row's cells without a video by what ended them.
    ``backbone_used`` is False where all videos came from elsewhere. ``stratum``: the kind of clips or prompts
    that it is of, empty for all.
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

    @property
    def title(self) -> str:
        where = f"{self.dataset} on {self.backbone}" if self.backbone_used else self.dataset
        return f"{where}, {self.stratum}" if self.stratum else where

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

        Where few clips stand in place of intervals, ``_points`` holds them, apart by spaces.
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
        flat["failed"] = [failures(self.failed[label]) for label in self.numbers]
        return flat


def tables(
    results: Path,
    plans: Sequence[Plan],
    everything: bool = False,
    p_values: bool = False,
    only: Sequence[str] = (),
    outside: Sequence[Column] = (),
) -> list[Table]:
    """One table for each backbone and dataset of the plans, in their order.

    ``everything`` shows the metrics that are not primary too, ``p_values`` the p of each paired difference;
    ``only`` names the columns to show, by key and in their order, as the plans may; ``outside`` are columns
    besides ours. Reads records from ``results``; one that cannot be read is named in the notes. InputError
    for a column that no table has, and for an outside one whose key is taken.
    """
    found = groups(results, plans)
    known = {column.key for group in found for column in metric_columns(group.rows)}
    known |= {column.key for column in COSTS}
    for column in outside:
        if column.key in known:
            raise InputError(f"--column {column.key}: there is such a column already; give it another key")
        known.add(column.key)
    for key in only:
        if key not in known:
            raise InputError(f"--columns {key}: no such column; {nearest(key, known)}")
    return [_table(group, everything, p_values, only, outside) for group in found]


def _own_columns(group: Group) -> list[str]:
    """The columns that the plans name, where all name the same; those that no record has are left out."""
    named = [plan.columns for plan in group.plans]
    return named[0] if named and all(columns == named[0] for columns in named) else []


def _table(
    group: Group, everything: bool, p_values: bool, only: Sequence[str], outside: Sequence[Column]
) -> Table:
    shown = only
    if not only and not everything and (own := _own_columns(group)):
        shown = [*own, *(column.key for column in outside)]
    made = body(group, everything, shown, outside)
    ranking = rank(made)
    return Table(
        backbone=group.backbone,
        dataset=group.dataset,
        columns=made.columns,
        numbers=made.numbers,
        marks=ranking.marks,
        notes=notes_of(made, ranking, p_values),
        config_ids=tuple(row.variant.config_id for row in group.rows),
        failed={row.label: row.failed for row in group.rows},
        backbone_used=any(row.uses_backbone for row in group.rows),
    )
