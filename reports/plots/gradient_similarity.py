"""How alike successive true gradients are, from the cells' traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import store
from reports.plots.style import look, panels, short, with_legend
from reports.rows import Group, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Cosine of each true gradient to the true gradient before it, by inner iteration and by guided"
    " step: mean over videos, with the middle 80 %. Close to 1 the one before points the same way;"
    " whether reusing it costs quality is for a table to show."
)


def gradient_similarity(results: Path, group: Group) -> Figure | str:
    """Cosine of successive true gradients from the cells' traces, by inner iteration and by guided step."""
    found: dict[int, list[dict[str, Any]]] = {}
    for index, row in enumerate(group.rows):
        rows = [line for trace in _traces(results, row) for line in trace or [] if "similarity" in line]
        if rows:
            found[index] = rows
    if not found:
        return f"no {store.TRACE} holds a similarity: no method took two true gradients in one guided step"
    figure, axes = panels(2, width=3.4)
    for axis, (key, heading) in zip(
        axes, (("iteration", "Inner iteration"), ("step", "Guided step")), strict=True
    ):
        for index, rows in found.items():
            by_place: dict[int, list[float]] = {}
            for line in rows:
                by_place.setdefault(int(line[key]), []).append(float(line["similarity"]))
            places = sorted(by_place)
            low, high = np.transpose([np.percentile(by_place[place], (10, 90)) for place in places])
            style = look(index)
            means = [float(np.mean(by_place[place])) for place in places]
            axis.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
            axis.plot(places, means, label=short(group.rows[index].label), **style)
        axis.set_xlabel(heading)
        axis.locator_params(axis="x", integer=True)
        axis.set_ylim(top=1.02)
    axes[0].set_ylabel("Cosine to the last true gradient")
    return with_legend(figure, axes[0])


def unread_note(results: Path, group: Group) -> str:
    """What is said beside the figure of traces that cannot be read; empty where all can."""
    unread = sum(trace is None for row in group.rows for trace in _traces(results, row))
    return f" {unread} {store.TRACE} could not be read." if unread else ""


def _traces(results: Path, row: Row) -> Iterator[list[dict[str, Any]] | None]:
    """The traces of the row's finished cells, those that exist; None for one that cannot be read."""
    for record_id, record in row.records.items():
        path = results / row.cells[record_id].path / store.TRACE
        if record.status != "ok" or not path.exists():
            continue
        try:
            trace = json.loads(path.read_text())
            if not isinstance(trace, list) or not all(isinstance(line, dict) for line in trace):
                raise ValueError("not a list of rows")
        except (OSError, ValueError):
            yield None
        else:
            yield trace
