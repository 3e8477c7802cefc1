"""What a take's own view shows: settings in words, stages, losses, tracks, and what ended it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.records import store
from harness.records.record import Record
from reports.page.tracks import tracks_of
from reports.table.numbers import number_text
from reports.table.rows import SETTINGS

PLACES = ("step", "iteration")
"""Keys of a trace's rows that say where in the guidance they are."""


def details(results: Path, folder: Path, record: Record) -> dict[str, Any]:
    """Plain data for the page's script; every number in it that people read is text already."""
    return {
        "settings": [[name, text] for name, text in settings(record)],
        "stages": [
            [name, seconds, f"{number_text(seconds, 2)} s"] for name, seconds in record.timing.stages.items()
        ],
        "curves": curves(folder / store.TRACE),
        "tracks": tracks_of(results, folder, record),
        "notes": record.notes,
        "traceback": record.error.traceback if record.error else "",
    }


def settings(record: Record) -> Iterator[tuple[str, str]]:
    """Names and values: what rows share, then the method's own options."""
    seen = set()
    for name, read in SETTINGS.items():
        value = read(record)
        if value is not None:
            seen.add(name.replace(" ", "_"))
            yield name, _words(value)
    yield "seed", str(record.seed)
    for name, value in _flat(record.method.config):
        if name not in seen:
            yield name.replace("_", " ").replace(".", ", "), _words(value)


def _flat(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key in ("_target_", "name"):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _words(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " x ".join(map(_words, value)) if value else "none"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b", r"\1", text)  # a digest's beginning tells it apart


def curves(path: Path) -> list[dict[str, Any]]:
    """Each number of a trace over guidance iterations: ``name``, ``x`` and ``y``, and texts of its ends.

    ``low`` and ``high`` are texts of the least and the largest value, ``span`` says what x counts.
    """
    try:
        trace = json.loads(path.read_bytes())
        rows = [row for row in trace if isinstance(row, dict)] if isinstance(trace, list) else []
    except (OSError, ValueError):
        return []
    found: dict[str, list[tuple[int, float]]] = {}
    for place, row in enumerate(rows):
        for key, value in row.items():
            if key in PLACES or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                found.setdefault(key, []).append((place, value))
    steps = len({row.get("step") for row in rows})
    span = f"{len(rows)} iterations, {steps} guided steps"
    return [
        {
            "name": key.replace("_", " "),
            "x": [x for x, _ in points],
            "y": [float(f"{y:.4g}") for _, y in points],
            "low": _short(min(y for _, y in points)),
            "high": _short(max(y for _, y in points)),
            "first": _short(points[0][1]),
            "last": _short(points[-1][1]),
            "span": span,
        }
        for key, points in found.items()
        if len(points) > 1
    ]


def _short(value: float) -> str:
    """Three digits, as numbers in tables are written."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.3g}")


__all__ = ["details"]
