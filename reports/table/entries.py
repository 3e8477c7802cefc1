"""Tables as text, an entry a cell: the same in every form that a table is written in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from reports.table.columns import COUNT, Column, Number
from reports.table.numbers import (
    digits_of,
    ends_text,
    half_text,
    number_text,
    p_text,
    points_text,
    scale,
    shown_unit,
    text_of,
)
from reports.table.ranking import difference_text, in_unit
from reports.table.rows import failures
from reports.table.statistics import LEVEL, Difference
from reports.table.tables import Table

ARROWS = {True: " ↑", False: " ↓", None: ""}


class Entry(NamedTuple):
    """A number as it is written, its interval (or nothing), its mark and, of a difference, its p.

    ``mark``: ``best`` or ``tied``; ``apart`` for a difference with a p of at most .05.
    """

    value: str
    interval: str
    mark: str
    p: str = ""


def heading(column: Column, arrow: bool = True) -> str:
    """Label, unit and an arrow towards the better end."""
    unit = shown_unit(column)
    return f"{column.label}{f' ({unit})' if unit else ''}{ARROWS[column.higher_is_better] if arrow else ''}"


def headers(table: Table, columns: Sequence[Column] | None = None) -> list[str]:
    """Headings of some columns of a table, of all by default."""
    return [heading(column) for column in (table.columns if columns is None else columns)]


def entries(table: Table, ends: bool = False) -> dict[str, dict[str, Entry]]:
    """Row's label -> column's key -> its number as text; ``-`` where there is none.

    Intervals are half their width (``±.029``); with ``ends`` both ends, or few clips' values.
    """
    found: dict[str, dict[str, Entry]] = {label: {} for label in table.numbers}
    for column in table.columns:
        by = scale(column)
        digits = digits_of(column, [of_row[column.key].value / by for of_row in table.numbers.values()])
        # All rows have the digits of the largest.
        fitted = replace(column, digits=digits)
        for label, of_row in table.numbers.items():
            number = of_row[column.key]
            value, interval = text_of(number, fitted, interval=False), ""
            if not math.isfinite(number.value):
                value = _why_nothing(table, label, value)
            elif ends:
                few = points_text([point / by for point in number.points], digits)
                interval = ends_text(number.low / by, number.high / by, digits) or few
            else:
                interval = half_text(number.low / by, number.high / by, digits)
            if column == COUNT and table.failed[label]:
                interval = f"({failures(table.failed[label])})"
            found[label][column.key] = Entry(value, interval, table.marks[label][column.key])
    return found


def _why_nothing(table: Table, label: str, otherwise: str) -> str:
    """A row that failed for one reason throughout says it in place of its numbers."""
    ended = table.failed[label]
    finished = table.numbers[label].get(COUNT.key, Number(0.0)).value
    return next(iter(ended)) if len(ended) == 1 and not finished else otherwise


def differences(table: Table, columns: Sequence[Column]) -> dict[str, dict[str, Entry]]:
    """Row's label -> column's key -> its difference from the base row: ``+.512 ±.093`` and ``p < .001``."""
    found: dict[str, dict[str, Entry]] = {}
    for column in columns:
        known = {
            label: in_unit(of[column.key], column)
            for label, of in table.differences.items()
            if column.key in of
        }
        digits = digits_of(column, [one.mean for one in known.values()])
        for label, one in known.items():
            found.setdefault(label, {})[column.key] = _difference(one, digits)
    return {label: found[label] for label in table.numbers if label in found}


def _difference(one: Difference, digits: int) -> Entry:
    value = number_text(one.mean, digits, sign=True)
    mark = "apart" if one.p <= LEVEL else ""
    return Entry(value, half_text(*one.interval, digits), mark, p_text(one.p))


def all_differences(table: Table) -> list[list[str]]:
    """A line for each row and column: row, column, difference with both ends and p, number of clips."""
    return [
        [label, heading(column, arrow=False), difference_text(one, column), str(len(one.values))]
        for label, of_row in table.differences.items()
        for column in table.columns
        if (one := of_row.get(column.key)) is not None
    ]


def compared(table: Table, columns: Sequence[Column]) -> list[Column]:
    """The columns that have differences from the base row."""
    return [column for column in columns if any(column.key in of for of in table.differences.values())]


def fitting(
    table: Table, columns: Sequence[Column], fits: Callable[[Sequence[Column]], bool]
) -> list[Column]:
    """The columns that fit together, the least important left out; one at least."""
    kept = list(columns)
    keys = {column.key for column in kept}
    order = [key for key in table.importance or [column.key for column in kept] if key in keys]
    while len(order) > 1 and not fits(kept):
        least = order.pop()
        kept = [column for column in kept if column.key != least]
    return kept


def not_shown(table: Table, shown: Sequence[Column]) -> str:
    """``Not shown: Memory, Forward eq.``; nothing where all columns are, the count of clips left aside."""
    labels = ", ".join(column.label for column in table.columns if column not in (*shown, COUNT))
    return f"Not shown: {labels.removesuffix('.')}." if labels else ""


__all__ = [
    "Entry",
    "all_differences",
    "compared",
    "differences",
    "entries",
    "fitting",
    "headers",
    "heading",
    "not_shown",
]
