"""Rows of one results folder beside those of another: ``python -m reports.compare OLD NEW``.

For a change of code that should change no result: the same command was run before and after it. Rows are
matched by their labels, cells by clip, prompt and seed; each number is the mean difference new - old over
clips with its paired 95 % interval and its p by sign flips, adjusted over the rows of a column.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.errors import InputError
from harness.command.terminal import say, tell
from reports.table.columns import metric_columns
from reports.table.ranking import difference_text
from reports.table.rows import Row, find_plans, groups
from reports.table.statistics import clip_differences
from reports.table.statistics import differences as paired


def rows_of(results: Path) -> dict[tuple[str, str, str], Row]:
    """The rows of a results folder by dataset, backbone and label."""
    found = groups(results, find_plans(results))
    return {(group.dataset, group.backbone, row.label): row for group in found for row in group.rows}


def differences(old: Path, new: Path, keys: Sequence[str]) -> list[list[str]]:
    """A line of text for each row that both folders have: its label and a difference for each column.

    InputError for a column that no record holds.
    """
    before, after = rows_of(old), rows_of(new)
    columns = {column.key: column for column in metric_columns([*before.values(), *after.values()])}
    for key in keys:
        if key not in columns:
            raise InputError(f"--columns {key}: no such metric; there are: {', '.join(sorted(columns))}")
    both = [name for name in before if name in after]
    lines = [[name[2]] for name in both]
    for column in (columns[key] for key in keys):
        family = [clip_differences(column.cells(after[name]), column.cells(before[name])) for name in both]
        for line, one in zip(lines, paired(family), strict=True):
            line.append(f"{difference_text(one, column)}, n {len(one.values)}" if one.values else "-")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences as a Markdown table. 0, or 2 for bad input."""
    from tabulate import tabulate

    parser = argparse.ArgumentParser(prog="python -m reports.compare", description=__doc__)
    parser.add_argument("old", type=Path, help="a results folder of `python -m harness`")
    parser.add_argument("new", type=Path, help="another one")
    parser.add_argument("--columns", nargs="+", required=True, metavar="KEY", help="metrics to compare")
    given = parser.parse_args(arguments)
    try:
        lines = differences(given.old, given.new, given.columns)
    except InputError as error:
        say(str(error))
        return 2
    tell(tabulate(lines, headers=["new - old", *given.columns], tablefmt="pipe", disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
