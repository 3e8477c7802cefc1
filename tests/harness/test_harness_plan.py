"""Cells, ids and plans."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic.dataclasses import dataclass

from datasets.clip import Clip, ClipInfo, LeftOut, Listing, Prompt
from datasets.errors import InputError
from harness import records
from harness.config import Job
from harness.plan import digest, make_plan, plan_path, safe, save_plan
from methods.interface import Grid


@dataclass(config={"extra": "forbid"})
class Method:
    name: str = "m"
    rate: float = 1.0
    note: str = ""
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("note",)
    uses_backbone: ClassVar[bool] = True

    def check(self, grid: Grid, num_blocks: int) -> None:
        if grid.height < 4:
            raise InputError("the grid is too small")


@dataclass(config={"extra": "forbid"})
class Finished(Method):
    videos: dict[str, str] = dataclasses.field(default_factory=dict)
    outside_id: ClassVar[tuple[str, ...]] = ("note", "videos")
    uses_backbone: ClassVar[bool] = False

    def missing(self, clip: str, prompt: str, seed: int) -> str | None:
        return None if clip in self.videos else "no video in the manifest"

    def content(self, clip: str, prompt: str, seed: int) -> str:
        return self.videos[clip]


@dataclass(config={"extra": "forbid"})
class Backbone:
    name: str = "b"
    height: int = 16
    width: int = 16
    weights: str = "sha256:0"
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("weights",)
    num_blocks: ClassVar[int] = 4

    def check(self, frames: int, device: str) -> Grid:
        if self.weights == "gone":
            raise InputError("backbone.weights: missing")
        return Grid(2, self.height // 4, self.width // 4)

    def identity(self) -> str:
        return self.weights


@dataclass(config={"extra": "forbid"})
class Dataset:
    name: str = "d"
    root: str = "here"
    names: tuple[str, ...] = ("a", "b", "c")
    prompts: tuple[str, ...] = ("p",)
    stride: int = 1
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("root", "names", "prompts")

    def listing(self) -> Listing:
        texts = tuple(Prompt(text) for text in self.prompts)
        return Listing(
            tuple(ClipInfo(name, hashlib.sha256(name.encode()).hexdigest(), texts) for name in self.names),
            (LeftOut("short", "has 3 frames"),),
        )

    def load(self, name: str) -> Clip:
        if name == "broken":
            raise OSError("cannot decode\nat all")
        return Clip(ClipInfo(name, "", ()), np.zeros((1, 2, 2, 3), np.uint8))


def job(results: Path, **values: Any) -> Job:
    defaults: dict[str, Any] = {
        "method": Method(),
        "backbone": Backbone(),
        "dataset": Dataset(),
        "metrics": {},
        "tracker": None,
        "required": [],
        "device": "cpu",
        "seeds": [0],
        "limit": None,
        "frames": 5,
        "results": results,
        "resume": True,
        "keep_frames": True,
        "warmup_steps": 1,
        "repeats": 1,
        "name": None,
        "on_error": "continue",
        "wandb": {},
    }
    return Job(**{**defaults, **values})


def ids(results: Path, **values: Any) -> list[str]:
    return [cell.id for cell in make_plan(job(results, **values))[1]]


def test_cells_are_clips_by_prompts_by_seeds(tmp_path: Path) -> None:
    plan, cells = make_plan(job(tmp_path, dataset=Dataset(prompts=("p", "q")), seeds=[0, 7]))
    assert [(cell.clip.name, cell.prompt.text, cell.seed) for cell in cells][:5] == [
        ("a", "p", 0),
        ("a", "p", 7),
        ("a", "q", 0),
        ("a", "q", 7),
        ("b", "p", 0),
    ]
    assert len({cell.id for cell in cells}) == 12
    assert [planned.id for planned in plan.variants[0].cells] == [cell.id for cell in cells]
    for cell in cells:
        assert cell.id == digest(cell.identity)[:16]
        assert cell.path == f"cells/m/d/{cell.clip.name}-{cell.id}"
    assert plan.left_out == [records.PlannedOut(clip="short", reason="has 3 frames")]


def test_digest_is_sha256_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5,null],"b":"\\u00e9"}').hexdigest()
    assert digest({"b": "é", "a": [1, 2.5, None]}) == expected


def test_limit_keeps_the_first_clips_with_the_same_ids(tmp_path: Path) -> None:
    assert ids(tmp_path, limit=2) == ids(tmp_path)[:2]


def test_what_does_not_change_the_output_does_not_change_the_ids(tmp_path: Path) -> None:
    same = ids(
        tmp_path / "elsewhere",
        method=Method(rate=1, note="other"),  # type: ignore[arg-type]
        dataset=Dataset(root="there"),
        metrics={"x": object()},
        wandb={"mode": "online"},
        name="named",
        device="cuda",
        repeats=3,
    )
    assert same == ids(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"method": Method(rate=2.0)},
        {"backbone": Backbone(weights="sha256:1")},
        {"backbone": Backbone(width=32)},
        {"dataset": Dataset(stride=2)},
        {"dataset": Dataset(prompts=("q",))},
        {"frames": 9},
        {"seeds": [1]},
    ],
)
def test_what_changes_the_output_changes_every_id(tmp_path: Path, values: dict[str, Any]) -> None:
    assert not set(ids(tmp_path, **values)) & set(ids(tmp_path))


def test_a_new_version_of_the_code_changes_the_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids(tmp_path)
    monkeypatch.setattr(Method, "version", "2")
    assert not set(before) & set(ids(tmp_path))


def test_a_plans_name_is_given_or_follows_from_the_configuration(tmp_path: Path) -> None:
    def name(**values: Any) -> str:
        return make_plan(job(tmp_path, **values))[0].name

    assert name(name="mine") == "mine"
    assert name().startswith("m-b-d-") and len(name()) == len("m-b-d-") + 6
    assert name() == name(dataset=Dataset(root="there"))
    others = [
        name(seeds=[1]),
        name(limit=1),
        name(method=Method(rate=2.0)),
        name(frames=9, dataset=Dataset(stride=2)),
    ]
    assert len({name(), *others}) == 5


def test_variants_are_told_apart_by_configuration_not_by_seed_or_clip(tmp_path: Path) -> None:
    def config_id(**values: Any) -> str:
        return make_plan(job(tmp_path, **values))[0].variants[0].config_id

    assert config_id() == config_id(seeds=[1, 2], limit=1)
    assert config_id() != config_id(method=Method(rate=2.0))
    assert config_id() != config_id(backbone=Backbone(weights="sha256:1"))


def test_finished_videos_need_no_weights_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    method = Finished(videos={"a": "1", "c": "2"})
    plan, cells = make_plan(job(tmp_path, method=method, backbone=Backbone(weights="gone")))
    assert [cell.clip.name for cell in cells] == ["a", "c"]
    assert [out.clip for out in plan.left_out] == ["short", "b"]
    other = ids(tmp_path, method=Finished(videos={"a": "other", "c": "2"}))
    assert other[0] != cells[0].id and other[1] == cells[1].id


def test_no_cell_at_all_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no clip of d can be run .*short: has 3 frames"):
        make_plan(job(tmp_path, method=Finished()))


def test_checks_come_before_anything_is_written(tmp_path: Path) -> None:
    for values in ({"backbone": Backbone(weights="gone")}, {"backbone": Backbone(height=8)}):
        with pytest.raises(InputError):
            make_plan(job(tmp_path / "results", **values))
    assert not (tmp_path / "results").exists()


def test_an_only_clip_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"broken, .*cannot be read \(cannot decode\)"):
        make_plan(job(tmp_path, dataset=Dataset(names=("broken",))))
    _, cells = make_plan(job(tmp_path, dataset=Dataset(names=("broken", "a"))))
    assert len(cells) == 2


def test_a_results_folder_in_the_place_of_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"results: cannot write .*results=DIR"):
        make_plan(job(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bmx-trees", "bmx-trees"),
        ("my clip (1).mov", "my_clip_1_.mov"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "_"),
        ("", "_"),
        ("-rf", "rf"),
        ("héron", "héron"),
    ],
)
def test_clip_names_become_one_path_component(name: str, expected: str) -> None:
    assert safe(name) == expected


def test_long_names_fit_a_file_system() -> None:
    assert len(safe("é" * 300).encode()) <= 100


def test_planning_again_keeps_levels_and_date_of_an_unchanged_plan(tmp_path: Path) -> None:
    plan, _ = make_plan(job(tmp_path, name="x"))
    plan.created = "2000-01-01T00:00:00+00:00"
    plan.variants[0].levels = {"clip_t": {"chance": 0.1}}
    save_plan(tmp_path, plan)
    again, _ = make_plan(job(tmp_path, name="x"))
    save_plan(tmp_path, again)
    kept = records.load_plan(plan_path(tmp_path, "x"))
    assert kept.variants[0].levels == {"clip_t": {"chance": 0.1}}
    assert kept.created == "2000-01-01T00:00:00+00:00"
    other, _ = make_plan(job(tmp_path, name="x", seeds=[1]))
    save_plan(tmp_path, other)
    assert records.load_plan(plan_path(tmp_path, "x")).variants[0].levels == {}
