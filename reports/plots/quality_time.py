"""Quality against time, and the rows that no other row beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.plots.labels import label_points
from reports.plots.style import INK, laid_out, looks, methods_of, panels, quality, ratio_axis
from reports.table.columns import TIME
from reports.table.rows import Group
from reports.table.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Quality against time: means over clips and median seconds a video, with 95 % intervals from 6 clips on;"
    " the dashed line joins the rows that no other row beats in both (the Pareto front)."
)

INTERVAL: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.35, "zorder": 1.5}
"""Light: 18 rows' crosses would hide their points."""


def quality_against_time(group: Group, table: Table) -> Figure | str:
    """One panel a metric: value against seconds, with intervals, names and the Pareto front."""
    timed = {label: of_row[TIME.key] for label, of_row in table.numbers.items() if TIME.key in of_row}
    seconds = {label: time.value for label, time in timed.items() if math.isfinite(time.value)}
    shown = [
        (column, heading)
        for column, heading in quality(table)
        if sum(math.isfinite(table.numbers[label][column.key].value) for label in seconds) > 1
    ]
    if not shown:
        return "it takes two rows with a time and a metric's value over two clips or more"
    # Names take more room than points.
    crowded = len(seconds) > 6
    figure, axes = panels(
        len(shown), height=2.9 if crowded else 2.3, width=3.6 if crowded else 2.4, most=2 if crowded else 3
    )
    look = looks(methods_of(group))
    points: list[dict[str, tuple[float, float]]] = []
    for axis, (column, heading) in zip(axes, shown, strict=True):
        numbers = {label: table.numbers[label][column.key] for label in seconds}
        for label, number in numbers.items():
            time, colour = timed[label], look[label]["color"]
            axis.plot([time.value] * 2, [number.low, number.high], color=colour, **INTERVAL)
            axis.plot([time.low, time.high], [number.value] * 2, color=colour, **INTERVAL)
            axis.plot([time.value], [number.value], linestyle="none", label=label, **look[label])
        values = [number.value for number in numbers.values()]
        front = pareto(list(seconds.values()), values, column.higher_is_better is not False)
        places = [list(seconds.values())[index] for index in front]
        axis.plot(
            np.repeat(places, 2)[1:],
            np.repeat([values[index] for index in front], 2)[:-1],
            color=INK,
            linestyle=(0, (4, 3)),
            linewidth=0.8,
            zorder=1,
        )
        ratio_axis(axis.xaxis, seconds.values())
        if column.unit:
            ratio_axis(axis.yaxis, values)
        axis.set_xlabel("Time (s) ↓")
        axis.set_ylabel(heading)
        axis.margins(0.08)
        points.append({label: (seconds[label], number.value) for label, number in numbers.items()})
    laid_out(figure)
    for axis, of_panel in zip(axes, points, strict=True):
        label_points(axis, of_panel)
    return figure


def pareto(times: Sequence[float], values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Indices, fastest first, of the points that none as fast or faster equals or betters.

    Of equal points the first stands; points with a NaN do not count.
    """
    sign = 1.0 if higher_is_better else -1.0
    known = [i for i in range(len(times)) if math.isfinite(times[i]) and math.isfinite(values[i])]
    front: list[int] = []
    best = -math.inf
    for index in sorted(known, key=lambda i: (times[i], -sign * values[i])):
        if sign * values[index] > best:
            front.append(index)
            best = sign * values[index]
    return front
