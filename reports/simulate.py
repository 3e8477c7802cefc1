"""How often marks and intervals are right: ``python -m reports.simulate``.

Draws tables and samples whose truth is known, and puts the reports' own functions to them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from reports.table.ranking import compare, marks, told
from reports.table.statistics import LEVEL, Floats, difference_interval, mean_interval, median_interval

if TYPE_CHECKING:
    import pandas as pd

Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]
Interval = Callable[[Sequence[float]], tuple[float, float]]

VALUES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "lognormal(0, .5)": lambda rng, shape: rng.lognormal(0, 0.5, shape),
    "Beta(8, .5)": lambda rng, shape: rng.beta(8, 0.5, shape),
    "exponential": lambda rng, shape: rng.exponential(1, shape),
    "Student's t(3)": lambda rng, shape: rng.standard_t(3, shape),
}
MEANS = {"lognormal(0, .5)": float(np.exp(0.125)), "Beta(8, .5)": 8 / 8.5, "exponential": 1.0}
"""Means of the values above, where they are not 0."""


def apart(draw: Draw) -> Draw:
    """Differences of two independent values."""
    return lambda rng, shape: draw(rng, shape) - draw(rng, shape)


def student(values: Sequence[float]) -> tuple[float, float]:
    """Student's t interval of a mean, for comparison."""
    from scipy.stats import ttest_1samp

    interval = ttest_1samp(values, 0).confidence_interval(1 - LEVEL)
    return float(interval.low), float(interval.high)


SAMPLES: dict[str, tuple[Draw, Interval, float]] = {
    **{f"mean, {name}": (draw, mean_interval, MEANS.get(name, 0.0)) for name, draw in VALUES.items()},
    "mean, yes in .8 of clips": (
        lambda rng, shape: (rng.random(shape) < 0.8).astype(float),
        mean_interval,
        0.8,
    ),
    **{
        f"difference, {name}": (apart(draw), difference_interval, 0.0)
        for name, draw in VALUES.items()
        if name != "normal"
    },
    "difference, Beta(8, .5) - Beta(40, 3)": (
        lambda rng, shape: rng.beta(8, 0.5, shape) - rng.beta(40, 3, shape),
        difference_interval,
        8 / 8.5 - 40 / 43,
    ),
    "median, lognormal(0, .5)": (VALUES["lognormal(0, .5)"], median_interval, 1.0),
    "not in use: mean, lognormal(0, .5), by t": (
        VALUES["lognormal(0, .5)"],
        student,
        MEANS["lognormal(0, .5)"],
    ),
    "not in use: mean, Beta(8, .5), by t": (VALUES["Beta(8, .5)"], student, MEANS["Beta(8, .5)"]),
    "not in use: difference, Beta(8, .5), by bootstrap alone": (
        apart(VALUES["Beta(8, .5)"]),
        mean_interval,
        0.0,
    ),
}
"""What is drawn -> how, its interval, and the true value."""


def covered(name: str, clips: int, samples: int, rng: np.random.Generator) -> float:
    """The share of samples of so many clips whose interval holds the truth."""
    draw, interval, truth = SAMPLES[name]
    found = (interval(sample.tolist()) for sample in draw(rng, (samples, clips)))
    return float(np.mean([low <= truth <= high for low, high in found]))


def marked(values: Floats) -> tuple[dict[str, str], bool]:
    """Marks of one column, (rows, clips) and the more the better, and whether any two rows are told apart."""
    cells = {
        str(row): {(f"{clip:03d}", "", 0): float(value) for clip, value in enumerate(of_row)}
        for row, of_row in enumerate(values)
    }
    pairs = compare(cells)
    means = {label: float(np.mean(list(of_row.values()))) for label, of_row in cells.items()}
    return marks(means, True, partial(told, pairs, True)), any(one.p <= LEVEL for one in pairs.values())


def steady(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Beta values, their mean in the first row: differences from it are skewed, which flips do not fit."""
    values = VALUES["Beta(8, .5)"](rng, shape)
    values[0] = MEANS["Beta(8, .5)"]
    return values


EQUAL = {name: VALUES[name] for name in ("normal", "lognormal(0, .5)", "Beta(8, .5)")}
EQUAL |= {"Beta, one row steady": steady}
"""Rows of equal means."""
RATES = ("marked", "apart", "found")
"""What ``mark_rates`` gives."""


def mark_rates(
    draw: Draw, rows: int, clips: int, shared: bool, tables: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Shares of columns of equal rows with a mark, with two rows told apart, and of a better row marked best.

    ``shared`` adds a number of each clip's own to all rows. The better row leads by 1.5 standard deviations
    of a difference between two rows.
    """
    first, second = draw(rng, (2, 100_000))
    lead = 1.5 * float(np.std(first - second))
    any_mark, any_told, found = 0, 0, 0
    for _ in range(tables):
        values = draw(rng, (rows, clips))
        if shared:
            values += rng.normal(0, 2, (1, clips))
        given, told_apart = marked(values)
        any_mark += "best" in given.values()
        any_told += told_apart
        values[0] += lead
        found += marked(values)[0].get("0") == "best"
    return any_mark / tables, any_told / tables, found / tables


def mark_table(tables: int, rng: np.random.Generator) -> pd.DataFrame:
    """``mark_rates`` by values, clip effect and rows, a column for each number of clips."""
    import pandas as pd

    found = []
    for name, draw in EQUAL.items():
        for shared in (False, True):
            for rows in (2, 3, 9):
                effect = "yes" if shared else "no"
                line: dict[str, str | float] = {"values": name, "clips differ": effect, "rows": rows}
                for clips in (6, 8, 16):
                    rates = mark_rates(draw, rows, clips, shared, tables, rng)
                    line |= dict(zip((f"{what}, {clips}" for what in RATES), rates, strict=True))
                found.append(line)
    order = [f"{what}, {clips}" for what in RATES for clips in (6, 8, 16)]
    return pd.DataFrame(found, columns=["values", "clips differ", "rows", *order])


def coverage_table(samples: int, rng: np.random.Generator) -> pd.DataFrame:
    """``covered`` by what is drawn and by clips."""
    import pandas as pd

    found = {
        name: {f"{clips} clips": covered(name, clips, samples, rng) for clips in (6, 8, 16, 30)}
        for name in SAMPLES
    }
    return pd.DataFrame.from_dict(found, orient="index")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m reports.simulate", description=__doc__)
    parser.add_argument("--tables", type=int, default=1_000, help="columns drawn for each rate of marks")
    parser.add_argument("--samples", type=int, default=4_000, help="samples drawn for each coverage")
    given = parser.parse_args(arguments)
    print(
        f"Shares of {given.tables} columns, by number of clips. Equal rows: one *marked* as best, "
        "any two told *apart*. One better row: *found* as the best.\n"
    )
    print(mark_table(given.tables, np.random.default_rng(0)).to_markdown(index=False, floatfmt=".3f"))
    print(f"\nShares of {given.samples} samples whose 95 % interval holds the truth\n")
    print(coverage_table(given.samples, np.random.default_rng(0)).to_markdown(floatfmt=".3f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
