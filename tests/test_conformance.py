"""Every plug-in that ``conf`` names keeps its contract, and so do examples from outside the package."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from datasets.errors import InputError
from datasets.interface import Dataset
from datasets.plugin import Plugin
from harness.cells.job import Needs
from harness.command.interface import Action
from harness.command.plugins import build
from harness.command.terminal import HOME
from harness.records.identity import configuration, of_plugin, short_id
from methods.backbones.interface import BackboneConfig
from methods.interface import LatentMethod, Method, VideoMethod
from metrics.interface import Column, Metric, MetricUnavailable, Tracker

CONTRACTS: dict[str, type] = {
    "method": Method,
    "backbone": BackboneConfig,
    "dataset": Dataset,
    "tracker": Tracker,
    "action": Action,
}
CONF = HOME / "conf"
NAMED = [(group, path.stem) for group in CONTRACTS for path in sorted((CONF / group).glob("*.yaml"))]
METRICS = [path.stem for path in sorted((CONF / "metric").glob("*.yaml"))]


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


def plugin(group: str, name: str) -> Any:
    node = composed(f"{group}={name}")[group]
    return build(node, group, CONTRACTS[group])


@pytest.fixture(scope="module")
def metrics() -> dict[str, Metric]:
    nodes = composed("metrics=all")["metrics"]["metrics"]
    return {name: build(node, name, Metric) for name, node in nodes.items()}


@pytest.mark.parametrize(("group", "name"), NAMED)
def test_a_plug_in_is_called_as_its_file_and_keeps_its_contract(group: str, name: str) -> None:
    one = plugin(group, name)
    assert isinstance(one, CONTRACTS[group]) and one.name == name
    if group == "action":
        assert isinstance(one.needs, Needs)
        return
    assert isinstance(one, Plugin) and isinstance(one.version, str) and one.version
    # What stands outside the id is there to stand outside.
    fields = {field.name for field in dataclasses.fields(one)}
    assert {entry.partition(".")[0] for entry in one.outside_id} <= fields
    assert not set(one.outside_id) & set(configuration(one, {}))


@pytest.mark.parametrize("name", [name for group, name in NAMED if group == "method"])
def test_the_optional_members_of_a_method_answer(name: str) -> None:
    one = plugin("method", name)
    assert isinstance(one, LatentMethod) != isinstance(one, VideoMethod)
    assert one.uses_backbone == isinstance(one, LatentMethod)
    assert isinstance(one.at_most(), type(one)) and set(one.needs) <= {"rotary"}
    if isinstance(one, VideoMethod):
        assert one.uncounted
        # Both need a key of the user's: a line that names it.
        with pytest.raises(InputError, match=r"^method\."):
            one.identity()
            one.listed()
        return
    assert one.made_here and one.identity() is None and one.listed() == []
    assert one.missing("clip", "prompt", 0) is None and one.content("clip", "prompt", 0) is None
    more = one.with_steps(7)
    assert more is not None and more.steps == 7


@pytest.mark.parametrize("name", [name for group, name in NAMED if group == "backbone"])
def test_the_optional_members_of_a_backbone_answer(name: str) -> None:
    one = plugin("backbone", name)
    frames = 17
    grid, shape = one.grid(frames), one.latent_shape(frames)
    assert one.num_blocks > 0 and shape[2] == grid.frames and set(one.lacks) <= {"rotary"}
    assert one.untrained is False and isinstance(one.own_world_only, bool)


@pytest.mark.parametrize("name", METRICS)
def test_the_optional_members_of_a_metric_answer(name: str, metrics: dict[str, Metric]) -> None:
    one = metrics[name]
    assert one.name == name and isinstance(one.column, Column) and one.column.label
    assert (
        isinstance(one.weights_id(), str)
        and isinstance(one.uses_tracks, bool)
        and one.quality in (True, False)
    )
    try:
        one.ready()
    except MetricUnavailable as error:
        assert str(error)


def test_what_enters_an_id_tells_our_classes_apart(metrics: dict[str, Metric]) -> None:
    plugins = [plugin(group, name) for group, name in NAMED if group != "action"] + list(metrics.values())
    kinds: dict[str, set[type]] = {}
    for one in plugins:
        kinds.setdefault(f"{type(one).__mro__[-3].__name__} {one.plugin_kind}", set()).add(type(one))
    for kind, classes in kinds.items():
        assert len(classes) == 1, f"{kind}: {classes}"
    ids = [short_id(of_plugin(one, {})) for one in plugins]
    assert len(set(ids)) == len(ids)


OUTSIDE = [path.stem for path in sorted((Path(__file__).parent / "outside").glob("test_outside_*.py"))]


@pytest.mark.parametrize("module", OUTSIDE)
def test_examples_from_outside_keep_their_contracts(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files, in a package of another name: their tests import them under their own."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "outside"))
    monkeypatch.syspath_prepend(str(tmp_path))
    files: dict[str, str] = importlib.import_module(module).FILES
    own: list[type] = []
    for name, text in files.items():
        if name.endswith(".py"):
            place = tmp_path / f"conformance_{name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
            loaded = importlib.import_module(f"conformance_{name.removesuffix('.py').replace('/', '.')}")
            classes = [one for _, one in inspect.getmembers(loaded, inspect.isclass)]
            own += [one for one in classes if one.__module__ == loaded.__name__]
            monkeypatch.delitem(sys.modules, loaded.__name__)
    plugins = [one for one in own if issubclass(one, Plugin | Action)]
    assert plugins
    for one in plugins:
        assert issubclass(one, (*CONTRACTS.values(), Metric)) and not inspect.isabstract(one)
