"""``action=verify``: cells of somebody's results are made again and compared; the folder stays as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from brief import BRIEF

from datasets.media import video
from harness import __main__ as cli

LEFT = (
    "position_error",
    "direction_cosine",
    "background_flow_error",
    "objects_right",
    "background_right",
    "motion_fidelity",
)
FEW = tuple(f"~metrics.metrics.{name}" for name in (*LEFT, "count_right", "temporal_flicker"))
WORDS = ("method=none", "backbone.steps=1", "frames=5", "measure.warmup_steps=0", *FEW)


def harness(monkeypatch, capsys, *words) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["harness", *words, *BRIEF, "device=cpu"])
    code = cli.main()
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two cells of the embedded world, one step each."""
    results = tmp_path_factory.mktemp("made") / "r"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["harness", *WORDS, "limit=2", f"results={results}", *BRIEF, "device=cpu"])
        assert cli.main() == 0
    return results


@pytest.fixture
def results(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "r"))


@pytest.fixture
def verify(results, monkeypatch, capsys):
    """The command over the folder, which it must not change."""

    def command(*words) -> tuple[int, list[str], str]:
        before = state(results)
        code, out, err = harness(monkeypatch, capsys, "action=verify", f"results={results}", *words)
        assert state(results) == before
        return code, out.splitlines(), err

    return command


def state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change(results: Path, edit) -> None:
    """Edit every record."""
    for path in results.glob("cells/**/record.json"):
        record = json.loads(path.read_text())
        edit(record)
        path.write_text(json.dumps(record))


def other_frames(record) -> None:
    record["frames_sha256"] = "0" * 64


def verdicts(lines: list[str]) -> list[str]:
    """What is said of each cell; the last line counts them."""
    return [line.partition("): ")[2] for line in lines if line.startswith("[")]


def test_cells_made_here_again_have_the_same_frames(verify) -> None:
    code, lines, err = verify("cells=9")
    assert code == 0, err
    assert verdicts(lines) == ["the same frames"] * 2
    assert lines[-1] == "2 of 2 cells drawn from 2 are as recorded"


def test_other_frames_with_the_same_values_are_within_tolerance(results, verify) -> None:
    change(results, other_frames)
    change(results, lambda record: record["environment"].update(device="Another CPU"))
    code, lines, _ = verify("cells=1")
    (said,) = verdicts(lines)
    assert code == 0 and "values within 0.02" in said and "(recorded on Another CPU, made on " in said


def test_other_frames_with_another_value_are_named(results, verify) -> None:
    change(results, other_frames)

    def better(record) -> None:
        record["metrics"]["clip_f"]["value"] += 0.5

    change(results, better)
    code, lines, _ = verify("cells=2")
    assert code == 1
    assert all(said.startswith("other frames; clip_f ") and ", now " in said for said in verdicts(lines))
    assert lines[-1] == "0 of 2 cells drawn from 2 are as recorded"
    assert verify("cells=2", "action.tolerance=0.6")[0] == 0


def test_other_frames_without_a_value_to_compare_do_not_pass(results, verify) -> None:
    change(results, other_frames)
    change(
        results,
        lambda record: [value.update(value=None, reason="none") for value in record["metrics"].values()],
    )
    code, lines, _ = verify("cells=1")
    assert code == 1 and verdicts(lines) == ["other frames; no value to compare"]


def test_another_version_of_the_code_is_said(results, verify) -> None:
    def older(record) -> None:
        record["identity"]["method"]["version"] = "0"
        record["id"] = "0" * 16

    change(results, older)
    code, lines, _ = verify("cells=1")
    assert code == 1 and verdicts(lines) == ["not made again: method.version is another than recorded"]


def test_the_draw_is_the_same_until_another_is_asked_for(verify) -> None:
    def drawn(*words) -> list[str]:
        return sorted(line.partition("] ")[2] for line in verify("cells=1", *words)[1] if line[0] == "[")

    first = drawn()
    assert len(first) == 1 and drawn() == first
    assert any(drawn(f"action.draw={number}") != first for number in (1, 2, 3))


@pytest.mark.parametrize("words", [("cells=0",), ("action.tolerance=-1",), ("action.tolerance=nan",)])
def test_what_cannot_be_asked_for_is_bad_input(verify, words) -> None:
    code, lines, err = verify(*words)
    assert code == 2 and not lines and err.count("\n") == 1


def test_a_folder_without_cells_is_bad_input(tmp_path, monkeypatch, capsys) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        code, _, err = harness(monkeypatch, capsys, "action=verify", f"results={folder}")
        assert code == 2 and err.count("\n") == 1 and "holds no finished cell that was made here" in err
    assert list(tmp_path.iterdir()) == []


def test_footage_whose_place_records_hide_must_be_given(tmp_path, monkeypatch, capsys) -> None:
    refs, results = tmp_path / "refs", tmp_path / "f"
    scene = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    video.write_ffv1(refs / "noise.mkv", scene, 8)
    (refs / "prompts.csv").write_text("clip,prompt\nnoise,a wall\n")
    given = ("dataset=folder", f"dataset.root={refs}")
    code, _, err = harness(
        monkeypatch, capsys, *WORDS, *given, "dataset.clip_model=sprites", f"results={results}"
    )
    assert code == 0, err
    before = state(results)
    code, out, _ = harness(monkeypatch, capsys, "action=verify", f"results={results}")
    assert code == 1 and "not made again: dataset.root: records hide it; give it with dataset=folder" in out
    code, out, err = harness(monkeypatch, capsys, "action=verify", f"results={results}", *given)
    assert code == 0 and "the same frames" in out, out + err
    shutil.move(refs, tmp_path / "elsewhere")
    moved = ("dataset=folder", f"dataset.root={tmp_path / 'elsewhere'}")
    code, out, _ = harness(monkeypatch, capsys, "action=verify", f"results={results}", *moved)
    assert code == 0 and "the same frames" in out
    video.write_ffv1(tmp_path / "elsewhere" / "noise.mkv", 255 - scene, 8)
    code, out, _ = harness(monkeypatch, capsys, "action=verify", f"results={results}", *moved)
    assert code == 1 and "clip.content is another than recorded" in out
    assert state(results) == before
