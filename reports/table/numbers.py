"""Numbers as people read them, in every form of a table: one way to write each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from reports.table.columns import Column, Number

NOTHING = "-"
"""What stands where there is no number."""
MOST_DIGITS = 3
"""Digits after the point that people are shown; CSV holds them all."""


def text_of(number: Number, column: Column, interval: bool = True) -> str:
    """``.711 ±.029``: a number in its column's ``shown_unit``, and half the width of its 95 % interval.

    The value alone where there is no interval (fewer than 6 clips) or ``interval`` is False; ``-`` for none.
    Digits are ``column.digits``, at most 3, and fewer for large values.
    """
    value, low, high = (part / scale(column) for part in number[:3])
    if not math.isfinite(value):
        return NOTHING
    digits = digits_of(column, [value])
    text = number_text(value, digits)
    return f"{text} {half_text(low, high, digits)}".rstrip() if interval else text


def half_text(low: float, high: float, digits: int) -> str:
    """``±.029``: half the width of an interval; nothing for none."""
    known = math.isfinite(low) and math.isfinite(high)
    return f"±{number_text((high - low) / 2, digits)}" if known else ""


def ends_text(low: float, high: float, digits: int, *, sign: bool = False) -> str:
    """``[.682, .740]``: both ends of an interval; nothing for none."""
    known = math.isfinite(low) and math.isfinite(high)
    return f"[{number_text(low, digits, sign=sign)}, {number_text(high, digits, sign=sign)}]" if known else ""


def p_text(p: float) -> str:
    """``p < .001`` or ``p .031``; nothing where there is none."""
    return "" if math.isnan(p) else "p < .001" if p < 0.001 else f"p {number_text(p, 3)}"


def scale(column: Column) -> float:
    """What its numbers are divided by to be in ``shown_unit``."""
    return 1e9 if column.unit == "B" else 1.0


def shown_unit(column: Column) -> str:
    """The unit that people read: bytes are shown as GB (powers of ten)."""
    return "GB" if column.unit == "B" else column.unit


def digits_of(column: Column, values: Iterable[float]) -> int:
    """Digits after the point of values in ``shown_unit``: those declared, fewer for large values."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    most = 0 if largest >= 1000 else 1 if largest >= 100 else 2 if largest >= 10 else MOST_DIGITS
    return min(column.digits, most)


def number_text(value: float, digits: int, *, sign: bool = False) -> str:
    """Fixed digits, without the zero before the point."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def points_text(points: Sequence[float], digits: int, *, sign: bool = False) -> str:
    """The values of few clips: ``(.41 .52 .60)``; nothing for none."""
    return f"({' '.join(number_text(point, digits, sign=sign) for point in points)})" if points else ""
