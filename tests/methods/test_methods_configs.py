"""The YAMLs of conf/method: they compose, make their plug-in, and differ only where they say."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.__main__ import main

CONF = Path(__file__).parents[2] / "conf"
REUSE = {"policy": "fixed", "interval": 3, "longest": 10, "turn": 30.0, "move": 5.0, "across_steps": False}
BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))


# What a method takes nothing from, and takes half of the time to compose.
WITHOUT = ("~metrics", "~wandb", "~tracker", "~execute")


def resolved(name, *overrides, backbone="wan2.1-1.3b"):
    """The method's node as it is composed, interpolations resolved."""
    return copy.deepcopy(_resolved(name, overrides, backbone))


@functools.cache
def _resolved(name, overrides, backbone):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"method={name}", f"backbone={backbone}", *WITHOUT, *overrides])
    return OmegaConf.to_container(config.method, resolve=True)


def build(values):
    module, _, attribute = values["_target_"].rpartition(".")
    plug_in = getattr(importlib.import_module(module), attribute)
    return plug_in(**{key: value for key, value in values.items() if key != "_target_"})


@pytest.mark.parametrize("path", sorted((CONF / "method").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_method_yaml_makes_its_plug_in_on_every_backbone(path):
    for backbone in BACKBONES:
        values = resolved(path.stem, backbone=backbone)
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
        "guidance_scale": 5.8,
        "negative_prompt": "low quality, blurry, distorted, overexposed, watermark, subtitles",
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


SPRITES = (CONF / "backbone" / "sprites.yaml").read_text()
FASTVMT = OmegaConf.to_container(OmegaConf.load(CONF / "tuned" / "fastvmt" / "sprites.yaml"))


def plan(folder, monkeypatch, capsys, *words):
    """Exit code and standard error of ``action=plan`` on the backbone ``mine`` of this folder."""
    flags = ["harness", "--config-dir", str(folder), "action=plan", "limit=1", "backbone=mine"]
    monkeypatch.setattr(sys, "argv", [*flags, *words])
    code = main()
    return code, capsys.readouterr().err


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a folder of groups with the backbone ``mine``, which tables call otherwise, and returns it."""
    monkeypatch.chdir(tmp_path)

    def write(own=None, **tuned):
        given = SPRITES + ("" if own is None else yaml.safe_dump({"tuned": own}))
        files = {"backbone/mine.yaml": given.replace("name: sprites", "name: other")}
        files |= {f"tuned/{method}/mine.yaml": yaml.safe_dump(values) for method, values in tuned.items()}
        for name, text in files.items():
            (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "groups" / name).write_text(text)
        return tmp_path / "groups"

    return write


@pytest.mark.parametrize(
    "own, tuned, given, window",
    [
        ({"fastvmt": {**FASTVMT, "window": 5}}, {}, [], 5),
        ({}, {"fastvmt": {**FASTVMT, "window": 6}}, [], 6),
        ({"fastvmt": {**FASTVMT, "window": 5}}, {"fastvmt": {"window": 6}}, [], 6),
        ({"fastvmt": FASTVMT}, {"fastvmt": {"window": 6}}, ["method.window=3"], 3),
    ],
    ids=["the backbone's own YAML", "a tuned file", "the file before the YAML", "the command before both"],
)
def test_tuned_values_of_a_backbone_of_ones_own(mine, own, tuned, given, window):
    path = f"hydra.searchpath=[file://{mine(own, **tuned)}]"
    for name in ("fastvmt", "full_attention", "no_skipping", "fastvmt_turbo"):
        values = resolved(name, path, *given, backbone="mine")
        assert values["window"] == window
        assert values["block"] == FASTVMT["block"]


def leaves(node, path=()):
    """Every value of a node by its path."""
    if not isinstance(node, dict):
        return {path: node}
    return {key: value for name in node for key, value in leaves(node[name], (*path, name)).items()}


def marked(node, path):
    """The node, every value of it a word that says where it stands."""
    if not isinstance(node, dict):
        return ".".join(path)
    return {key: marked(value, (*path, key)) for key, value in node.items()}


OF_FASTVMT = (
    "full_attention",
    "no_skipping",
    "no_window_loss",
    "fastvmt_turbo",
    "reframe",
    "fastvmt_released",
)
# What a method says itself, whatever is tuned.
SAID = {
    "full_attention": ("loss", "window_weight"),
    "no_window_loss": ("loss", "window_weight"),
    "fastvmt_released": ("reduction",),
}


def test_a_method_takes_every_tuned_value_from_its_own_place(mine):
    tuned = {
        folder.name: leaves(OmegaConf.to_container(OmegaConf.load(folder / "sprites.yaml")))
        for folder in (CONF / "tuned").iterdir()
    }
    nodes = {name: OmegaConf.load(CONF / "tuned" / name / "sprites.yaml") for name in tuned}
    words = {name: marked(OmegaConf.to_container(node), (name,)) for name, node in nodes.items()}
    path = f"hydra.searchpath=[file://{mine(words)}]"
    sources = {name: (name,) for name in tuned} | dict.fromkeys(OF_FASTVMT, ("fastvmt",))
    sources["ditflow_rope"] = ("ditflow", "ditflow_rope")
    for name, places in sources.items():
        values = leaves(resolved(name, path, backbone="mine"))
        wanted = {key: ".".join((place, *key)) for place in places for key in tuned[place]}
        wanted.pop(SAID.get(name), None)
        assert {key: values[key] for key in wanted} == wanted, name


def test_a_backbone_without_values_is_refused_with_the_file_to_write(mine, monkeypatch, capsys):
    folder = mine({"fastvmt": {key: value for key, value in FASTVMT.items() if key != "block"}})
    for words, key, file in (
        (["method=fastvmt"], "method.block", "fastvmt/mine.yaml"),
        (["method=smm"], "method.block", "smm/mine.yaml"),
        (["method=ditflow_rope"], "method.block", "ditflow/mine.yaml"),
        (["method=det"], "method.training.steps", "det/mine.yaml"),
        (["experiment=transfer"], "method.block", "fastvmt/mine.yaml"),
    ):
        code, err = plan(folder, monkeypatch, capsys, *words)
        assert code == 2, words
        assert len(err.splitlines()) == 1, err
        assert f"{key}: no value for backbone=mine; write " in err and f"into conf/tuned/{file}, or " in err


def test_what_a_backbone_tunes_is_none_of_its_own_keys(mine, monkeypatch, capsys):
    folder = mine({"fastvmt": FASTVMT})
    for method in ("fastvmt", "none"):
        assert plan(folder, monkeypatch, capsys, f"method={method}") == (0, "")
