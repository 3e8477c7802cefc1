"""What the README shows works as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from brief import BRIEF

from harness import __main__ as command_line

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def block(language: str, containing: str) -> str:
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b]
    assert len(found) == 1
    return found[0]


def test_the_method_of_the_readme_runs_from_its_one_file_and_one_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mymethods").mkdir()
    (tmp_path / "mymethods" / "mine.py").write_text(block("python", "class Mine"))
    config = block("yaml", "methods.mine.Mine").replace("methods.mine", "mymethods.mine")
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(config)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    arguments = ["method=mine", "trust=[mymethods]", "limit=1", "backbone.steps=5", *BRIEF]
    monkeypatch.setattr(sys, "argv", ["harness", "--config-dir", str(tmp_path / "conf"), *arguments])
    assert command_line.main() == 0
    assert "mine" in capsys.readouterr().out
    assert list((tmp_path / "results").rglob("video.mp4"))


def test_both_set_up_commands_stand_between_their_marks() -> None:
    for mark, ending in (("run command", "-m harness"), ("test command", "-m pytest -n 2 --dist worksteal")):
        found = re.search(rf"<!-- {mark} -->\n```bash\n(.*?)\n```\n<!-- end -->", README)
        assert found and "\n" not in found[1] and found[1].endswith(ending)
        assert found[1].startswith("python3 -m venv .venv && ")
