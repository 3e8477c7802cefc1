"""Cells, ids and plans."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from harness_fakes import NEEDS
from pydantic.dataclasses import dataclass

from datasets.errors import InputError
from datasets.interface import Clip, ClipInfo, Dataset, LeftOut, Listing, Prompt
from harness.cells.job import Job
from harness.cells.plan import DoesNotFit, make_plan, unmatched
from harness.execute.here import Here
from harness.records import record as records
from harness.records import store
from harness.records.identity import digest
from methods.backbones.interface import BackboneConfig, Grid
from methods.interface import LatentMethod, VideoMethod, VideoRequest
from metrics.interface import MetricUnavailable

PARTS = ("method", "backbone", "dataset")


@dataclass(config={"extra": "forbid"})
class Method(LatentMethod):
    name: str = "m"
    rate: float = 1.0
    note: str = ""
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("note",)

    def check(self, grid: Grid, num_blocks: int) -> None:
        if grid.height < 4:
            raise InputError("the grid is too small")

    def transfer(self, *_: Any) -> Any:
        raise AssertionError("nothing may run here")


@dataclass(config={"extra": "forbid"})
class Finished(VideoMethod):
    name: str = "m"
    note: str = ""
    videos: dict[str, str] = dataclasses.field(default_factory=dict)
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("note", "videos")
    uncounted = ""

    def video(self, request: VideoRequest) -> Any:
        raise AssertionError("nothing may run here")

    def listed(self) -> list[tuple[str, str, int]]:
        return [(clip, "p", 0) for clip in self.videos]

    def missing(self, clip: str, prompt: str, seed: int) -> str | None:
        return None if clip in self.videos else "no video in the manifest"

    def content(self, clip: str, prompt: str, seed: int) -> str:
        return self.videos[clip]


@dataclass(config={"extra": "forbid"})
class Backbone(BackboneConfig):
    name: str = "b"
    height: int = 16
    width: int = 16
    weights: str = "sha256:0"
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("weights",)
    num_blocks: ClassVar[int] = 4

    def grid(self, frames: int) -> Grid:
        return Grid(2, self.height // 4, self.width // 4)

    def check(self, frames: int, device: str) -> Grid:
        if self.weights == "gone":
            raise InputError("backbone.weights: missing")
        return self.grid(frames)

    def identity(self) -> str:
        return self.weights

    def load(self, device: str) -> Any:
        raise AssertionError("nothing may run here")


@dataclass(config={"extra": "forbid"})
class Clips(Dataset):
    name: str = "d"
    root: str = "here"
    clips: tuple[str, ...] = ("a", "b", "c")
    names: tuple[str, ...] | None = None
    prompts: tuple[str, ...] = ("p",)
    stride: int = 1
    salt: str = ""
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("root", "clips", "names", "prompts", "salt")

    def listing(self) -> Listing:
        texts = tuple(Prompt(text) for text in self.prompts)
        return Listing(
            tuple(
                ClipInfo(name, hashlib.sha256((name + self.salt).encode()).hexdigest(), texts)
                for name in self.names or self.clips
            ),
            (LeftOut("short", "has 3 frames"),),
        )

    def asked_for(self) -> tuple[str, ...]:
        return self.names or ()

    def load(self, name: str) -> Clip:
        if name == "broken":
            raise OSError("cannot decode\nat all")
        return Clip(ClipInfo(name, "", ()), np.zeros((1, 2, 2, 3), np.uint8))


def job(results: Path, **values: Any) -> Job:
    defaults: dict[str, Any] = {
        "method": Method(),
        "backbone": Backbone(),
        "dataset": Clips(),
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
        "engine": Here("here"),
        "wandb": {},
        "needs": NEEDS["run"],
    }
    return Job(**{**defaults, **values})


def ids(results: Path, **values: Any) -> list[str]:
    return [cell.id for cell in make_plan(job(results, **values))[1]]


def test_cells_are_clips_by_prompts_by_seeds(tmp_path: Path) -> None:
    plan, cells = make_plan(job(tmp_path, dataset=Clips(prompts=("p", "q")), seeds=[0, 7]))
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
        dataset=Clips(root="there"),
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
        {"dataset": Clips(stride=2)},
        {"dataset": Clips(prompts=("q",))},
        # The same names, other pixels.
        {"dataset": Clips(salt="recut")},
        {"method": Method(name="other")},
        {"backbone": Backbone(name="other")},
        {"dataset": Clips(name="other")},
        {"amortise": True},
        {"frames": 9},
        {"seeds": [1]},
    ],
)
def test_what_changes_the_output_changes_every_id(tmp_path: Path, values: dict[str, Any]) -> None:
    assert not set(ids(tmp_path, **values)) & set(ids(tmp_path))


@pytest.mark.parametrize("plug_in", [Method, Backbone, Clips])
def test_a_new_version_of_the_code_changes_the_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plug_in: Any
) -> None:
    before = ids(tmp_path)
    monkeypatch.setattr(plug_in, "version", "2")
    assert not set(before) & set(ids(tmp_path))


def test_clips_of_one_name_are_told_apart_by_their_content_alone(tmp_path: Path) -> None:
    (one,), (other,) = (
        make_plan(job(tmp_path, dataset=Clips(salt=salt), limit=1))[1] for salt in ("", "recut")
    )
    assert one.clip.name == other.clip.name
    assert one.clip.content != other.clip.content
    assert one.path != other.path


def test_an_amortised_cell_says_so_in_its_identity(tmp_path: Path) -> None:
    plan, (cell, *_) = make_plan(job(tmp_path, amortise=True))
    other, (plain, *_) = make_plan(job(tmp_path))
    assert cell.identity["amortise"] is True
    assert "amortise" not in plain.identity
    assert plan.name != other.name
    assert plan.variants[0].config_id != other.variants[0].config_id


def test_a_plans_name_is_given_or_follows_from_the_configuration(tmp_path: Path) -> None:
    def name(**values: Any) -> str:
        return make_plan(job(tmp_path, **values))[0].name

    assert name(name="mine") == "mine"
    assert name().startswith("m-b-d-") and len(name()) == len("m-b-d-") + 6
    assert name() == name(dataset=Clips(root="there"))
    others = [
        name(seeds=[1]),
        name(limit=1),
        name(method=Method(rate=2.0)),
        name(frames=9, dataset=Clips(stride=2)),
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


def test_a_clip_asked_for_by_name_without_a_finished_video_is_bad_input(tmp_path: Path) -> None:
    method = Finished(videos={"a": "1"})
    with pytest.raises(InputError, match=r"dataset\.names: b: no video in the manifest; add the video"):
        make_plan(job(tmp_path, method=method, dataset=Clips(names=("a", "b"))))
    _, cells = make_plan(job(tmp_path, method=method, dataset=Clips(names=("a",), prompts=("p", "q"))))
    assert len(cells) == 2


def test_rows_of_finished_videos_that_no_plan_compares_are_told_once(tmp_path: Path) -> None:
    method = Finished(videos={"x": "0", "a": "1", "b": "2", "y": "3"})
    jobs = [job(tmp_path, method=method, limit=1), job(tmp_path, method=method, limit=2), job(tmp_path)]
    pairs = [(one, make_plan(one)[0]) for one in jobs]
    assert unmatched(pairs) == [
        "method.manifest: 2 of 4 rows match no planned cell; the first: clip 'x', prompt 'p', seed 0"
    ]
    assert len(unmatched(pairs[:1])) == 1 and "3 of 4" in unmatched(pairs[:1])[0]
    method.videos = {"a": "1", "b": "2"}
    assert unmatched(pairs) == []


def test_a_method_that_needs_what_the_backbone_lacks_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Method, "needs", ("rotary",), raising=False)
    assert ids(tmp_path)
    monkeypatch.setattr(Backbone, "lacks", ("rotary",), raising=False)
    with pytest.raises(
        DoesNotFit, match="method=m needs rotary, which backbone=b does not have; use another"
    ):
        make_plan(job(tmp_path))


def offline(self: Backbone, *_: object) -> str:
    raise InputError("backbone.model: its weights are not on this machine")


def test_scoring_needs_neither_weights_nor_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, cells = make_plan(job(tmp_path))
    store.save_plan(tmp_path, plan)
    sources = {part: records.Source(name=part, version="1", config={}) for part in PARTS}
    record = records.Record(
        schema=1,
        id=cells[1].id,
        status="ok",
        clip="b",
        prompt="p",
        seed=0,
        identity=cells[1].identity,
        **sources,
    )
    monkeypatch.setattr(Backbone, "check", offline)
    monkeypatch.setattr(Backbone, "identity", offline)
    with pytest.raises(InputError, match="not on this machine"):
        make_plan(job(tmp_path, needs=NEEDS["score"], device="cuda:7"))
    store.save_record(tmp_path / cells[1].path, record)
    again, same = make_plan(job(tmp_path, needs=NEEDS["score"], device="cuda:7"))
    assert [cell.id for cell in same] == [cell.id for cell in cells] and again.name == plan.name
    assert again.variants == plan.variants
    for action in ("run", "plan"):
        with pytest.raises(InputError, match="not on this machine"):
            make_plan(job(tmp_path, needs=NEEDS[action]))


def test_planning_needs_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def check(self: Backbone, frames: int, device: str) -> Grid:
        asked.append(device)
        return Grid(2, 4, 4)

    monkeypatch.setattr(Backbone, "check", check)
    for action in ("plan", "run"):
        make_plan(job(tmp_path, needs=NEEDS[action], device="cuda:7"))
    assert asked == ["cpu", "cuda:7"]


class Weighty:
    """A metric, or a tracker, that wants weights."""

    def __init__(self, name: str, there: bool = True, uses_tracks: bool = False) -> None:
        self.name, self.there, self.uses_tracks = name, there, uses_tracks

    def ready(self) -> None:
        if not self.there:
            raise MetricUnavailable(f"{self.name} needs weights")


def test_required_metrics_and_their_tracker_are_asked_for_their_weights(tmp_path: Path) -> None:
    metrics: Any = {"clip": Weighty("clip", there=False), "motion": Weighty("motion", uses_tracks=True)}
    tracker: Any = Weighty("tracker", there=False)
    for required, reason in ((["clip"], "clip cannot"), (["motion"], "motion cannot .* tracker needs")):
        wanting = job(tmp_path, metrics=metrics, tracker=tracker, required=required)
        with pytest.raises(InputError, match=rf"metrics\.required: {reason}"):
            make_plan(wanting)
        wanting.needs = NEEDS["plan"]
        make_plan(wanting)
    make_plan(job(tmp_path, metrics=metrics, tracker=tracker))
    make_plan(job(tmp_path, metrics=metrics, tracker=Weighty("tracker"), required=["motion"]))


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
        make_plan(job(tmp_path, dataset=Clips(clips=("broken",))))
    _, cells = make_plan(job(tmp_path, dataset=Clips(clips=("broken", "a"))))
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
    assert store.safe(name) == expected


def test_long_names_fit_a_file_system() -> None:
    assert len(store.safe("é" * 300).encode()) <= 100


def test_planning_again_keeps_levels_and_date_of_an_unchanged_plan(tmp_path: Path) -> None:
    plan, _ = make_plan(job(tmp_path, name="x"))
    plan.created = "2000-01-01T00:00:00+00:00"
    plan.variants[0].levels = {"clip_t": {"chance": 0.1}}
    store.save_plan(tmp_path, plan)
    again, _ = make_plan(job(tmp_path, name="x"))
    store.save_plan(tmp_path, again)
    kept = store.load_plan(store.plan_path(tmp_path, "x"))
    assert kept.variants[0].levels == {"clip_t": {"chance": 0.1}}
    assert kept.created == "2000-01-01T00:00:00+00:00"
    other, _ = make_plan(job(tmp_path, name="x", seeds=[1]))
    store.save_plan(tmp_path, other)
    assert store.load_plan(store.plan_path(tmp_path, "x")).variants[0].levels == {}


def test_a_plan_that_holds_other_cells_keeps_the_earlier_one_beside_it(tmp_path: Path) -> None:
    whole, _ = make_plan(job(tmp_path, name="x"))
    part, _ = make_plan(job(tmp_path, name="x", limit=1))
    for plan in (whole, part, whole, part):
        store.begin_plans([(tmp_path, plan)])
    kept = {path.stem: store.load_plan(path) for path in store.plan_paths(tmp_path)}
    assert len(kept) == 2, "the same plan again is no third one"
    assert {name: plan.name for name, plan in kept.items()} == {name: name for name in kept}
    assert [cell.id for cell in kept.pop("x").variants[0].cells] == [part.variants[0].cells[0].id]
    (earlier,) = kept.values()
    assert [cell.id for cell in earlier.variants[0].cells] == [cell.id for cell in whole.variants[0].cells]


def test_a_plan_says_when_it_ran_last_and_planning_is_no_run(tmp_path: Path) -> None:
    plan, _ = make_plan(job(tmp_path, name="x"))
    path = store.save_plan(tmp_path, plan)
    assert store.load_plan(path).ran == ""
    store.begin_plans([(tmp_path, plan)])
    first = store.load_plan(path)
    again, _ = make_plan(job(tmp_path, name="x"))
    store.save_plan(tmp_path, again)
    assert store.load_plan(path).ran == first.ran != ""
    store.begin_plans([(tmp_path, again)])
    assert store.load_plan(path).ran > first.ran
    data = json.loads(path.read_text())
    del data["ran"]
    path.write_text(json.dumps(data))
    assert store.load_plan(path).ran == first.created, "older plans ran when they were made"
