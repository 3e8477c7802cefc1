"""Do the metrics rank generated clips as the truth does? ``python -m reports.agreement results``.

On rendered worlds some metrics compare with what is known of the clip (``Column.truth``); the other metrics
are set against them. ``python -m metrics.validate`` asks the same of rendered
pairs, whose tracks are better than those of generated clips.

With ``--votes`` the truth is what people prefer: the share of votes that a video won (``reports.study``).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from harness.command.terminal import say, tell
from reports.study.plan import read_plan
from reports.study.raters import exclusions
from reports.study.site import PLAN
from reports.study.votes import comparisons, read_votes
from reports.table.caption import caption
from reports.table.columns import metric_columns
from reports.table.numbers import number_text
from reports.table.rows import Group, find_plans, groups
from reports.table.statistics import FEWEST, LEVEL, Pair, cluster_means, mean_interval

if TYPE_CHECKING:
    import pandas as pd


def cells(group: Group) -> pd.DataFrame:
    """Each metric's value (a column) of each finished cell (a row); its ``label``, ``pair`` and ``clip``."""
    import pandas as pd

    columns = metric_columns(group.rows)
    found: dict[tuple[str, Pair], dict[str, Any]] = {}
    for row in group.rows:
        for column in columns:
            for pair, value in column.cells(row).items():
                place = {"label": row.label, "pair": pair, "clip": pair[0]}
                found.setdefault((row.label, pair), place)[column.key] = value
    keys = [column.key for column in columns]
    return pd.DataFrame(list(found.values()), columns=["label", "pair", "clip", *keys])


def values(group: Group) -> pd.DataFrame:
    """Each metric's value (a column) of each finished cell (a row) that knows the truth, and its ``clip``."""
    frame = cells(group).drop(columns=["label", "pair"])
    known = [column.key for column in metric_columns(group.rows) if column.truth]
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


def with_people(group: Group, votes: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of each metric (a row) with people's votes; 1 is the same order.

    ``votes``: those that count (``reports.study.votes.comparisons``). Of each question, over all cells,
    Spearman's rho and Kendall's tau-b with 95 % intervals over clips; and Spearman's among the videos of one
    clip, prompt and seed, its mean over clips with its interval. People compare only such videos: what
    differs between clips is not in the votes. InputError where fewer than three cells have both.
    """
    import pandas as pd

    frame = cells(group)
    won = _won(votes)
    columns = {column.key: column for column in metric_columns(group.rows)}
    rows: dict[str, dict[str, str]] = {}
    counts: dict[str, str] = {}
    for question in won:
        share = pd.Series(
            [won[question].get(key) for key in zip(frame["label"], frame["pair"], strict=True)], dtype=float
        )
        for key, column in columns.items():
            sign = 1 if column.higher_is_better else -1
            both = pd.DataFrame(
                {"pair": frame["pair"], "clip": frame["clip"], "x": sign * frame[key], "y": share}
            )
            both = both.dropna()
            if len(both) >= 3 and both["x"].nunique() > 1 and both["y"].nunique() > 1:
                rows.setdefault(key, {}).update(_against(both, question))
                counts[key] = str(len(both))
    if not rows:
        raise InputError(
            f"{group.dataset} on {group.backbone}: fewer than three cells have votes and a metric's value; "
            "name the results that the study was made of"
        )
    return pd.DataFrame.from_dict(rows, orient="index").assign(cells=pd.Series(counts)).fillna("-")


def _won(votes: pd.DataFrame) -> dict[str, dict[tuple[str, Pair], float]]:
    """Question -> (method, clip and prompt and seed) -> the share of its votes that its video won."""
    found: dict[str, dict[tuple[str, Pair], list[float]]] = {}
    columns = (votes[name].tolist() for name in ("question", "take", "a", "b", "won"))
    for question, take, a, b, won in zip(*columns, strict=True):
        of_question = found.setdefault(question, {})
        of_question.setdefault((a, take), []).append(won)
        of_question.setdefault((b, take), []).append(1 - won)
    return {
        question: {cell: fmean(shares) for cell, shares in of_question.items()}
        for question, of_question in found.items()
    }


def _against(both: pd.DataFrame, question: str) -> dict[str, str]:
    """The columns of one metric and question; x and y are in columns of that name."""
    of_pairs = [part for _, part in both.groupby("pair")]
    within = list(
        cluster_means(map(_spearman, of_pairs), [part["clip"].iloc[0] for part in of_pairs]).values()
    )
    return {
        question: _text(*_without_each(both, _spearman)),
        f"{question}, Kendall": _text(*_without_each(both, _kendall)),
        f"{question}, within clips": _text(fmean(within), *mean_interval(within)) if within else "-",
    }


def _spearman(part: pd.DataFrame) -> float:
    """NaN where x or y is constant."""
    from scipy.stats import spearmanr

    varies = min(part["x"].nunique(), part["y"].nunique()) > 1
    return float(spearmanr(part["x"], part["y"]).statistic) if varies else math.nan


def _kendall(part: pd.DataFrame) -> float:
    """Tau-b; NaN where x or y is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(part["x"], part["y"]).statistic)


def _without_each(
    both: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]
) -> tuple[float, float, float]:
    """A statistic and its 95 % interval: the jackknife's over clips, with Student's t.

    Not the bootstrap: a clip drawn twice ties with itself, which raises rank correlations.
    """
    from scipy.stats import t

    value, count = statistic(both), both["clip"].nunique()
    if count < FEWEST:
        return value, math.nan, math.nan
    parts = [statistic(both[both["clip"] != clip]) for clip in both["clip"].unique()]
    spread = math.sqrt((count - 1) / count * sum((part - fmean(parts)) ** 2 for part in parts))
    half = float(t.ppf(1 - LEVEL / 2, count - 1)) * spread
    return value, max(-1.0, value - half), min(1.0, value + half)


def _text(value: float, low: float, high: float) -> str:
    text = number_text(value, 2)
    return f"{text} [{number_text(low, 2)}, {number_text(high, 2)}]" if math.isfinite(low) else text


def _against_truth(found: Sequence[Group]) -> Iterator[tuple[Group, pd.DataFrame]]:
    for group in found:
        yield group, agreement(group).astype({"cells": str})


def _against_votes(found: Sequence[Group], given: argparse.Namespace) -> Iterator[tuple[Group, pd.DataFrame]]:
    """The group that the study shows, against the votes of the raters who count."""
    study, *files = given.votes
    if not files:
        raise InputError(f"--votes {study}: name files of votes too: --votes DIR VOTES...")
    plan = read_plan(study / PLAN)
    votes = read_votes(plan, files).votes
    out = exclusions(votes)
    counted = comparisons([vote for vote in votes if vote.rater not in out])
    for group in found:
        if (group.dataset, group.backbone) == (plan.dataset, plan.backbone):
            yield group, with_people(group, counted)
            return
    raise InputError(
        f"{study}: a study of {plan.dataset} on {plan.backbone}, of which {given.results} holds nothing; "
        "name the results that it was made of"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table in Markdown for each backbone and dataset. 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m reports.agreement", description=__doc__)
    parser.add_argument("results", type=Path, help="the results folder of `python -m harness`")
    parser.add_argument(
        "--experiment", nargs="+", default=[], metavar="NAME", action="extend", help="only plans of these"
    )
    parser.add_argument(
        "--votes",
        nargs="+",
        type=Path,
        metavar=("DIR", "VOTES"),
        help="against people: the folder of a study of these results, and files of votes",
    )
    given = parser.parse_args(arguments)
    try:
        found = groups(given.results, find_plans(given.results, (), given.experiment))
        for group, table in _against_truth(found) if given.votes is None else _against_votes(found, given):
            tell(f"\n#### {caption(group)}\n\n{table.to_markdown(floatfmt='.2f')}")
    except InputError as error:
        say(str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
