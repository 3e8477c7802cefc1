"""``python -m reports results``: tables, and what else is made of plans and records.

``python -m reports study`` and ``votes`` ask people (``reports.study``); ``merge``, ``submit`` and ``board``
bring the results of several machines and groups together.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.errors import InputError
from datasets.files import unwritable
from harness.command.terminal import escape_output, say
from harness.records.printable import printable
from reports.output import emit
from reports.table.columns import Column
from reports.table.entries import heading
from reports.table.formats import render, to_details
from reports.table.outside import load_column
from reports.table.rows import find_plans, groups, plural, with_baseline
from reports.table.strata import by_stratum
from reports.table.tables import Table, known_columns, tables
from reports.table.text import terminal_width, to_text

if TYPE_CHECKING:
    from harness.records.record import Plan


COMMANDS = {
    "study": ("reports.study.command", "study"),
    "votes": ("reports.study.command", "votes"),
    "merge": ("reports.sharing.merge", "merge"),
    "submit": ("reports.sharing.submit", "submit"),
    "board": ("reports.sharing.board", "board"),
}
"""Commands with a command line of their own: module and function."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m reports",
        description="Tables from a results folder's plans and records.",
        epilog="`python -m reports study --help` and `votes --help`: a blind study of people's votes. "
        "`merge --help`, `submit --help`, `board --help`: results of several machines and groups.",
    )
    made.add_argument("results", type=Path, help="the results folder of `python -m harness`")
    made.add_argument(
        "--plan", nargs="+", default=[], metavar="NAME", action="extend", help="only these plans"
    )
    made.add_argument(
        "--experiment",
        nargs="+",
        default=[],
        metavar="NAME",
        action="extend",
        help="only plans of these experiments",
    )
    made.add_argument("--format", choices=["text", "md", "latex", "csv", "html"], default="text")
    made.add_argument(
        "--details", action="store_true", help="text: all columns, both ends of intervals, all notes"
    )
    made.add_argument("--all", action="store_true", help="show secondary metrics too")
    made.add_argument(
        "--baseline",
        metavar="ROW",
        help="the row (or method) others are compared with, and speed-ups are over",
    )
    made.add_argument(
        "--columns",
        nargs="+",
        default=(),
        metavar="KEY",
        help="only these columns, in this order; `help` lists them",
    )
    made.add_argument(
        "--column",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE.yaml",
        action="extend",
        help="a further column, whose _target_ is a function of a record",
    )
    made.add_argument(
        "--trust",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        action="extend",
        help="packages of yours that --column may take functions from",
    )
    made.add_argument(
        "--by", metavar="STRATUM", help="a table for each kind: prompt, or what the dataset knows (motion)"
    )
    made.add_argument("--published", action="store_true", help="the paper's own numbers in blocks below")
    made.add_argument(
        "--about", type=Path, metavar="FILE.yaml", help="of the page: title, authors, abstract, bibtex, links"
    )
    made.add_argument(
        "--anonymous", action="store_true", help="a page for review: no names, links, paths or commands"
    )
    made.add_argument(
        "--small", action="store_true", help="a page of few bytes: its videos are encoded again"
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="write here instead of printing")
    made.add_argument("--to", choices=["wandb"], help="send the records to W&B: offline, into RESULTS/wandb")
    made.add_argument("--online", action="store_true", help="with --to wandb: upload at once")
    made.add_argument("--project", default="vmtbench", help="with --to wandb: the project")
    made.add_argument(
        "--plots", type=Path, metavar="DIR", help="write the figures (PDF, SVG, PNG) into this folder"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 when W&B took no mirror; 2 after one line on standard error for bad input."""
    escape_output()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] and words[0] in COMMANDS:
            return _command(words)
        given = parser().parse_args(words)
        plans = find_plans(given.results, given.plan, given.experiment)
        if given.to is not None:
            return _to_wandb(given, plans)
        if given.baseline is not None:
            plans = with_baseline(given.results, plans, given.baseline)
        if given.published and given.format == "csv":
            raise InputError(
                "--published: not with --format csv, whose lines are ours alone; take md or latex"
            )
        if given.by is not None and (given.plots is not None or given.format == "html"):
            raise InputError("--by: makes tables alone; leave out --plots and --format html")
        if given.details and given.format != "text":
            raise InputError("--details: of --format text; md and html hold them, latex and csv with --out")
        outside = [load_column(path, given.trust) for path in given.column]
        if given.columns == ["help"]:
            print(column_help(given.results, plans, outside), end="")
            return 0
        strata = {"": plans} if given.by is None else by_stratum(plans, given.by)
        made = [
            replace(table, stratum=stratum)
            for stratum, of_stratum in strata.items()
            for table in tables(given.results, of_stratum, given.all, given.columns, outside)
        ]
        if not made:
            raise InputError(f"{given.results}: its plans hold no variant; run `python -m harness` first")
        _write(given, plans, made)
        sys.stdout.flush()
    except InputError as error:
        say(f"error: {error}")
        return 2
    except OSError as error:
        line = unwritable(error)
        if line is None:
            raise
        say(f"error: {line}")
        return 2
    return 0


def _command(words: Sequence[str]) -> int:
    """One of the other commands; its exit code."""
    module, name = COMMANDS[words[0]]
    code = vars(importlib.import_module(module))[name](words[1:])
    sys.stdout.flush()
    return code or 0


def _write(given: argparse.Namespace, plans: Sequence[Plan], made: Sequence[Table]) -> None:
    """Print the tables, or write them, the page or the figures where they were asked for."""
    if given.plots is not None or given.format == "html":
        from reports.page import Options, publish
        from reports.page.about import About, load_about
        from reports.table.published import blocks

        page = (given.out or given.results / "page") if given.format == "html" else None
        shown = blocks() if given.published else ()
        about = load_about(given.about) if given.about else About()
        options = Options(about, given.anonymous, given.small)
        print(*publish(given.results, plans, made, page, given.plots, given.all, shown, options), sep="\n")
        return
    from reports.table.published import blocks

    published = blocks() if given.published else ()
    if given.format == "text":
        bold = given.out is None and sys.stdout.isatty()
        emit(to_text(made, terminal_width(), given.details, bold, published), given.out)
        return
    emit(render(made, given.format, published), given.out)
    if given.out is not None and given.format in ("latex", "csv"):
        parts = (f"### {table.title}\n\n{to_details(table)}" for table in made)
        emit(printable("\n".join(parts)), given.out.with_suffix(".details.md"))


def column_help(results: Path, plans: Sequence[Plan], outside: Sequence[Column] = ()) -> str:
    """Each column's key, heading and sentence, in lines that fit the terminal."""
    rows = [row for group in groups(results, plans) for row in group.rows]
    wide = terminal_width()
    lines = []
    for column in (*known_columns(rows).values(), *outside):
        lines.append(f"{column.key}  {heading(column)}")
        lines.append(column.sentence or "Its metric says no more.")
    return printable(
        "".join(
            textwrap.fill(line, wide, subsequent_indent="    ", initial_indent="    " * (place % 2)) + "\n"
            for place, line in enumerate(lines)
        )
    )


def _to_wandb(given: argparse.Namespace, plans: Sequence[Plan]) -> int:
    """The mirror, from the records as they are now; runs that the same plans have go on."""
    from reports.wandb_mirror import publish

    mode = "online" if given.online else "offline"
    # Uploading takes longer.
    timeout = 300 if given.online else 60
    chosen = {"mode": mode, "project": given.project, "dir": given.results, "timeout_s": timeout}
    warning = publish(given.results, plans, chosen)
    if warning is not None:
        say(warning)
        return 1
    count = sum(len(group.rows) for group in groups(given.results, plans))
    print(f"W&B ({mode}): {plural(count, 'run')} from {plural(len(plans), 'plan')}")
    if mode == "offline":
        print(f"upload: wandb sync {given.results / 'wandb'}/offline-run-*")
    return 0


if __name__ == "__main__":
    # Thousands of records stay until the end: looking for garbage among them takes a fifth of the time.
    gc.disable()
    raise SystemExit(main())
