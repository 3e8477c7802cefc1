"""How alike successive true gradients are, from the cells' traces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import store
from reports.plots.style import INK, panels, short
from reports.table.numbers import number_text
from reports.table.rows import Group, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

CAPTION = (
    "Cosine of each true gradient to the true gradient before it, by guided step and inner iteration: means"
    " over videos. At the edges: the means of each step and of each iteration. Titles say how many iterations"
    " lie between the two; hatched: there no gradient was computed."
)


def gradient_similarity(results: Path, group: Group) -> Figure | str:
    """One map a row, of guided steps by inner iterations: the cosine of successive true gradients."""
    found = {row.label: cosines for row in group.rows if (cosines := _cosines(results, row))}
    if not found:
        return f"no row has two videos whose {store.TRACE} holds two true gradients of one guided step"
    most = max(len(cosines.by_step) for cosines in found.values())
    figure, axes = panels(len(found), height=0.65 + 0.15 * most, width=2.4)
    for axis, (label, cosines) in zip(axes, found.items(), strict=True):
        steps, iterations = sorted(cosines.by_step), sorted(cosines.by_iteration)
        grid = np.array(
            [[cosines.mean.get((step, one), np.nan) for one in iterations] for step in steps], dtype=float
        )
        drawn = axis.imshow(
            grid, cmap="PuOr", vmin=-1, vmax=1, aspect="auto", interpolation="nearest", zorder=1
        )
        axis.set_title(f"{short(label, 26)}: {cosines.apart}", pad=11)
        axis.grid(visible=False)
        axis.add_patch(_behind(len(iterations), len(steps)))
        axis.set_xticks(range(len(iterations)), [str(one) for one in iterations])
        axis.set_yticks(range(len(steps)), [str(step) for step in steps])
        axis.set_xlabel("Inner iteration")
        axis.set_ylabel("Guided step")
        for place, step in enumerate(steps):
            _edge(axis, cosines.by_step[step], (len(iterations) - 0.4, place), (2, 0), ha="left", va="center")
        for place, one in enumerate(iterations):
            _edge(axis, cosines.by_iteration[one], (place, -0.5), (0, 2), ha="center", va="bottom")
    height = 1.6 / float(figure.get_figheight())
    figure.colorbar(drawn, ax=axes, shrink=height, label="Cosine", pad=0.02, aspect=12)
    return figure


def _behind(across: int, down: int) -> Rectangle:
    """What is seen where a map is empty: its middle colour is the paper's."""
    from matplotlib.patches import Rectangle

    return Rectangle(
        (-0.5, -0.5), across, down, hatch="//////", facecolor="none", edgecolor=INK, linewidth=0, zorder=0.5
    )


def _edge(axis: Axes, value: float, at: tuple[float, float], away: tuple[int, int], **given: Any) -> None:
    axis.annotate(
        number_text(value, 2),
        at,
        away,
        textcoords="offset points",
        fontsize=5.5,
        annotation_clip=False,
        **given,
    )


@dataclass(frozen=True)
class _Cosines:
    """Of one row. ``mean``: (step, iteration) -> mean over videos; ``by_step``, ``by_iteration``: over all
    cosines there; ``apart``: how many iterations lie between the two gradients, in words."""

    mean: dict[tuple[int, int], float]
    by_step: dict[int, float]
    by_iteration: dict[int, float]
    apart: str


def _cosines(results: Path, row: Row) -> _Cosines | None:
    videos = 0
    values: dict[tuple[int, int], list[float]] = {}
    gaps: set[int] = set()
    for trace in _traces(results, row):
        last = 0
        videos += any("similarity" in line for line in trace or [])
        for place, line in enumerate(trace or []):
            if "similarity" in line:
                values.setdefault((int(line["step"]), int(line["iteration"])), []).append(line["similarity"])
                gaps.add(place - last)
            if line.get("true_gradient", True):
                last = place
    if videos < 2:
        return None
    few, most = min(gaps), max(gaps)
    apart = f"{few} to {most} apart" if few < most else f"{few} apart"
    by_step: dict[int, list[float]] = {}
    by_iteration: dict[int, list[float]] = {}
    for (step, iteration), some in values.items():
        by_step.setdefault(step, []).extend(some)
        by_iteration.setdefault(iteration, []).extend(some)
    return _Cosines(
        {place: float(np.mean(some)) for place, some in values.items()},
        {step: float(np.mean(some)) for step, some in by_step.items()},
        {iteration: float(np.mean(some)) for iteration, some in by_iteration.items()},
        apart,
    )


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
