"""Averages over clips, their intervals, and paired differences.

The clip is the unit that was sampled: prompts and seeds of one clip are not
independent, so they are averaged within it first, and only clips are resampled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
SEED = 0

Pair = tuple[str, str, int]
"""What two cells must share to be compared: clip, prompt, seed."""


def cluster_means(
    values: Iterable[float],
    clusters: Iterable[Hashable],
    average: Callable[[Sequence[float]], float] = np.mean,
) -> dict[Hashable, float]:
    """The average value of each cluster, in order of first appearance; NaN and infinity are left out."""
    grouped: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        if math.isfinite(value):
            grouped.setdefault(cluster, []).append(value)
    return {cluster: float(average(members)) for cluster, members in grouped.items()}


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    method: str = "BCa",
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float]:
    """Bootstrap interval of ``statistic`` over independent values (``scipy.stats.bootstrap``).

    ``statistic`` takes ``axis``. NaN, NaN for fewer than two values; the value
    itself, twice, when all are equal. The same values give the same interval.
    """
    sample = np.asarray(values, dtype=float)
    if sample.size < 2:
        return math.nan, math.nan
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interval = bootstrap(
            (sample,),
            statistic,
            confidence_level=level,
            n_resamples=resamples,
            method=method,
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    if method == "BCa" and not np.isfinite(interval).all():
        return bootstrap_interval(
            values, statistic, method="percentile", level=level, resamples=resamples, seed=seed
        )
    return float(interval.low), float(interval.high)


def sign_flip_p(differences: Sequence[float], *, resamples: int = 9_999, seed: int = SEED) -> float:
    """Two-sided p that the mean difference is 0, by flipping signs (``scipy.stats.permutation_test``).

    Exact when there are no more than ``resamples`` sign patterns. NaN for fewer than two values.
    """
    sample = np.asarray(differences, dtype=float)
    if sample.size < 2:
        return math.nan
    from scipy.stats import permutation_test

    return float(
        permutation_test(
            (sample,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979, step-down); NaN stays NaN and does not count."""
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    floor = 0.0
    for rank, (p, index) in enumerate(order):
        floor = max(floor, min(1.0, (len(order) - rank) * p))
        adjusted[index] = floor
    return adjusted


@dataclass(frozen=True)
class Difference:
    """Mean of ours - theirs over clips, its 95 % interval, sign-flip p and number of clips."""

    mean: float
    low: float
    high: float
    p: float
    clips: int


def paired_difference(
    ours: Mapping[Pair, float], theirs: Mapping[Pair, float], *, seed: int = SEED, with_p: bool = True
) -> Difference | None:
    """Difference over the pairs both have, averaged within each clip; None when they share none.

    Without ``with_p`` its p is NaN.
    """
    shared = [pair for pair in ours if pair in theirs]
    clips = cluster_means((ours[pair] - theirs[pair] for pair in shared), (pair[0] for pair in shared))
    if not clips:
        return None
    differences = list(clips.values())
    low, high = bootstrap_interval(differences, seed=seed)
    return Difference(
        float(np.mean(differences)),
        low,
        high,
        sign_flip_p(differences, seed=seed) if with_p else math.nan,
        len(differences),
    )
