"""People's votes: strengths of methods with their intervals, a panel a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.plots.files import Plot
from reports.plots.style import INK, look_of, panels, short, styled

if TYPE_CHECKING:
    from reports.study.table import VoteTable

CAPTION = (
    "Strength of each method in people's votes (Bradley-Terry, log, less the mean of all) and its 95 % "
    "interval over raters and clips. A difference of 1 is a preference of 73 %."
)


def draw(made: Sequence[VoteTable]) -> list[Plot]:
    """One figure of the questions whose votes suffice; none where no question's do."""
    shown = [
        table
        for table in made
        if table.of == "methods" and not table.everyone and not all(table.failed.values())
    ]
    if not shown:
        return []
    methods = sorted(shown[0].numbers)
    with styled():
        figure, axes = panels(len(shown), height=0.8 + 0.3 * len(methods))
        for axis, table in zip(axes, shown, strict=True):
            numbers = {label: of_row["strength"] for label, of_row in table.numbers.items()}
            for place, (label, number) in enumerate(reversed(numbers.items())):
                colour, mark = look_of(label)
                axis.plot([number.low, number.high], [place, place], color=INK, linewidth=1.6)
                axis.plot([number.value], [place], color=colour, marker=mark, markeredgecolor=INK)
            axis.axvline(0, color=INK, linewidth=0.8)
            axis.set_yticks(range(len(numbers)), [short(label, 22) for label in reversed(numbers)])
            axis.set_ylim(-0.6, len(numbers) - 0.4)
            axis.set_title(table.question)
            axis.set_xlabel("strength →")
            axis.grid(axis="y", visible=False)
            axis.locator_params(axis="x", nbins=5)
    return [Plot("people", CAPTION, figure)]
