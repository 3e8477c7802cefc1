"""Protocols: the file states what the configuration does, and tables say what departs from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from board_world import make, paths
from protocol_world import EXPERIMENTS, NAME, stated

from harness.protocol import stated as protocol
from reports.table.protocol import protocol_notes
from reports.table.rows import find_plans, groups
from reports.table.tables import tables

SPRITES = f"{NAME}-sprites"
WHOLE = ("backbone=sprites", "dataset=sprites", "dataset.clips=32", "dataset.prompts=3", "seed=[0,1,2]")


def notes(results: Path) -> list[str]:
    """What the tables say of a protocol."""
    return [note for group in groups(results, find_plans(results)) for note in protocol_notes(group)]


def change(results: Path, where: tuple[str, ...], value: object) -> None:
    for path in results.glob("cells/*/*/*/record.json"):
        node = data = json.loads(path.read_text())
        for key in where[:-1]:
            node = node[key]
        node[where[-1]] = value
        path.write_text(json.dumps(data))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_protocol_states_what_its_experiment_does(experiment: str) -> None:
    """Where a version has moved on since, the protocol has not: it is time for another one."""
    assert protocol.stated_tables()[experiment].model_dump(exclude={"experiment"}) == (
        protocol.Stated.model_validate({"experiment": experiment, **stated(experiment)}).model_dump(
            exclude={"experiment"}
        )
    )


def test_no_table_is_stated_twice() -> None:
    text = Path(protocol.__file__).with_name(f"{NAME}.yaml").read_text()
    assert list(yaml.safe_load(text)) == list(EXPERIMENTS)


def test_a_table_that_follows_the_protocol_says_so_whatever_its_command(tmp_path: Path) -> None:
    make(tmp_path, "method=none", *WHOLE)
    (table,) = tables(tmp_path, find_plans(tmp_path))
    assert table.notes[0] == f"Protocol: {SPRITES}."
    change(tmp_path, ("metrics", "motion_fidelity", "version"), "6; dis 4 grid=30")
    assert notes(tmp_path) == [], "nobody said that it was of the protocol"


def test_a_table_of_the_protocol_says_every_point_in_which_it_departs(tmp_path: Path) -> None:
    words = ("limit=2", "seed=0", "dataset.prompts=1", "frames=13", "backbone.steps=20", "tracker.grid=20")
    make(tmp_path, "method=none", *words, "backbone.shift=2.0", "~metrics.metrics.clip_f", of=SPRITES)
    (line,) = notes(tmp_path)
    assert line.startswith(f"Departs from {SPRITES} in: clips 2 of 32; ")
    for point in (
        "prompts a clip 1 (3)",
        "seeds 0 (0, 1, 2)",
        "frames 13 (17)",
        "backbone shift 2 (3)",
        "steps 20 (25)",
        "metrics clip_f not measured",
        "tracker grid=20 (grid=30)",
    ):
        assert point in line


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (
            ("metrics", "motion_fidelity", "version"),
            "8; dis 5 grid=30 starts=3 side=256 blur=0.4 planes=2",
            None,
        ),
        (("metrics", "clip_t", "value"), None, "metrics clip_t without a value"),
        (("identity", "backbone", "weights"), "sha256:other", "backbone weights sha256:other (sha256:"),
        (("identity", "dataset", "version"), "1", "dataset version 1 (2)"),
        (("masks",), "masked", "masks masked (whole frame)"),
    ],
)
def test_points_that_only_records_tell(tmp_path: Path, where, value, said) -> None:
    make(tmp_path, "method=none", "limit=1", of=SPRITES)
    before = notes(tmp_path)
    change(tmp_path, where, value)
    after = notes(tmp_path)
    said = said or "metrics motion_fidelity 8 (7)"
    assert not any(said in line for line in before) and all(said in line for line in after)


def test_cells_that_were_not_run_depart(tmp_path: Path) -> None:
    plan = make(tmp_path, "method=none", *WHOLE)
    paths(tmp_path, plan)[0].unlink()
    assert notes(tmp_path) == []
    make(tmp_path / "b", "method=none", "limit=2", "dataset.prompts=3", skip=1, of=SPRITES)
    assert all("cells 1 of 6 not run" in line for line in notes(tmp_path / "b"))


def test_prompts_of_ones_own_depart_where_there_are_as_many(tmp_path: Path) -> None:
    plan = make(tmp_path, "method=none", *WHOLE)
    cell = plan.variants[0].cells[0]
    plan.variants[0].cells = [
        one.model_copy(update={"prompt": "a cat"})
        if (one.clip, one.prompt) == (cell.clip, cell.prompt)
        else one
        for one in plan.variants[0].cells
    ]
    plan.command.append(f"experiment={SPRITES}")
    (tmp_path / "plans" / f"{plan.name}.json").write_text(plan.model_dump_json(by_alias=True))
    assert notes(tmp_path) == [f"Departs from {SPRITES} in: other prompts for {cell.clip}."]
