"""Tables of metrics over pairs: values by kind of pair, chance levels, rank correlations with the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from datasets.errors import InputError
from metrics.consistency import ClipF, WarpConsistency
from metrics.flow_fidelity import FlowFidelity
from metrics.interface import Metric, MetricUnavailable, Tracker
from metrics.leak import Leak, LeakDino
from metrics.motion_fidelity import MotionFidelity
from metrics.motion_legacy import MotionFidelityLegacy
from metrics.position import BackgroundFlowError, DirectionCosine, PositionError
from metrics.smoothness import MotionSmoothnessDis, MotionSmoothnessRaft
from metrics.trajectories import DetMf, Ftd, FtdLegacy, MfHybrid
from metrics.validate.pairs import Errors, Pair
from metrics.vbench import (
    BackgroundConsistency,
    DynamicDegree,
    MotionSmoothness,
    SubjectConsistency,
    TemporalFlicker,
)

if TYPE_CHECKING:
    import pandas as pd

TRUE_TRACKS = " (true tracks)"
"""Rows so named read the rendered tracks instead of the tracker's: what is left is the metric's own error."""
TIES_BROKEN = " (true tracks, ties broken)"
"""Rows so named put equal values of true tracks in random order, as noise of any size would."""
ELSEWHERE = ("shifted",)
"""Kinds of pairs whose displacements are right and whose place is wrong: what they deserve is a definition's
choice, no truth."""
DRAWS = 20
"""Random orders averaged for it."""
GENERATION_ALONE = (
    ClipF,
    WarpConsistency,
    TemporalFlicker,
    MotionSmoothnessDis,
    MotionSmoothnessRaft,
    BackgroundConsistency,
    SubjectConsistency,
    DynamicDegree,
    MotionSmoothness,
)
SHIFTS = 4
"""A generation meets the references of this many other clips of its kind for the chance level."""


def motion_metrics(clip_model: str = "sprites") -> tuple[Metric, ...]:
    """Every metric of motion, consistency or leakage, as ``conf`` has it.

    ``clip_model``: the CLIP of those that read frames through one, the rendered world's unless named.
    """
    return (
        MotionFidelity("motion_fidelity"),
        MotionFidelityLegacy("motion_fidelity_legacy"),
        PositionError("position_error"),
        DirectionCosine("direction_cosine"),
        BackgroundFlowError("background_flow_error"),
        ClipF("clip_f", clip_model),
        WarpConsistency("warp_consistency"),
        Ftd("ftd"),
        FtdLegacy("ftd_legacy"),
        MfHybrid("mf_hybrid"),
        DetMf("det_mf"),
        FlowFidelity("flow_fidelity"),
        TemporalFlicker("temporal_flicker"),
        DynamicDegree("dynamic_degree"),
        MotionSmoothness("motion_smoothness"),
        MotionSmoothnessDis("motion_smoothness_dis"),
        MotionSmoothnessRaft("motion_smoothness_raft"),
        SubjectConsistency("subject_consistency"),
        BackgroundConsistency("background_consistency", clip_model),
        Leak("leak", clip_model),
        LeakDino("leak_dino"),
    )


def chosen(names: Sequence[str], metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics of these names, in their order, or all; InputError for a name that none has."""
    known = {metric.name: metric for metric in metrics}
    for name in names:
        if name not in known:
            raise InputError(f"--metrics {name}: no such metric; there are: {', '.join(known)}")
    return [known[name] for name in names or known]


def without_weights(metrics: Sequence[Metric]) -> dict[str, str]:
    """The metrics whose weights or package are not at hand: name -> which, and the remedy."""
    lacking = {}
    for metric in metrics:
        try:
            metric.ready()
        except MetricUnavailable as error:
            lacking[metric.name] = str(error)
    return lacking


def reads_reference(metric: Metric) -> bool:
    """Consistency metrics look at the generation alone, so that no reference is the wrong one."""
    return not isinstance(metric, GENERATION_ALONE)


def measure(pairs: Iterable[Pair], metrics: Sequence[Metric], tracker: Tracker) -> pd.DataFrame:
    """One row a pair: ``clip``, ``moves`` (object or camera), ``kind``, the true errors, and every value.

    Rows of kind ``chance`` set a reference beside the references of other clips.
    """
    import pandas as pd

    rows, seen = [], []
    for pair in pairs:
        about = {"clip": pair.clip, "moves": pair.reference.truth.kind, "kind": pair.kind}
        rows.append(about | pair.errors._asdict() | _values(pair, metrics, tracker, None))
        if pair.kind == "same":
            seen.append(pair)
    for moves in ("object", "camera"):
        group = [pair for pair in seen if pair.reference.truth.kind == moves]
        for shift in range(1, min(SHIFTS, len(group) - 1) + 1):
            for place, pair in enumerate(group):
                wrong = group[(place + shift) % len(group)]
                about = {"clip": pair.clip, "moves": moves, "kind": "chance"}
                rows.append(about | _values(pair, metrics, tracker, wrong))
    return pd.DataFrame(rows)


def _values(pair: Pair, metrics: Sequence[Metric], tracker: Tracker, beside: Pair | None) -> dict[str, float]:
    other = beside.reference if beside else None
    found, true = (pair.sample(tracker, exact, other) for exact in (False, True))
    values: dict[str, float] = {}
    for metric in metrics:
        if beside is not None and not reads_reference(metric):
            continue
        value = metric.score(found).value
        values[metric.name] = np.nan if value is None else value
        if metric.uses_tracks:
            value = metric.score(true).value
            values[metric.name + TRUE_TRACKS] = np.nan if value is None else value
    return values


def columns(frame: pd.DataFrame, moves: str) -> list[str]:
    """The metrics that have a value for clips in which ``moves`` (object or camera) moves."""
    about = {"clip", "moves", "kind", *Errors._fields}
    chosen = frame[frame["moves"] == moves]
    return [str(name) for name in frame if name not in about and chosen[name].notna().any()]


def by_kind(frame: pd.DataFrame, moves: str) -> pd.DataFrame:
    """Means: a row a kind of pair and one for chance, columns the true errors and the metrics."""
    chosen = frame[frame["moves"] == moves]
    order = chosen["kind"].drop_duplicates()
    return chosen.groupby("kind")[[*Errors._fields, *columns(frame, moves)]].mean().loc[list(order)]


def correlations(
    frame: pd.DataFrame, moves: str, metrics: Sequence[Metric], *, within_clips: bool = False
) -> pd.DataFrame:
    """Spearman's rank correlation over all pairs: a row a metric, a column a true error, and pairs used.

    Pairs that move alike elsewhere (``ELSEWHERE``) are left out. Signs are such that 1 is a metric that ranks
    as the truth does, whichever way either counts.
    ``within_clips``: the mean over clips of the correlation among one clip's pairs, which is what a table of
    methods on the same clips needs; a clip in which either is constant has none. Where a metric has true
    tracks, a row more has their equal values in random order: many pairs are equally right, and a metric
    with any noise puts an order where the truth has none.
    """
    import pandas as pd

    chosen = frame[(frame["moves"] == moves) & ~frame["kind"].isin(("chance", *ELSEWHERE))]
    up = {metric.name: metric.column.higher_is_better for metric in metrics}
    rows = {}
    for name in columns(frame, moves):
        about = chosen[["clip", *Errors._fields]]
        sign = 1 if up[name.removesuffix(TRUE_TRACKS)] else -1
        known = {"pairs": chosen[name].notna().sum()}
        rows[name] = _correlations(about, chosen[name], sign, within_clips) | known
        if name.endswith(TRUE_TRACKS):
            rng = np.random.default_rng(0)
            draws = [
                _correlations(about, _ties_broken(chosen[name], rng), sign, within_clips)
                for _ in range(DRAWS)
            ]
            means = {str(error): mean for error, mean in pd.DataFrame(draws).mean().items()}
            rows[name.removesuffix(TRUE_TRACKS) + TIES_BROKEN] = means | known
    return pd.DataFrame.from_dict(rows, orient="index")


def _correlations(about: pd.DataFrame, value: pd.Series, sign: int, within_clips: bool) -> dict[str, float]:
    """Rank correlation of ``value`` with every true error; ``about`` holds those and the clip."""
    from scipy.stats import spearmanr

    row: dict[str, float] = {}
    for error in Errors._fields:
        both = about[["clip", error]].assign(value=value).dropna()
        groups = [group for _, group in both.groupby("clip")] if within_clips else [both]
        found = [
            spearmanr(group["value"], group[error]).statistic
            for group in groups
            if group["value"].nunique() > 1 and group[error].nunique() > 1
        ]
        row[error] = sign * (1 if error == "direction" else -1) * float(np.mean(found)) if found else np.nan
    return row


def _ties_broken(value: pd.Series, rng: np.random.Generator) -> pd.Series:
    """The ranks of ``value``, equal ones (to a millionth) in random order; NaN stays."""
    shuffled = value.round(6).sample(frac=1, random_state=rng)
    return shuffled.rank(method="first").reindex(value.index)
