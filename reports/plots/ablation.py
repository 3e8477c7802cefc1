"""Sweeps: rows that differ in one setting alone, and what it changes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.plots.labels import label_points
from reports.plots.style import ONE_CLIP, headed, laid_out, looks, panels, quality, ratio_axis
from reports.table.columns import COUNT, MEMORY, TIME, peak
from reports.table.rows import Group, Row
from reports.table.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = (
    "{key}, all else unchanged: means over clips and median seconds, with 95 % intervals from 6 clips on."
)


@dataclass(frozen=True)
class Sweep:
    """Rows of a method that differ in one setting alone.

    ``points``: (its value, how it is written, the row's label), in order.
    """

    method: str
    points: tuple[tuple[float, str, str], ...]


def sweeps(group: Group) -> dict[str, list[Sweep]]:
    """Setting -> its sweeps: three or more rows whose resolved configurations differ in that number alone."""
    settings = {row.label: found for row in group.rows if (found := _settings(row))}
    made: dict[str, list[Sweep]] = {}
    for key in dict.fromkeys(key for flat in settings.values() for key in flat):
        alike: dict[str, dict[float, tuple[str, str]]] = {}
        for label, flat in settings.items():
            value = _axis_value(flat.get(key))
            if value is not None:
                rest = json.dumps({k: v for k, v in flat.items() if k != key}, sort_keys=True, default=str)
                alike.setdefault(rest, {}).setdefault(value[0], (value[1], label))
        for of_value in alike.values():
            if len(of_value) >= 3:
                points = tuple((value, *of_value[value]) for value in sorted(of_value))
                made.setdefault(key, []).append(Sweep(str(settings[points[0][2]]["name"]), points))
    return made


def ablation(key: str, lines: Sequence[Sweep], group: Group, table: Table) -> Figure | str:
    """One panel a measure: its value over the values of one setting, with intervals.

    Memory only where it is the device's: a process on a CPU holds what it loaded before.
    """
    from matplotlib.ticker import NullLocator

    measured = {label for line in lines for _, _, label in line.points}
    if not any(table.numbers[label][COUNT.key].value > 1 for label in measured):
        return ONE_CLIP
    costs = (
        [TIME, MEMORY]
        if peak([one for row in group.rows for one in row.finished])[1] == "allocated"
        else [TIME]
    )
    shown = [
        (column, heading)
        for column, heading in [*quality(table), *(pair for pair in headed(table) if pair[0] in costs)]
        if any(not math.isnan(table.numbers[label][column.key].value) for label in measured)
    ]
    if not shown:
        return "no row of it has a value"
    figure, axes = panels(len(shown))
    several = Counter(line.method for line in lines)
    names = [line.method if several[line.method] == 1 else line.points[0][2] for line in lines]
    look = looks({name: line.method for name, line in zip(names, lines, strict=True)})
    ticks = dict(sorted({value: text for line in lines for value, text, _ in line.points}.items()))
    ends: list[dict[str, tuple[float, float]]] = []
    for axis, (column, heading) in zip(axes, shown, strict=True):
        scale = 1e9 if column.unit == "B" else 1.0
        every: list[float] = []
        of_panel: dict[str, tuple[float, float]] = {}
        for name, line in zip(names, lines, strict=True):
            places = [value for value, _, _ in line.points]
            numbers = [table.numbers[label][column.key] for _, _, label in line.points]
            style = look[name]
            lows, highs = [one.low / scale for one in numbers], [one.high / scale for one in numbers]
            axis.vlines(places, lows, highs, color=style["color"], linewidth=1)
            values = [one.value / scale for one in numbers]
            axis.plot(places, values, label=name, **style)
            of_panel[name] = places[-1], values[-1]
            every += values
        if column.unit:
            ratio_axis(axis.yaxis, every)
        ratio_axis(axis.xaxis, ticks)
        axis.set_xticks(
            list(ticks), list(ticks.values()), rotation=45 if "x" in "".join(ticks.values()) else 0
        )
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel(key)
        axis.set_ylabel(f"{column.label} (GB) ↓" if column.unit == "B" else heading)
        axis.margins(0.12)
        ends.append(of_panel)
    laid_out(figure)
    # One line is named once.
    for axis, of_panel in list(zip(axes, ends, strict=True))[: None if len(lines) > 1 else 1]:
        label_points(axis, of_panel)
    return figure


def _settings(row: Row) -> dict[str, Any]:
    """The row's resolved configuration as one flat mapping, each setting once; empty without a record.

    What a method interpolates from its backbone stands under the method, sizes under the backbone;
    height and width, which change together, are one setting.
    """
    record = next(iter(row.records.values()), None)
    if record is None:
        return {}
    method, backbone, dataset = (
        dict(source.config) for source in (record.method, record.backbone, record.dataset)
    )
    skipped = {"guidance", *method, "height", "width"}
    flat = _flat({key: value for key, value in method.items() if key not in ("name", "_target_")})
    flat |= _flat({key: value for key, value in backbone.items() if key not in skipped}, "backbone")
    # Which clips were asked for is no setting of a video: cells are shared between such commands.
    own = set(record.identity.get("dataset", {}).get("config", dataset)) - {"height", "width"}
    flat |= _flat({key: value for key, value in dataset.items() if key in own}, "dataset")
    flat["frame size"] = [backbone.get("width"), backbone.get("height")]
    return {"name": record.method.name, **flat}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        found |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return found


def _axis_value(value: Any) -> tuple[float, str] | None:
    """A setting's place on an axis and its text: a number, or the area of a size such as [3, 4]."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value), f"{value:g}"
    if isinstance(value, list) and value and all(type(one) in (int, float) for one in value):
        return float(math.prod(value)), "x".join(f"{one:g}" for one in value)
    return None
