"""Bradley-Terry strengths of methods from votes, with intervals over raters and clips.

A tie is half a win for both (Bradley & Terry 1952; ties as in Newman 2023). One pseudo-draw for each compared
pair keeps strengths finite where a method always wins. The fit and Krippendorff's alpha are evalica's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from reports.study.connected import parts
from reports.table.columns import Number
from reports.table.statistics import LEVEL, SEED

if TYPE_CHECKING:
    import pandas as pd

REPLICATES = 2_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Strengths:
    """Of one question. ``logs``: method -> log strength less the mean of all, with its 95 % interval.

    ``beats``: method -> probability that it is preferred to the baseline, with its interval. ``rates``:
    pair (by name) -> share of votes that its first won, ties half, with its interval; ``won``: method ->
    the same over all its votes. ``p``: pair -> Holm-adjusted p that both are equally strong.
    """

    logs: dict[str, Number]
    beats: dict[str, Number]
    won: dict[str, Number]
    rates: dict[tuple[str, str], Number]
    p: dict[tuple[str, str], float]

    def told(self, one: str, other: str) -> bool:
        """Whether ``one`` is stronger than ``other`` beyond chance."""
        a, b = sorted((one, other))
        return self.p[a, b] <= LEVEL and self.logs[one].value > self.logs[other].value

    def rank(self, method: str) -> int:
        """1, and one more for each method that is stronger beyond chance: equal ranks are tied."""
        return 1 + sum(self.told(other, method) for other in self.logs if other != method)


def fit(pairs: Sequence[tuple[str, str]], won: Floats, lost: Floats, methods: Sequence[str]) -> Floats:
    """Log strengths (B, M), mean 0, in the methods' order.

    ``won`` and ``lost`` (B, P): weighted votes for the first and the second of each compared pair, a tie half
    for both, of B samples of votes. evalica's fit, with one pseudo-draw a pair. InputError where the pairs do
    not join all methods.
    """
    evalica = _evalica()
    apart = parts(methods, pairs)
    if len(apart) > 1:
        raise InputError(
            f"{', '.join(apart[-1])}: never compared with {', '.join(apart[0])}, "
            "so no strengths can be given; collect more votes"
        )
    place = {method: index for index, method in enumerate(methods)}
    first, second = ([place[pair[side]] for pair in pairs] * 2 for side in (0, 1))
    winners = [evalica.Winner.X] * len(pairs) + [evalica.Winner.Y] * len(pairs)
    found = np.empty((len(won), len(methods)))
    # A draw is half a win for both.
    for row, weights in enumerate(np.hstack([won, lost]) + 0.5):
        made = evalica.bradley_terry(
            first, second, winners, weights=weights.tolist(), tolerance=1e-8, limit=100_000
        )
        found[row, made.scores.index] = np.log(made.scores)
    return np.asarray(found - found.mean(axis=1, keepdims=True), dtype=float)


def _evalica() -> ModuleType:
    try:
        import evalica
    except ImportError as error:
        raise InputError("votes need evalica: pip install 'vmtbench[study]'") from error
    return evalica


def strengths(votes: pd.DataFrame, methods: Sequence[str], baseline: str) -> Strengths:
    """Strengths of one question's votes (``reports.study.votes.comparisons``).

    Intervals are percentiles of a two-way cluster bootstrap: raters and clips are drawn with replacement, and
    a vote weighs as often as its rater was drawn times as often as its clip was. InputError as ``fit``.
    """
    pairs = sorted({(str(a), str(b)) for a, b in zip(votes["a"], votes["b"], strict=True)})
    won, lost = _weights(votes, pairs)
    logs = fit(pairs, won, lost, methods)
    place = {method: index for index, method in enumerate(methods)}
    base = logs[:, [place[baseline]]]
    beats = 1 / (1 + np.exp(base - logs))
    p = {}
    for a, b in combinations(sorted(methods), 2):
        differences = logs[:, place[a]] - logs[:, place[b]]
        p[a, b] = _p(float(differences[0]), float(differences[1:].std()))
    shares = _shares(won, won + lost)
    of_method = {}
    for method in methods:
        own = [
            won[:, at] if pair[0] == method else lost[:, at]
            for at, pair in enumerate(pairs)
            if method in pair
        ]
        all_ = [(won + lost)[:, at] for at, pair in enumerate(pairs) if method in pair]
        of_method[method] = _shares(np.sum(own, axis=0)[:, None], np.sum(all_, axis=0)[:, None])[:, 0]
    return Strengths(
        logs={method: _number(logs[:, at]) for method, at in place.items()},
        beats={method: _number(beats[:, at]) for method, at in place.items() if method != baseline},
        won={method: _number(share) for method, share in of_method.items()},
        rates={pair: _number(shares[:, at]) for at, pair in enumerate(pairs)},
        p=holm(p),
    )


def _weights(votes: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> tuple[Floats, Floats]:
    """(1 + ``REPLICATES``, P) votes won and lost by the first of each pair: as given, then resampled."""
    import pandas as pd

    rater, raters = pd.factorize(votes["rater"], sort=True)
    clip, clips = pd.factorize(votes["clip"], sort=True)
    place = {pair: index for index, pair in enumerate(pairs)}
    pair = np.array([place[str(a), str(b)] for a, b in zip(votes["a"], votes["b"], strict=True)])
    counts = np.zeros((2, len(raters), len(clips), len(pairs)))
    share = votes["won"].to_numpy(dtype=float)
    np.add.at(counts[0], (rater, clip, pair), share)
    np.add.at(counts[1], (rater, clip, pair), 1 - share)
    chance = np.random.default_rng(SEED)
    of_raters, of_clips = (
        np.vstack([np.ones(count), chance.multinomial(count, np.full(count, 1 / count), REPLICATES)])
        for count in (len(raters), len(clips))
    )
    won, lost = (np.einsum("br,bc,rcp->bp", of_raters, of_clips, one, optimize=True) for one in counts)
    return won, lost


def _shares(won: Floats, all_: Floats) -> Floats:
    """Won over all; NaN where a replicate drew none."""
    return np.divide(won, all_, out=np.full_like(won, np.nan), where=all_ > 0)


def _number(values: Floats) -> Number:
    """The first value, and the 95 % of those that were resampled."""
    low, high = np.nanquantile(values[1:], [LEVEL / 2, 1 - LEVEL / 2])
    return Number(float(values[0]), float(low), float(high))


def _p(difference: float, spread: float) -> float:
    """Two-sided, of a normal with the bootstrap's spread: resampling alone gives none below 1 / 2000."""
    if difference == 0:
        return 1.0
    return math.erfc(abs(difference) / max(spread, 1e-12) / math.sqrt(2))


def holm(p: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """p adjusted for all of them (Holm 1979)."""
    adjusted, highest = {}, 0.0
    for place, (pair, value) in enumerate(sorted(p.items(), key=lambda one: one[1])):
        highest = max(highest, min(1.0, value * (len(p) - place)))
        adjusted[pair] = highest
    return adjusted


def alpha(votes: pd.DataFrame) -> Number:
    """Krippendorff's alpha (nominal) with its 95 % interval: do raters answer alike of one pair and take?

    NaN where no pair and take was answered by two raters.
    """
    evalica = _evalica()
    unit = votes.groupby(["a", "b", "take"]).ngroup()
    table = votes.assign(unit=unit).pivot_table(index="rater", columns="unit", values="won", aggfunc="first")
    try:
        found = evalica.alpha_bootstrap(table, n_resamples=REPLICATES, random_state=SEED)
    except evalica.InsufficientRatingsError:
        return Number()
    return Number(found.alpha, found.low, found.high)


def circles(rates: dict[tuple[str, str], Number], methods: Sequence[str]) -> tuple[int, int]:
    """Triples of methods of which each wins over the next in turn, and all triples compared."""

    def lead(one: str, other: str) -> float | None:
        if (one, other) in rates:
            return rates[one, other].value - 0.5
        return 0.5 - rates[other, one].value if (other, one) in rates else None

    found, all_ = 0, 0
    for a, b, c in combinations(methods, 3):
        leads = lead(a, b), lead(b, c), lead(c, a)
        known = [one for one in leads if one is not None]
        all_ += len(known) == 3
        found += len(known) == 3 and (min(known) > 0 or max(known) < 0)
    return found, all_
