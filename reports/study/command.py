"""``python -m reports study RESULTS --out DIR`` and ``python -m reports votes DIR VOTES...``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from datasets.errors import InputError
from harness.command.terminal import tell
from reports.output import emit
from reports.study.plan import make_plan, read_plan
from reports.study.site import PLAN, write_study
from reports.study.source import find_source
from reports.study.table import FEWEST_CLIPS, FEWEST_RATERS, FEWEST_VOTES, VoteTable, vote_tables
from reports.study.votes import read_votes
from reports.table.rows import plural


def study_parser() -> argparse.ArgumentParser:
    """The command line of ``study``."""
    made = argparse.ArgumentParser(
        prog="python -m reports study",
        description="A blind study on one static page: raters set two methods' videos against the reference.",
    )
    made.add_argument("results", type=Path, help="the results folder of `python -m harness`")
    made.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the study's folder, new or empty"
    )
    for name, what in (("plan", "only these plans"), ("experiment", "only plans of these experiments")):
        made.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", action="extend", help=what)
    made.add_argument(
        "--rows", nargs="+", default=[], metavar="ROW", action="extend", help="compare only these methods"
    )
    made.add_argument("--limit", type=int, metavar="N", help="only the first N clips that all methods have")
    made.add_argument("--seed", type=int, default=0, help="of sides, order and checks (default 0)")
    made.add_argument("--raters", type=int, default=12, metavar="N", help="how many are to vote (default 12)")
    made.add_argument(
        "--trials",
        type=int,
        default=40,
        metavar="N",
        help="of each rater, a fifth of them checks (default 40)",
    )
    return made


def study(arguments: Sequence[str]) -> None:
    """Write a study's folder and say what to do with it. InputError for bad input."""
    given = study_parser().parse_args(arguments)
    if given.limit is not None and given.limit < 1:
        raise InputError(f"--limit {given.limit}: a study needs one clip at least")
    source = find_source(given.results, given.plan, given.experiment, given.rows, given.limit)
    plan, files = make_plan(source, given.seed, given.raters, given.trials)
    index = write_study(plan, files, given.out)
    each = len(plan.slots[0])
    tell(
        f"{index}: {plural(len(plan.methods), 'method')}, {plural(len(plan.clips), 'clip')}, "
        f"{plural(each, 'trial')} a rater, plan {plan.hash}"
    )
    if each < given.trials:
        tell(f"fewer than {given.trials}: no rater sees a pair of methods on the same clip and prompt twice")
    for line in source.left_out:
        tell(f"left out: {line}")
    tell(f"give each rater a link of their own: index.html#1 to index.html#{given.raters}")
    tell(f"publish {index.parent} alone: {given.out / PLAN} says which method is which")
    short = [
        f"{have} of {need} {what}"
        for have, need, what in (
            (plan.votes_a_pair, FEWEST_VOTES, "votes for each pair and question"),
            (len(plan.clips), FEWEST_CLIPS, "clips"),
            (given.raters, FEWEST_RATERS, "raters"),
        )
        if have < need
    ]
    if short:
        tell(f'the tables will say "too few": {", ".join(short)}')


def votes_parser() -> argparse.ArgumentParser:
    """The command line of ``votes``."""
    made = argparse.ArgumentParser(
        prog="python -m reports votes", description="Win rates and strengths of methods from a study's votes."
    )
    made.add_argument(
        "study", type=Path, metavar="DIR", help="the folder that `python -m reports study` wrote"
    )
    made.add_argument("votes", type=Path, nargs="+", metavar="VOTES", help="files that raters downloaded")
    made.add_argument("--format", choices=["md", "latex", "csv", "html"], default="md")
    made.add_argument("--baseline", metavar="ROW", help="the method that the others are set against")
    made.add_argument("--out", type=Path, metavar="FILE", help="write here instead of printing")
    made.add_argument(
        "--plots", type=Path, metavar="DIR", help="write the figure (PDF, SVG, PNG) into this folder"
    )
    return made


def votes(arguments: Sequence[str]) -> None:
    """Print the tables, or write them, the page or the figure. InputError for bad input."""
    given = votes_parser().parse_args(arguments)
    plan = read_plan(given.study / PLAN)
    made = vote_tables(plan, read_votes(plan, given.votes), given.baseline)
    if given.plots is not None or given.format == "html":
        _publish(given, made)
        return
    from reports.table.formats import render

    text = render(made, given.format)
    emit(text, given.out)


def _publish(given: argparse.Namespace, made: Sequence[VoteTable]) -> None:
    from reports.plots.files import save
    from reports.plots.people import draw
    from reports.study.page import write_page

    plots = draw(made)
    if given.plots is not None:
        print(*(path for plot in plots for path in save(plot, given.plots)), sep="\n")
    if given.format == "html":
        print(write_page(made, plots, given.out or given.study / "page"))
