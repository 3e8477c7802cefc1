"""Motion fidelity: does the generation move as the reference does, where it does?

The flow of both videos is read by place (``metrics.flow_grid``). Each cell that moves in one of them looks
for the likest motion in the same cell of the other video and in the eight around it. The value is the mean
over the moving cells of both videos together, each weighted by how far it moves: what moves in one and rests
in the other costs, on either side.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from datasets.media.flow import Floats
from metrics.chance import mismatched
from metrics.flow_grid import Size, flow_grid, mask_grid
from metrics.interface import Column, Details, Metric, Sample, Score

WINDOW = 5
"""Steps over which a cell's motion is averaged."""
FLOOR = 0.001
"""Motion below this rests, in shorter sides a step: half a pixel of 480 rows."""
RESTS = 0.25
"""So does motion below this share of the mean speed, each motion weighted by its own length."""
MASKED = 0.25
"""Share of a cell that must lie in the mask."""
LEAST = 0.002
"""Share of its cells that must move in a reference, mean over the clip."""


class Fidelity(NamedTuple):
    """``value`` in -1..1; ``cells`` asked a step; the shares of them that move in either video."""

    value: float
    cells: float
    moving_generated: float
    moving_reference: float


def motion_fidelity(generated: Floats, reference: Floats, masked: Floats | None = None) -> Fidelity:
    """Compares two flow grids (T - 1, rows, columns, 2) of one shape, NaN where unknown.

    The likeness of two motions is 2 <a, b> / (|a|^2 + |b|^2): 1 when they are equal, .8 at half and at double
    speed, 0 when one rests, -1 when they are opposite. Unknown motion counts as rest.
    ``masked`` (T - 1, rows, columns), shares of cells inside a mask, NaN in frames without one: only those
    with ``MASKED`` and more are asked, in both videos; their partners may be any.
    Symmetric; 1 for a video and itself; 0 when the generation rests. ValueError when the shapes differ.
    """
    if generated.shape != reference.shape:
        raise ValueError(f"flow grids of shapes {generated.shape} and {reference.shape}")
    g, r = averaged(generated), averaged(reference)
    still = resting(g, r)
    asked = np.ones(g.shape[:3], bool) if masked is None else averaged(masked[..., None])[..., 0] >= MASKED
    g, r = (np.where(_length(grid)[..., None] < still, 0, grid) for grid in (g, r))
    far_g, far_r = (_length(grid) * asked for grid in (g, r))
    far = float(far_g.sum() + far_r.sum())
    alike = float((far_g * _likest(g, r)).sum() + (far_r * _likest(r, g)).sum())
    moving = [int((length > 0).sum()) / max(int(asked.sum()), 1) for length in (far_g, far_r)]
    return Fidelity(alike / far if far else 0.0, int(asked.sum()) / len(asked), *moving)


def averaged(grid: Floats) -> Floats:
    """Means over ``WINDOW`` successive steps (all, where there are fewer) of a grid (T - 1, ...).

    Unknown steps are left out; what is never known is 0.
    """
    window = min(WINDOW, len(grid))
    views = np.lib.stride_tricks.sliding_window_view(grid, window, axis=0)
    known = np.isfinite(views)
    total = np.where(known, views, 0).sum(-1, dtype=np.float64)
    return np.asarray(total / np.maximum(known.sum(-1), 1), np.float32)


def resting(*grids: Floats) -> float:
    """The length below which motion in averaged grids counts as rest."""
    lengths = np.concatenate([_length(grid).ravel() for grid in grids])
    total = float(lengths.sum())
    return max(FLOOR, RESTS * float(np.square(lengths).sum()) / total) if total else FLOOR


def _length(grid: Floats) -> Floats:
    return np.asarray(np.sqrt(np.square(grid).sum(-1)))


def _likest(grid: Floats, other: Floats) -> Floats:
    """Of each cell of a grid, the greatest likeness with the 3x3 cells around it in the other one."""
    steps, rows, columns = grid.shape[:3]
    around = np.pad(other, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    best = np.full((steps, rows, columns), -1, np.float32)
    for down in range(3):
        for across in range(3):
            partner = around[:, down : down + rows, across : across + columns]
            squares = np.square(grid).sum(-1) + np.square(partner).sum(-1)
            likeness = 2 * (grid * partner).sum(-1) / np.maximum(squares, np.finfo(np.float32).tiny)
            best = np.fmax(best, likeness)
    return best


@dataclass(config={"extra": "forbid"})
class MotionFidelity(Metric, kind="motion_fidelity"):
    """How alike generation and reference move, place by place where either moves; -1..1.

    None only where too little moves in the reference: fewer than ``LEAST`` of its cells. A generation that
    rests has 0.
    """

    name: str

    version: ClassVar[str] = "7"
    column = Column("Motion fid.", sees_motion=True)
    uses_masks: ClassVar[bool] = True

    def score(self, sample: Sample) -> Score:
        """The value of a generation beside its own reference; details say how much moves in each.

        Where the sample has masks, what moves inside them is compared.
        """
        if len(sample.generated) != len(sample.reference):
            return Score(None, "generation and reference differ in the number of frames")
        if len(sample.reference) < 2:
            return Score(None, "one frame has no motion")
        size = _size(sample.reference)
        reference = flow_grid(sample.reference, size)
        masked = None if sample.masks is None else mask_grid(sample.masks)[:-1]
        itself = motion_fidelity(reference, reference, masked)
        if itself.moving_reference < LEAST:
            share = f"{itself.moving_reference:.2%} of its cells"
            return Score(None, f"too little moves in the reference: {share}, less than {LEAST:.1%}")
        found = motion_fidelity(flow_grid(sample.generated, size), reference, masked)
        details: Details = {
            "cells": found.cells,
            "moving_generated": found.moving_generated,
            "moving_reference": found.moving_reference,
        }
        return Score(found.value, details=details)

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """``chance``: mean value against references of other clips, of one size and length; ``true`` is 1."""
        generations: list[tuple[str, Floats]] = []
        references: dict[str, Floats] = {}
        for sample in samples:
            size = _size(sample.reference)
            generations.append((sample.clip, flow_grid(sample.generated, size)))
            references.setdefault(sample.clip, flow_grid(sample.reference, size))
        pairs = mismatched(generations, references)
        values = [motion_fidelity(g, r).value for g, r in pairs if g.shape == r.shape]
        return {"chance": float(np.mean(values)), "pairs": float(len(values)), "true": 1.0} if values else {}


def _size(frames: NDArray[np.uint8]) -> Size:
    return int(frames.shape[1]), int(frames.shape[2])
