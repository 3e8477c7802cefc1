"""How well a metric tells the right reference from wrong ones, from the values of ``footage.measure``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metrics.interface import Metric
from metrics.validate.footage import COPIES, MATCHED, MISMATCHED, REFERENCES

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 2000
"""Bootstrap draws of scenes for an interval."""
WRONG = (MISMATCHED, *REFERENCES)
OWN = "own beats another"


class Share(NamedTuple):
    """A share in 0..1 with its 95 % interval, bootstrapped over scenes; ``n`` pairs had a value."""

    value: float
    low: float
    high: float
    n: int


def auc(values: pd.DataFrame, wrong: str) -> Share:
    """The chance that a matched value is above one of the kind ``wrong``, ties half, of one metric's rows.

    Pairs are drawn scene by scene, so that each scene weighs the same.
    """
    right = values[values["kind"] == MATCHED].dropna(subset="value")
    false = values[values["kind"] == wrong].dropna(subset="value")
    scenes = sorted(set(right["scene"]) & set(false["scene"]))
    above = np.array(
        [
            [
                _above(right[right["scene"] == one]["value"], false[false["scene"] == other]["value"])
                for other in scenes
            ]
            for one in scenes
        ]
    )
    if not scenes:
        return Share(np.nan, np.nan, np.nan, 0)
    drawn = np.array([above[np.ix_(draw, draw)].mean() for draw in _draws(len(scenes))])
    return _share(float(above.mean()), drawn, len(right))


def own_beats_another(values: pd.DataFrame) -> Share:
    """The share of other scenes' references that a generation scores lower with than with its own."""
    right = values[values["kind"] == MATCHED].dropna(subset="value")
    false = values[values["kind"] == MISMATCHED].dropna(subset="value")
    if right.empty:
        return Share(np.nan, np.nan, np.nan, 0)
    wins = [
        _above(row["value"], false[false["generated"] == row["generated"]]["value"])
        for _, row in right.iterrows()
    ]
    by_scene = right.assign(wins=wins).groupby("scene")["wins"].mean().to_numpy(float)
    draws = _draws(len(by_scene))
    return _share(float(by_scene.mean()), by_scene[draws].mean(1), len(right))


def _above(right: float | pd.Series, false: pd.Series) -> float:
    """The share of ``right`` above ``false``, ties half; NaN without either."""
    difference = np.atleast_1d(np.asarray(right, float))[:, None] - np.asarray(false, float)[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean()) if difference.size else float("nan")


def _draws(scenes: int) -> NDArray[np.int64]:
    """Scenes drawn with replacement: (``DRAWS``, scenes)."""
    return np.random.default_rng(0).integers(max(scenes, 1), size=(DRAWS, scenes))


def _share(value: float, drawn: NDArray[np.float64], n: int) -> Share:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Share(value, float(low), float(high), n)


def shares(values: pd.DataFrame) -> dict[str, Share]:
    """By kind of wrong reference, and ``OWN``, for one metric's rows."""
    return {kind: auc(values, kind) for kind in WRONG} | {OWN: own_beats_another(values)}


def means(values: pd.DataFrame) -> pd.Series:
    """Mean value of each kind, each scene weighing the same; NaN where no pair has a value."""
    by_scene = values.groupby(["kind", "scene"])["value"].mean()
    order = [MATCHED, *WRONG, *COPIES]
    return by_scene.groupby("kind").mean().reindex(order)


def answered(values: pd.DataFrame) -> float:
    """Share of matched pairs with a value."""
    return float(values[values["kind"] == MATCHED]["value"].notna().mean())


def worst(values: pd.DataFrame, count: int = 5) -> pd.DataFrame:
    """The matched pairs that most wrong values reach, the worst first: ``reached`` is the share that does.

    Wrong values are those with another scene's reference and with a mirrored or reversed one, a third each.
    """
    right = values[values["kind"] == MATCHED].dropna(subset="value")
    kinds = [values[values["kind"] == kind] for kind in WRONG[:3]]
    reached = [
        np.mean([1 - _above(value, kind["value"].dropna()) for kind in kinds]) for value in right["value"]
    ]
    found = right.assign(reached=reached).sort_values("reached", ascending=False)
    return found[["scene", "generated", "reference", "value", "reached"]].head(count)


def oriented(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """A metric's rows with values of which the higher is the better."""
    return rows if metric.column.higher_is_better else rows.assign(value=-rows["value"])


def tables(found: dict[str, pd.DataFrame], seeing: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """What is printed, by title: a row a metric.

    ``found``: each metric's rows; ``seeing``: those, ``oriented``, of metrics that see motion, which
    alone are asked to tell references apart.
    """
    import pandas as pd

    told = {name: shares(rows) for name, rows in seeing.items()}
    return {
        "AUC of the own reference against wrong ones, with 95 % intervals over scenes": pd.DataFrame(
            {
                name: {kind: _shown(share) for kind, share in kinds.items()} | {"pairs": kinds[MISMATCHED].n}
                for name, kinds in told.items()
            }
        ).T,
        "Mean values, each scene weighing the same": pd.DataFrame(
            {
                name: means(rows).to_dict() | {"share with a value": answered(rows)}
                for name, rows in found.items()
            }
        ).T,
    }


def _shown(share: Share) -> str:
    return f"{share.value:.3f} [{share.low:.2f}, {share.high:.2f}]"
