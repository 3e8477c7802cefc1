"""Records and plans on disk: older schemas are read, and what this version cannot read is never deleted."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from brief import BRIEF
from harness_fakes import Squares, make_job, planned
from pydantic.dataclasses import dataclass

from harness import __main__ as cli
from harness.cells import environment, run, score
from harness.cells.score import Outcome
from harness.records import migrate, store
from harness.records.identity import of_plugin, short_id
from harness.records.record import SCHEMA
from methods.none import Plain
from reports.__main__ import main as reports

SCHEMA_1 = Path(__file__).parents[1] / "data" / "results_schema1"
"""Written by `python -m harness -m method=none,smm limit=2 backbone.steps=3 measure.warmup_steps=0
wandb=disabled results=results` at 5e3d5c1, less its videos, pictures and tracks."""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder written by schema 1, on the device of these tests."""
    results = tmp_path / "results"
    shutil.copytree(SCHEMA_1, results)
    device = json.loads(next(results.rglob("record.json")).read_text())["environment"]["device"]
    monkeypatch.setattr(environment, "device_model", lambda _: device)
    monkeypatch.chdir(tmp_path)
    return results


def test_reports_read_what_an_older_version_wrote(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reports(["results", "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    values = {"none": ".8419", "smm": ".8119"}
    for line in printed.splitlines()[1:]:
        name = line.split(",")[2]
        assert values.pop(name) == f"{float(line.split(',')[4]):.4f}".lstrip("0")
    assert not values


def test_the_same_command_reuses_what_an_older_version_wrote(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in old.rglob("frames.mkv")}
    words = ["-m", "method=none,smm", "limit=2", "backbone.steps=3", "measure.warmup_steps=0"]
    command = ["harness", *words, *BRIEF, "device=cpu"]
    monkeypatch.setattr(sys, "argv", command)
    assert cli.main() == 0
    err = capsys.readouterr().err
    assert err.count("reused") == 4 and "in" not in err.replace("\n", " ").split()
    assert {path: path.read_bytes() for path in old.rglob("frames.mkv")} == before
    for path in store.plan_paths(old):
        plan = store.load_plan(path)
        assert json.loads(path.read_text())["schema"] == SCHEMA
        for cell in plan.variants[0].cells:
            assert store.load_record(old / cell.path).id == cell.id
        assert plan.variants[0].levels["motion_fidelity"]["true"] == 1.0


def test_an_older_record_gets_the_id_of_its_identity_without_import_paths(old: Path) -> None:
    for path in old.rglob("record.json"):
        record = store.load_record(path.parent)
        assert record.id == short_id(record.identity) and record.schema_ == SCHEMA
        assert "target" not in str(record.identity)
        assert record.identity["backbone"]["kind"] == "wan"
        assert record.metrics["position_error"].digits == 2 and record.metrics["position_error"].sees_motion
        assert not record.metrics["warp_consistency"].primary


MINE = """
from typing import ClassVar
from pydantic.dataclasses import dataclass
from methods.interface import LatentMethod

@dataclass(config={"extra": "forbid"})
class Mine(LatentMethod):
    name: str = "mine"
    steps: int = 3
    version: ClassVar[str] = "1"

    def transfer(self, backbone, reference, prompt, noise, observer):
        return noise
"""


def test_a_moved_and_renamed_class_keeps_its_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first_place.py").write_text(MINE)
    (tmp_path / "second_place.py").write_text(MINE.replace("Mine", "Ours"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import first_place
    import second_place

    plans = [planned(make_job(tmp_path, method=one())) for one in (first_place.Mine, second_place.Ours)]
    assert plans[0][0].variants == plans[1][0].variants
    text = json.dumps([one.identity for _, cells in plans for one in cells])
    assert "place" not in text and "Mine" not in text and "Ours" not in text


def test_a_yaml_copied_for_another_class_does_not_take_over_results(tmp_path: Path) -> None:
    """A class derived from ours, under the name and the values of ours."""

    @dataclass(config={"extra": "forbid"})
    class Own(Plain):
        pass

    keys: Any = {"start": {}, "steps": 3, "guidance_scale": 1.0, "negative_prompt": ""}
    identities = [of_plugin(one(name="none", **keys), {}) for one in (Plain, Own)]
    assert identities[0]["config"] == identities[1]["config"] and identities[0] != identities[1]


def test_schema_1_called_its_classes_by_their_paths() -> None:
    """Every kind that there is now had a path then, save those that came later."""
    from omegaconf import OmegaConf

    from harness.command.terminal import HOME

    kinds = {*migrate.KINDS.values(), "ditflow50", "movebench", "mtbench"}
    for group in ("method", "backbone", "dataset"):
        for path in (HOME / "conf" / group).glob("*.yaml"):
            target = OmegaConf.load(path).get("_target_")
            if target:
                module, _, name = target.rpartition(".")
                found: Any = vars(__import__(module, fromlist=[name]))[name]
                assert found.plugin_kind in kinds, path.name


# --- set aside ---------------------------------------------------------------------------------


def go(results: Path, **changes: Any) -> Outcome:
    job = make_job(results, dataset=Squares(clips=1), **changes)
    return run.run(job, *planned(job))


def cell(results: Path) -> Path:
    return next(
        path for path in results.glob("cells/*/*/*") if "@" not in path.name and ".aside" not in path.name
    )


def later(record: dict[str, Any]) -> str:
    return json.dumps({**record, "schema": SCHEMA + 1, "new": 1})


def unknown_key(record: dict[str, Any]) -> str:
    return json.dumps({**record, "invented": 1})


def of_another(record: dict[str, Any]) -> str:
    return json.dumps({**record, "id": "0123456789abcdef"})


def no_schema(record: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if key != "schema"})


def torn(record: dict[str, Any]) -> str:
    return json.dumps(record)[:100]


def deep(record: dict[str, Any]) -> str:
    return "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize("change", [later, unknown_key, of_another, no_schema, torn, deep])
@pytest.mark.parametrize("resume", [True, False])
def test_a_record_that_is_not_ours_to_delete_is_set_aside_with_one_line(
    change: Any, resume: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path)
    folder = cell(tmp_path)
    text = change(json.loads((folder / "record.json").read_text()))
    (folder / "record.json").write_text(text)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert go(tmp_path, resume=resume).computed == 1
    aside = folder.with_name(f"{folder.name}.aside")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == files
    lines = [line for line in capsys.readouterr().err.splitlines() if "aside" in line]
    assert len(lines) == 1 and "record.json" in lines[0]
    assert go(tmp_path).reused == 1
    (folder / "record.json").write_text(text)
    go(tmp_path)
    assert folder.with_name(f"{folder.name}.aside-2").is_dir() and aside.is_dir()


def test_a_record_in_another_cell_s_folder_is_not_taken_for_a_cell_of_its_own(tmp_path: Path) -> None:
    """Two cells, the record of one lying in the folder of the other as well: each ends with its own."""
    job = make_job(tmp_path)
    plan, cells = planned(job)
    run.run(job, plan, cells)
    folders = [tmp_path / cell.path for cell in cells]
    (folders[0] / "record.json").write_bytes((folders[1] / "record.json").read_bytes())
    shutil.rmtree(folders[1])
    again = run.run(job, *planned(job))
    assert again.computed == 2 and again.ok
    assert [store.load_record(folder).id for folder in folders] == [cell.id for cell in cells]


@pytest.mark.parametrize("place", ["beside", "here"])
def test_moving_between_devices_deletes_no_record_that_cannot_be_read(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(device: str) -> Outcome:
        monkeypatch.setattr(environment, "device_model", lambda _: device)
        return go(tmp_path)

    on("A")
    on("B")
    here = cell(tmp_path)
    broken = here.with_name(f"{here.name}@a") if place == "beside" else here
    record = json.loads((broken / "record.json").read_text())
    (broken / "record.json").write_text(later(record))
    on("A")
    on("B")
    kept = [path for path in here.parent.glob("*.aside*/record.json") if "new" in path.read_text()]
    assert len(kept) == 1


def test_scoring_leaves_a_record_it_cannot_read_as_it_is(tmp_path: Path) -> None:
    go(tmp_path)
    path = cell(tmp_path) / "record.json"
    path.write_text(later(json.loads(path.read_text())))
    before = path.read_bytes()
    said: list[str] = []
    job = make_job(tmp_path, dataset=Squares(clips=1))
    outcome = score.rescore(job, *planned(job), note=said.append)
    assert path.read_bytes() == before and not outcome.records
    assert len(said) == 1 and "schema 3" in said[0]


def test_a_plan_of_a_later_schema_is_set_aside_not_overwritten(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    plan, _ = planned(job)
    path = store.save_plan(tmp_path, plan)
    path.write_text(json.dumps({"schema": SCHEMA + 1, "name": plan.name}))
    before = path.read_bytes()
    store.save_plan(tmp_path, plan)
    assert path.with_name(f"{path.name}.aside").read_bytes() == before
    assert store.load_plan(path) == plan


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"schema": "1"}', '{"schema": 1, "identity": 3}', ""])
def test_what_is_no_record_is_unreadable_and_nothing_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(store.Unreadable):
        store.load_record(tmp_path)
    assert store.read_record(tmp_path) is None
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "p.json").write_text(text)
    with pytest.raises(store.Unreadable):
        store.load_plan(tmp_path / "plans" / "p.json")
