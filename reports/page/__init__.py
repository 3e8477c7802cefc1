"""One page to show others: a table, videos and figures in a folder that needs no server and no network.

``index.html`` holds what is read; videos, records and each clip's details lie beside it under ``media`` (hard
links to the results where the disk allows, else copies). Names and prompts are data: they reach the page only
through jinja2's escaping or as JSON whose texts the script sets as text, and a content security policy lets
the page run its own script and what that loads, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.files import size_text, sweep, write_whole
from reports.output import writing
from reports.page.about import About
from reports.page.anonymous import anonymous_table, without_names
from reports.page.table import grid
from reports.page.takes import ENDED, Maker
from reports.plots.figures import NotDrawn, plots, write_plots
from reports.plots.files import Plot, inline_svg
from reports.plots.style import colour_of
from reports.site import GENERATOR, MEDIA, Media, check_ours, environment, json_text, script_hash, sources
from reports.table.formats import render
from reports.table.headline import TELLING, headline
from reports.table.published import Block
from reports.table.rows import Group, groups
from reports.table.tables import Table

if TYPE_CHECKING:
    from harness.records.record import Plan

BUDGET = 1_000_000_000
"""Bytes that GitHub Pages serves of one site."""
FEWEST_ROWS = 3
"""Rows of a table from which on a figure shows more than the table does."""

STYLE = ("page.css", "page/layout.css", "page/gallery.css", "page/take.css")
SCRIPT = tuple(
    f"page/{name}.js" if name != "clock" else "clock.js"
    for name in (
        "clock",
        "data",
        "state",
        "player",
        "video",
        "table",
        "first",
        "gallery",
        "tracks",
        "curves",
        "take",
        "tip",
        "keys",
        "start",
    )
)
"""Parts of the page's script, in the order in which they need each other."""


@dataclass(frozen=True)
class Options:
    """What a page is asked to be. ``small``: videos are encoded again with fewer bytes."""

    about: About = field(default_factory=About)
    anonymous: bool = False
    small: bool = False


def publish(
    results: Path,
    plans: Sequence[Plan],
    made: Sequence[Table],
    page: Path | None,
    figures: Path | None,
    everything: bool = False,
    blocks: Sequence[Block] = (),
    options: Options | None = None,
) -> list[str]:
    """Write the page, the figures, or both; lines that say where they are and what was not drawn.

    InputError when a folder cannot be written.
    """
    said = []
    if figures is not None:
        written, missing = write_plots(results, plans, figures, everything)
        said += [str(path) for path in written] + [f"not drawn: {one.name}: {one.reason}" for one in missing]
    if page is not None:
        index = write_page(results, plans, made, page, blocks, options)
        said += [budget(Media(page).size), str(index)]
    return said


def budget(size: int) -> str:
    """A line on a page's bytes beside what GitHub Pages serves."""
    line = f"{size_text(size)} of the {size_text(BUDGET)} that GitHub Pages serves"
    return line if size <= BUDGET else f"{line}: too much; --small encodes the videos again with fewer bytes"


def write_page(
    results: Path,
    plans: Sequence[Plan],
    made: Sequence[Table],
    out: Path,
    blocks: Sequence[Block] = (),
    options: Options | None = None,
) -> Path:
    """Write the page of these plans into the folder ``out``; the path of its ``index.html``.

    ``made``: the plans' tables (``reports.table.tables.tables``), shown as they are; ``blocks`` stand below
    them. A page that is there already is replaced, and the media it no longer needs are removed.
    InputError when ``out`` holds anything else, or cannot be written.
    """
    check_ours(out)
    chosen = options or Options()
    media = Media(out)
    maker = Maker(results, media, chosen.small, chosen.anonymous)
    if chosen.anonymous:
        made = [anonymous_table(table) for table in made]
    of_group = {(table.backbone, table.dataset): table for table in made}
    sections: list[dict[str, Any]] = []
    cases: list[dict[str, Any]] = []
    colours: dict[str, str] = {}
    with writing(out):
        index = out / "index.html"
        for folder in (out, out / MEDIA):
            sweep(folder, former=True)
        # A page that is cut short must still be known as ours, so that it can be written again.
        write_whole(index, f'<meta name="generator" content="{GENERATOR}">This page was cut short.'.encode())
        (out / MEDIA).mkdir(exist_ok=True)
        for group in groups(results, plans):
            table = of_group[(group.backbone, group.dataset)]
            for row, label in zip(group.rows, table.numbers, strict=True):
                row.label = label
            sections.append(_section(results, group, table))
            colours |= {row.label: colour_of(row.variant.method) for row in group.rows}
            cases += maker.cases(group, table)
        for form, suffix in (("md", "md"), ("latex", "tex"), ("csv", "csv")):
            text = render(made, form)
            media.write(f"tables.{suffix}", text.encode(errors="backslashreplace"))
        html = _html(plans, sections, cases, made, blocks, colours, chosen)
        write_whole(index, html.encode(errors="backslashreplace"))
        media.tidy()
    return index


def _section(results: Path, group: Group, table: Table) -> dict[str, Any]:
    """A table and its figures for the template."""
    drawn: list[dict[str, Any]] = []
    if len(group.rows) >= FEWEST_ROWS:
        found = plots(results, group, table, page=True)
        drawn = [_figure(plot) for plot in found if not isinstance(plot, NotDrawn)]
    return {"table": grid(table), "headline": headline(table), "plots": drawn}


def _figure(plot: Plot) -> dict[str, Any]:
    return {"svg": inline_svg(plot), "caption": plot.caption, "files": []}


def first_shown(made: Sequence[Table]) -> dict[str, str]:
    """Metric and row of the first screen: what the headline is of, and the row with its best number."""
    order = {key: place for place, key in enumerate(TELLING)}
    for table in made:
        columns = [one for one in table.columns if one.of_video and one.higher_is_better is not None]
        columns.sort(key=lambda one: (order.get(one.key, len(order)), not one.sees_motion))
        for column in columns:
            known = {
                label: of_row[column.key].value
                for label, of_row in table.numbers.items()
                if of_row[column.key].value == of_row[column.key].value
            }
            if known:
                best = max if column.higher_is_better else min
                return {"metric": column.key, "row": best(known, key=lambda label: known[label])}
    return {"metric": "", "row": ""}


def _html(
    plans: Sequence[Plan],
    sections: list[dict[str, Any]],
    cases: list[dict[str, Any]],
    made: Sequence[Table],
    blocks: Sequence[Block],
    colours: dict[str, str],
    options: Options,
) -> str:
    script = sources(*SCRIPT)
    takes = [take for case in cases for take in case["takes"]]
    valued = {key for take in takes for key in take.get("values", {})}
    columns = {column.key: column for table in made for column in table.columns if column.key in valued}
    about = options.about
    if options.anonymous:
        about, plans = without_names(about), ()
    metrics = [
        {"key": key, "label": column.label, "lower": column.higher_is_better is False}
        for key, column in columns.items()
    ]
    data = {
        "cases": cases,
        "metrics": metrics,
        "colours": colours,
        "ended": ENDED,
        "first": first_shown(made),
    }
    template = environment().get_template("page.html")
    return template.render(
        generator=GENERATOR,
        style=sources(*STYLE),
        script=script,
        script_hash=script_hash(script),
        data=json_text(data),
        about=about,
        anonymous=options.anonymous,
        plans=plans,
        sections=sections,
        blocks=blocks,
        media=MEDIA,
        colours=colours,
        groups=list(dict.fromkeys(case["group"] for case in cases)),
        failed=sum(take["status"] not in ("ok", "absent", "planned") for take in takes),
        count=sum("id" in take for take in takes),
        metrics=metrics,
    )


__all__ = ["Options", "publish", "write_page"]
