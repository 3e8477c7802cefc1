"""The package that users copy is installed and runs, offline and from another folder."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import __main__ as command_line
from harness.command.terminal import HOME
from harness.records import store

TEMPLATE = HOME / "docs" / "plugin-template"
FILES = {str(path.relative_to(TEMPLATE)): path.read_text() for path in sorted(TEMPLATE.glob("mymotion/*.py"))}
SMALL = ["backbone.steps=2", "measure.warmup_steps=0", "wandb=disabled", "device=cpu", "execute=here"]


def test_the_template_is_installed_and_its_experiment_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A copy: an installation leaves build/ behind.
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(TEMPLATE, source)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(TEMPLATE) for path in TEMPLATE.glob("mymotion/**/*") if path.suffix != ".pyc"}
    assert {path for path in made if not (site / path).exists()} <= {Path("mymotion/__pycache__")}

    (fence,) = re.findall(
        r"<!-- command -->\n```bash\n(.*?)\n```\n<!-- end -->", (TEMPLATE / "README.md").read_text(), re.S
    )
    install, run = (shlex.split(line) for line in fence.splitlines())
    assert install == ["pip", "install", "-e", "docs/plugin-template"]
    assert run[:3] == ["python", "-m", "harness"]
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*run[2:], *SMALL])
    assert command_line.main() == 0

    printed = capsys.readouterr().out
    assert all(word in printed for word in ("none", "gain 0.5", "gain 1"))
    (path,) = (tmp_path / "results" / "plans").iterdir()
    plan = store.load_plan(path)
    assert [variant.label for variant in plan.variants] == ["none", "gain 0.5", "gain 1"]
    records = [
        store.load_record(path.parent) for path in (tmp_path / "results" / "cells").rglob("record.json")
    ]
    assert [record.status for record in records] == ["ok"] * 3
    assert all(record.clip == "bars-1" and record.metrics["flicker"].value for record in records)
    monkeypatch.setattr(sys, "argv", ["harness", "hydra.searchpath=[pkg://mymotion.cnf]", "method=none"])
    assert command_line.main() == 2
    assert capsys.readouterr().err.startswith(
        "hydra.searchpath: pkg://mymotion.cnf is no folder, or no package"
    )
