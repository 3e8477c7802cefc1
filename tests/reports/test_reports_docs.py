"""What the documents show is there, is what its command wrote, and works as it stands."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from harness import __main__ as command_line
from harness.records.store import load_plan
from reports.__main__ import main, parser
from reports.board import board_parser
from reports.merge import merge_parser
from reports.study.command import study_parser, votes_parser
from reports.submit import submit_parser

ROOT = Path(command_line.__file__).resolve().parent.parent
MEASURED = ROOT / "reports" / "measured"
PARSERS = {
    "study": study_parser,
    "votes": votes_parser,
    "merge": merge_parser,
    "submit": submit_parser,
    "board": board_parser,
}
DOCUMENTS = {path.name: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
TEXT = DOCUMENTS["reports.md"]
# A command in its fence, a blank line, and what it wrote between two marks.
BLOCK = re.compile(
    r"^```bash\n(?P<command>(?:(?!```).*\n)+)```\n\n"
    r"<!-- measured: (?P<name>\S+) -->\n(?P<shown>(?:.*\n)*?)<!-- end -->$",
    re.MULTILINE,
)
BLOCKS = [match for text in DOCUMENTS.values() for match in BLOCK.finditer(text)]


def commands(fence: str) -> list[list[str]]:
    """The words of each command of a fence, continued lines joined, comments left out."""
    return [shlex.split(line, comments=True) for line in fence.replace("\\\n", " ").strip().splitlines()]


COMMANDS = [
    words
    for text in DOCUMENTS.values()
    for fence in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for words in commands(fence)
]


def arguments(words: list[str]) -> list[str]:
    """What follows ``python -m MODULE``, without where the output goes."""
    return words[3 : words.index(">") if ">" in words else None]


def in_a_fence(shown: str) -> str:
    return f"```text\n{shown}```\n"


def test_every_experiment_there_is_has_its_row() -> None:
    (table,) = re.findall(r"^\| `experiment=` \| rows \|\n\|---\|---\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    named = [name for row in table.splitlines() for name in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def test_every_experiment_named_is_there() -> None:
    there = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    shown = set(re.findall(r"<!-- file: conf/experiment/(\w+)\.yaml -->", TEXT))
    named = {
        (document, name)
        for document, text in DOCUMENTS.items()
        for names in re.findall(r"(?<!\w)(?:experiment=|--experiment )(\w[\w-]*(?:,\w[\w-]*)*)", text)
        for name in names.split(",")
    }
    assert {"main_table", "turbo_goal", "transfer"} <= {name for _, name in named}
    assert {one for one in named if one[1] not in there | shown} == set()


def test_every_reports_command_is_one_that_the_parser_knows() -> None:
    of_reports = [words for words in COMMANDS if words[:3] == ["python", "-m", "reports"]]
    assert len(of_reports) > 10
    for words in of_reports:
        given = arguments(words)
        other = PARSERS.get(given[0])
        if other is None:
            parser().parse_args(given)
        else:
            other().parse_args(given[1:])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["name"])
def test_a_measured_block_is_what_its_command_wrote(block: re.Match[str]) -> None:
    (path,) = (path for path in MEASURED.glob(f"{block['name']}.*") if path.suffix in (".md", ".txt"))
    written = path.read_text()
    assert block["shown"] == (written if path.suffix == ".md" else in_a_fence(written))
    assert commands(block["command"])[-1][-2:] == [">", f"reports/measured/{path.name}"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["name"])
def test_the_command_of_a_measured_block_is_one_that_works(
    block: re.Match[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands(block["command"]):
        assert words[:2] == ["python", "-m"]
        given = arguments(words)
        if words[2] == "harness":
            if "-m" in given:
                # A grid: its first job.
                given = [word.partition(",")[0] for word in given if word != "-m"]
            with initialize_config_module("conf", version_base=None):
                compose("config", given)
        elif words[2] == "reports":
            parser().parse_args(given)
        else:
            place = importlib.util.find_spec(words[2])
            module = f"{words[2]}.__main__" if place and place.submodule_search_locations else words[2]
            action = [word for word in given[:1] if not word.startswith("-")]
            with pytest.raises(SystemExit):
                importlib.import_module(module).main([*action, "--help"])
            known = capsys.readouterr().out
            assert [word for word in given if word.startswith("--") and f"{word} " not in known] == []


def test_every_measured_block_has_its_command_and_none_is_shown_twice() -> None:
    marks = [
        name
        for text in DOCUMENTS.values()
        for name in re.findall(r"^<!-- measured\b:? ?(\S*)", text, re.MULTILINE)
    ]
    names = [block["name"] for block in BLOCKS]
    assert sorted(marks) == sorted(names)
    assert sorted(set(names)) == sorted(names)


def test_every_text_that_was_measured_is_shown_or_named_in_a_document() -> None:
    shown = {f"{block['name']}{suffix}" for block in BLOCKS for suffix in (".md", ".txt")}
    text = "\n".join(DOCUMENTS.values())
    kept = {path.name for path in MEASURED.iterdir() if path.suffix in (".md", ".txt", ".csv", ".json")}
    assert {name for name in kept - shown if not re.search(rf"(?<![\w-]){re.escape(name)}", text)} == set()


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
    assert all(word in printed for word in ("gain 0.5", "gain 1", "none", "Flicker", "Differences from none"))
    (path,) = (tmp_path / "results" / "plans").iterdir()
    plan = load_plan(path)
    assert [variant.label for variant in plan.variants] == ["none", "gain 0.5", "gain 1"]
    assert plan.baseline == "none" and all(len(variant.cells) == 1 for variant in plan.variants)
    assert len(list((tmp_path / "results" / "cells").glob("*/bars/*/video.mp4"))) == 3
    assert main(["results", "--experiment", "mine", "--details", "--published"]) == 0
