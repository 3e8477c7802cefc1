"""Tables from plans and records alone: no torch, no weights, no videos.

``tables`` builds the numbers once, one ``Table`` for each backbone and dataset;
``to_markdown``, ``to_latex``, ``to_csv`` and ``to_rich`` only write them down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.errors import InputError
from reports.columns import (
    COSTS,
    COUNT,
    FURTHER,
    GRADIENTS,
    SECONDARY,
    SPEEDUP,
    Column,
    _costs,
    _metric_columns,
    _quality,
    _shown,
    _speedup,
)
from reports.notes import (
    _cost_notes,
    _count_notes,
    _difference_notes,
    _failure_notes,
    _left_out,
    _level_notes,
    _null_notes,
    _speedup_note,
    _unlike,
)
from reports.ranking import _marks
from reports.rows import Row, _failed, _named_base, _nearest, _null_somewhere, failures, groups

if TYPE_CHECKING:
    import pandas as pd

    from harness.records.record import Plan


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


# Ranks and speed-ups


# Notes


# How numbers look
