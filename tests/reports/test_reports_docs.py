"""What docs/reports.md shows works as it stands."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from harness import __main__ as command_line
from harness.records.record import load_plan
from reports.__main__ import main, parser

ROOT = Path(command_line.__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "reports.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.strip().splitlines()
]


def test_every_experiment_named_is_there_and_every_one_there_is_named() -> None:
    there = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    run = {
        name
        for words in COMMANDS
        for word in words
        if word.startswith("experiment=")
        for name in word.removeprefix("experiment=").split(",")
    }
    assert run - {"mine"} <= there
    assert {name for name in there if f"`{name}`" in TEXT} >= run - {"mine"}


def test_every_reports_command_is_one_that_the_parser_knows() -> None:
    of_reports = [words for words in COMMANDS if words[:3] == ["python", "-m", "reports"]]
    assert len(of_reports) > 10
    for words in of_reports:
        parser().parse_args(words[3:])


def test_the_parts_shown_run_from_their_files_without_a_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert len(shown) == 7
    for name, text in shown:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (command,) = re.findall(r"<!-- command -->\n```bash\npython -m (.*?)\n```\n<!-- end -->", TEXT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small = ["backbone.steps=3", "measure.warmup_steps=0", "wandb=disabled", "device=cpu"]
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), *small])
    assert command_line.main() == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("gain 0.5", "gain 1", "none", "Flicker (levels) ↓", "Speed-up"))
    (path,) = (tmp_path / "results" / "plans").iterdir()
    plan = load_plan(path)
    assert [variant.label for variant in plan.variants] == ["none", "gain 0.5", "gain 1"]
    assert plan.baseline == "none" and all(len(variant.cells) == 1 for variant in plan.variants)
    assert len(list((tmp_path / "results" / "cells").glob("*/bars/*/video.mp4"))) == 3
    assert main(["results", "--experiment", "mine", "--p-values", "--published"]) == 0
