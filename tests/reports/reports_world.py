"""Results folders with real records and tiny videos, for the tests of plots and page."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.media.video import write_h264
from harness.cells import tracks
from harness.records import store
from harness.records.record import (
    Failure,
    Memory,
    MetricValue,
    Plan,
    PlannedCell,
    Record,
    Source,
    Timing,
    Variant,
)
from metrics.consistency import ClipF, WarpConsistency
from metrics.interface import Tracks
from metrics.motion_fidelity import MotionFidelity
from metrics.motion_legacy import MotionFidelityLegacy
from metrics.position import BackgroundFlowError, DirectionCosine, PositionError
from metrics.text import ClipT

COLUMNS = {
    "clip_t": ClipT.column,
    "clip_f": ClipF.column,
    "warp_consistency": WarpConsistency.column,
    "motion_fidelity": MotionFidelity.column,
    "motion_fidelity_legacy": MotionFidelityLegacy.column,
    "position_error": PositionError.column,
    "direction_cosine": DirectionCosine.column,
    "background_flow_error": BackgroundFlowError.column,
}
FPS = 8.0
LENGTH = 17
HOSTILE = '</script><img src=x onerror="window.hacked=1"> $\\frac{'
"""A name or prompt that breaks out of scripts, attributes and maths alike."""


def bootstrap_t(values: Sequence[float], seed: int = 42, draws: int = 20_000) -> tuple[float, float]:
    """95 % interval of a mean: the t of samples drawn from it, turned round, in its standard errors."""
    sample, count = np.asarray(values), len(values)
    drawn = np.random.default_rng(seed).choice(sample, (draws, count))
    spread = np.maximum(drawn.std(axis=1), sample.std() / count)
    low, high = np.percentile((drawn.mean(axis=1) - sample.mean()) / spread, [2.5, 97.5])
    wider = sample.std() * count / (count - 1)
    return sample.mean() - high * wider, sample.mean() - low * wider


def bar(length: int, colour: Sequence[int], side: int = 64) -> np.ndarray:
    """(length, side, side, 3) uint8: a bar that moves to the right by the same step each frame."""
    frames = np.full((length, side, side, 3), 30, np.uint8)
    for index, frame in enumerate(frames):
        left = index * (side - 8) // max(1, length - 1)
        frame[:, left : left + 8] = colour
    return frames


def metric(value: float | None) -> MetricValue:
    return MetricValue(value=value, version="1", reason=None if value is not None else "no tracks")


def declared(key: str, value: MetricValue) -> MetricValue:
    """The value with the column that its metric declares, as the harness records it."""
    return value.model_copy(update=dataclasses.asdict(COLUMNS[key])) if key in COLUMNS else value


def write_record(
    results: Path,
    label: str,
    clip: str,
    prompt: str = "a red square",
    seed: int = 0,
    *,
    status: str = "ok",
    metrics: Mapping[str, MetricValue] | None = None,
    stages: Mapping[str, float] | None = None,
    total: float | None = 2.0,
    memory: Mapping[str, Memory] | None = None,
    method: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    trace: object = None,
    weights: str = "pretrained",
) -> PlannedCell:
    """Write a record (and a trace) and return the planned cell; no videos."""
    id_ = hashlib.sha256(repr((label, clip, prompt, seed)).encode()).hexdigest()[:16]
    path = f"cells/{id_}"
    known = metrics if metrics and status == "ok" else {}
    record = Record(
        id=id_,
        status=status,
        method=Source(name="guided", version="1", config={"name": "guided", **(method or {})}),
        backbone=Source(name="sprites", version="1", config={"weights": weights, "width": 64, "height": 64}),
        dataset=Source(name="sprites", version="1", config={"frames": LENGTH, **(dataset or {})}),
        clip=clip,
        prompt=prompt,
        seed=seed,
        identity={
            "dataset": {
                "config": {"frames": LENGTH, **{k: v for k, v in (dataset or {}).items() if k != "clips"}}
            }
        },
        metrics={key: declared(key, value) for key, value in known.items()},
        timing=Timing(stages=dict(stages or {}), total=total if status == "ok" else None, repeats=3),
        memory=dict(memory or {}),
        environment={"device": "Some CPU"},
        error=None if status == "ok" else Failure(kind="Boom", message=f"no {HOSTILE}", traceback="..."),
    )
    store.save_record(results / path, record)
    if trace is not None:
        text = trace if isinstance(trace, str) else json.dumps(trace)
        (results / path / "trace.json").write_text(text)
    return PlannedCell(id=id_, path=path, clip=clip, prompt=prompt, seed=seed)


def write_plan(
    results: Path, cells: Mapping[str, Sequence[PlannedCell]], baseline: str | None = None, name: str = "grid"
) -> Plan:
    """A plan of one variant a label."""
    variants = [
        Variant(
            label=label,
            method=label,
            backbone="sprites",
            dataset="sprites",
            config_id=f"config of {label}",
            cells=list(of_label),
        )
        for label, of_label in cells.items()
    ]
    plan = Plan(name=name, variants=variants, baseline=baseline, command=["python", "-m", "harness", HOSTILE])
    store.save_plan(results, plan)
    return plan


def add_videos(results: Path, plan: Plan) -> None:
    """Give every finished cell of the plan its two videos: one encoding a row, linked into its cells."""
    made = results / "made"
    write_h264(made / "reference.mp4", bar(LENGTH, (240, 240, 240)), FPS, min_side=64)
    for index, variant in enumerate(plan.variants):
        colour = np.roll((230, 90, 40), index)
        write_h264(made / f"{index}.mp4", bar(LENGTH, colour), FPS, min_side=64)
        for cell in variant.cells:
            record = results / cell.path / "record.json"
            if record.exists() and json.loads(record.read_text())["status"] == "ok":
                os.link(made / f"{index}.mp4", results / cell.path / "video.mp4")
                os.link(made / "reference.mp4", results / cell.path / "reference.mp4")


def tracked(results: Path, cell: PlannedCell, moved: float) -> None:
    """Tracks of a cell and of its reference, as scoring leaves them; the reference's points stand.

    Those of the video move by ``moved`` pixels a frame. Two begin in the first frame, one of them is unseen
    in the second.
    """
    points = np.full((3, 4, 2), 15.5, np.float32)
    visible = np.ones((3, 4), bool)
    visible[1, 0] = False
    start = np.array([0, 0, 2, 2])
    key, size = "r" * 64, (32, 64)
    tracks.write(tracks.of_reference(results, key), Tracks(points, visible, start), key, size=size)
    points = points + np.arange(3, dtype=np.float32)[:, None, None] * moved
    made = Tracks(points, visible, start)
    tracks.write(results / cell.path / store.TRACKS, made, "g" * 64, size=size, reference=key)


def gallery(
    results: Path, labels: Sequence[str], clips: int, prompt_of: Callable[[int], str], failing: str | None
) -> Plan:
    """One cell for each label and clip, with videos; ``failing`` runs out of memory on every tenth clip."""
    rng = np.random.default_rng(3)
    cells: dict[str, list[PlannedCell]] = {}
    for label in labels:
        for index in range(clips):
            cell = write_record(
                results,
                label,
                f"clip-{index:03d}",
                prompt_of(index),
                status="oom" if label == failing and index % 10 == 0 else "ok",
                metrics={
                    "clip_t": metric(float(rng.uniform(0.2, 0.4))),
                    "motion_fidelity": metric(float(rng.uniform(0, 1))),
                    "position_error": metric(float(rng.uniform(0, 30))),
                },
                stages={"guide": 1.0, "denoise": 0.5},
            )
            cells.setdefault(label, []).append(cell)
    plan = write_plan(results, cells, baseline=labels[0])
    add_videos(results, plan)
    return plan
