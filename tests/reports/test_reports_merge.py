"""Results of several machines become one folder, and what differs is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from board_world import LATER, make, paths

from harness.records import store
from reports.__main__ import main
from reports.table.rows import find_plans, groups

HERE = ("method=none", "limit=2", "seed=[0,1]")
SCHEMA_1 = Path(__file__).parents[1] / "data" / "results_schema1"


def state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def merge(tmp_path, capsys):
    """The command over folders of ``tmp_path``; nothing that it reads may change."""

    def command(*names: str, out: str = "c") -> tuple[int, str, str]:
        before = {name: state(tmp_path / name) for name in names if name[:2] != "--"}
        words = [name if name[:2] == "--" else str(tmp_path / name) for name in names]
        code = main(["merge", *words, "--out", str(tmp_path / out)])
        assert {name: state(tmp_path / name) for name in before} == before
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def row(results: Path):
    (group,) = groups(results, find_plans(results))
    (only,) = group.rows
    return only


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_two_halves_of_a_command_are_one_table(tmp_path, merge) -> None:
    make(tmp_path / "a", "method=none", "limit=2", "seed=0")
    make(tmp_path / "b", "method=none", "limit=2", "seed=1", device="Another CPU")
    code, out, _ = merge("a", "b")
    assert code == 0
    assert {record.seed for record in row(tmp_path / "c").finished} == {0, 1}
    assert f"Not the same device: {tmp_path / 'a'} Some CPU; {tmp_path / 'b'} Another CPU." in out


def test_a_plan_that_two_machines_shared_is_one_plan_with_all_cells(tmp_path, merge) -> None:
    plan = make(tmp_path / "a", *HERE)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for folder, kept in (("a", slice(0, None, 2)), ("b", slice(1, None, 2))):
        for path in paths(tmp_path / folder, plan)[kept]:
            path.unlink()
    assert merge("a", "b")[0] == 0
    assert len(find_plans(tmp_path / "c")) == 1
    assert len(row(tmp_path / "c").finished) == len(paths(tmp_path / "a", plan)) == 4


def test_of_equal_frames_the_record_that_was_scored_last_is_kept(tmp_path, merge) -> None:
    plan = make(tmp_path / "a", *HERE)
    make(tmp_path / "b", *HERE, ran=LATER)
    for order in (("a", "b"), ("b", "a")):
        code, out, _ = merge(*order, out="".join(order))
        assert code == 0 and "4 cells of 2 plans, 4 of them found more than once" in out
        kept = row(tmp_path / "".join(order))
        assert {record.finished for record in kept.finished} == {LATER} and len(kept.cells) == 4
    assert len(paths(tmp_path / "ab", plan)) == 4


def test_other_frames_of_one_device_are_named_and_the_first_are_kept(tmp_path, merge) -> None:
    plan = make(tmp_path / "a", *HERE)
    make(tmp_path / "b", *HERE, ran=LATER)
    edit(paths(tmp_path / "b", plan)[0], frames_sha256="0" * 64)
    code, out, _ = merge("a", "b")
    cell = plan.variants[0].cells[0]
    assert code == 1
    assert f"none {cell.clip} seed {cell.seed} ({cell.id}): other frames in {tmp_path / 'b'}" in out
    kept = json.loads((tmp_path / "c" / cell.path / "record.json").read_text())
    assert kept == json.loads((tmp_path / "a" / cell.path / "record.json").read_text())


def test_other_frames_of_another_device_stand_beside(tmp_path, merge) -> None:
    plan = make(tmp_path / "a", *HERE)
    make(tmp_path / "b", *HERE, device="NVIDIA H200")
    code, out, _ = merge("a", "b")
    cell = plan.variants[0].cells[0]
    beside = store.load_record(store.on_device(tmp_path / "c" / cell.path, "NVIDIA H200"))
    assert code == 0 and "4 cells made on another device too" in out
    assert beside.id == cell.id and beside.environment["device"] == "NVIDIA H200"
    assert {one.environment["device"] for one in row(tmp_path / "c").finished} == {"Some CPU"}


def test_a_finished_cell_comes_before_one_that_failed(tmp_path, merge) -> None:
    plan = make(tmp_path / "a", *HERE, ran=LATER)
    make(tmp_path / "b", *HERE)
    edit(paths(tmp_path / "a", plan)[0], status="oom", metrics={}, frames_sha256=None)
    assert merge("a", "b")[0] == 0
    assert len(row(tmp_path / "c").finished) == 4


def test_the_same_command_again_changes_nothing_and_a_third_folder_joins(tmp_path, merge) -> None:
    make(tmp_path / "a", *HERE)
    make(tmp_path / "b", *HERE, ran=LATER)
    merge("a", "b")
    before = state(tmp_path / "c")
    assert merge("a", "b")[0] == 0
    assert state(tmp_path / "c") == before
    make(tmp_path / "d", "method=none", "limit=2", "seed=7")
    assert merge("d")[0] == 0
    assert {record.seed for record in row(tmp_path / "c").finished} == {0, 1, 7}


def test_videos_come_when_asked_for_and_share_their_bytes(tmp_path, merge) -> None:
    plan = make(tmp_path / "a", *HERE)
    folder = paths(tmp_path / "a", plan)[0].parent
    (folder / "video.mp4").write_bytes(b"video")
    cell = plan.variants[0].cells[0]
    merge("a")
    assert not (tmp_path / "c" / cell.path / "video.mp4").exists()
    merge("a", "--videos")
    assert (tmp_path / "c" / cell.path / "video.mp4").samefile(folder / "video.mp4")
    assert not (tmp_path / "c" / cell.path / "record.json").samefile(folder / "record.json")


def test_results_of_schema_1_join_today_s(tmp_path, merge) -> None:
    shutil.copytree(SCHEMA_1, tmp_path / "old")
    make(tmp_path / "a", *HERE)
    code, _, err = merge("old", "a")
    assert code == 0, err
    labels = {one.label for group in groups(tmp_path / "c", find_plans(tmp_path / "c")) for one in group.rows}
    alone = {one.label for g in groups(SCHEMA_1, find_plans(SCHEMA_1)) for one in g.rows}
    assert len(labels) >= len(alone | {"none"})
    again = {r.id for g in groups(SCHEMA_1, find_plans(SCHEMA_1)) for one in g.rows for r in one.finished}
    assert again <= {
        r.id
        for g in groups(tmp_path / "c", find_plans(tmp_path / "c"))
        for one in g.rows
        for r in one.finished
    }


def test_a_folder_that_is_not_ours_is_refused(tmp_path, merge) -> None:
    make(tmp_path / "a", *HERE)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("years of work")
    code, _, err = merge("a")
    assert code == 2 and err == (
        f"error: --out {tmp_path / 'c'}: holds other files; name an empty or new folder\n"
    )
    assert state(tmp_path / "c").keys() == {"thesis.tex"}
    for inside in ("a", "a/c"):
        code, _, err = merge("a", out=inside)
        assert code == 2 and "which is only read" in err and err.count("\n") == 1
    code, _, err = merge("a", "nowhere", out="d")
    assert code == 2 and "no such results folder" in err and not (tmp_path / "d").exists()


@pytest.mark.parametrize("path", ["../../secret", "/etc", "cells/../../secret", "plans/x"])
def test_a_plan_that_names_a_place_outside_is_refused(tmp_path, merge, path) -> None:
    plan = make(tmp_path / "a", *HERE)
    plan.variants[0].cells[0].path = path
    (tmp_path / "a" / "plans" / f"{plan.name}.json").write_text(plan.model_dump_json(by_alias=True))
    code, _, err = merge("a")
    assert code == 2 and f"a plan names {path!r}" in err and not (tmp_path / "c").exists()


def test_a_record_that_cannot_be_read_is_named(tmp_path, merge) -> None:
    plan = make(tmp_path / "a", *HERE)
    bad = paths(tmp_path / "a", plan)[0]
    bad.write_text("{")
    code, _, err = merge("a")
    assert code == 2 and str(bad) in err and err.count("\n") == 1 and not (tmp_path / "c").exists()
