"""Do the metrics rank generated clips as the truth does? ``python -m reports.agreement results``.

On rendered worlds some metrics compare with what is known of the clip (``Column.truth``); the other metrics
are set against them. ``python -m metrics.validate`` asks the same of rendered
pairs, whose tracks are better than those of generated clips.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.errors import InputError
from harness.command.terminal import say, tell
from reports.columns import metric_columns
from reports.rows import Group, find_plans, groups
from reports.statistics import Pair

if TYPE_CHECKING:
    import pandas as pd


def values(group: Group) -> pd.DataFrame:
    """Each metric's value (a column) of each finished cell (a row) that knows the truth, and its ``clip``."""
    import pandas as pd

    columns = metric_columns(group.rows)
    cells: dict[tuple[str, Pair], dict[str, str | float]] = {}
    for row in group.rows:
        for column in columns:
            for pair, value in column.cells(row).items():
                cells.setdefault((row.label, pair), {"clip": pair[0]})[column.key] = value
    frame = pd.DataFrame(list(cells.values()), columns=["clip", *(column.key for column in columns)])
    known = [column.key for column in columns if column.truth]
    return frame.dropna(subset=known) if known else frame.head(0)


def agreement(group: Group) -> pd.DataFrame:
    """Spearman's rank correlation of each metric with each truth, a row a metric; 1 is the same order.

    ``within clips``: the mean over clips of the correlation among one clip's generations; a clip in which
    either is constant has none. Metrics that vary nowhere have no row. InputError when fewer than three cells
    know the truth.
    """
    import numpy as np
    import pandas as pd
    from scipy.stats import spearmanr

    frame = values(group)
    columns = metric_columns(group.rows)
    truths = [column.key for column in columns if column.truth]
    if len(frame) < 3:
        raise InputError(
            f"{group.dataset} on {group.backbone}: fewer than three cells with "
            f"{' and '.join(truths) or 'a known truth'}; run an experiment on a rendered dataset"
        )
    up = {column.key: column.higher_is_better for column in columns}
    rows = {}
    for key in (name for name in frame.columns.drop("clip") if frame[name].nunique() > 1):
        row: dict[str, float] = {}
        for truth in truths:
            sign = 1 if up[key] == up[truth] else -1
            both = frame[["clip", *dict.fromkeys((key, truth))]].dropna()
            for name, parts in (("", [both]), (", within clips", [part for _, part in both.groupby("clip")])):
                found = [
                    spearmanr(part[key], part[truth]).statistic
                    for part in parts
                    if part[key].nunique() > 1 and part[truth].nunique() > 1
                ]
                row[truth + name] = sign * float(np.mean(found)) if found else np.nan
        rows[key] = row | {"cells": int(frame[key].notna().sum())}
    return pd.DataFrame.from_dict(rows, orient="index")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table in Markdown for each backbone and dataset. 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m reports.agreement", description=__doc__)
    parser.add_argument("results", type=Path, help="the results folder of `python -m harness`")
    parser.add_argument(
        "--experiment", nargs="+", default=[], metavar="NAME", action="extend", help="only plans of these"
    )
    given = parser.parse_args(arguments)
    try:
        for group in groups(given.results, find_plans(given.results, (), given.experiment)):
            table = agreement(group).astype({"cells": str})
            tell(f"\n#### {group.dataset} on {group.backbone}\n\n{table.to_markdown(floatfmt='.2f')}")
    except InputError as error:
        say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
