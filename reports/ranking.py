"""Best and second of a column, and paired differences from the baseline: what the numbers can tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reports.columns import MEMORY, Body, Column, digits_of, number_text, peak
from reports.rows import SETTINGS, Row
from reports.statistics import Difference, Pair, holm, paired_difference

TIES = {"tied": "=1", "tied second": "=2"}
"""What stands behind a number that cannot be told from the first, or second, of its column."""


@dataclass(frozen=True)
class Ranking:
    """``marks``: row's label -> column's key -> ``best``, ``second``, ``tied`` (for best), ``tied second`` or
    nothing. ``withheld`` are the columns of rows too unlike to be ranked.

    A number is best when the paired 95 % interval of its difference from every other row's excludes 0, else
    it is tied with those it cannot be told from; the second likewise among the others. Nothing with fewer
    than two clips in common, and between rows of other sizes, weights or, for time and memory, devices.
    Counts are compared as they are shown.
    """

    marks: dict[str, dict[str, str]]
    withheld: list[Column]


def rank(body: Body) -> Ranking:
    """Best and second of each column where their intervals say so."""
    marks = {label: dict.fromkeys(of_row, "") for label, of_row in body.numbers.items()}
    withheld = []
    for column in body.columns:
        known = [row for row in body.group.rows if math.isfinite(body.numbers[row.label][column.key].value)]
        if column.higher_is_better is None or not column.ranked or len(known) < 2:
            continue
        # A process's peak is what its allocator happened to keep.
        if column == MEMORY and any(peak(row.finished)[1] == "process" for row in known):
            continue
        if _too_unlike(known, column):
            withheld.append(column)
            continue
        for label, mark in _marks(body, column, known).items():
            marks[label][column.key] = mark
    return Ranking(marks, withheld)


def _too_unlike(rows: Sequence[Row], column: Column) -> bool:
    """Whether the rows' numbers are of things that are not ranked: other sizes, weights, masks, devices."""
    for name in ("device", "threads"):
        # Finished videos were made on a device nobody told us.
        found = [row.setting(SETTINGS[name]) for row in rows]
        if column.of_device and (len(set(found)) > 1 or any(len(values) > 1 for values in found)):
            return True
    names = ("frames", "frame size", "weights", *(["masks"] if column.sees_motion else []))
    return any(len({row.setting(SETTINGS[name]) for row in rows} - {()}) > 1 for name in names)


def _marks(body: Body, column: Column, rows: Sequence[Row]) -> dict[str, str]:
    """The marks of one column by row label, of the rows that have a number in it."""
    higher = bool(column.higher_is_better)
    values = {row.label: body.numbers[row.label][column.key].value for row in rows}
    digits = digits_of(column, values.values())
    cells = body.cells[column.key]

    def leads(one: Row, other: Row) -> bool | None:
        if column.exact:
            shown = [number_text(values[row.label], digits) for row in (one, other)]
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


def _leads(better: Mapping[Pair, float], worse: Mapping[Pair, float], higher: bool) -> bool | None:
    """Whether the paired interval of the difference excludes 0; None when there are too few clips for one."""
    shared = better.keys() & worse.keys()
    if len({pair[0] for pair in shared}) < 2:
        return None
    difference = paired_difference({pair: better[pair] for pair in sorted(shared)}, worse, with_p=False)
    assert difference is not None
    return difference.low > 0 if higher else difference.high < 0


def differences(body: Body) -> dict[str, dict[str, Difference]]:
    """Row's label -> column's key -> difference from the base row; p adjusted over all of them (Holm)."""
    base = body.group.base
    found: dict[str, dict[str, Difference]] = {}
    for row in body.group.rows:
        if base is None or row is base:
            continue
        of_row: dict[str, Difference] = {}
        for column in body.paired:
            cells = body.cells[column.key]
            difference = paired_difference(cells[row.label], cells[base.label])
            if difference is not None:
                of_row[column.key] = difference
        found[row.label] = of_row
    places = [(label, key) for label, of_row in found.items() for key in of_row]
    for (label, key), p in zip(places, holm([found[label][key].p for label, key in places]), strict=True):
        found[label][key] = replace(found[label][key], p=p)
    return found
