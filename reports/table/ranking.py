"""The best of each column, and paired differences from the baseline: what the numbers can tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from reports.table.columns import MEMORY, Body, Column, peak, points_of
from reports.table.numbers import digits_of, ends_text, number_text, p_text, points_text, scale
from reports.table.rows import SETTINGS, Row
from reports.table.statistics import LEVEL, Difference, Pair, clip_differences, differences

MARKS = {"best": "●", "tied": "○"}
"""What stands before the best number of a column, or before those that are tied for it."""

Compared = dict[tuple[str, str], Difference]


@dataclass(frozen=True)
class Ranking:
    """``marks``: row's label -> column's key -> ``best``, ``tied`` (with the best) or nothing.

    ``withheld`` are the columns of rows too unlike to be ranked, ``few`` those in which rows share too few
    clips to be told apart. ``differences``: row's label -> column's key -> difference from the base row.

    A number is best when its difference from every other row's has a p of at most .05, adjusted over all
    pairs of rows in its column; else it is tied with those it cannot be told from. Nothing is marked between
    rows of other sizes, weights or, for time and memory, devices. Counts are compared as they are shown.
    """

    marks: dict[str, dict[str, str]]
    withheld: list[Column]
    few: list[Column]
    crossed: list[Column]
    differences: dict[str, dict[str, Difference]]


def rank(body: Body) -> Ranking:
    """The best of each column, and differences from the base row, by one p for each pair of rows."""
    base = body.group.base
    found = Ranking(
        {label: dict.fromkeys(of_row, "") for label, of_row in body.numbers.items()}, [], [], [], {}
    )
    for column in body.columns:
        rows = [row for row in body.group.rows if math.isfinite(body.numbers[row.label][column.key].value)]
        ranked = column.ranked and column.higher_is_better is not None
        if len(rows) < 2 or not (ranked or column.paired):
            continue
        cells = body.cells[column.key]
        pairs = (
            {} if column.exact else compare({row.label: _compared(column, cells[row.label]) for row in rows})
        )
        if column.paired and base is not None:
            for row in rows:
                if (row.label, base.label) in pairs:
                    found.differences.setdefault(row.label, {})[column.key] = pairs[row.label, base.label]
        if not ranked:
            continue
        # A process's peak is what its allocator happened to keep.
        if column == MEMORY and any(peak(row.finished)[1] == "process" for row in rows):
            continue
        if _too_unlike(rows, column):
            found.withheld.append(column)
            continue
        given = _marks(body, column, rows, pairs)
        if not given:
            known = all(math.isfinite(one.p) for one in pairs.values()) and len(pairs) == len(rows) * (
                len(rows) - 1
            )
            (found.crossed if known else found.few).append(column)
        for label, mark in given.items():
            found.marks[label][column.key] = mark
    return found


def _compared(column: Column, cells: Mapping[Pair, float]) -> Mapping[Pair, float]:
    """A row's numbers as rows are compared by them: logarithms where ratios count."""
    return {pair: math.log(value) for pair, value in cells.items() if value > 0} if column.ratio else cells


def _too_unlike(rows: Sequence[Row], column: Column) -> bool:
    """Whether the rows' numbers are of things that are not ranked: other sizes, weights, masks, devices."""
    for name in ("device", "threads"):
        # Finished videos were made on a device nobody told us.
        found = [row.setting(SETTINGS[name]) for row in rows]
        if column.of_device and (len(set(found)) > 1 or any(len(values) > 1 for values in found)):
            return True
    names = ("frames", "frame size", "weights", *(["masks"] if column.sees_motion else []))
    return any(len({row.setting(SETTINGS[name]) for row in rows} - {()}) > 1 for name in names)


def compare(cells: Mapping[str, Mapping[Pair, float]]) -> Compared:
    """Differences of every two rows that share a clip, both ways, their p adjusted over all of them.

    ``cells``: row's label -> its numbers by (clip, prompt, seed).
    """
    found: Compared = {}
    pairs = {(a, b): clip_differences(cells[a], cells[b]) for a, b in combinations(cells, 2)}
    for (a, b), one in zip(pairs, differences(list(pairs.values())), strict=True):
        if one.values:
            found |= {(a, b): one, (b, a): one.turned}
    return found


def marks(
    values: Mapping[str, float], higher: bool, leads: Callable[[str, str], bool | None]
) -> dict[str, str]:
    """The marks of one column by row's label.

    ``leads``: whether the first row is told from the second, to its favour; None where it cannot be.
    """
    first, *others = sorted(values, key=values.__getitem__, reverse=higher)
    verdicts = [leads(first, other) for other in others]
    if None in verdicts:
        return {}
    level = [label for label, verdict in zip(others, verdicts, strict=True) if not verdict]
    return dict.fromkeys([first, *level], "tied") if level else {first: "best"}


def told(pairs: Compared, higher: bool, one: str, other: str) -> bool | None:
    """Whether ``one``, of the better number, is better than ``other`` beyond chance on the clips they share.

    None where they share too few to say, and where ``other`` is the better one there: numbers over clips of
    which one row lacks the hard ones say nothing.
    """
    difference = pairs.get((one, other))
    if difference is None or math.isnan(difference.p):
        return None
    if difference.p > LEVEL:
        return False
    return True if (difference.mean > 0) == higher else None


def _marks(body: Body, column: Column, rows: Sequence[Row], pairs: Compared) -> dict[str, str]:
    """The marks of the rows that have a number in a column; counts are compared as they are shown."""
    values = {row.label: body.numbers[row.label][column.key].value for row in rows}
    higher = bool(column.higher_is_better)
    if not column.exact:
        return marks(values, higher, partial(told, pairs, higher))
    digits = digits_of(column, values.values())
    shown = {label: number_text(value, digits) for label, value in values.items()}
    return marks(values, higher, lambda one, other: shown[one] != shown[other])


def in_unit(one: Difference, column: Column) -> Difference:
    """A difference in the unit that people read."""
    return Difference(tuple(value / scale(column) for value in one.values), one.p)


def difference_text(one: Difference, column: Column) -> str:
    """``+.05 [+.01, +.09] p .031``: the mean, its interval or few clips' values, and the p there is."""
    one = in_unit(one, column)
    digits = digits_of(column, [one.mean])
    few = points_text(points_of(one.values), digits, sign=True)
    ends = ends_text(*one.interval, digits, sign=True) or few
    return " ".join(filter(None, (number_text(one.mean, digits, sign=True), ends, p_text(one.p))))
