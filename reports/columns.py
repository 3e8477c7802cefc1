"""Columns of a table, and the numbers that stand in them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.records.record import Record, Timing
from reports.rows import SETTINGS, Row, _peak, _peak_of
from reports.statistics import (
    Pair,
    bootstrap_interval,
    cluster_means,
)

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Column:
    """A column. ``higher_is_better`` is None where nothing is better. ``unit`` is that of the numbers."""

    key: str
    label: str
    unit: str = ""
    higher_is_better: bool | None = True


STANDARD = (
    Column("clip_t", "Text sim."),
    Column("motion_fidelity", "Motion fid."),
    Column("clip_f", "Temp. cons."),
    Column("position_error", "Position err.", "px", False),
    Column("direction_cosine", "Direction cos."),
)


COSTS = (
    Column("time", "Time", "s", False),
    Column("memory", "Memory", "B", False),
    Column("forward_equivalents", "Forward eq.", "", False),
)


GRADIENTS = Column("gradients", "True gradients", "", None)
"""True gradients of the latent taken for one video; shown where it is asked for."""


FURTHER = Column("further", "Further video", "s", False)


SPEEDUP = Column("speedup", "Speed-up", "x")


COUNT = Column("n", "n", "", None)


SECONDARY = (
    "warp_consistency",
    "motion_fidelity_legacy",
    "motion_fidelity_speed",
    "objects_right",
    "background_right",
    "count_right",
)
"""Metrics that need ``everything=True`` to be shown, as do those without a value in any row."""


MOTION = (
    "motion_fidelity",
    "motion_fidelity_speed",
    "motion_fidelity_legacy",
    "position_error",
    "direction_cosine",
)
"""A frozen video wins every consistency metric, so ``warp_consistency`` needs one of these beside it."""


def _metric_columns(rows: list[Row]) -> list[Column]:
    """The metrics the records hold: ours first, in the table's order, then the others by name."""
    found: dict[str, Column] = {}
    for row in rows:
        for record in row.records.values():
            for key, metric in record.metrics.items():
                known = next((column for column in STANDARD if column.key == key), None)
                label = metric.label or (known.label if known else key)
                found.setdefault(key, Column(key, label, metric.unit, metric.higher_is_better))
    order = [column.key for column in STANDARD]
    return sorted(
        found.values(),
        key=lambda column: (order.index(column.key), "") if column.key in order else (99, column.key),
    )


def _shown(rows: list[Row], metrics: list[Column], everything: bool) -> tuple[list[Column], list[str]]:
    notes = []
    always = {column.key for column in STANDARD[:3]}
    chosen = [
        column
        for column in metrics
        if everything
        or column.key in always
        or (column.key not in SECONDARY and any(row.untrained or row.pairs(column.key) for row in rows))
    ]
    judged = {key for key in MOTION if any(row.pairs(key) for row in rows)}
    if not judged & {column.key for column in chosen}:
        without = [column for column in chosen if column.key != "warp_consistency"]
        if without != chosen:
            notes.append("warp_consistency is not shown: there is no motion score to read it against.")
        chosen = without
    return [*chosen, *COSTS, COUNT], notes


def _quality(row: Row, key: str, dropped: set[Pair]) -> tuple[float, float, float]:
    pairs = {} if row.untrained else row.pairs(key)
    kept = {pair: value for pair, value in pairs.items() if pair not in dropped}
    clips = cluster_means(kept.values(), (pair[0] for pair in kept))
    if not clips:
        return math.nan, math.nan, math.nan
    means = list(clips.values())
    return float(np.mean(means)), *bootstrap_interval(means)


def _costs(row: Row) -> dict[str, tuple[float, float, float]]:
    """Median seconds over clips with their interval, the highest peak, mean counts, clips."""
    nothing = (math.nan, math.nan)
    forward = _mean(row, lambda record: record.flops.forward_equivalents)
    gradients = _mean(row, lambda record: record.calls.get("gradient", 0) if record.calls else None)
    peak = _peak(row)[0]
    return {
        "time": _median_seconds(row, lambda timing: timing.first_video),
        "further": _median_seconds(row, lambda timing: timing.further_video),
        "memory": (math.nan if peak is None else float(peak), *nothing),
        "forward_equivalents": (forward, *nothing),
        "gradients": (gradients, *nothing),
        "n": (float(len({record.clip for record in row.finished})), *nothing),
    }


def _mean(row: Row, read: Callable[[Record], float | None]) -> float:
    """Mean over clips of the means within each; NaN where no cell has a value."""
    found = [(value, record.clip) for record in row.finished if (value := read(record)) is not None]
    clips = cluster_means((value for value, _ in found), (clip for _, clip in found))
    return float(np.mean(list(clips.values()))) if clips else math.nan


def _median_seconds(row: Row, read: Callable[[Timing], float | None]) -> tuple[float, float, float]:
    """Median over clips (of the medians within each) with its interval; NaN when nothing was timed."""
    timed = [
        (seconds, record.clip) for record in row.finished if (seconds := read(record.timing)) is not None
    ]
    clips = cluster_means((seconds for seconds, _ in timed), (clip for _, clip in timed), np.median)
    if not clips:
        return math.nan, math.nan, math.nan
    seconds = list(clips.values())
    return float(np.median(seconds)), *bootstrap_interval(seconds, np.median, method="percentile")


def _by_pair(row: Row, key: str) -> dict[Pair, float]:
    """A column's number for each finished cell that has one; seconds, bytes, or the metric's value."""
    if key not in {column.key for column in (*COSTS, FURTHER)}:
        return {} if row.untrained else row.pairs(key)
    found: dict[Pair, float] = {}
    for record in row.finished:
        value = {
            "time": record.timing.first_video,
            "further": record.timing.further_video,
            "memory": _peak_of([record])[0],
            "forward_equivalents": record.flops.forward_equivalents,
        }[key]
        if value is not None and math.isfinite(value):
            found[record.clip, record.prompt, record.seed] = float(value)
    return found


def _same_machine(row: Row, base: Row) -> bool:
    names = ("device", "frames", "frame size")
    return all(row.setting(SETTINGS[name]) == base.setting(SETTINGS[name]) for name in names)


def _speedup(row: Row, base: Row) -> tuple[float, float, float]:
    """Geometric mean over clips of base seconds / own seconds, with its interval; NaN across devices."""
    ours, theirs = _by_pair(row, "time"), _by_pair(base, "time")
    shared = [pair for pair in ours if pair in theirs and ours[pair] > 0 and theirs[pair] > 0]
    if not shared or not _same_machine(row, base):
        return math.nan, math.nan, math.nan
    if row is base:
        return 1.0, math.nan, math.nan
    logs = cluster_means(
        (math.log(theirs[pair] / ours[pair]) for pair in shared), (pair[0] for pair in shared)
    )
    low, high = bootstrap_interval(list(logs.values()))
    return math.exp(float(np.mean(list(logs.values())))), math.exp(low), math.exp(high)


def _number(value: float, digits: int, *, sign: bool = False) -> str:
    """Fixed digits, without the zero before the point."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def _digits(column: Column, values: Iterable[float]) -> int:
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if column == SPEEDUP:
        return 2
    if column == GRADIENTS:
        return 1
    if not column.unit and column.key not in {cost.key for cost in COSTS} and largest < 10:
        return 4
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2
