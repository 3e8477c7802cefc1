"""Where the time goes, and where the memory peaks: by stage of a video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.plots.style import INK, MARKERS, short
from reports.table.rows import Group, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.records.record import Record, Timing

TIME_CAPTION = (
    "Where the time goes: seconds of each stage of the video in the middle, together the table's time"
    " (median over clips)."
)
MEMORY_CAPTION = (
    "Peak of the device's memory in each stage, the highest of all videos, weights included; the axis does"
    " not start at 0."
)

STAGES = ("encode", "text", "train", "extract", "guide", "denoise", "decode")
"""In the order of their first call."""
REST = "not in a stage"

COLOURS = {
    "encode": "#77AADD",
    "text": "#99DDFF",
    "train": "#EE8866",
    "extract": "#BBCC33",
    "guide": "#44BB99",
    "denoise": "#EEDD88",
    "decode": "#AAAA00",
    REST: "#DDDDDD",
}
"""Paul Tol's light scheme (sronpersonalpages.nl/~pault): stages have no order of more or less, and none of
these is a method's colour. A stage without a line here gets the scheme's pink."""
HATCHES = {"train": "////", "guide": "....", "denoise": "\\\\\\\\"}


def _in_order(stages: set[str]) -> list[str]:
    return [*(name for name in STAGES if name in stages), *sorted(stages - {*STAGES, REST})]


def stage_seconds(row: Row) -> dict[str, float]:
    """Seconds of each stage of a clip's first video; they add up to the table's time (``columns.TIME``).

    They are those of the clip in the middle by its time (the mean of the two there, for an even number), and
    likewise within a clip: medians of stages would not add up. ``REST`` is what no stage holds; empty when
    nothing was timed.
    """
    clips: dict[str, list[Counter[str]]] = {}
    for record in row.finished:
        if record.timing.first_video is not None:
            clips.setdefault(record.clip, []).append(_spent(record.timing))
    if not clips:
        return {}
    found = _middle([_middle(videos) for videos in clips.values()])
    names = [*_in_order(set(found)), REST]
    return {name: found[name] for name in names if name != REST or found[name] > 0}


def _spent(timing: Timing) -> Counter[str]:
    """Seconds by stage, what the clip's videos share with it, and the rest."""
    total = timing.first_video or 0.0
    spent = Counter(timing.stages) + Counter(timing.amortised)
    stages = sum(spent.values())
    # Each stage is a median over repeats: together they may be longer than the median total.
    scale = min(1.0, total / stages) if stages else 1.0
    rest = total - stages * scale
    return Counter({name: seconds * scale for name, seconds in spent.items()} | {REST: rest})


def _middle(videos: Sequence[Counter[str]]) -> Counter[str]:
    """The one of median time, or the mean of the two beside it."""
    ordered = sorted(videos, key=lambda spent: sum(spent.values()))
    two = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return Counter({name: (two[0][name] + two[1][name]) / 2 for name in two[0].keys() | two[1].keys()})


def time_by_stage(group: Group) -> Figure | str:
    """Stacked bars, one a row: seconds of each stage, the table's time together."""
    from matplotlib.figure import Figure

    seconds = {row.label: stages for row in group.rows if (stages := stage_seconds(row))}
    if not seconds:
        return "no finished cell has a time"
    names = _in_order({name for stages in seconds.values() for name in stages})
    if any(stages.get(REST, 0) > 0.005 * sum(stages.values()) for stages in seconds.values()):
        names.append(REST)
    figure = Figure(figsize=(7.2, 0.9 + 0.22 * len(seconds)), layout="constrained")
    axis = figure.subplots()
    lefts = np.zeros(len(seconds))
    places = np.arange(len(seconds))[::-1]
    for name in names:
        widths = np.array([stages.get(name, 0.0) for stages in seconds.values()])
        # The hatch tells stages apart in black and white.
        axis.barh(
            places,
            widths,
            left=lefts,
            height=0.72,
            color=_colour(name),
            hatch=HATCHES.get(name),
            edgecolor=INK,
            linewidth=0.4,
            label=name,
        )
        lefts += widths
    for place, total in zip(places, lefts, strict=True):
        axis.annotate(f"{total:.3g} s", (total, place), (4, 0), textcoords="offset points", va="center")
    axis.set_xlim(0, 1.1 * lefts.max())
    _one_line_a_row(figure, axis, [*seconds])
    axis.set_xlabel("Seconds a video")
    return figure


def memory_over_stages(group: Group) -> Figure | str:
    """Gigabytes allocated on the device: a line a row, a mark a stage, the highest written beside it."""
    from matplotlib.figure import Figure

    peaks = {row.label: found for row in group.rows if (found := _peaks(row.finished))}
    if not peaks:
        return "no record holds a device's memory; a process on a CPU keeps what it loaded before"
    names = _in_order({name for stages in peaks.values() for name in stages})
    figure = Figure(figsize=(7.2, 0.9 + 0.22 * len(peaks)), layout="constrained")
    axis = figure.subplots()
    places = dict(zip(peaks, range(len(peaks) - 1, -1, -1), strict=True))
    for label, stages in peaks.items():
        ends = [min(stages.values()) / 1e9, max(stages.values()) / 1e9]
        axis.plot(ends, [places[label]] * 2, color=INK, linewidth=0.6, alpha=0.5, zorder=1)
        highest = f"{ends[1]:.3g} GB"
        axis.annotate(highest, (ends[1], places[label]), (6, 0), textcoords="offset points", va="center")
    for name in names:
        having = {label: stages[name] / 1e9 for label, stages in peaks.items() if name in stages}
        axis.plot(
            list(having.values()),
            [places[label] for label in having],
            linestyle="none",
            color=_colour(name),
            marker=MARKERS[(_in_order({*STAGES, *names})).index(name) % len(MARKERS)],
            markeredgecolor=INK,
            markeredgewidth=0.5,
            label=name,
        )
    axis.margins(x=0.12)
    _one_line_a_row(figure, axis, [*peaks])
    axis.set_xlabel("Peak allocated on the device (GB)")
    return figure


def _one_line_a_row(figure: Figure, axis: Axes, labels: Sequence[str]) -> None:
    """The rows' names on the left, the first at the top, and the stages' names above."""
    axis.set_yticks(range(len(labels) - 1, -1, -1), [short(label) for label in labels])
    axis.set_ylim(-0.6, len(labels) - 0.4)
    axis.grid(axis="y", visible=False)
    # Above the bars: the lowest lies beside the axis' own numbers.
    figure.legend(loc="outside upper center", ncols=8, columnspacing=1.2, handlelength=1.2)


def _colour(stage: str) -> str:
    return COLOURS.get(stage, "#FFAABB")


def _peaks(records: Sequence[Record]) -> dict[str, int]:
    """Stage -> the most bytes allocated on the device in any of the records."""
    found: dict[str, int] = {}
    for record in records:
        for stage, memory in record.memory.items():
            if memory.allocated is not None:
                found[stage] = max(memory.allocated, found.get(stage, 0))
    return found
