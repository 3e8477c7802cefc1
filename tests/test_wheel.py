"""What travels in the wheel, and that it runs from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from brief import BRIEF

ROOT = Path(__file__).resolve().parent.parent


def call(arguments: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: building in the checkout would leave build/ behind, and with it stale files in the next wheel.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of source files")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    call(
        ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder), "."],
        folder / "source",
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_configs_prompts_and_checkpoints_but_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        "conf/config.yaml",
        "conf/method/fastvmt.yaml",
        "conf/tuned/fastvmt/wan2.1-1.3b.yaml",
        "datasets/davis_prompts.csv",
        "methods/backbones/checkpoints/sprites/transformer/diffusion_pytorch_model.safetensors",
        "metrics/checkpoints/sprites_clip/model.safetensors",
        "reports/templates/page.html",
        "reports/templates/page/take.js",
    }
    assert wanted <= names
    assert not [name for name in names if name.startswith("tests/")]


def test_an_installed_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    call(["-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)], tmp_path)
    where = call(["-c", "import harness; print(harness.__file__)"], elsewhere, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    run = ["-m", "harness", "limit=1", "backbone.steps=2", "measure.warmup_steps=0", *BRIEF]
    printed = call(run, elsewhere, PYTHONPATH=str(site))
    records = sorted((elsewhere / "results" / "cells").rglob("record.json"))
    assert [record.parts[-4] for record in records] == ["fastvmt", "none"]
    assert all('"status": "ok"' in record.read_text() for record in records)
    page = elsewhere / printed.splitlines()[-1]
    assert page.name == "index.html" and "fastvmt" in page.read_text()


MINE = """
from typing import ClassVar
from pydantic.dataclasses import dataclass
from methods.none import Plain

@dataclass(config={"extra": "forbid"})
class Mine(Plain):
    version: ClassVar[str] = "1"
"""


@pytest.mark.parametrize("installed", ["wheel", "editable"])
def test_a_user_s_own_folder_may_be_called_conf(installed: str, wheel: Path, tmp_path: Path) -> None:
    """Python would find it in the present folder before ours, whichever way we are installed."""
    site = tmp_path / "site"
    if installed == "wheel":
        call(["-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)], tmp_path)
    user = tmp_path / "user"
    (user / "conf" / "method").mkdir(parents=True)
    (user / "mine.py").write_text(MINE)
    (user / "conf" / "method" / "mine.yaml").write_text(
        "defaults: [none, _self_]\n_target_: mine.Mine\nname: mine\n"
    )
    words = ["-m", "harness", "--config-dir", "conf", "trust=[mine]", "method=mine", "action=plan", "limit=1"]
    # Without a path it is as this environment has us: the README's is an editable installation.
    found = {"PYTHONPATH": str(site)} if installed == "wheel" else {}
    assert "1 cells, 0 done, 1 to run" in call(words, user, **found)
