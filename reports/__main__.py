"""``python -m reports results``: tables from plans and records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.errors import InputError
from reports.tables import find_plans, render, tables


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m reports", description="Tables from a results folder's plans and records."
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
    made.add_argument("--format", choices=["md", "latex", "csv", "html"], default="md")
    made.add_argument("--all", action="store_true", help="show secondary metrics too")
    made.add_argument("--out", type=Path, metavar="FILE", help="write here instead of printing")
    made.add_argument(
        "--plots", type=Path, metavar="DIR", help="write the figures (PDF, SVG, PNG) into this folder"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on standard error when there is nothing to tabulate."""
    given = parser().parse_args(arguments)
    try:
        plans = find_plans(given.results, given.plan, given.experiment)
        made = tables(given.results, plans, given.all)
        if not made:
            raise InputError(f"{given.results}: its plans hold no variant; run `python -m harness` first")
        if given.plots is not None or given.format == "html":
            from reports.page import publish

            page = (given.out or given.results / "page") if given.format == "html" else None
            print(*publish(given.results, plans, made, page, given.plots, given.all), sep="\n")
            return 0
        text = render(made, given.format)
        if given.out is None:
            print(text, end="")
        else:
            from harness.records import write_whole

            try:
                write_whole(given.out, text.encode())
            except OSError as error:
                raise InputError(f"--out {given.out}: cannot be written ({error.strerror})") from error
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
