"""Differences from the baseline, clip by clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reports.plots.style import INK, looks, methods_of, panels, quality, short
from reports.table.rows import Group
from reports.table.statistics import clip_differences, difference_interval
from reports.table.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "Differences from the baseline: one dot for each clip (prompts and seeds averaged), their mean"
    " and, from 6 clips on, its 95 % interval. The table's marks say which differences are beyond chance."
)


def paired_differences(group: Group, table: Table) -> Figure | str:
    """One panel a metric: each clip's difference from the baseline's, their mean and its interval."""
    base = group.base
    if base is None:
        return "no baseline: the plan names none, and the method none is not among the rows"
    others = [row for row in group.rows if row is not base and not row.untrained]
    if not quality(table):
        return "no metric has a value for two clips or more"
    drawn: list[tuple[str, dict[str, dict[str, float]]]] = []
    for column, heading in [] if base.untrained else quality(table):
        kept = column.kept(group.rows)
        of_rows = {row.label: clip_differences(kept[row.label], kept[base.label]) for row in others}
        of_rows = {label: clips for label, clips in of_rows.items() if len(clips) > 1}
        if of_rows:
            drawn.append((heading, of_rows))
    if not drawn:
        return f"no row shares two clips (with prompt and seed) with the baseline {base.label}"
    look = looks(methods_of(group))
    figure, axes = panels(len(drawn), height=0.8 + 0.22 * len(others))
    for axis, (heading, of_rows) in zip(axes, drawn, strict=True):
        places = {row.label: len(others) - 1 - index for index, row in enumerate(others)}
        for label, clips in of_rows.items():
            style, place = look[label], places[label]
            differences = sorted(clips.values())
            # Spread a little up and down, alternating, so that equal clips do not hide each other.
            spread = 0.25 * np.sin(2.4 * np.arange(len(differences)))
            axis.plot(differences, place + spread, ".", color=style["color"], alpha=0.55, markersize=4)
            axis.plot(difference_interval(differences), [place, place], color=INK, linewidth=1.6)
            axis.plot([np.mean(differences)], [place], **style, markeredgecolor=INK, markeredgewidth=0.7)
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.set_yticks(list(places.values()), [short(label, 22) for label in places])
        axis.set_ylim(-0.6, len(others) - 0.4)
        axis.set_title(heading)
        axis.set_xlabel(f"difference from {short(base.label, 22)}")
        axis.grid(axis="y", visible=False)
        axis.locator_params(axis="x", nbins=5)
    for axis in figure.axes:
        place_in_grid = axis.get_subplotspec()
        if place_in_grid is not None and not place_in_grid.is_first_col():
            axis.tick_params(labelleft=False)
    return figure
