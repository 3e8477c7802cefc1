"""All figures of a results folder: a further one is one entry of ``_drawings``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reports.plots import ablation, gradient_similarity, paired_differences, quality_time, stages
from reports.plots.files import Plot, save, slug
from reports.plots.style import styled
from reports.table.rows import Group, groups
from reports.table.tables import Table, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.records.record import Plan


@dataclass(frozen=True)
class NotDrawn:
    """A figure there is no data for, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Drawing:
    """A figure before it is drawn; ``note`` is said whether or not there is something to draw.

    ``on_page``: the page shows it; it has a table of its own for the others, or they take long.
    """

    name: str
    caption: str
    draw: Callable[[], Figure | str]
    note: str = ""
    on_page: bool = True


def _drawings(results: Path, group: Group, table: Table) -> Iterator[_Drawing]:
    yield _Drawing(
        "quality_time", quality_time.CAPTION, partial(quality_time.quality_against_time, group, table)
    )
    yield _Drawing("time_stages", stages.TIME_CAPTION, partial(stages.time_by_stage, group))
    yield _Drawing("memory_stages", stages.MEMORY_CAPTION, partial(stages.memory_over_stages, group))
    yield _Drawing(
        "paired_differences",
        paired_differences.CAPTION,
        partial(paired_differences.paired_differences, group, table),
        on_page=False,
    )
    yield _Drawing(
        "gradient_similarity",
        gradient_similarity.CAPTION,
        partial(gradient_similarity.gradient_similarity, results, group),
        gradient_similarity.unread_note(results, group),
        on_page=False,
    )
    for key, lines in ablation.sweeps(group).items():
        yield _Drawing(
            f"ablation_{slug(key)}",
            ablation.CAPTION.format(key=key),
            partial(ablation.ablation, key, lines, group, table),
        )


def plots(results: Path, group: Group, table: Table, page: bool = False) -> Iterator[Plot | NotDrawn]:
    """All figures of one backbone and dataset, or those of the page. ``table`` is the group's own table."""
    place = slug(table.name)
    for drawing in (one for one in _drawings(results, group, table) if one.on_page or not page):
        with styled():
            drawn = drawing.draw()
        name = f"{place}-{drawing.name}"
        if isinstance(drawn, str):
            yield NotDrawn(name, drawn + drawing.note)
        else:
            yield Plot(name, drawing.caption + drawing.note, drawn)


def write_plots(
    results: Path, plans: Sequence[Plan], out: Path, everything: bool = False
) -> tuple[list[Path], list[NotDrawn]]:
    """Write every figure into ``out`` (``reports.plots.files.save``), and say what is not drawn.

    InputError when ``out`` cannot be written.
    """
    of_group = {(table.backbone, table.dataset): table for table in tables(results, plans, everything)}
    written: list[Path] = []
    missing: list[NotDrawn] = []
    for group in groups(results, plans):
        for plot in plots(results, group, of_group[(group.backbone, group.dataset)]):
            if isinstance(plot, NotDrawn):
                missing.append(plot)
            else:
                written += save(plot, out)
    return written, missing
