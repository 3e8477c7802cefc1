"""How every figure looks: colours, markers, panels and legends.

Rows are told apart by colour and by marker, so that figures survive colour blindness and black-and-white
print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reports.columns import Column
from reports.formats import headers
from reports.tables import Table

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

INK = "#1b1c1e"
"""Text and lines. The page puts its own text colour in its place."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's colours for the colour-blind (jfly.uni-koeln.de/color), with grey for their black and
without their yellow: both have to show on white paper and on a dark page."""

MARKERS = "osD^vPX*<>"

_STYLE: dict[RcKeyType, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a prompt or label may hold a dollar sign
    "pdf.fonttype": 42,  # text stays text: journals refuse type 3 fonts
    "svg.fonttype": "path",
    "svg.hashsalt": "vmtbench",
}


def styled() -> AbstractContextManager[None]:
    """Figures are drawn and saved inside this."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def panels(count: int, height: float = 2.3, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most three abreast (a text's width), without empty axes."""
    from matplotlib.figure import Figure

    abreast = min(3, count)
    down = -(-count // abreast)
    across = width * abreast if width else {1: 4.6, 2: 6.4, 3: 7.2}[abreast]
    figure = Figure(figsize=(across, height * down + 0.3), layout="constrained")
    axes = list(figure.subplots(down, abreast, squeeze=False).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def with_legend(figure: Figure, *axes: Axes) -> Figure:
    """One legend below all panels."""
    found = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    longest = max(map(len, found), default=1)
    across = max(1, min(len(found), 6, int(figure.get_figwidth() * 13 / (longest + 5))))
    # Room of its own: many rows would take it from the panels.
    figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(found) // across) - 1))
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=across)
    return figure


def look(index: int) -> dict[str, Any]:
    """A row's colour and marker: 70 differ before one comes back."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def short(text: str, width: int = 34) -> str:
    """A label in one line, cut in its middle, where variants differ least."""
    line = " ".join(text.split())
    half = (width - 1) // 2
    return line if len(line) <= width else f"{line[:half]}…{line[-half:]}"


def headed(table: Table) -> list[tuple[Column, str]]:
    """The table's columns that have a number in some row, with their headings (label, unit, arrow)."""
    return [
        (column, heading)
        for column, heading in zip(table.columns, headers(table), strict=True)
        if any(of_row[column.key].value == of_row[column.key].value for of_row in table.numbers.values())
    ]


def quality(table: Table) -> list[tuple[Column, str]]:
    """Those of ``headed`` that are metrics, or columns compared as they are."""
    return [(column, heading) for column, heading in headed(table) if column.paired]
