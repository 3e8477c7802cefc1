"""Best and second of a column, and paired differences from the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reports.columns import SPEEDUP, Column, _by_pair, _digits, _number
from reports.rows import SETTINGS, Row
from reports.statistics import (
    Difference,
    Pair,
    holm,
    paired_difference,
)

if TYPE_CHECKING:
    import pandas as pd


TIES = {"tied": "=1", "tied second": "=2"}
"""What stands behind a number that cannot be told from the first, or second, of its column."""


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
