"""How the metrics of ``conf/metrics/default.yaml`` stand in tables."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

import conf
from harness.command.plugins import build
from metrics.interface import Column, Metric

COLUMNS = {
    "clip_t": Column("Text sim."),
    "motion_fidelity": Column("Motion fid.", sees_motion=True),
    "clip_f": Column("Temp. cons."),
    "warp_consistency": Column("Warp cons.", primary=False, beside_motion=True),
    "motion_fidelity_legacy": Column("Motion fid. (legacy)", primary=False, sees_motion=True),
    "position_error": Column(
        "Position err.", "px", higher_is_better=False, digits=2, sees_motion=True, truth=True
    ),
    "direction_cosine": Column("Direction cos.", sees_motion=True, truth=True),
    "background_flow_error": Column("Bg. flow err.", "px/frame", higher_is_better=False, digits=2),
    "objects_right": Column("Objects right", primary=False),
    "background_right": Column("Background right", primary=False),
    "count_right": Column("Count right", primary=False),
}


def test_every_metric_declares_its_column():
    nodes = OmegaConf.load(Path(conf.__file__).parent / "metrics/default.yaml").metrics
    resolved = OmegaConf.create({"dataset": {"clip_model": "sprites"}, "metrics": nodes})
    metrics = OmegaConf.to_container(resolved, resolve=True)["metrics"]
    assert {name: build(node, name, Metric).column for name, node in metrics.items()} == COLUMNS
