"""Averages over clips, their intervals, and differences between rows that are told from chance.

The clip is the unit that was sampled: prompts and seeds of one clip are not independent, so they are averaged
within it first. Intervals and p values are over clips, and there are none below ``FEWEST``.
``python -m reports.simulate`` prints how often they hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

FEWEST = 6
"""Clips below which a row's clips are listed and nothing is claimed: five signs give no p below 2 / 32."""
LEVEL = 0.05
RESAMPLES = 9_999
SEED = 0

Pair = tuple[str, str, int]
"""What two cells must share to be compared: clip, prompt, seed."""
Floats = NDArray[np.float64]


def cluster_means(
    values: Iterable[float],
    clusters: Iterable[Hashable],
    average: Callable[[Sequence[float]], float] = fmean,
) -> dict[Hashable, float]:
    """The average value of each cluster, in order of first appearance; NaN and infinity are left out."""
    grouped: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        if math.isfinite(value):
            grouped.setdefault(cluster, []).append(value)
    return {cluster: float(average(members)) for cluster, members in grouped.items()}


def clip_means(
    cells: Mapping[Pair, float], average: Callable[[Sequence[float]], float] = fmean
) -> dict[str, float]:
    """The average of each clip's cells, by the clips' names in their order."""
    means = cluster_means(cells.values(), (pair[0] for pair in cells), average)
    return {str(clip): means[clip] for clip in sorted(means, key=str)}


def clip_differences(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> dict[str, float]:
    """Ours - theirs over the cells both have, averaged within each clip."""
    return clip_means({pair: value - theirs[pair] for pair, value in ours.items() if pair in theirs})


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of independent values; NaN, NaN below ``FEWEST`` of them.

    Where all are 1 or 0, a share of clips, it is Wilson's; else the studentised bootstrap's.
    """
    if len(values) >= FEWEST and set(values) <= {0.0, 1.0}:
        from scipy.stats import binomtest

        share = binomtest(int(sum(values)), len(values)).proportion_ci(1 - LEVEL, method="wilson")
        return float(share.low), float(share.high)
    return _studentised(values)


def difference_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean of paired differences; NaN, NaN below ``FEWEST`` of them.

    The studentised bootstrap's, on no side nearer than Student's t: differences of like rows are symmetric
    with heavy tails, where t covers more.
    """
    low, high = _studentised(values)
    if not low < high:
        return low, high
    # Importing scipy.stats takes longer than a table of 500 cells.
    from scipy.special import stdtrit

    # In units of the largest, so that no square is beyond a float.
    scale = max(map(abs, values))
    sample, count = np.asarray(values) / scale, len(values)
    reach = float(stdtrit(count - 1, 1 - LEVEL / 2) * sample.std(ddof=1)) / math.sqrt(count)
    mean = float(sample.mean())
    return min(low, (mean - reach) * scale), max(high, (mean + reach) * scale)


def _studentised(values: Sequence[float]) -> tuple[float, float]:
    """Studentised bootstrap (Efron & Tibshirani 1993, 12.5); equal values' own, twice.

    It follows skew, where t, percentile and BCa intervals of few values do not. It is widened by
    n / (n - 1): resamples spread too little by the root of that (Hesterberg 2015, 3.2), and as much again
    is what it takes to cover 93 % of skewed values down to six. The same values give the same interval.
    """
    sample = np.sort(np.asarray(values, dtype=float))
    count = sample.size
    if count < FEWEST:
        return math.nan, math.nan
    scale = float(np.abs(sample).max()) or 1.0
    mean, spread = float((sample / scale).mean()), float((sample / scale).std())
    if spread <= 1e-12:
        return mean * scale, mean * scale
    drawn = _resamples(count)
    scores = (sample / scale - mean) / spread
    means, squares = (drawn @ np.stack([scores, scores**2], axis=1) / count).T
    # A resample of equal values has no spread to divide by: each counts as having 1 / n of the sample's.
    spreads = np.sqrt(np.maximum(squares - means**2, 1 / count**2))
    low, high = np.quantile(means / spreads, [LEVEL / 2, 1 - LEVEL / 2])
    wider = spread * count / (count - 1)
    return float(mean - high * wider) * scale, float(mean - low * wider) * scale


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Interval of the median from order statistics, at least 95 %; NaN, NaN below ``FEWEST`` values.

    As many values are below the median as heads in as many throws of a coin (Conover 1999, 3.2).
    """
    count = len(values)
    if count < FEWEST:
        return math.nan, math.nan
    ordered = sorted(values)
    heads, ways = 0, 1
    while ways / 2**count < LEVEL / 2:
        heads += 1
        ways += math.comb(count, heads)
    return float(ordered[heads - 1]), float(ordered[count - heads])


@lru_cache(maxsize=64)
def _resamples(count: int) -> Floats:
    """(``RESAMPLES``, count): how often each of ``count`` values is drawn, fixed for each count."""
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return drawn.astype(float)


@lru_cache(maxsize=64)
def _signs(count: int) -> Floats:
    """(patterns, count) of 1 and -1, the first all 1: each pattern up to its sign, or that many drawn."""
    if 2 ** (count - 1) <= RESAMPLES:
        flips = np.arange(2 ** (count - 1))[:, None] >> np.arange(count) & 1
    else:
        flips = np.random.default_rng(SEED).integers(0, 2, (RESAMPLES + 1, count))
        flips[0] = 0
    return (1 - 2 * flips).astype(float)


def adjusted_p(family: Sequence[Mapping[str, float]]) -> list[float]:
    """Two-sided p that each mean difference is 0, adjusted for all of the family together.

    Each member maps clips to differences. Signs are flipped by clip, in all members at once; a member's
    statistic is the sum over the root of the sum of squares, which orders flips as Student's t does and
    is defined wherever a difference is not 0. Step-down max-T (Westfall & Young 1993, 2.8; Romano &
    Wolf 2005): a p of .05 or less is wrong in some member in 5 % of families at most, if differences that
    are 0 in the mean are symmetric. Exact up to 14 clips. NaN below ``FEWEST`` clips; such a member does
    not count.
    """
    adjusted = [math.nan] * len(family)
    members = [index for index, member in enumerate(family) if len(member) >= FEWEST]
    clips = {clip: row for row, clip in enumerate(sorted({c for index in members for c in family[index]}))}
    if not members:
        return adjusted
    matrix = np.zeros((len(clips), len(members)))
    for column, index in enumerate(members):
        matrix[[clips[clip] for clip in family[index]], column] = list(family[index].values())
    # By the largest first, so that no square is lost to the scale.
    matrix /= np.maximum(np.abs(matrix).max(axis=0), np.finfo(float).tiny)
    matrix /= np.maximum(np.sqrt((matrix**2).sum(axis=0)), np.finfo(float).tiny)
    order = np.argsort(np.abs(matrix.sum(axis=0)), kind="stable")
    # (members, patterns): accumulating over members then goes along memory.
    flipped = np.abs(matrix[:, order].T @ _signs(len(clips)).T)
    # The largest of a member and of those less clear than it; rounding must not break ties.
    largest = np.maximum.accumulate(flipped)
    p = (largest >= flipped[:, :1] - 1e-9).mean(axis=1)
    stepped = np.maximum.accumulate(p[::-1])[::-1]
    for place, value in zip(order, stepped, strict=True):
        adjusted[members[place]] = float(value)
    return adjusted


@dataclass(frozen=True)
class Difference:
    """Paired differences, one a clip, and the p of their mean among its family (``adjusted_p``)."""

    values: tuple[float, ...]
    p: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of this mean alone; NaN, NaN below ``FEWEST`` clips."""
        return difference_interval(self.values)

    @property
    def turned(self) -> Difference:
        """Theirs - ours."""
        return Difference(tuple(-value for value in self.values), self.p)


def differences(family: Sequence[Mapping[str, float]]) -> list[Difference]:
    """The members of a family (``adjusted_p``) with their p."""
    return [
        Difference(tuple(member.values()), p) for member, p in zip(family, adjusted_p(family), strict=True)
    ]
