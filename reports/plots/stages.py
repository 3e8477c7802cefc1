"""Where the time goes, and where the memory peaks: by stage of a video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.columns import PEAKS
from reports.plots.style import INK, look, panels, short, with_legend
from reports.rows import Group, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.records.record import Memory, Record, Timing

TIME_CAPTION = (
    "Where the time goes: seconds of each stage of the video in the middle, together the table's time"
    " (median over clips)."
)
MEMORY_CAPTION = (
    "Peak memory of each stage, the highest of all videos, weights included; the axis does not start at 0."
)

STAGES = ("encode", "text", "train", "extract", "guide", "denoise", "decode")
"""In the order of their first call."""
REST = "not in a stage"


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
    import matplotlib
    from matplotlib.figure import Figure

    seconds = {row.label: stages for row in group.rows if (stages := stage_seconds(row))}
    if not seconds:
        return "no finished cell has a time"
    names = _in_order({name for stages in seconds.values() for name in stages})
    if any(stages.get(REST, 0) > 0.005 * sum(stages.values()) for stages in seconds.values()):
        names.append(REST)
    # Lightness rises along this map, so the order of the stages survives a black-and-white printer.
    colours = dict(zip(names, matplotlib.colormaps["cividis"](np.linspace(0.1, 1, len(names))), strict=True))
    figure = Figure(figsize=(7.2, 0.9 + 0.32 * len(seconds)), layout="constrained")
    axis = figure.subplots()
    lefts = np.zeros(len(seconds))
    places = np.arange(len(seconds))[::-1]
    for name in names:
        widths = np.array([stages.get(name, 0.0) for stages in seconds.values()])
        axis.barh(
            places,
            widths,
            left=lefts,
            height=0.7,
            color=colours[name],
            edgecolor=INK,
            linewidth=0.4,
            label=name,
        )
        lefts += widths
    for place, total in zip(places, lefts, strict=True):
        axis.annotate(f"{total:.3g} s", (total, place), (4, 0), textcoords="offset points", va="center")
    axis.set_yticks(places, [short(label) for label in seconds])
    axis.set_xlim(0, 1.1 * lefts.max())
    axis.set_xlabel("Seconds a video")
    axis.grid(axis="y", visible=False)
    return with_legend(figure, axis)


def memory_over_stages(group: Group) -> Figure | str:
    """Peak bytes by stage, one line a row; one panel for each kind of peak, which are never mixed."""
    headings = {
        "allocated": "Peak allocated on the device (GB)",
        "process": "Peak of the process (GB)",
    }
    peaks: dict[str, dict[int, dict[str, int]]] = {}
    for index, row in enumerate(group.rows):
        for kind, read in PEAKS.items():
            of_row = _peaks(row.finished, read)
            if of_row:
                peaks.setdefault(kind, {})[index] = of_row
                break
    if not peaks:
        return "no record holds a peak"
    names = _in_order({name for rows in peaks.values() for stages in rows.values() for name in stages})
    figure, axes = panels(len(peaks), width=4.6)
    for axis, (kind, rows) in zip(axes, peaks.items(), strict=True):
        for index, of_row in rows.items():
            places = [place for place, name in enumerate(names) if name in of_row]
            values = [of_row[names[place]] / 1e9 for place in places]
            axis.plot(places, values, label=short(group.rows[index].label), **look(index))
        axis.set_xticks(range(len(names)), names)
        axis.set_ylabel(headings[kind])
        axis.ticklabel_format(axis="y", useOffset=False)
    return with_legend(figure, *axes)


def _peaks(records: Sequence[Record], read: Callable[[Memory], int | None]) -> dict[str, int]:
    """Stage -> the highest peak of one kind in any of the records."""
    found: dict[str, int] = {}
    for record in records:
        for stage, memory in record.memory.items():
            peak = read(memory)
            if peak is not None:
                found[stage] = max(peak, found.get(stage, 0))
    return found
