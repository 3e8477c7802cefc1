"""How every figure looks: colours, markers and panels.

A colour and a marker belong to a method, in every figure and on the page, so that figures compare across
papers and survive colour blindness and black-and-white print.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from reports.table.columns import Column
from reports.table.formats import headers
from reports.table.rows import Group
from reports.table.tables import Table

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

INK = "#1b1c1e"
"""Text and lines. The page puts its own text colour in its place."""

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, GREY = "#E69F00", "#56B4E9", "#7F7F7F"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
"""Okabe and Ito's colours for the colour-blind (jfly.uni-koeln.de/color), with grey for their black and
without their yellow: both have to show on white paper and on a dark page."""

MARKERS = "oDs^vP*X<>"

Looks = dict[str, dict[str, Any]]
"""Row's label -> matplotlib's ``color`` and ``marker``."""

LOOKS = {
    # What is compared most has a colour of its own; the others share one with another marker.
    "none": (GREY, "o"),
    "fastvmt": (BLUE, "D"),
    "fastvmt_turbo": (VERMILLION, "*"),
    "full_attention": (GREEN, "s"),
    "ditflow": (ORANGE, "^"),
    "motionclone": (PURPLE, "v"),
    "moft": (SKY, "P"),
    "ditflow_rope": (ORANGE, "<"),
    "fastvmt_released": (BLUE, "X"),
    "no_skipping": (PURPLE, ">"),
    "no_window_loss": (SKY, "o"),
    "flowmotion": (GREEN, "P"),
    "smm": (VERMILLION, "o"),
    "det": (PURPLE, "s"),
    "motion_director": (GREY, "s"),
    "motion_inversion": (GREEN, "^"),
    "reframe": (VERMILLION, "X"),
    "ropecraft": (SKY, "v"),
    "external": (ORANGE, "o"),
    "precomputed": (GREY, "D"),
}
"""Method -> its colour and marker. A further method adds a line; without one it gets ``look_of``'s."""

ONE_CLIP = "it is of one clip, which says nothing of another"
"""Why a figure of quality is not drawn."""

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
    "hatch.linewidth": 0.4,
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


def panels(
    count: int, height: float = 2.3, width: float | None = None, most: int = 3
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, ``most`` abreast at most (a text's width), without empty axes."""
    from matplotlib.figure import Figure

    abreast = min(most, count)
    down = -(-count // abreast)
    across = width * abreast if width else {1: 4.6, 2: 6.4, 3: 7.2}[abreast]
    figure = Figure(figsize=(across, height * down + 0.3), layout="constrained")
    axes = list(figure.subplots(down, abreast, squeeze=False).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def laid_out(figure: Figure) -> None:
    """Give the panels the places that they keep: what is written into them afterwards moves none."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def look_of(method: str) -> tuple[str, str]:
    """A method's colour (``#rrggbb``) and matplotlib marker; one that no line of ``LOOKS`` names gets them
    from its name."""
    free = [(colour, mark) for mark in MARKERS for colour in COLOURS if (colour, mark) not in LOOKS.values()]
    digest = hashlib.sha256(method.encode(errors="surrogatepass")).digest()
    return LOOKS.get(method) or free[int.from_bytes(digest[:4]) % len(free)]


def colour_of(method: str) -> str:
    """A method's colour, ``#rrggbb``."""
    return look_of(method)[0]


def looks(methods: Mapping[str, str]) -> Looks:
    """How rows look, from their labels and methods.

    Rows of one method share its colour; the first has its marker, the others the next ones."""
    seen: dict[str, int] = {}
    found = {}
    for label, method in methods.items():
        colour, mark = look_of(method)
        further = seen[method] = seen.get(method, -1) + 1
        found[label] = {
            "color": colour,
            "marker": MARKERS[(MARKERS.index(mark) + further) % len(MARKERS)],
        }
    return found


def short(text: str, width: int = 34) -> str:
    """A label in one line, cut in its middle, where variants differ least."""
    line = " ".join(text.split())
    half = (width - 1) // 2
    return line if len(line) <= width else f"{line[:half]}…{line[-half:]}"


def ratio_axis(axis: XAxis | YAxis, values: Iterable[float]) -> None:
    """Make an axis of seconds, pixels or counts logarithmic where its values span a factor of four."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    known = [value for value in values if math.isfinite(value)]
    if not known or min(known) <= 0 or max(known) < 4 * min(known):
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    # The logarithmic axis would write its numbers as formulas, which are never parsed here.
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def headed(table: Table) -> list[tuple[Column, str]]:
    """The table's columns that have a number in some row, with their headings (label, unit, arrow)."""
    return [
        (column, heading)
        for column, heading in zip(table.columns, headers(table), strict=True)
        if any(of_row[column.key].value == of_row[column.key].value for of_row in table.numbers.values())
    ]


def quality(table: Table) -> list[tuple[Column, str]]:
    """Those of ``headed`` that are metrics, or columns compared as they are, of more than one clip."""
    return [
        (column, heading)
        for column, heading in headed(table)
        if column.paired
        and any(
            of_row[column.key].points or math.isfinite(of_row[column.key].low)
            for of_row in table.numbers.values()
        )
    ]


def methods_of(group: Group) -> dict[str, str]:
    """Row's label -> its method's name, as ``looks`` takes them."""
    return {row.label: row.variant.method for row in group.rows}
