"""How the metrics of ``conf/metric`` stand in tables."""

from __future__ import annotations

from metric_nodes import CONF, names, node
from omegaconf import OmegaConf

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
    "temporal_flicker": Column("Flicker (VBench)", primary=False, beside_motion=True),
    "leak": Column("Leak", higher_is_better=False, primary=False, beside_motion=True),
    "leak_dino": Column("Leak (DINO)", higher_is_better=False, primary=False, beside_motion=True),
    "ftd": Column("FTD", higher_is_better=False, primary=False, sees_motion=True),
    "ftd_legacy": Column("FTD (legacy)", higher_is_better=False, primary=False, sees_motion=True),
    "mf_hybrid": Column("Motion fid. (DeT paper)", primary=False, sees_motion=True),
    "det_mf": Column("Motion fid. (DeT code)", primary=False, sees_motion=True),
    "flow_fidelity": Column("Flow fid.", sees_motion=True),
    "subject_consistency": Column("Subject cons.", beside_motion=True),
    "background_consistency": Column("Background cons.", beside_motion=True),
    "dynamic_degree": Column("Dynamic degree (TV RAFT)", digits=2, sees_motion=True),
    "motion_smoothness": Column("Motion smooth.", beside_motion=True),
    "motion_smoothness_dis": Column("Motion smooth. (DIS)", beside_motion=True),
    "motion_smoothness_raft": Column("Motion smooth. (RAFT)", beside_motion=True),
}


def test_every_metric_declares_its_column():
    nodes = OmegaConf.create(
        {"dataset": {"clip_model": "sprites"}, "metrics": {name: node(name) for name in names("all")}}
    )
    metrics = OmegaConf.to_container(nodes, resolve=True)["metrics"]
    assert {name: build(metric, name, Metric).column for name, metric in metrics.items()} == COLUMNS


def test_the_set_of_all_holds_every_metric_once():
    assert sorted(names("all")) == sorted(path.stem for path in (CONF / "metric").glob("*.yaml"))


def test_a_metric_that_a_frozen_video_wins_stands_beside_one_that_sees_motion_in_every_set():
    for path in (CONF / "metrics").glob("*.yaml"):
        columns = [COLUMNS[name] for name in names(path.stem)]
        assert any(column.sees_motion for column in columns), path.stem
