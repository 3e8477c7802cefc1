"""A table as the templates write it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reports.table.columns import Column
from reports.table.entries import Entry, all_differences, differences, entries, heading
from reports.table.ranking import MARKS
from reports.table.tables import Table

Of = Callable[[str, str], float]


def grid(table: Table, columns: Sequence[Column] | None = None) -> dict[str, Any]:
    """The main table (or these columns), the differences from the baseline, and under ``details`` the rest.

    Each is a sheet: headings with a sentence each, and rows of entries with the numbers they are sorted by.
    """
    main = columns or table.main()
    paired = [one for one in main if any(one.key in of_row for of_row in table.differences.values())]

    def value(label: str, key: str) -> float:
        return table.numbers[label][key].value

    def difference(label: str, key: str) -> float:
        return table.differences[label][key].mean

    return {
        "title": table.title,
        "main": _sheet(main, entries(table), value),
        "brief": table.brief,
        "base": table.base,
        "differences": _sheet(paired, differences(table, paired), difference) if paired else None,
        "details": {
            "sheet": _sheet(table.columns, entries(table, ends=True), value),
            "lines": all_differences(table),
            "notes": table.notes,
        },
    }


def _sheet(columns: Sequence[Column], of_rows: Mapping[str, Mapping[str, Entry]], of: Of) -> dict[str, Any]:
    return {
        "headings": [
            {
                "text": heading(column),
                "key": column.key,
                "sentence": column.sentence,
                "lower": column.higher_is_better is False,
            }
            for column in columns
        ],
        "rows": [
            {
                "label": label,
                "cells": [_cell(of_row.get(one.key), label, one.key, of) for one in columns],
            }
            for label, of_row in of_rows.items()
        ],
    }


def _cell(entry: Entry | None, label: str, key: str, of: Of) -> dict[str, str]:
    """An entry, its glyph, and its number as a script reads it: nothing where there is none."""
    if entry is None:
        return {"value": "-", "interval": "", "mark": "", "glyph": "", "p": "", "number": ""}
    number = of(label, key)
    return {
        **entry._asdict(),
        "glyph": MARKS.get(entry.mark, ""),
        "number": repr(float(number)) if math.isfinite(number) else "",
    }


__all__ = ["grid"]
