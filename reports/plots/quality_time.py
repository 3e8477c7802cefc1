"""Quality against time, and the rows that no other row beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.columns import TIME
from reports.plots.style import INK, look, panels, quality, short, with_legend
from reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Quality against time: means over clips and median seconds a video, with 95 % intervals from 6 clips on;"
    " the dashed line joins the rows that no other row beats in both (the Pareto front)."
)


def quality_against_time(table: Table) -> Figure | str:
    """One panel a metric: value against seconds, with intervals and the Pareto front."""
    from matplotlib.ticker import LogLocator

    shown = quality(table)
    timed = [of_row[TIME.key].value for of_row in table.numbers.values()] if TIME in table.columns else []
    known = [seconds for seconds in timed if not math.isnan(seconds)]
    if not shown or not known:
        return "no row has both a metric's value and a time"
    figure, axes = panels(len(shown))
    for axis, (column, heading) in zip(axes, shown, strict=True):
        for index, (label, of_row) in enumerate(table.numbers.items()):
            style = look(index)
            time, number = of_row[TIME.key], of_row[column.key]
            axis.plot([time.value, time.value], [number.low, number.high], color=style["color"], linewidth=1)
            axis.plot([time.low, time.high], [number.value, number.value], color=style["color"], linewidth=1)
            axis.plot([time.value], [number.value], linestyle="none", label=short(label), **style)
        values = [of_row[column.key].value for of_row in table.numbers.values()]
        front = pareto(timed, values, column.higher_is_better is not False)
        axis.step(
            [timed[index] for index in front],
            [values[index] for index in front],
            where="post",
            color=INK,
            linestyle=(0, (4, 3)),
            linewidth=0.8,
            zorder=1,
        )
        if max(known) > 8 * min(known) > 0:
            axis.set_xscale("log")
            # The logarithmic axis would write its numbers as formulas, which are never parsed here.
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
        axis.set_xlabel("Time (s) ↓")
        axis.set_ylabel(heading)
        axis.margins(0.1)
    return with_legend(figure, axes[0])


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
