"""``python -m reports.measure_speed``: commands run in order, tables and JSON kept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from reports import measure_speed


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A harness that writes the JSON it would, and fails as ``broken`` says."""
    ran, broken = [], {}

    def run(words, **_):
        values = dict(word.split("=", 1) for word in words if "=" in word)
        action = values.get("action", "run")
        ran.append((values["name"], action))
        code, writes = broken.get((values["name"], action), (0, action != "run"))
        if writes:
            path = Path(values["results"]) / action / f"{values['name']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps([values]))
        return subprocess.CompletedProcess(words, code, f"table of {values['name']}\n")

    monkeypatch.setattr(subprocess, "run", run)
    return ran, broken


def started(tmp_path, *overrides):
    return measure_speed.main(
        ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results"), *overrides]
    )


def test_experiments_are_run_and_then_printed_and_all_is_kept(tmp_path, machine, capsys):
    ran, _ = machine
    assert started(tmp_path, "backbone.steps=10") == 0
    assert ran == [
        ("speed_wan", "run"),
        ("speed_wan", "speed"),
        ("speed_backends", "run"),
        ("speed_backends", "speed"),
        ("profile", "profile"),
        ("profile_not_compiled", "profile"),
    ]
    for name in ("speed_wan", "speed_backends", "profile", "profile_not_compiled"):
        table = (tmp_path / "out" / f"{name}.txt").read_text().splitlines()
        assert table[0].startswith("python -m harness backbone=wan2.1-1.3b backbone.weights=random frames=81")
        assert "backbone.steps=10" in table[0] and table[1] == f"table of {name}"
        (values,) = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert values["backbone.weights"] == "random"
    assert "table of speed_wan" in capsys.readouterr().out


def test_what_fails_is_said_and_the_rest_goes_on(tmp_path, machine):
    ran, broken = machine
    broken["speed_wan", "speed"] = (2, True)  # some variant has no finished cell
    broken["speed_backends", "speed"] = (2, False)  # none has one
    old = tmp_path / "results" / "speed" / "speed_backends.json"
    old.parent.mkdir(parents=True)
    old.write_text("[]")
    assert started(tmp_path) == 1
    assert len(ran) == 6
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == [
        "profile.json",
        "profile_not_compiled.json",
        "speed_wan.json",
    ]


def test_what_a_lent_machine_ran_is_printed_at_home(tmp_path, machine, capsys):
    ran, _ = machine
    assert started(tmp_path, "--only", "run") == 0
    assert [action for _, action in ran] == ["run", "run", "profile", "profile"]
    assert "table of speed_wan" not in capsys.readouterr().out
    ran.clear()
    assert started(tmp_path, "--only", "print") == 0
    assert ran == [("speed_wan", "speed"), ("speed_backends", "speed")]
    assert len(list((tmp_path / "out").glob("*.txt"))) == 4


def test_its_commands_are_ones_the_harness_knows():
    """Composed as they are run; a key that is gone fails here, not on a lent machine."""
    from hydra import compose, initialize_config_dir

    import conf

    folder = Path(conf.__file__).parent
    for name, words, action in measure_speed.PARTS:
        given = measure_speed.command(name, *words, f"action={action}")[3:]
        experiments = [word.split("=")[1] for word in given if word.startswith("experiment=")]
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = compose("config", [word for word in given if not word.startswith("experiment=")])
        assert config.backbone.weights == "random" and config.action.name == action
        assert all((folder / "experiment" / f"{one}.yaml").is_file() for one in experiments)
