"""The package that users copy is installed and runs, offline and from another folder."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.media.video import read_video
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
    assert [(record.status, record.clip) for record in records] == [("ok", "bars-1")] * 3
    for record in records:
        assert record.prompt == "a red square on a grey background"
        assert record.metrics["clip_t"].value is not None and not record.metrics["position_error"].applies
        (frames,) = (tmp_path / "results" / "cells").rglob(f"*{record.id}/frames.mkv")
        jumps = np.abs(np.diff(read_video(frames)[0].mean(axis=(1, 2, 3))))
        flicker = record.metrics["flicker"]
        assert flicker.value == pytest.approx(jumps.mean()) and len(flicker.per_frame or ()) == len(jumps)
        assert (flicker.label, flicker.unit, flicker.higher_is_better) == ("Flicker", "levels", False)
    half = next(record for record in records if record.method.config.get("gain") == 0.5)
    # Two steps, each with and without the prompt.
    assert half.calls == {"forward": 4} and half.flops.forward_equivalents == 4
    assert {"encode", "text", "denoise", "decode"} <= half.timing.stages.keys()
    method = half.identity["method"]
    assert (method["version"], method["config"]["name"], method["config"]["gain"]) == (
        "1",
        "change_start",
        0.5,
    )
    assert "Flicker" in printed and f"{half.metrics['flicker'].value:.2f}".lstrip("0") in printed
    monkeypatch.setattr(sys, "argv", ["harness", "hydra.searchpath=[pkg://mymotion.cnf]", "method=none"])
    assert command_line.main() == 2
    assert capsys.readouterr().err.startswith(
        "hydra.searchpath: pkg://mymotion.cnf is no folder, or no package"
    )
