"""Secrets and folders of the machine: what is written shows neither, and cells are found again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_harness_cli import Harness, harness, world

from datasets.media import video
from harness.command.secrets import without_secrets
from harness.records import migrate
from harness.records.hidden import Hidden, folders
from harness.records.identity import is_whole, of_variant, short_id
from reports import wandb_mirror

__all__ = ["harness", "world"]

TOKEN, KEY = "s3cr3t-tok3n", 'k3y"with quotes'

PROGRAM = """
import json, os, sys
import numpy as np
sys.path.insert(0, {root!r})
from datasets.media import video
job = json.load(open(sys.argv[1]))
print("environment:", os.environ["TOKEN"], "options:", json.dumps(job["options"]))
assert job["options"]["key"] == os.environ["KEY"]
if os.environ.get("FAIL"):
    raise SystemExit("cannot log in with " + os.environ["TOKEN"] + " at " + os.getcwd())
video.write_ffv1(job["output"], video.read_video(job["reference"])[0], job["fps"])
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def external(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command whose program is told a secret in its environment and one in its options."""
    monkeypatch.setenv("KEY", KEY)
    clips = tmp_path / "my clips"
    clips.mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    video.write_ffv1(clips / "a.mkv", frames, 8.0)
    (clips / "prompts.csv").write_text("clip,prompt\na.mkv,a red square\n")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(Path(video.__file__).parents[2])))

    def command(*words: str) -> tuple[int, str, str]:
        given = (
            "method=external",
            "backbone=sprites",
            f"method.command=['{sys.executable}','{program}']",
            f"+method.environment.TOKEN={TOKEN}",
            "+method.options.key=${oc.env:KEY}",
            "dataset=folder",
            f"dataset.root='{clips}'",
            "frames=5",
            f"results={tmp_path / 'results'}",
            *words,
        )
        return harness(*given)

    return command


def written(folder: Path) -> dict[Path, bytes]:
    """All files of a folder but videos and pictures."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".mkv"}


def record_of(results: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = results.glob("cells/*/*/*/record.json")
    return path, json.loads(path.read_bytes())


@pytest.mark.parametrize("fails", [False, True], ids=["ok", "failed"])
def test_nothing_that_is_written_or_said_holds_a_secret_or_an_absolute_path(
    external: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    told: list[str] = []

    def sender(_results: Path, _plans: Any, _wandb: Any, configs: Any) -> SimpleNamespace:
        told.append(json.dumps(configs))
        return SimpleNamespace(finish=lambda: None)

    monkeypatch.setattr(wandb_mirror, "Sender", sender)
    words = ["+method.environment.FAIL='yes, it does'"] if fails else []
    code, out, err = external("-m", "seed=0,1", "limit=1", *words)
    assert code == int(fails), err
    files = {str(path): data for path, data in written(tmp_path / "results").items()}
    assert any(name.endswith("log.txt") for name in files)
    said = {"out": out.encode(), "err": err.encode()}
    for name, data in {**files, **said, "W&B": told[0].encode()}.items():
        for secret in (TOKEN, KEY, json.dumps(KEY)[1:-1], "it does"):
            assert secret.encode() not in data, name
    shown = [data for name, data in files.items() if "/program/" not in name]
    assert all(str(tmp_path).encode() not in data for data in shown)
    path = next((tmp_path / "results").glob("cells/*/*/*/record.json"))
    record = json.loads(path.read_bytes())
    assert record["method"]["config"]["environment"]["TOKEN"] == "***"
    for config in (record["config"]["method"], record["identity"]["method"]["config"]):
        assert config["options"] == {"key": "***"}
        assert config["command"][1] == ".../program.py"
    assert record["config"]["dataset"]["root"] == "DATASET"
    assert record["config"]["results"] == "RESULTS"
    (plan, *_) = (tmp_path / "results" / "plans").glob("*.json")
    (variant,) = json.loads(plan.read_bytes())["variants"]
    assert "+method.environment.TOKEN=***" in variant["overrides"]
    assert "+method.options.key=${oc.env:KEY}" in variant["overrides"]
    if fails:
        assert "cannot log in with *** at " in record["error"]["message"]


def test_the_id_is_that_of_the_real_value_and_the_cell_is_found_again(
    external: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_mirror, "start", lambda _: [])
    external()
    path, record = record_of(tmp_path / "results")
    assert record["status"] == "ok" and record["id"] in path.parent.name
    assert not is_whole(record["identity"], record["id"])
    before = path.read_bytes()
    assert "1 done, 0 to run" in external("action=plan")[1]
    assert external()[0] == 0 and path.read_bytes() == before
    # The program's files are known by their words, also where only the record says what they were.
    (tmp_path / "program.py").rename(tmp_path / "gone.py")
    assert external("action=score")[0] == 0
    assert record_of(tmp_path / "results")[1]["id"] == record["id"]
    (tmp_path / "gone.py").rename(tmp_path / "program.py")
    monkeypatch.setenv("KEY", "another key")
    assert "0 done, 1 to run" in external("action=plan")[1]


def test_a_secret_does_not_change_an_id_that_is_the_same_without_hiding(
    external: Command, tmp_path: Path
) -> None:
    plain = external("action=plan")[1]
    given = external("action=plan", "method.options={key:'" + KEY.replace("'", "\\'") + "'}")
    # The key is given twice, the second time by its value: the option that is a group of keys wins.
    assert given[0] == 0 and given[1].splitlines()[1] == plain.splitlines()[1]


def test_a_page_and_a_table_of_the_records_show_no_secret(
    external: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reports.__main__ import main

    monkeypatch.setattr(wandb_mirror, "start", lambda _: [])
    external()
    for form, out in (("html", "page"), ("md", "table.md")):
        monkeypatch.setattr(
            sys,
            "argv",
            ["reports", str(tmp_path / "results"), "--format", form, "--out", str(tmp_path / out)],
        )
        main()
    texts = [path.read_text() for path in (tmp_path / "page").rglob("*") if path.suffix in (".html", ".json")]
    assert texts
    for text in texts:
        assert TOKEN not in text and KEY not in text and str(tmp_path) not in text


SECRET = "${oc.env:KEY}"


@pytest.mark.parametrize(
    "override",
    [
        f"name={SECRET}",
        f"method.name={SECRET}",
        f"dataset.name={SECRET}",
        f"+seed=[{SECRET}]",
    ],
)
def test_what_names_files_and_rows_takes_no_secret(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setenv("KEY", "12345678")
    code, out, err = harness(override.lstrip("+"), "action=plan")
    key = override.lstrip("+").partition("=")[0]
    assert code == 2 and err.startswith(key) and f"{key}" in err and err.count("\n") == 1
    assert "12345678" not in err and not out


def test_an_error_names_the_key_and_not_the_secret(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "12345678x")
    code, _, err = harness("method.window=${oc.env:KEY}", "action=plan")
    assert code == 2 and err.startswith("method.window: got '***'") and "12345678x" not in err


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("+method.environment.A=b", "+method.environment.A=***"),
        ("method.environment={A:b,B:'c,d'}", "method.environment={A:***,B:***}"),
        ("method.options={environment:{A:b},c:[1,d]}", "method.options={environment:{A:***},c:[1,d]}"),
        ("++method.environment={A:[b,{C:d}]}", "++method.environment={A:[***,{C:***}]}"),
        ("method.options.key=${oc.env:KEY}", "method.options.key=${oc.env:KEY}"),
        ("dataset.prompt='an environment'", "dataset.prompt='an environment'"),
        ("seed=1", "seed=1"),
        ("~method.environment", "~method.environment"),
    ],
)
def test_an_override_shows_names_and_no_value_of_environment(override: str, shown: str) -> None:
    assert without_secrets(override) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/clips/D/a b.mp4 is short", "DATASET/a b.mp4 is short"),
        ("see /clips/D-2/x/a.mp4", "see .../a.mp4"),
        ("/results/r/cells/m/x", "RESULTS/cells/m/x"),
        ("--ckpt=/models/own/wan.pt,/results/r", "--ckpt=.../wan.pt,RESULTS"),
        ("https://host/a/b and a/b/c, 3 / 4", "https://host/a/b and a/b/c, 3 / 4"),
        (f"{Path.home()}/w/x", "~/w/x"),
        ("none of it", "none of it"),
    ],
)
def test_absolute_paths_in_texts_are_relative_or_a_name(text: str, shown: str) -> None:
    hidden = Hidden(folders=folders(Path("/results/r"), "/clips/D"))
    assert hidden.text(text) == shown
    assert hidden.text(shown) == shown, "a record that is written again stays as it is"


def test_a_value_that_is_a_path_elsewhere_keeps_its_last_name() -> None:
    hidden = Hidden(folders=folders(Path("/results/r"), None))
    data = {"a": "/models/my own/wan 1", "b": ["/models", "/results/r/x y"], "c": "x/y", "d": 3, "e": "/"}
    expected = {"a": ".../wan 1", "b": [".../models", "RESULTS/x y"], "c": "x/y", "d": 3, "e": "/"}
    assert hidden.data(data) == expected


# --- migration ---------------------------------------------------------------------------------


def old_record(**hidden: Any) -> dict[str, Any]:
    """A record of schema 1, whose identity says what was hashed but for what is ``hidden`` in it."""
    identity: dict[str, Any] = {
        "method": {
            "target": "methods.external.External",
            "version": "1",
            "config": {"options": {"key": KEY}},
        },
        "backbone": {"target": "methods.backbones.wan.WanBackbone", "version": "1", "config": {}},
        "clip": {"name": "a", "content": "b"},
        "seed": 0,
    }
    data = {"schema": 1, "id": short_id(identity), "identity": identity, "metrics": {}}
    if hidden:
        identity["method"]["config"]["options"] = hidden
    return data


def test_migration_keeps_the_id_where_a_value_is_hidden() -> None:
    whole, hidden = old_record(), old_record(key="***")
    assert whole["id"] == hidden["id"]
    new, kept = migrate.record(whole), migrate.record(hidden)
    assert new["id"] != whole["id"] and new["former_id"] == whole["id"]
    assert new["id"] == short_id(new["identity"])
    assert kept["id"] == hidden["id"] and kept["former_id"] is None

    def planned(record: dict[str, Any]) -> dict[str, Any]:
        cell = {"id": record["id"], "path": "c"}
        plan = {"schema": 1, "variants": [{"config_id": "of old", "cells": [cell]}]}
        return dict(migrate.plan(plan, lambda _: migrate.record(record))["variants"][0])

    assert planned(whole)["config_id"] == short_id(of_variant(new["identity"]))
    assert planned(hidden)["config_id"] == "of old"
    assert planned(hidden)["cells"][0]["id"] == hidden["id"]


# --- trust -------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a YAML of somebody else into a config folder that stands beside the harness's own groups."""

    def write(name: str, text: str) -> None:
        path = tmp_path / "foreign" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "experiment/evil.yaml",
            "# @package _global_\ntrust: [os]\nmethod:\n  _target_: os.mkdir\n  path: ran\n",
        ),
        (
            "experiment/evil.yaml",
            "# @package _global_\ntrust: [os]\nexperiment:\n  variants:\n    a: ['method=none']\n",
        ),
        (
            "experiment/evil.yaml",
            "variants:\n  a: ['+method@_global_=evil']\n",
        ),
    ],
    ids=["experiment", "variants", "a variant's file"],
)
def test_a_file_that_trusts_code_is_bad_input(
    foreign: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
) -> None:
    from harness import __main__ as cli

    foreign(name, text)
    if "@_global_" in text:
        foreign("method/evil.yaml", "trust: [os]\nmethod:\n  _target_: os.mkdir\n  path: ran\n")
    monkeypatch.chdir(tmp_path)
    words = ["harness", "--config-dir", "foreign", "experiment=evil", "action=plan", "limit=1"]
    monkeypatch.setattr(sys, "argv", words)
    assert cli.main() == 2
    err = capsys.readouterr().err
    assert "trust: a configuration file sets it to ['os']" in err and err.count("\n") == 1
    assert "add trust=[PACKAGE] to the command" in err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "node",
    [
        "launcher:\n    _target_: os.mkdir\n    path: ran",
        "callbacks:\n    one:\n      _target_: os.mkdir\n      path: ran",
        "sweeper:\n    _target_: os.mkdir\n    path: ran",
        "job_logging:\n    version: 1\n    handlers:\n      one:\n        (): os.mkdir\n        path: ran",
    ],
    ids=["launcher", "callbacks", "sweeper", "logging"],
)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "multirun"])
def test_what_a_file_asks_of_hydra_itself_is_not_run(
    foreign: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    node: str,
    flags: list[str],
) -> None:
    from harness import __main__ as cli

    foreign("experiment/evil.yaml", f"# @package _global_\nhydra:\n  {node}\n")
    monkeypatch.chdir(tmp_path)
    words = [*flags, "--config-dir", "foreign", "experiment=evil", "action=plan", "limit=1"]
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    cli.main()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("more", [[], ["tracker.repository=clone"]], ids=["hub", "clone"])
def test_code_from_a_hub_or_a_clone_asks_for_trust(harness: Harness, tmp_path: Path, more: list[str]) -> None:
    code, _, err = harness("tracker=cotracker3", *more, "action=plan")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("tracker=cotracker3 runs code of cotracker") and "add trust=[cotracker]" in err
    code, _, err = harness("tracker=cotracker3", *more, "action=plan", "trust=[cliplugins,cotracker]")
    assert code == 0, err


# --- control characters ------------------------------------------------------------------------


def test_control_characters_of_names_reach_neither_terminal_nor_page(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reports.__main__ import main

    monkeypatch.setattr(wandb_mirror, "start", lambda _: [])
    clips = tmp_path / "clips"
    clips.mkdir()
    name = "a\x1b[31m\x9b2Jb\u202ec"
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    video.write_ffv1(clips / f"{name}.mkv", frames, 8.0)
    (clips / "prompts.csv").write_text(f"clip,prompt\n{name}.mkv,red \x1b]0;owned\x07 square\n")
    (tmp_path / "manifest.csv").write_text(
        f"clip,prompt,seed,file\n{name},red \x1b]0;owned\x07 square,0,clips/{name}.mkv\n"
    )
    words = ("dataset=folder", "dataset.root=clips", "frames=5", "backbone=sprites")
    words = (*words, "method=precomputed", "method.manifest=manifest.csv")
    outputs = [*harness(*words, "action=plan")[1:], *harness(*words)[1:]]
    assert record_of(tmp_path / "results")[1]["status"] == "ok", outputs
    monkeypatch.setattr(sys, "argv", ["reports", "results", "--format", "html", "--out", "page"])
    main()
    outputs.append((tmp_path / "page" / "index.html").read_text())
    for form in ("md", "csv", "latex"):
        monkeypatch.setattr(sys, "argv", ["reports", "results", "--format", form])
        main()
        outputs.append(capsys.readouterr().out)
    assert any("owned" in text for text in outputs)
    for text in outputs:
        assert not set(text) & set("\x1b\x9b\x07\u202e")
