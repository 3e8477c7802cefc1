"""Names beside their points, in place of a legend: put where they hide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reports.plots.style import INK, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 6.5
"""Of the names, in points."""
MARK = 3.0
"""Half the width of a marker, in points."""
DISTANCES = (5, 9, 14, 20, 28, 38, 50)
"""Points between a marker and its name that are tried."""
ROUNDS = 4

Boxes = NDArray[np.float64]
"""(n, 4): left, bottom, right, top in points."""


def label_points(axis: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write each point's name beside its (x, y), with a line to it where it had to move away.

    Greedy, then in rounds: each name takes the place that overlaps the others, the markers and the panel's
    edge least, and then the nearest; always the same for the same points. To be called when all panels are
    drawn and laid out (``laid_out``).
    """
    found = {name: place for name, place in points.items() if np.isfinite(place).all()}
    if not found:
        return
    figure = axis.get_figure(root=True)
    assert figure is not None
    scale = 72.0 / figure.dpi
    places = axis.transData.transform(list(found.values())) * scale
    frame = np.array(axis.get_window_extent().extents) * scale
    sizes = [_size(axis, short(name, 22), scale) for name in found]
    chosen = _arrange(places, np.array(sizes), frame, _drawn(axis, scale))
    for name, place, box in zip(found, places, chosen, strict=True):
        centre = (box[:2] + box[2:]) / 2
        away = float(np.max(np.maximum(box[:2] - place, place - box[2:])))
        axis.annotate(
            short(name, 22),
            found[name],
            tuple(centre - place),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=SIZE,
            arrowprops={
                "arrowstyle": "-",
                "color": INK,
                "linewidth": 0.4 if away > DISTANCES[0] + 1 else 0,
                "shrinkA": 0,
                "shrinkB": MARK,
            },
            zorder=5,
        ).set_in_layout(False)


def _size(axis: Axes, text: str, scale: float) -> tuple[float, float]:
    """Width and height of a name in points."""
    written = axis.text(0, 0, text, fontsize=SIZE, transform=None)
    extent = written.get_window_extent()
    written.remove()
    return extent.width * scale + 1, extent.height * scale


def _drawn(axis: Axes, scale: float) -> Boxes:
    """(n, 2): places along the axis' lines, in points."""
    along = []
    for line in axis.lines:
        corners = axis.transData.transform(line.get_xydata()) * scale
        for start, end in pairwise(corners):
            length = float(np.linalg.norm(end - start))
            if np.isfinite(length):
                along.append(np.linspace(start, end, 2 + int(length / 3)))
    return np.vstack([np.empty((0, 2)), *along])


def _arrange(places: Boxes, sizes: Boxes, frame: Boxes, lines: Boxes) -> Boxes:
    """A box for each name, of its size, inside the frame as far as possible."""
    marks = np.hstack([places - MARK, places + MARK])
    # Lines may run far out of the panel.
    lines = lines[((lines > frame[:2]) & (lines < frame[2:])).all(axis=1)]
    candidates = []
    for index, (place, size) in enumerate(zip(places, sizes, strict=True)):
        boxes, cost = _candidates(place, size)
        cost += 2 * _overlap(boxes, marks)
        cost += 8 * (_area(boxes) - _overlap(boxes, frame[None]))
        cost += 1.5 * _inside(boxes, lines)
        cost += 20 * _crossed(place, boxes, np.delete(marks, index, axis=0))
        candidates.append((boxes, cost))
    nearness = np.linalg.norm(places[:, None] - places[None], axis=2)
    # The crowded ones choose first.
    order = np.argsort(np.sort(nearness, axis=1)[:, : min(4, len(places))].sum(axis=1), kind="stable")
    chosen = np.full((len(places), 4), np.nan)
    for _ in range(ROUNDS):
        for index in order:
            others = np.delete(chosen, index, axis=0)
            boxes, cost = candidates[index]
            overlap = _overlap(boxes, others[np.isfinite(others[:, 0])])
            chosen[index] = boxes[int(np.argmin(cost + 4 * overlap))]
    return chosen


def _candidates(place: Boxes, size: Boxes) -> tuple[Boxes, Boxes]:
    """Boxes around a point, and how far each is from it in points."""
    angles = np.arange(16) * np.pi / 8
    ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    boxes, distances = [], []
    for distance in DISTANCES:
        # From the marker's rim to the nearest edge of the text.
        centres = place + ways * distance + np.sign(np.round(ways, 6)) * size / 2
        boxes.append(np.hstack([centres - size / 2, centres + size / 2]))
        distances.append(np.full(len(ways), float(distance)))
    return np.vstack(boxes), np.concatenate(distances)


def _area(boxes: Boxes) -> Boxes:
    area: Boxes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return area


def _overlap(boxes: Boxes, others: Boxes) -> Boxes:
    """Area that each box shares with the others, in square points."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Boxes = np.prod(np.clip(high - low, 0, None), axis=2).sum(axis=1)
    return shared


def _inside(boxes: Boxes, points: Boxes) -> Boxes:
    """How many points lie in each box."""
    held = (points[None] > boxes[:, None, :2]) & (points[None] < boxes[:, None, 2:])
    count: Boxes = np.count_nonzero(held.all(axis=2), axis=1).astype(float)
    return count


def _crossed(place: Boxes, boxes: Boxes, marks: Boxes) -> Boxes:
    """How many other markers the line from a point to each box runs through."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    steps = np.linspace(0.1, 0.9, 9)[None, :, None]
    along = (place + (centres[:, None] - place) * steps)[:, :, None]
    inside = (along > marks[None, None, :, :2]) & (along < marks[None, None, :, 2:])
    held = np.count_nonzero(inside, axis=3) == 2
    count: Boxes = np.count_nonzero(np.count_nonzero(held, axis=1), axis=1).astype(float)
    return count
