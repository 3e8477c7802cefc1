"""A table as the templates write it."""

from __future__ import annotations

import math
from typing import Any

from reports.formats import entries, headers
from reports.tables import Table


def grid(table: Table) -> dict[str, Any]:
    """Headings with a sentence each, and rows of entries with the numbers that they are sorted by."""
    return {
        "title": table.title,
        "headers": [
            {
                "text": text,
                "key": column.key,
                "sentence": getattr(column, "sentence", ""),
                "lower": column.higher_is_better is False,
            }
            for text, column in zip(headers(table), table.columns, strict=True)
        ],
        "rows": [
            {
                "label": label,
                "cells": [
                    {"entry": entry, "number": _plain(table.numbers[label][key].value)}
                    for key, entry in of_row.items()
                ],
            }
            for label, of_row in entries(table).items()
        ],
        "notes": table.notes,
    }


def _plain(value: float) -> str:
    """A number that a script reads; nothing where there is none."""
    return repr(value) if math.isfinite(value) else ""


__all__ = ["grid"]
