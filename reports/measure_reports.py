"""How long reports take, beside another commit: ``python -m reports.measure_reports --against COMMIT``.

Both make the same tables and the same page of the same cells, each from records of its own schema, in
turns. Seconds are of the processor (user and system), so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.records import store
from harness.records.identity import PARTS, of_settings, of_variant, short_id
from harness.records.record import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
ROWS, SEEDS, FRAMES, FPS = 18, 3, 17, 8.0
DEVICE = "AMD EPYC"
Data = dict[str, Any]

SINCE_2 = {
    "record": ("former_id", "reference", "generated", "compared", "masks", "scored", "run", "tries"),
    "metric": ("digits", "primary", "sees_motion", "beside_motion", "truth", "masks"),
    "plan": ("columns", "ran"),
    "variant": ("settings", "dataset_id"),
    "cell": ("content",),
}
"""What schema 1 did not know, and refuses."""


def make_cells(results: Path, count: int, videos: bool = False, schema: int = SCHEMA) -> None:
    """Write a plan and ``count`` records as a run of the embedded world leaves them: 18 rows, 3 seeds.

    ``videos``: also every cell's two videos and its losses. ``schema``: 1 for versions until 0.1.
    """
    rng = np.random.default_rng(0)
    config = _configuration()
    if videos:
        _make_videos(results / "made")
    clips = rng.normal(0, 0.1, -(-count // (ROWS * SEEDS)))
    variants = []
    for row in range(ROWS):
        settings = config | {"method": config["method"] | {"block": row}}
        cells: list[Data] = []
        for place, effect in enumerate(clips):
            for seed in range(SEEDS):
                record = _record(
                    settings, f"clip-{place:04d}", seed, rng.normal(effect + row / 100, 0.05, 16)
                )
                folder = f"cells/fastvmt/sprites/{record['clip']}-{record['id']}"
                _write(results / folder / store.RECORD, _as_of(schema, "record", record))
                if videos:
                    _add_videos(results, folder)
                cells.append({key: record[key] for key in ("id", "clip", "prompt", "seed")})
                cells[-1] |= {"path": folder, "content": record["identity"]["clip"]["content"]}
        shared = {"backbone": "sprites", "dataset": "sprites", "overrides": [f"method.block={row}"]}
        variants.append(
            {
                "label": f"block {row}",
                "method": "fastvmt",
                "config_id": short_id(of_variant(record["identity"])),
                "settings": short_id(of_settings(record["identity"])),
                "dataset_id": short_id(of_settings(record["identity"])["dataset"]),
                "cells": [_as_of(schema, "cell", cell) for cell in cells],
                **shared,
            }
        )
    plan = {
        "schema": schema,
        "name": "many",
        "command": ["python", "-m", "harness"],
        "created": "2026-01-01T00:00:00.000000+00:00",
        "ran": "2026-01-01T00:00:00.000000+00:00",
        "baseline": "block 0",
        "variants": [_as_of(schema, "variant", variant) for variant in variants],
    }
    _write(store.plan_path(results, "many"), _as_of(schema, "plan", plan))


def _configuration() -> Data:
    """The harness's own, of ``method=fastvmt`` on the embedded world."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("conf", version_base=None):
        composed = OmegaConf.to_container(compose("config", ["method=fastvmt"]), resolve=True)
    return dict(composed)  # type: ignore[arg-type]


def _record(config: Data, clip: str, seed: int, values: np.ndarray) -> Data:
    content = short_id(clip)
    identity: Data = {
        part: {"kind": config[part]["name"], "version": "1", "config": config[part]} for part in PARTS
    }
    identity |= {"frames": FRAMES, "clip": {"name": clip, "content": content}}
    identity |= {"prompt": f"a red star at {clip}", "seed": seed}
    stages = dict(zip(("encode", "text", "guide", "denoise", "decode"), np.abs(values[10:]), strict=False))
    footage = {"frames": FRAMES, "fps": FPS, "width": 64, "height": 64}
    return {
        "schema": SCHEMA,
        "id": short_id(identity),
        "former_id": None,
        "status": "ok",
        **{part: {"name": config[part]["name"], "version": "1", "config": config[part]} for part in PARTS},
        "clip": clip,
        "prompt": identity["prompt"],
        "seed": seed,
        "metrics": dict(_metrics(values)),
        "timing": {"stages": stages, "total": sum(stages.values()), "repeats": 1, "values": [stages]},
        "calls": {"forward": 26, "gradient": 40},
        "flops": {"model_flops": 1e11, "executed_flops": 2e11, "forward_equivalents": 60.0},
        "memory": {stage: {"process": 1 << 30} for stage in stages},
        "environment": {"device": DEVICE, "cpu": DEVICE, "cores": 2, "threads": 2, "python": "3.11.7"},
        "identity": identity,
        "config": config,
        "reference": footage,
        "generated": footage,
        "compared": {"frames": FRAMES},
        "masks": "whole frame",
        "run": "0" * 16,
        "tries": 1,
        "scored": "2026-01-01T00:00:00+00:00",
    }


def _metrics(values: np.ndarray) -> Iterator[tuple[str, Data]]:
    from metrics.consistency import ClipF, WarpConsistency
    from metrics.motion_fidelity import MotionFidelity
    from metrics.motion_legacy import MotionFidelityLegacy
    from metrics.position import DirectionCosine, PositionError
    from metrics.text import ClipT

    columns = {
        "clip_t": ClipT.column,
        "motion_fidelity": MotionFidelity.column,
        "motion_fidelity_legacy": MotionFidelityLegacy.column,
        "clip_f": ClipF.column,
        "warp_consistency": WarpConsistency.column,
        "position_error": PositionError.column,
        "direction_cosine": DirectionCosine.column,
    }
    for (key, column), value in zip(columns.items(), values, strict=False):
        motion = {"masks": ""} if column.sees_motion else {}
        frames = [float(value) + place / 1000 for place in range(FRAMES)]
        yield (
            key,
            {"value": float(value), "version": "1", "per_frame": frames, **asdict(column), **motion},
        )


def _as_of(schema: int, kind: str, data: Data) -> Data:
    if schema == SCHEMA:
        return data
    kept = {key: value for key, value in data.items() if key not in SINCE_2[kind]} | {"schema": schema}
    if kind in ("variant", "cell"):
        del kept["schema"]
    if "metrics" in kept:
        kept["metrics"] = {
            key: {name: one for name, one in value.items() if name not in SINCE_2["metric"]}
            for key, value in kept["metrics"].items()
        }
    return kept


def _write(path: Path, data: Data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1))


def _make_videos(folder: Path) -> None:
    from datasets.media.video import write_h264

    folder.mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 8, 8, 3), np.uint8)
    for name in (store.VIDEO, store.REFERENCE):
        write_h264(folder / name, frames.repeat(8, 1).repeat(8, 2), FPS, min_side=64)


def _add_videos(results: Path, folder: str) -> None:
    for name in (store.VIDEO, store.REFERENCE):
        os.link(results / "made" / name, results / folder / name)
    losses = [
        {"step": step, "iteration": one, "true_gradient": True, "gradient_norm": 1.0, "similarity": 0.5}
        for step in range(10)
        for one in range(10)
    ]
    (results / folder / store.TRACE).write_text(json.dumps(losses))


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The code of a commit, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT)]
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


def seconds(code: Path, *words: str) -> float:
    """Processor seconds of one ``python -m reports``, on one thread; subprocess.CalledProcessError where it
    fails.
    """
    command = [sys.executable, "-m", "reports", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = os.times()
    # ``-m`` looks in the working directory first.
    subprocess.run(command, cwd=code, env=env, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def compare(other: Path, folder: Path, counts: Sequence[int], runs: int) -> pd.DataFrame:
    """Medians over ``runs``, in turns: a line for the tables of each count, one for the page of the least."""
    import pandas as pd

    lines = []
    for count, page in [*((count, False) for count in counts), (min(counts), True)]:
        places = {}
        for code, schema in ((other, 1), (ROOT, SCHEMA)):
            places[code] = folder / f"{count}-{'page' if page else 'tables'}-{schema}"
            make_cells(places[code], count, page, schema)
        words = ["--format", "html"] if page else []
        first = seconds(ROOT, str(places[ROOT]), *words)
        taken: dict[Path, list[float]] = {other: [], ROOT: []}
        for _ in range(runs):
            for code, place in places.items():
                taken[code].append(seconds(code, str(place), *words))
        theirs, ours = median(taken[other]), median(taken[ROOT])
        lines.append(
            {
                "what": f"{'page' if page else 'table'} of {count} cells",
                "there (s)": f"{theirs:.1f}",
                "here (s)": f"{ours:.1f}",
                "here, first (s)": f"{first:.1f}",
                "share": f"{ours / theirs:.2f}",
            }
        )
    return pd.DataFrame(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m reports.measure_reports", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT", default="5e3d5c1", help="the other commit")
    parser.add_argument("--cells", type=int, nargs="+", default=[540, 5_400], help="how many cells")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turns")
    given = parser.parse_args(arguments)
    with checked_out(given.against) as other, tempfile.TemporaryDirectory() as folder:
        table = compare(other, Path(folder), given.cells, given.runs)
    print(table.to_markdown(index=False, disable_numparse=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
