"""What a table means, in one or two sentences: made from its numbers and marks alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from reports.table.columns import COUNT, TIME, Column, Number
from reports.table.numbers import shown_unit, text_of
from reports.table.rows import failures
from reports.table.statistics import FEWEST

if TYPE_CHECKING:
    from reports.table.tables import Table

TELLING = {
    "position_error": "the object is on average {} from where the reference's is",
    "motion_fidelity": "motion fidelity is {}, where 1 is the reference's own motion",
}
"""The metrics that say best whether motion was transferred, and how: first the one that knows the truth."""

ON = ("", "this one clip", "these two clips", "these three clips", "these four clips", "these five clips")


def headline(table: Table) -> str:
    """A sentence or two about a table's first motion metric: who leads, by how much, how sure that is.

    Of a table of costs alone it says the time.

    Only what differs significantly by the table's marks is called different. Of fewer than six clips it says
    what was seen on them. One more sentence names the rows with failed cells.
    """
    column = next((one for one in _telling(table.columns) if _ranked(table, one)), None)
    if column is None:
        said = list(_nothing(table))
    else:
        numbers = _ranked(table, column)
        said = [_seen(table, column, numbers), *_sure(table, column, numbers)]
    if failed := [f"{label} {failures(counts)}" for label, counts in table.failed.items() if counts]:
        said.append(f"Failed cells are not in these numbers: {'; '.join(_few(failed))}.")
    return " ".join(said)


def _telling(columns: Sequence[Column]) -> list[Column]:
    """The metrics' columns, those that tell most about motion first."""
    order = {key: place for place, key in enumerate(TELLING)}
    metrics = [one for one in columns if one.paired and one.higher_is_better is not None]
    if not any(one.paired for one in columns):
        return [one for one in columns if one == TIME]
    return sorted(metrics, key=lambda one: (order.get(one.key, len(order)), not one.sees_motion))


def _nothing(table: Table) -> Iterator[str]:
    """Why there is no number to speak of."""
    if not any(of_row[COUNT.key].value > 0 for of_row in table.numbers.values()):
        yield "No video is finished yet."
    elif any(column.paired for column in table.columns):
        yield "No metric of this table has a number."


def _ranked(table: Table, column: Column) -> dict[str, Number]:
    """A column's numbers by the rows' labels, the best first; without the rows that have none."""
    known = {label: of_row[column.key] for label, of_row in table.numbers.items()}
    finite = [label for label, number in known.items() if math.isfinite(number.value)]
    finite.sort(key=lambda label: known[label].value, reverse=bool(column.higher_is_better))
    return {label: known[label] for label in finite}


def _seen(table: Table, column: Column, numbers: Mapping[str, Number]) -> str:
    """The best row's number and, for contrast, that of a row that is lower."""
    first, *others = numbers
    counts = {_clips(table, label, column) for label in numbers}
    text = "" if max(counts) >= FEWEST else f"On {ON[max(counts)] if len(counts) == 1 else 'so few clips'}, "
    text += f"{_with(first)} {_phrase(column).format(_text(numbers[first].value, column))}"
    if others:
        marks = table.marks
        lower = [label for label in others if marks[label][column.key] != "tied"] or others
        # Without guidance is what says most; else the lowest.
        other = next((label for label in lower if _is_none(label)), lower[-1])
        text += (
            f"; {_with(other)} it {'takes' if column == TIME else 'is'} {_text(numbers[other].value, column)}"
        )
    return f"{text[0].upper()}{text[1:]}."


def _sure(table: Table, column: Column, numbers: Mapping[str, Number]) -> Iterator[str]:
    """What the marks say of the rows beside the best, or what one row alone lacks."""
    first, *others = numbers
    mark = table.marks[first][column.key]
    equal = [label for label in others if table.marks[label][column.key] == "tied"]
    if not others:
        if column.paired and table.backbone_used and not _is_none(first):
            yield "Add method=none to see what the prompt alone gives."
    elif mark not in ("best", "tied"):
        few = [_name(label) for label in numbers if _clips(table, label, column) < FEWEST]
        if len(few) == len(numbers):
            yield f"It takes {FEWEST} clips that rows share to tell them apart."
        elif few:
            has = "has" if len(few) == 1 else "have"
            yield f"They are not ranked: {_and(_few(few))} {has} too few clips."
        else:
            yield "These rows cannot be ranked."
    elif len(equal) == len(others):
        yield f"No row differs significantly from {_name(first)}."
    elif equal:
        # Without guidance, where it is no worse, is what must not be missed.
        equal.sort(key=_is_none, reverse=True)
        do = "does" if len(equal) == 1 else "do"
        names = _and(_few([_name(label) for label in equal]))
        text = f"{names} {do} not differ significantly from {_name(first)}"
        yield f"{text}{_cheaper(table, first, equal)}."


def _cheaper(table: Table, first: str, equal: Sequence[str]) -> str:
    """The fastest of the rows that equal the best, where it is faster beyond chance."""
    times = {label: table.numbers[label].get(TIME.key, Number()) for label in (first, *equal)}
    fastest = min(times, key=lambda label: times[label].value)
    # Times of other devices are not marked; intervals apart say more than the marks would.
    compared = any(of_row.get(TIME.key) for of_row in table.marks.values())
    if not compared or not times[fastest].high < times[first].low:
        return ""
    who = "it" if len(equal) == 1 else _name(fastest)
    ours, theirs = (_text(times[label].value, TIME) for label in (fastest, first))
    return f"; {who} takes {ours} a video instead of {theirs}"


def _clips(table: Table, label: str, column: Column) -> int:
    """Clips of a row's number; where it has an interval, no fewer than that takes."""
    number = table.numbers[label][column.key]
    return len(number.points) or (FEWEST if math.isfinite(number.low) or not column.interval else 1)


def _phrase(column: Column) -> str:
    if column == TIME:
        return "a video takes {}"
    way = "higher" if column.higher_is_better else "lower"
    return TELLING.get(column.key, f"{column.label} is {{}} ({way} is better)")


def _text(value: float, column: Column) -> str:
    """The number with its unit."""
    return f"{text_of(Number(value), column, interval=False)} {shown_unit(column)}".strip()


def _is_none(label: str) -> bool:
    """Whether a row is of the method ``none``, by its label."""
    return label == "none" or label.startswith(("none,", "none ("))


def _name(label: str) -> str:
    """A label of several words in quotation marks, so that a sentence can hold it."""
    return f'"{label}"' if " " in label else label


def _with(label: str) -> str:
    if _is_none(label):
        return f"without guidance ({label})"
    return f"in the row {_name(label)}" if " " in label else f"with {label}"


def _few(names: Sequence[str]) -> list[str]:
    """The first two, and how many more."""
    return list(names) if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]


def _and(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])
