"""What a table shows when commands follow each other in one results folder: the present, and nothing less."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.media import video
from harness import __main__ as command_line
from harness.records import store
from reports.table.rows import find_plans, groups
from reports.table.tables import Table, tables

METRIC = '''
from typing import ClassVar

import numpy as np
import pydantic

from metrics.interface import Column, Metric, Score


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Likeness(Metric):
    """1 - mean absolute difference over the masks, or over the frame."""

    name: str
    version: ClassVar[str] = "1"
    column = Column("Likeness", sees_motion=True)
    uses_masks: ClassVar[bool] = True

    def score(self, sample):
        error = np.abs(sample.generated.astype(int) - sample.reference).mean(-1) / 255
        cells = error.size if sample.masks is None else int(sample.masks.sum())
        value = 1 - (error if sample.masks is None else error[sample.masks]).mean()
        return Score(float(value), details={"cells": cells})
'''
METHOD = '''
from typing import ClassVar

import numpy as np
import pydantic

from methods.interface import VideoMethod


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Grey(VideoMethod):
    """A grey video, made without a model."""

    name: str
    version: ClassVar[str] = "1"
    uncounted = "nothing to count"

    def video(self, request):
        return np.full_like(request.reference, 100 + request.seed), 1.0
'''
SMALL = ("device=cpu", "frames=5", "wandb=disabled")


def clip_of(seed: int, count: int = 5, side: int = 64) -> np.ndarray:
    """Frames (count, side, side, 3) uint8 that all differ."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.integers(0, 256, (count, side // 8, side // 8, 3), np.uint8), 8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A metric and a method of our own, as quick as can be."""
    root = tmp_path_factory.mktemp("package")
    (root / "likeness_of_tests.py").write_text(METRIC)
    (root / "grey_of_tests.py").write_text(METHOD)
    for group in ("metrics", "method"):
        (root / "configs" / group).mkdir(parents=True)
    (root / "configs/metrics/likeness.yaml").write_text(
        "required: []\nmetrics:\n  likeness:\n    _target_: likeness_of_tests.Likeness\n    name: likeness\n"
    )
    (root / "configs/method/grey.yaml").write_text("_target_: grey_of_tests.Grey\nname: grey\n")
    return root


Run = Callable[..., int]


@pytest.fixture
def run(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``python -m harness`` in a folder of its own."""
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.chdir(tmp_path)
    own = [
        "--config-dir",
        str(package / "configs"),
        "trust=[likeness_of_tests,grey_of_tests]",
        "metrics=likeness",
    ]

    def go(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["harness", *own, *SMALL, "execute=here", *words])
        return command_line.main()

    return go


WRITTEN: dict[tuple[str, float], bytes] = {}


def write(path: Path, frames: np.ndarray, fps: float) -> None:
    """A lossless video; the same frames give the same file (Matroska puts a random id into each)."""
    key = video.frames_sha256(frames), fps
    if key not in WRITTEN:
        video.write_ffv1(path, frames, fps)
        WRITTEN[key] = path.read_bytes()
    path.write_bytes(WRITTEN[key])


def folder(root: Path, clips: dict[str, int]) -> str:
    """A folder of clips by name and seed, as the override that names it."""
    root.mkdir(exist_ok=True)
    for name, seed in clips.items():
        write(root / f"{name}.mkv", clip_of(seed), 24)
    (root / "prompts.csv").write_text("clip,prompt\n" + "".join(f"{name},a dog\n" for name in clips))
    return f"dataset=folder dataset.root={root}"


def finished(root: Path, videos: dict[str, tuple[np.ndarray, float]]) -> str:
    """Finished videos by clip, and the override that names their manifest."""
    root.mkdir(exist_ok=True)
    for name, (frames, fps) in videos.items():
        write(root / f"{name}.mkv", frames, fps)
    rows = "".join(f"{name},a dog,0,{name}.mkv\n" for name in videos)
    (root / "manifest.csv").write_text("clip,prompt,seed,file\n" + rows)
    return f"method=precomputed method.manifest={root / 'manifest.csv'}"


def table(results: str | Path = "results", **given: object) -> Table:
    (made,) = tables(Path(results), find_plans(Path(results)), **given)
    return made


def value(made: Table, label: str = "precomputed") -> float:
    return made.numbers[label]["likeness"].value


def likeness(ours: np.ndarray, theirs: np.ndarray) -> float:
    return 1 - np.abs(ours.astype(int) - theirs).mean() / 255


def test_a_video_in_anothers_place_is_what_the_table_shows_and_the_other_is_said(run, tmp_path, capsys):
    dataset = folder(tmp_path / "clips", {"a": 1, "b": 2})
    reference = clip_of(1)
    made = {
        "good": reference,
        "frozen": np.repeat(reference[:1], 5, 0),
        "reversed": reference[::-1],
        "mirrored": reference[:, :, ::-1],
    }
    order = ["good", "frozen", "reversed", "mirrored", "good", "frozen"]
    for count, name in enumerate(order):
        videos = finished(tmp_path / "made", {"a": (made[name], 24), "b": (clip_of(2), 24)})
        assert run(*videos.split(), *dataset.split()) == 0
        shown = table()
        assert value(shown) == pytest.approx((likeness(made[name], reference) + 1) / 2, abs=1e-9), name
        assert shown.numbers["precomputed"]["n"].value == 2
        said = [note for note in shown.notes if "replaced by newer runs" in note]
        earlier = len(set(order[: count + 1])) - 1
        expected = f"precomputed: replaced by newer runs: {earlier} cell{'s' * (earlier > 1)} (a)."
        assert said == ([expected] if earlier else []), "b has not changed"


def test_clips_of_one_name_and_other_content_are_two_clips(run, tmp_path):
    """Finished videos, whose plans have names of their own, and made ones, whose plans have the same."""
    for name, seed in (("A", 1), ("B", 2), ("A", 1)):
        dataset = folder(tmp_path / name, {"a": seed}).split()
        videos = finished(tmp_path / f"{name}made", {"a": (clip_of(seed + 2), 24)})
        assert run(*videos.split(), *dataset) == 0
        assert run("method=grey", *dataset, "results=latent") == 0
    expected = np.mean([likeness(clip_of(1), clip_of(3)), likeness(clip_of(2), clip_of(4))])
    shown = table()
    assert value(shown) == pytest.approx(expected)
    (line,) = [note for note in shown.notes if note.startswith("2 clips are named a")]
    for results, label in (("results", "precomputed"), ("latent", "grey")):
        made = table(results)
        assert made.numbers[label]["n"].value == 2, results
        (group,) = groups(Path(results), find_plans(Path(results)))
        names = {cell.clip for cell in group.rows[0].cells.values()}
        assert len(names) == 2 and all(name in line for name in names)
        assert not group.rows[0].replaced


def test_a_clip_with_another_name_is_the_same_clip(run, tmp_path):
    assert run("method=grey", *folder(tmp_path / "clips", {"old": 1, "other": 2}).split()) == 0
    (tmp_path / "clips/old.mkv").unlink()
    assert run("method=grey", *folder(tmp_path / "clips", {"new": 1}).split(), "dataset.names=new") == 0
    shown = table()
    assert shown.numbers["grey"]["n"].value == 2
    assert "new was named old in earlier runs." in shown.notes
    assert "grey: replaced by newer runs: 1 cell (new)." in shown.notes


def test_a_later_smaller_run_hides_nothing_under_any_name(run, tmp_path):
    dataset = folder(tmp_path / "clips", {"a": 1, "b": 2, "c": 3}).split()
    for name in ("null", "mine"):
        place = Path(f"results-{name}")
        words = ("method=grey", *dataset, f"results={place}", f"name={name}")
        assert run(*words) == 0
        before = value(table(place), "grey")
        assert run(*words, "limit=1") == 0
        assert value(table(place), "grey") == before
        assert run(*words, "seed=1", "limit=2") == 0
        assert table(place).numbers["grey"]["n"].value == 3
        (group,) = groups(place, find_plans(place))
        assert len(group.rows[0].cells) == 5


def test_planning_alone_changes_no_table_and_a_run_that_was_cut_short_does(run, tmp_path, monkeypatch):
    dataset = folder(tmp_path / "clips", {"a": 1}).split()
    videos = finished(tmp_path / "made", {"a": (clip_of(1), 24)}).split()
    assert run(*videos, *dataset) == 0
    finished(tmp_path / "made", {"a": (clip_of(5), 24)})
    assert run(*videos, *dataset, "action=plan") == 0
    assert value(table()) == 1
    with monkeypatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("harness.cells.compute._compute", stop)
        assert run(*videos, *dataset) == 130
    shown = table()
    assert "likeness" not in shown.numbers["precomputed"], "its value was of the video before"
    assert any("1 not run yet (a)" in note for note in shown.notes)
    assert "precomputed: replaced by newer runs: 1 cell (a)." in shown.notes


def test_results_of_two_folders_are_one_table(run, tmp_path):
    dataset = folder(tmp_path / "clips", {"a": 1, "b": 2}).split()
    for name, seed in (("one", 7), ("two", 8)):
        videos = {"a": (clip_of(seed), 24)} | ({"b": (clip_of(9), 24)} if name == "one" else {})
        made = finished(tmp_path / name, videos).split()
        assert run(*made, *dataset, f"results=results-{name}") == 0
    # The older over the newer: what is copied last is not what ran last.
    for name in ("two", "one"):
        shutil.copytree(f"results-{name}", "merged", dirs_exist_ok=True)
    shown = table("merged")
    expected = [likeness(clip_of(8), clip_of(1)), likeness(clip_of(9), clip_of(2))]
    assert value(shown) == pytest.approx(np.mean(expected))
    assert "precomputed: replaced by newer runs: 1 cell (a)." in shown.notes


def test_newer_code_takes_the_place_of_older_and_never_its_mean(run, tmp_path, monkeypatch):
    from methods.precomputed import Precomputed

    dataset = folder(tmp_path / "clips", {"a": 1, "b": 2}).split()
    videos = finished(tmp_path / "made", {"a": (clip_of(3), 24), "b": (clip_of(4), 24)}).split()
    assert run(*videos, *dataset) == 0
    monkeypatch.setattr(Precomputed, "version", "99")
    assert run(*videos, *dataset, "limit=1") == 0
    shown = table()
    assert {label: of_row["n"].value for label, of_row in shown.numbers.items()} == {
        "precomputed, method version 2": 1,
        "precomputed, method version 99": 1,
    }
    assert run(*videos, *dataset) == 0
    shown = table()
    assert list(shown.numbers) == ["precomputed"] and shown.numbers["precomputed"]["n"].value == 2
    assert any(note == "precomputed: replaced by newer runs: 2 cells (a, b)." for note in shown.notes)


def test_values_of_two_versions_of_a_metric_are_never_one_mean(run, tmp_path, package, monkeypatch):
    dataset = folder(tmp_path / "clips", {"a": 1, "b": 2, "c": 3}).split()
    assert run("method=grey", *dataset) == 0
    import likeness_of_tests

    monkeypatch.setattr(likeness_of_tests.Likeness, "version", "2")
    assert run("method=grey", *dataset, "limit=1", "action=score") == 0
    shown = table()
    assert any("null in 2 cells (grey 2): scored by another version" in note for note in shown.notes)
    assert any(note == "Likeness: over 1 of 3 clips." for note in shown.notes)
    assert run("method=grey", *dataset, "action=score") == 0
    assert not any("another version" in note for note in table().notes)


def davis(root: Path, annotated: dict[str, int]) -> list[str]:
    """A DAVIS folder: sequences, and how many of their five frames are annotated."""
    for number, (name, masks) in enumerate(annotated.items()):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / name).mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(clip_of(number)):
            Image.fromarray(frame).save(root / "JPEGImages/480p" / name / f"{index:05d}.jpg")
        for index in range(masks):
            mask = np.zeros((64, 64), np.uint8)
            mask[:16, : 16 + index] = 1
            Image.fromarray(mask).save(root / "Annotations/480p" / name / f"{index:05d}.png")
    return ["dataset=davis", f"dataset.root={root}", f"dataset.names=[{','.join(annotated)}]"]


def masks_lines(notes: list[str]) -> list[str]:
    return [note for note in notes if note.startswith("Motion is measured in")]


def records(results: str = "results") -> dict[str, object]:
    paths = Path(results, "cells").rglob("record.json")
    return {record.clip: record for record in (store.load_record(path.parent) for path in paths)}


def test_plan_record_and_table_say_where_motion_is_read(run, tmp_path, capsys):
    whole = davis(tmp_path / "noann", {"bear": 0, "snowboard": 0})
    assert run("method=grey", *whole, "action=plan") == 0
    assert "motion is measured in: whole frame (all clips)" in capsys.readouterr().out
    assert run("method=grey", *whole) == 0
    assert {record.masks for record in records().values()} == {"whole frame"}
    assert masks_lines(table().notes) == ["Motion is measured in: whole frame (20480 cells)."]


def test_masked_clips_and_others_are_two_rows(run, tmp_path, capsys):
    dataset = davis(tmp_path / "some", {"bear": 0, "lucia": 5, "snowboard": 2})
    assert run("method=grey", *dataset, "action=plan") == 0
    said = capsys.readouterr().out
    assert "motion is measured in: whole frame (bear)" in said
    assert "motion is measured in: masked (lucia, snowboard)" in said
    assert run("method=grey", *dataset) == 0
    shown = table()
    found = {label: of_row["n"].value for label, of_row in shown.numbers.items()}
    assert found == {"grey, whole frame": 1, "grey, masked": 2}
    assert any(note.startswith("Not the same masks: ") for note in shown.notes)
    # 5 frames of 16 x 16 to 20, and 2 of 16 and 17.
    areas = np.median([16 * (16 + 17 + 18 + 19 + 20), 16 * (16 + 17)])
    assert f"grey, masked masked ({areas:.0f} cells)" in masks_lines(shown.notes)[0]
    assert run("method=grey", *dataset, "motion.mask=none") == 0
    assert list(table().numbers) == ["grey"]
    assert masks_lines(table().notes) == ["Motion is measured in: whole frame (20480 cells)."]


def test_other_masks_are_other_values_of_the_same_video(run, tmp_path, capsys):
    dataset = davis(tmp_path / "some", {"lucia": 5})

    def after(*words: str) -> tuple[float, str, str]:
        assert run("method=grey", *dataset, *words) == 0
        (record,) = records().values()
        return record.metrics["likeness"].value, record.frames_sha256, record.finished

    masked = after()
    whole = after("motion.mask=none")
    assert whole[0] != masked[0] and whole[1:] == masked[1:], "the same video, made once"
    assert after() == masked
    mask = np.zeros((64, 64), np.uint8)
    mask[40:, 40:] = 1
    Image.fromarray(mask).save(tmp_path / "some/Annotations/480p/lucia/00003.png")
    changed = after()
    assert changed[0] != masked[0] and changed[1:] == masked[1:]
    assert value(table(), "grey") == changed[0]
    assert len(find_plans(Path("results"))) == 1


@pytest.mark.parametrize(
    ("count", "fps", "places", "own", "said"),
    [
        (3, 24, [0, 1, 2], [0, 1, 2], "3 frames at 24/s, the clip 5 frames at 24/s: the first 3 of both"),
        (9, 24, range(5), range(5), "9 frames at 24/s, the clip 5 frames at 24/s: the first 5 of both"),
        (
            3,
            12,
            [0, 2, 4],
            [0, 1, 2],
            "3 frames at 12/s, the clip 5 frames at 24/s: 3 frames compared by time",
        ),
        (
            12,
            48,
            range(5),
            [0, 2, 4, 6, 8],
            "12 frames at 48/s, the clip 5 frames at 24/s: 5 frames compared",
        ),
    ],
)
def test_a_video_of_another_length_or_rate_is_compared_by_time_and_told(
    run, tmp_path, count, fps, places, own, said
):
    dataset = folder(tmp_path / "clips", {"a": 1}).split()
    frames = clip_of(6, count)
    videos = finished(tmp_path / "made", {"a": (frames, fps)}).split()
    assert run(*videos, *dataset) == 0
    shown = table()
    assert value(shown) == pytest.approx(likeness(frames[list(own)], clip_of(1)[list(places)]))
    assert any(note.startswith(f"precomputed: {said}") for note in shown.notes), shown.notes
    (record,) = records().values()
    assert record.compared.frames == len(own) and record.generated.frames == count
    # What is scored again later is compared as it was.
    assert run(*videos, *dataset, "action=score", "resume=false") == 0
    assert value(table()) == value(shown)


def test_what_rows_do_not_share_is_a_short_line_each(run, tmp_path):
    dataset = folder(tmp_path / "clips", {"a": 1}).split()
    for name, (count, fps) in {"same": (5, 24), "slow": (3, 12), "large": (5, 24)}.items():
        made = clip_of(6, count, 128 if name == "large" else 64)
        videos = finished(tmp_path / name, {"a": (made, fps)}).split()
        assert run(*videos, *dataset, f"method.name={name}") == 0
    shown = table()
    for line in (
        "Not the same frames: large 5; same 5; slow 3.",
        "Not the same frame rate: large 24; same 24; slow 12.",
        "Not the same video size: large 128x128; same 64x64; slow 64x64.",
        "Not the same duration: large 0.21 s; same 0.21 s; slow 0.25 s.",
        "large: resized and cropped from 128x128 to its reference's size (a).",
    ):
        assert line in shown.notes
    assert not any("video length" in note for note in shown.notes), "it is the frames compared"
    assert all(len(note) <= 160 for note in shown.notes)
