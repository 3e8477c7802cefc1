"""Building a plug-in from its node: what is taken, and the one line that bad input gets."""

from __future__ import annotations

import sys
from dataclasses import field
from types import ModuleType
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from datasets.errors import InputError, nearest
from harness.command.interface import Action
from harness.command.plugins import build
from methods.det import DeT
from methods.interface import LatentMethod, Method


@dataclass(config={"extra": "forbid"})
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(config={"extra": "forbid"})
class Plug:
    name: str
    window: Annotated[int, Field(ge=1)] = 3
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None

    def __post_init__(self) -> None:
        if self.window > 100:
            raise InputError("plug.window is larger than 100; make it smaller")


class Undeclared:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pluginfakes")
    module.Plug, module.Undeclared, module.constant = Plug, Undeclared, 3  # type: ignore[attr-defined]
    module.Bare, module.Half, module.Nameless = Bare, Half, Nameless  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pluginfakes", module)


def made(
    trust: tuple[str, ...] = ("pluginfakes",), target: str = "pluginfakes.Plug", **values: object
) -> object:
    return build({"_target_": target, "name": "n", **values}, "plug", object, trust)


def test_fields_are_the_nodes_keys() -> None:
    built = made(window=5, inner={"rate": 1})
    assert isinstance(built, Plug)
    assert (built.name, built.window, built.inner.rate, built.inner.kind) == ("n", 5, 1.0, "a")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"windwo": 3}, ["plug.windwo: no such key", "did you mean plug.window?"]),
        ({"inner": {"rat": 3}}, ["plug.inner.rat: no such key", "did you mean plug.inner.rate?"]),
        ({"maybe": {"rat": 3}}, ["plug.maybe.rat: no such key", "did you mean plug.maybe.rate?"]),
        ({"qqqq": 3}, ["plug.qqqq: no such key", "there are: inner, maybe, name, window"]),
        ({"window": "abc"}, ["plug.window: got 'abc'", "integer"]),
        ({"window": 0}, ["plug.window: got 0", "greater than or equal to 1"]),
        ({"inner": {"kind": "c"}}, ["plug.inner.kind: got 'c'", "'a' or 'b'"]),
        ({"inner": 3}, ["plug.inner: got 3"]),
        ({"window": 0, "wrong": 1}, ["plug.", "(and 1 more)"]),
        ({"window": 101}, ["plug.window is larger than 100; make it smaller"]),
        ({"target": "pluginfakes.Plgu"}, ["plug._target_", "no Plgu", "did you mean Plug?"]),
        ({"target": "pluginfakes.constant"}, ["plug._target_", "cannot be called"]),
        ({"target": "pluginfakes.deeper.Plug"}, ["plug._target_", "cannot import pluginfakes.deeper"]),
        ({"target": "Plug"}, ["plug._target_", "package.module.Class"]),
        ({"target": "pluginfakes.Undeclared", "size": 3}, ["plug: ", "size"]),
    ],
)
def test_bad_input_is_one_line_naming_the_key(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        made(**values)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_a_missing_value_and_a_missing_target_are_named() -> None:
    with pytest.raises(InputError, match=r"plug\.name: no value; set plug\.name="):
        build({"_target_": "pluginfakes.Plug"}, "plug", object, ["pluginfakes"])
    with pytest.raises(InputError, match=r"plug\._target_: no value"):
        build({"name": "n"}, "plug", object, ["pluginfakes"])


@pytest.mark.parametrize("target", ["os.system", "subprocess.run", "pluginfakes.Plug", "methodsx.a.B"])
def test_a_target_outside_our_packages_is_not_even_imported(target: str) -> None:
    with pytest.raises(InputError, match=r"outside our packages.*trust=\["):
        build({"_target_": target, "name": "n"}, "plug", object)


def test_our_own_packages_need_no_trust() -> None:
    built = build({"_target_": "harness.actions.run.Run", "name": "mine"}, "action", Action)
    assert built.name == "mine"


class Bare:
    """A method as it may stand in somebody's file: derived from nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    version = "1"
    uses_backbone = True

    def transfer(self, *_: object) -> None:
        raise AssertionError("nothing may run here")


class Half(LatentMethod):
    """Derived, but without what makes it a method."""

    def __init__(self, name: str) -> None:
        self.name = name

    version = "1"


class Nameless(LatentMethod):
    version = "1"

    def __init__(self, name: str) -> None:
        pass

    def transfer(self, *_: object) -> None:  # type: ignore[override]
        raise AssertionError("nothing may run here")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("pluginfakes.Bare", ["Bare lacks at_most, check", "derive it from methods.interface.Method"]),
        ("pluginfakes.Half", ["Half lacks transfer", "methods.interface.LatentMethod"]),
        ("pluginfakes.Nameless", ["Nameless lacks name"]),
        ("datasets.sprites.dataset.Sprites", ["lacks", "at_most", "derive it from methods.interface.Method"]),
    ],
)
def test_a_plug_in_that_lacks_a_member_is_one_line_with_class_and_member(
    target: str, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        build({"_target_": target, "name": "n"}, "method", Method, ["pluginfakes"])
    text = str(caught.value)
    assert text.startswith("method._target_: ") and "\n" not in text
    for word in words:
        assert word in text


def test_nearest_lists_the_names_when_none_is_close() -> None:
    assert nearest("fastvm", ["none", "fastvmt"], "method=") == "did you mean method=fastvmt?"
    assert nearest("zzz", ["b", "a"]) == "there are: a, b"
    assert nearest("zzz", []) == "there are none"


def test_plug_ins_inside_a_plug_in_are_built_too_and_their_errors_named():
    inner = {"_target_": "metrics.trackers.dis.Dis", "name": "dis", "grid": 7}
    keys = {
        "width": 8,
        "kernel": 3,
        "tracking": {"weight": 0.1, "points": 5, "below_sigma": 0.4},
        "scale": 1.0,
    }
    training = {
        "steps": 1,
        "learning_rate": 0.1,
        "weight_decay": 0,
        "beta2": 0.9,
        "clip_norm": None,
        "seed": 0,
    }
    keys |= {"training": training, "start": {}, "steps": 2, "guidance_scale": 1.0, "negative_prompt": ""}
    node = {"_target_": "methods.det.DeT", "name": "det", "tracker": inner, **keys}
    assert build(node, "method", DeT).tracker.grid == 7
    with pytest.raises(
        InputError, match=r"^method\.tracker\.grd: no such key; did you mean method\.tracker\.grid"
    ):
        build({**node, "tracker": {**inner, "grd": 3}}, "method", DeT)
    with pytest.raises(InputError, match=r"^method\.tracker\._target_: .*outside our packages"):
        build({**node, "tracker": {**inner, "_target_": "os.system"}}, "method", DeT)
