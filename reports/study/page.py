"""A page of votes' tables and figure, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.files import sweep, write_whole
from reports.output import writing
from reports.page.table import grid
from reports.plots.files import Plot, inline_svg, save
from reports.site import GENERATOR, MEDIA, TEMPLATES, check_ours, environment
from reports.study.table import VoteTable
from reports.table.formats import render


def write_page(made: Sequence[VoteTable], plots: Sequence[Plot], out: Path) -> Path:
    """Write the page into the folder ``out``, the tables and figures as files beside it; its path.

    A page that is there is replaced. InputError when ``out`` holds anything else, or cannot be written.
    """
    check_ours(out)
    with writing(out):
        sweep(out)
        drawn = [
            {
                "svg": inline_svg(plot),
                "caption": plot.caption,
                "files": [path.name for path in save(plot, out / MEDIA)],
            }
            for plot in plots
        ]
        for form, suffix in (("md", "md"), ("latex", "tex"), ("csv", "csv")):
            text = render(made, form)
            write_whole(out / MEDIA / f"votes.{suffix}", text.encode(errors="backslashreplace"))
        html = (
            environment()
            .get_template("votes.html")
            .render(
                generator=GENERATOR,
                style=(TEMPLATES / "page.css").read_text(),
                tables=[grid(table, table.columns) for table in made],
                plots=drawn,
                media=MEDIA,
            )
        )
        write_whole(out / "index.html", html.encode(errors="backslashreplace"))
    return out / "index.html"
