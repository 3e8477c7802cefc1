"""The YAMLs of conf/method: they compose, make their plug-in, and differ only where they say."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
REUSE = {"policy": "fixed", "interval": 3, "longest": 10, "turn": 30.0, "move": 5.0, "across_steps": False}
RIVAL = {"lr_start": 2e-3, "lr_end": 1.1e-3, "iterations": 5, "guided_fraction": 0.2}
BACKBONE = {
    "steps": 50,
    "guidance_scale": 5.0,
    "negative_prompt": "blurry",
    "guidance": {
        "block": 14,
        "reduction": "head_mean",
        "temperature": 1.0,
        "lr_start": 3e-3,
        "lr_end": 2e-3,
        "iterations": 10,
        "guided_fraction": 0.2,
        "window": 21,
        "tile": [3, 4],
        "span": 4,
        "amf_weight": 5.0,
        "window_weight": 1.0,
        "ditflow": {"temperature": 2.0, **RIVAL},
        "ditflow_rope": RIVAL,
        "ropecraft": {"kernel": 21, "sigma": 11.0, "lr": 1e-3, "iterations": 5, "guided_fraction": 0.2},
        "features": {
            **{"moft_block": 14, "moft_channels": 0.04, "smm_block": 14},
            **{"lr_start": 2e-3, "lr_end": 1.1e-3, "iterations": 5},
        },
        "score": {"strength": 2e4, "guided_fraction": 0.5, "reference_sigma": 0.61},
        "flow": {"source": "latent_prediction", "lr": 3e-3, "iterations": 3, "guided_fraction": 0.2},
    },
    "tuning": {
        "motion_director": {"rank": 32, "steps": 150, "learning_rate": 5e-4},
        "motion_inversion": {
            "steps": 400,
            "learning_rate": 2e-2,
            "value_frames": False,
            "debias": "drop",
        },
        "det": {"steps": 500, "learning_rate": 1e-5},
    },
}


def resolved(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        method = compose(overrides=[f"+method={name}", *overrides])
    config = OmegaConf.create({"method": OmegaConf.to_container(method.method), "backbone": BACKBONE})
    return OmegaConf.to_container(config, resolve=True)["method"]


def build(values):
    module, _, attribute = values["_target_"].rpartition(".")
    plug_in = getattr(importlib.import_module(module), attribute)
    return plug_in(**{key: value for key, value in values.items() if key != "_target_"})


@pytest.mark.parametrize("path", sorted((CONF / "method").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_method_yaml_makes_its_plug_in(path):
    values = resolved(path.stem)
    method = build(values)
    assert method.name == path.stem
    fields = {field.name for field in dataclasses.fields(method)}
    assert fields == set(values) - {"_target_"}
    assert method.version
    assert set(method.outside_id) <= fields


def test_fastvmt_follows_the_decision_table():
    assert resolved("fastvmt") == {
        "_target_": "methods.fastvmt.FastVMT",
        "name": "fastvmt",
        "extractor": "window",
        "reduction": "head_mean",
        "block": 14,
        "temperature": 1.0,
        "window": 21,
        "tile": [3, 4],
        "span": 4,
        "loss": {"amf_weight": 5.0, "window_weight": 1.0},
        "reuse": REUSE,
        "optimiser": {"lr_start": 3e-3, "lr_end": 2e-3, "iterations": 10, "guided_fraction": 0.2},
        "reference": "clean",
        "start": {"strength": None},
        "steps": 50,
        "guidance_scale": 5.0,
        "negative_prompt": "blurry",
    }


@pytest.mark.parametrize(
    "name, changed",
    [
        ("no_skipping", {"reuse": {**REUSE, "interval": 1}}),
        ("no_window_loss", {"loss": {"amf_weight": 5.0, "window_weight": 0}}),
        (
            "full_attention",
            {
                "extractor": "dense",
                "reuse": {**REUSE, "interval": 1},
                "loss": {"amf_weight": 5.0, "window_weight": 0},
            },
        ),
    ],
)
def test_ablations_differ_only_where_they_say(name, changed):
    assert resolved(name) == {**resolved("fastvmt"), "name": name, **changed}


def test_turbo_is_fastvmt_with_ingredients():
    turbo = resolved("fastvmt_turbo")
    own = {key: turbo.pop(key) for key in ("coarse", "unconditional", "caching")}
    changed = {"_target_": "methods.fastvmt_turbo.Turbo", "name": "fastvmt_turbo", "reuse": turbo["reuse"]}
    assert turbo == {**resolved("fastvmt"), **changed}
    assert {key: set(value) for key, value in own.items()} == {
        "coarse": {"pool", "stride"},
        "unconditional": {"every", "first", "within"},
        "caching": {"every", "first", "last", "order", "threshold"},
    }
