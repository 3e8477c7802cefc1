"""Figures from plans and records alone: PDF and SVG for print, PNG for everything else.

Each figure is a function of a ``Group`` (its records) and its ``Table`` (its numbers), and gives a
matplotlib ``Figure``, or one line that says why there is nothing to draw. Rows are told apart by
colour and by marker, so that figures survive colour blindness and black-and-white print.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.errors import InputError
from harness.records.store import write_whole
from reports.columns import Column
from reports.formats import headers
from reports.rows import Group, Row, groups
from reports.statistics import Pair, cluster_means, paired_difference
from reports.tables import Table, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.records.record import Plan, Record

INK = "#1b1c1e"
"""Text and lines. The page puts its own text colour in its place."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's colours for the colour-blind (jfly.uni-koeln.de/color), with grey for their black and
without their yellow: both have to show on white paper and on a dark page."""

MARKERS = "osD^vPX*<>"

STAGES = ("encode", "text", "train", "extract", "guide", "denoise", "decode")
"""In the order of their first call."""
REST = "not in a stage"

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "text.parse_math": False,  # a prompt or label may hold a dollar sign
    "pdf.fonttype": 42,  # text stays text: journals refuse type 3 fonts
    "svg.fonttype": "path",
    "svg.hashsalt": "vmtbench",
}


@dataclass(frozen=True)
class Plot:
    """A figure, its file name without suffix, and what it shows in one sentence."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class NotDrawn:
    """A figure there is no data for, and why."""

    name: str
    reason: str


def plots(results: Path, group: Group, table: Table) -> Iterator[Plot | NotDrawn]:
    """All figures of one backbone and dataset. ``table`` is the group's own table."""
    import matplotlib

    drawers: list[tuple[str, str, Callable[[], Figure | str]]] = [
        (
            "quality_time",
            "Quality against time: means over clips and median seconds a video, both with 95 % intervals;"
            " the dashed line joins the rows that no other row beats in both (the Pareto front).",
            lambda: quality_against_time(group, table),
        ),
        (
            "time_stages",
            "Where the time goes: seconds of each stage of a video, mean over clips.",
            lambda: time_by_stage(group),
        ),
        (
            "memory_stages",
            "Peak memory of each stage, the highest of all videos, weights included; the axis does not start"
            " at 0.",
            lambda: memory_over_stages(group),
        ),
        (
            "paired_differences",
            "Differences from the baseline: one dot for each clip (prompts and seeds averaged), their mean"
            " and its 95 % interval. An interval that leaves out 0 is a difference.",
            lambda: paired_differences(group, table),
        ),
        (
            "gradient_similarity",
            "Cosine of each true gradient to the true gradient before it, by inner iteration and by guided"
            " step: mean over videos, with the middle 80 %. Close to 1 means that the gradient could have"
            " been reused.",
            lambda: gradient_similarity(results, group),
        ),
    ]
    for key, lines in sweeps(group).items():
        drawers.append(
            (
                f"ablation_{slug(key)}",
                f"{key}, all else unchanged: means over clips and median seconds, with 95 % intervals.",
                lambda key=key, lines=lines: ablation(key, lines, group, table),  # type: ignore[misc]
            )
        )
    place = slug(table.title)
    for name, caption, draw in drawers:
        with matplotlib.rc_context(STYLE):
            drawn = draw()
        unread = _unreadable_traces(results, group) if name == "gradient_similarity" else 0
        note = f" {unread} trace.json could not be read." if unread else ""
        if isinstance(drawn, str):
            yield NotDrawn(f"{place}-{name}", drawn + note)
        else:
            yield Plot(f"{place}-{name}", caption + note, drawn)


def write_plots(
    results: Path, plans: Sequence[Plan], out: Path, everything: bool = False
) -> tuple[list[Path], list[NotDrawn]]:
    """Write every figure as PDF, SVG and PNG (300 dots an inch) into ``out``, and say what is not drawn.

    InputError when ``out`` cannot be written.
    """
    of_group = {(table.backbone, table.dataset): table for table in tables(results, plans, everything)}
    written: list[Path] = []
    missing: list[NotDrawn] = []
    for group in groups(results, plans):
        for plot in plots(results, group, of_group[(group.backbone, group.dataset)]):
            if isinstance(plot, NotDrawn):
                missing.append(plot)
            else:
                written += save(plot, out)
    return written, missing


def save(plot: Plot, out: Path) -> list[Path]:
    """Write one figure as PDF, SVG and PNG under its name; the same figure gives the same bytes."""
    import matplotlib

    paths = []
    for form, metadata in (
        ("pdf", {"CreationDate": None}),
        ("svg", {"Date": None}),
        ("png", {}),
    ):
        path, buffer = out / f"{plot.name}.{form}", io.BytesIO()
        with matplotlib.rc_context(STYLE):
            plot.figure.savefig(buffer, format=form, dpi=300, metadata=metadata)
        try:
            write_whole(path, buffer.getvalue())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
        paths.append(path)
    return paths


def inline_svg(plot: Plot) -> str:
    """The figure as an ``<svg>`` element: no background, the page's text colour, ids of its own."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # The page scales it by its viewBox.
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for before in (' id="', 'href="#', "url(#"):
        text = text.replace(before, f"{before}{plot.name}-")
    return text.replace(INK, "currentColor").strip()


def slug(text: str) -> str:
    """A file name's worth of a text: letters, digits, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:80] or "unnamed"


def pareto(times: Sequence[float], values: Sequence[float], higher_is_better: bool) -> list[int]:
    """Indices, fastest first, of the points that none as fast or faster equals or betters.

    Of equal points the first stands; points with a NaN do not count.
    """
    sign = 1.0 if higher_is_better else -1.0
    known = [i for i in range(len(times)) if math.isfinite(times[i]) and math.isfinite(values[i])]
    front: list[int] = []
    best = -math.inf
    for index in sorted(known, key=lambda i: (times[i], -sign * values[i])):
        if sign * values[index] > best:
            front.append(index)
            best = sign * values[index]
    return front


# The figures


def quality_against_time(group: Group, table: Table) -> Figure | str:
    """One panel a metric: value against seconds, with intervals and the Pareto front."""
    from matplotlib.ticker import LogLocator

    shown = _quality(group, table)
    times = table.values["time"]
    if not shown or times.notna().sum() == 0:
        return "no row has both a metric's value and a time"
    figure, axes = _panels(len(shown))
    for axis, (column, heading) in zip(axes, shown, strict=True):
        values = table.values[column.key]
        for index, label in enumerate(values.index):
            look = _look(index)
            seconds, value = times[label], values[label]
            low, high = table.lows.at[label, column.key], table.highs.at[label, column.key]
            axis.plot([seconds, seconds], [low, high], color=look["color"], linewidth=1)
            fast, slow = table.lows.at[label, "time"], table.highs.at[label, "time"]
            axis.plot([fast, slow], [value, value], color=look["color"], linewidth=1)
            axis.plot([seconds], [value], linestyle="none", label=_short(label), **look)
        front = pareto(list(times), list(values), column.higher_is_better is not False)
        axis.step(
            times.iloc[front],
            values.iloc[front],
            where="post",
            color=INK,
            linestyle=(0, (4, 3)),
            linewidth=0.8,
            zorder=1,
        )
        if times.max() > 8 * times.min() > 0:
            axis.set_xscale("log")
            # The logarithmic axis would write its numbers as formulas, which are never parsed here.
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
        axis.set_xlabel("Time (s) ↓")
        axis.set_ylabel(heading)
        axis.margins(0.1)
    return _with_legend(figure, axes[0])


def stage_seconds(row: Row) -> dict[str, float]:
    """Mean seconds of each stage of a clip's first video over clips (prompts and seeds averaged within).

    ``REST`` is what no stage holds; empty when nothing was timed.
    """
    timed = [record for record in row.finished if record.timing.total is not None]
    if not timed:
        return {}
    clips = [record.clip for record in timed]
    spent = [Counter(record.timing.stages) + Counter(record.timing.amortised) for record in timed]
    every = {name for stages in spent for name in stages}
    names = [*(name for name in STAGES if name in every), *sorted(every - set(STAGES))]
    found = {name: _mean([stages[name] for stages in spent], clips) for name in names}
    rest = _mean([record.timing.first_video or 0.0 for record in timed], clips) - sum(found.values())
    return found | ({REST: rest} if rest > 0 else {})


def time_by_stage(group: Group) -> Figure | str:
    """Stacked bars, one a row: mean seconds of each stage."""
    import matplotlib
    from matplotlib.figure import Figure

    seconds = {row.label: stage_seconds(row) for row in group.rows}
    seconds = {label: stages for label, stages in seconds.items() if stages}
    if not seconds:
        return "no finished cell has a time"
    every = {name for stages in seconds.values() for name in stages}
    names = [*(name for name in STAGES if name in every), *sorted(every - {*STAGES, REST})]
    names += (
        [REST]
        if any(stages.get(REST, 0) > 0.005 * sum(stages.values()) for stages in seconds.values())
        else []
    )
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
    axis.set_yticks(places, [_short(label) for label in seconds])
    axis.set_xlim(0, 1.1 * lefts.max())
    axis.set_xlabel("Seconds a video")
    axis.grid(axis="y", visible=False)
    return _with_legend(figure, axis)


def memory_over_stages(group: Group) -> Figure | str:
    """Peak bytes by stage, one line a row; one panel for each kind of peak, which are never mixed."""
    kinds = {
        "allocated": "Peak allocated on the device (GB)",
        "process": "Peak of the process (GB)",
    }
    peaks: dict[str, dict[int, dict[str, int]]] = {}
    for index, row in enumerate(group.rows):
        for kind in kinds:
            of_row = _peaks(row.finished, kind)
            if of_row:
                peaks.setdefault(kind, {})[index] = of_row
                break
    if not peaks:
        return "no record holds a peak"
    every = {name for rows in peaks.values() for stages in rows.values() for name in stages}
    names = [*(name for name in STAGES if name in every), *sorted(every - set(STAGES))]
    figure, axes = _panels(len(peaks), width=4.6)
    for axis, (kind, rows) in zip(axes, peaks.items(), strict=True):
        for index, of_row in rows.items():
            places = [place for place, name in enumerate(names) if name in of_row]
            values = [of_row[names[place]] / 1e9 for place in places]
            axis.plot(places, values, label=_short(group.rows[index].label), **_look(index))
        axis.set_xticks(range(len(names)), names)
        axis.set_ylabel(kinds[kind])
        axis.ticklabel_format(axis="y", useOffset=False)
    return _with_legend(figure, *axes)


def paired_differences(group: Group, table: Table) -> Figure | str:
    """One panel a metric: each clip's difference from the baseline's, their mean and its interval."""
    base = group.base
    if base is None:
        return "no baseline: the plan names none, and the method none is not among the rows"
    others = [row for row in group.rows if row is not base and not row.untrained]
    shown = [] if base.untrained else _quality(group, table)
    drawn: list[tuple[Column, str, dict[str, tuple[dict[Pair, float], dict[Pair, float]]]]] = []
    for column, heading in shown:
        pairs = {}
        for row in others:
            ours, theirs = _kept(row, base, group, column.key)
            if ours.keys() & theirs.keys():
                pairs[row.label] = (ours, theirs)
        if pairs:
            drawn.append((column, heading, pairs))
    if not drawn:
        return f"no row shares a (clip, prompt, seed) with the baseline {base.label}"
    index_of = {row.label: index for index, row in enumerate(group.rows)}
    figure, axes = _panels(len(drawn), height=1.0 + 0.34 * len(others))
    for axis, (_, heading, pairs) in zip(axes, drawn, strict=True):
        places = {row.label: len(others) - 1 - index for index, row in enumerate(others)}
        for label, (ours, theirs) in pairs.items():
            look, place = _look(index_of[label]), places[label]
            differences = sorted(clip_differences(ours, theirs).values())
            # Spread a little up and down, alternating, so that equal clips do not hide each other.
            spread = 0.22 * np.sin(2.4 * np.arange(len(differences)))
            axis.plot(differences, place + spread, ".", color=look["color"], alpha=0.55, markersize=4)
            mean = paired_difference(ours, theirs)
            if mean is not None:
                axis.plot([mean.low, mean.high], [place, place], color=INK, linewidth=2)
                axis.plot([mean.mean], [place], **look, markeredgecolor=INK)
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.set_yticks(list(places.values()), [_short(label, 22) for label in places])
        axis.set_ylim(-0.6, len(others) - 0.4)
        axis.set_title(heading)
        axis.set_xlabel(f"difference from {_short(base.label, 22)}")
        axis.grid(axis="y", visible=False)
        axis.locator_params(axis="x", nbins=5)
    for axis in figure.axes:
        if not axis.get_subplotspec().is_first_col():
            axis.tick_params(labelleft=False)
    return figure


def clip_differences(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> dict[Hashable, float]:
    """Ours - theirs over the pairs both have, averaged within each clip."""
    shared = [pair for pair in ours if pair in theirs]
    return cluster_means((ours[pair] - theirs[pair] for pair in shared), (pair[0] for pair in shared))


def gradient_similarity(results: Path, group: Group) -> Figure | str:
    """Cosine of successive true gradients from the cells' traces, by inner iteration and by guided step."""
    found: dict[int, list[dict[str, Any]]] = {}
    for index, row in enumerate(group.rows):
        rows = [line for trace in _traces(results, row) for line in trace or [] if "similarity" in line]
        if rows:
            found[index] = rows
    if not found:
        return "no trace.json holds a similarity: no method took two true gradients in one guided step"
    figure, axes = _panels(2, width=3.4)
    for axis, (key, heading) in zip(
        axes, (("iteration", "Inner iteration"), ("step", "Guided step")), strict=True
    ):
        for index, rows in found.items():
            by_place: dict[int, list[float]] = {}
            for line in rows:
                by_place.setdefault(int(line[key]), []).append(float(line["similarity"]))
            places = sorted(by_place)
            low, high = np.transpose([np.percentile(by_place[place], (10, 90)) for place in places])
            look = _look(index)
            means = [float(np.mean(by_place[place])) for place in places]
            axis.fill_between(places, low, high, color=look["color"], alpha=0.15, linewidth=0)
            axis.plot(places, means, label=_short(group.rows[index].label), **look)
        axis.set_xlabel(heading)
        axis.locator_params(axis="x", integer=True)
        axis.set_ylim(top=1.02)
    axes[0].set_ylabel("Cosine to the last true gradient")
    return _with_legend(figure, axes[0])


@dataclass(frozen=True)
class Sweep:
    """Rows that differ in one setting alone: (its value, how it is written, the row's label), in order."""

    name: str
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
                name = settings[points[0][2]]["name"]
                made.setdefault(key, []).append(Sweep(str(name), points))
    return made


def ablation(key: str, lines: Sequence[Sweep], group: Group, table: Table) -> Figure | str:
    """One panel a measure: its value over the values of one setting, with intervals."""
    measured = {label for line in lines for _, _, label in line.points}
    shown = [
        (column, heading)
        for column, heading in [*_quality(group, table), *_costs(table)]
        if table.values.loc[sorted(measured), column.key].notna().any()
    ]
    if not shown:
        return "no row of it has a value"
    figure, axes = _panels(len(shown))
    ticks = dict(sorted({value: text for line in lines for value, text, _ in line.points}.items()))
    for axis, (column, heading) in zip(axes, shown, strict=True):
        scale = 1e9 if column.unit == "B" else 1.0
        for index, line in enumerate(lines):
            labels = [label for _, _, label in line.points]
            places = [value for value, _, _ in line.points]
            values, lows, highs = (
                frame.loc[labels, column.key].to_numpy() / scale
                for frame in (table.values, table.lows, table.highs)
            )
            look = _look(index)
            axis.vlines(places, lows, highs, color=look["color"], linewidth=1)
            axis.plot(places, values, label=_short(line.name), **look)
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.set_xlabel(key)
        axis.set_ylabel(f"{column.label} (GB) ↓" if column.unit == "B" else heading)
        axis.margins(0.08)
    return _with_legend(figure, axes[0]) if len(lines) > 1 else figure


# What they share


def _panels(count: int, height: float = 2.3, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, at most three abreast (a text's width), without empty axes."""
    from matplotlib.figure import Figure

    abreast = min(3, count)
    down = -(-count // abreast)
    across = width * abreast if width else {1: 4.6, 2: 6.4, 3: 7.2}[abreast]
    figure = Figure(figsize=(across, height * down + 0.3), layout="constrained")
    axes = list(figure.subplots(down, abreast, squeeze=False).flat)
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def _with_legend(figure: Figure, *axes: Axes) -> Figure:
    """One legend below all panels."""
    found = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    longest = max(map(len, found), default=1)
    across = max(1, min(len(found), 6, int(figure.get_figwidth() * 13 / (longest + 5))))
    # Room of its own: many rows would take it from the panels.
    figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(found) // across) - 1))
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=across)
    return figure


def _look(index: int) -> dict[str, Any]:
    """A row's colour and marker: 70 differ before one comes back."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _short(text: object, width: int = 34) -> str:
    """A label in one line, cut in its middle, where variants differ least."""
    line = " ".join(str(text).split())
    half = (width - 1) // 2
    return line if len(line) <= width else f"{line[:half]}…{line[-half:]}"


def _quality(group: Group, table: Table) -> list[tuple[Column, str]]:
    """The table's metric columns that have values, with their headings (label, unit, arrow)."""
    metrics = {key for row in group.rows for record in row.finished for key in record.metrics}
    return [
        (column, heading)
        for column, heading in zip(table.columns, headers(table), strict=True)
        if column.key in metrics and table.values[column.key].notna().any()
    ]


def _costs(table: Table) -> list[tuple[Column, str]]:
    return [
        (column, heading)
        for column, heading in zip(table.columns, headers(table), strict=True)
        if column.key in ("time", "memory")
    ]


def _mean(values: Sequence[float], clips: Sequence[str]) -> float:
    return float(np.mean(list(cluster_means(values, clips).values())))


def _peaks(records: Sequence[Record], kind: str) -> dict[str, int]:
    """Stage -> the highest peak of that kind in any of the records."""
    found: dict[str, int] = {}
    for record in records:
        for stage, memory in record.memory.items():
            peak = getattr(memory, kind)
            if peak is not None:
                found[stage] = max(peak, found.get(stage, 0))
    return found


def _kept(row: Row, base: Row, group: Group, key: str) -> tuple[dict[Pair, float], dict[Pair, float]]:
    """The two rows' values that the table's own differences are taken from."""
    dropped = group.dropped(key)
    ours, theirs = (
        {pair: value for pair, value in one.pairs(key).items() if pair not in dropped} for one in (row, base)
    )
    return ours, theirs


def _traces(results: Path, row: Row) -> Iterator[list[dict[str, Any]] | None]:
    """The traces of the row's finished cells, those that exist; None for one that cannot be read."""
    for record_id, record in row.records.items():
        path = results / row.cells[record_id].path / "trace.json"
        if record.status != "ok" or not path.exists():
            continue
        try:
            trace = json.loads(path.read_text())
            if not isinstance(trace, list) or not all(isinstance(line, dict) for line in trace):
                raise ValueError("not a list of rows")
        except (OSError, ValueError):
            yield None
        else:
            yield trace


def _unreadable_traces(results: Path, group: Group) -> int:
    return sum(trace is None for row in group.rows for trace in _traces(results, row))


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
