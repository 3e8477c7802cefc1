"""DiTFlow's 50 clips: its ranges of DAVIS, and prompts from a copy of its page's script."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from datasets.davis import frame_counts
from datasets.ditflow50 import DiTFlow50, ranges, read_prompts
from datasets.errors import InputError
from datasets.interface import Prompt

TEST_DEV = ["carousel", "chamaleon", "deer", "giant-slalom", "hoverboard", "mtb-race"]
LENGTHS = {"bus": 80, "judo": 34, "motorbike": 43, "cows": 104, "giant-slalom": 130, "deer": 85}
SCRIPT = """
const prompts = {
    'bus': {'easy': 'A bus, on a street', 'medium': 'A car', 'hard': 'An ant', 'frame_range': '[0, 72, 3]'},
    'judo': {'easy': 'Two men', 'medium': 'Two bears', 'hard': 'Two bears on the moon'},
    'motorbike': {'easy': 'a', 'medium': 'b', 'hard': 'c'},
    'cows': {'easy': 'a cow', 'medium': 'b', 'hard': 'c'},
    'giant-slalom': {'easy': 'a', 'medium': 'b', 'hard': 'c'},
    'deer': {'easy': 'a', 'medium': 'b', 'hard': 'c'},
    'not-there': {'easy': 'a', 'medium': 'b', 'hard': 'c'}
};
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Trainval and test-dev beside each other; the grey of a frame is its number."""
    root = tmp_path_factory.mktemp("davis")
    for name, length in LENGTHS.items():
        part = "test-dev" if name in TEST_DEV else "trainval"
        folder = root / part / "JPEGImages/480p" / name
        folder.mkdir(parents=True)
        for number in range(length):
            Image.new("L", (32, 16), number).save(folder / f"{number:05d}.png")
    (root / "prompts.js").write_text(SCRIPT)
    return root


def ditflow(where, **keys):
    return DiTFlow50(**{"root": str(where), "prompts": str(where / "prompts.js"), "frames": 24} | keys)


def names(listing):
    return [clip.name for clip in listing.clips]


def test_the_yaml_holds_exactly_the_fields_and_their_defaults():
    path = Path(__file__).parents[2] / "conf/dataset/ditflow50.yaml"
    node = OmegaConf.create({"dataset": OmegaConf.load(path), "frames": 49})
    values = OmegaConf.to_container(node, resolve=True)["dataset"]
    assert values.pop("_target_") == "datasets.ditflow50.DiTFlow50"
    assert values.pop("default_frames") == 21
    assert set(values) | {"default_frames"} == {field.name for field in fields(DiTFlow50)}
    assert DiTFlow50(**values) == DiTFlow50()


def test_the_table_agrees_with_what_is_published_of_it():
    """50 clips, steps of 1, 2, 3 and 4 for 19, 14, 16 and 1, six of test-dev; 24 frames but for motorbike."""
    steps = [one.step for one in ranges().values()]
    assert len(ranges()) == 50 and [steps.count(step) for step in (1, 2, 3, 4)] == [19, 14, 16, 1]
    assert sorted(set(ranges()) - set(frame_counts())) == TEST_DEV
    assert {len(range(*one)) for one in ranges().values()} == {24}
    there = {
        name: len(range(frame_counts()[name])[slice(*one)])
        for name, one in ranges().items()
        if name in frame_counts()
    }
    assert {name: count for name, count in there.items() if count != 24} == {"motorbike": 22}


@pytest.mark.parametrize("keys", [{}, {"start": 2, "stride": 3, "frames": 5}])
@pytest.mark.parametrize("name", ["bus", "judo", "cows", "giant-slalom", "deer"])
def test_a_clip_is_its_range_of_the_sequence(made, name, keys):
    clip = ditflow(made, **keys).load(name)
    start, end, step = ranges()[name]
    numbers = range(start, end, step)[keys.get("start", 0) :: keys.get("stride", 1)]
    assert clip.frames[:, 0, 0, 0].tolist() == list(numbers)[: keys.get("frames")]
    assert clip.info.fps == 24 / step / keys.get("stride", 1)
    assert np.allclose(np.diff(clip.times), 1 / clip.info.fps)


def test_frames_by_time_count_at_the_range_s_own_rate(made):
    clip = ditflow(made, fps=4, frames=12).load("bus")
    assert clip.frames[:, 0, 0, 0].tolist() == list(range(0, 72, 6)) and clip.info.fps == 4


def test_clips_shorter_than_asked_are_left_out_and_auto_takes_what_there_is(made):
    listing = ditflow(made).listing()
    assert names(listing) == ["bus", "cows", "deer", "giant-slalom", "judo"]
    out = {one.clip: one.reason for one in listing.left_out}
    assert out["motorbike"].startswith("has 22 frames, 24 needed")
    assert len(out) == 45 and out["bear"].startswith("is not in")
    auto = ditflow(made, frames="auto").listing()
    assert {clip.name: clip.frames for clip in auto.clips} == dict.fromkeys(LENGTHS, 21)


def test_prompts_have_the_kinds_of_the_other_davis_sets(made):
    bus = ditflow(made).listing().clips[0]
    assert bus.prompts == (
        Prompt("A bus, on a street", "caption"),
        Prompt("A car", "subject"),
        Prompt("An ant", "scene"),
    )
    assert bus.caption == "A bus, on a street"
    (only,) = ditflow(made, prompt_set="scene").listing().clips[0].prompts
    assert only == Prompt("An ant", "scene")


@pytest.mark.parametrize("part", ["trainval", "test-dev"])
def test_without_one_half_of_davis_the_other_runs(made, part):
    listing = ditflow(made, root=str(made / part)).listing()
    assert set(names(listing)) == {
        name for name in LENGTHS if (name in TEST_DEV) == (part == "test-dev") and name != "motorbike"
    }


@pytest.mark.parametrize(
    "script",
    [
        "const prompts = {'bear': {'easy': 'It\\'s a \"bear\", {big}', 'medium': 'b // b', 'hard': 'c,}'}}",
        "export const prompts={bear:{easy:'It\\'s a \\x22bear\", {big}',"
        'medium:"b // b",hard:`c,}`}};\nrun();',
        "// {'no': {}}\nvar p = {\n'bear': {\n'easy': 'It\\u0027s a \"bear\", {big}', /* , */\n"
        "'hard': 'c,}',\n'medium': ' b // b ',\n},\n// last\n};\nfor (const a in p) { b(a); }",
        '\ufeff{"bear": {"easy": "It\'s a \\"bear\\", {big}",\r\n'
        '"medium": "b // b", "hard": "c,}", "more": [1]}}',
    ],
)
def test_the_script_is_read_however_it_is_quoted(tmp_path, script):
    path = tmp_path / "prompts.js"
    path.write_bytes(script.encode())
    assert read_prompts(path) == {
        "bear": {"caption": 'It\'s a "bear", {big}', "subject": "b // b", "scene": "c,}"}
    }


@pytest.mark.parametrize(
    "content, words",
    [
        (None, ["prompts.js: cannot be read (No such file"]),
        (b"", ["cannot be read", "no object of prompts"]),
        (b"<!DOCTYPE html><html></html>", ["cannot be read", "no object of prompts"]),
        (b"const prompts = {\n'bear': {'easy': 'a'\n'hard': 'b'}}", ["cannot be read", "line 3"]),
        (b"const prompts = {'bear': {'easy': 'a', 'medium': 'b'}}", ["bear lacks one of easy, medium, hard"]),
        (b"const prompts = {'bear': {'easy': 'a', 'medium': 'b', 'hard': ' '}}", ["bear lacks one"]),
        (b"\xff\xfe", ["no UTF-8 text"]),
    ],
)
def test_a_copy_that_cannot_be_used_is_refused_with_where_it_is_to_be_had(made, tmp_path, content, words):
    path = tmp_path / "prompts.js"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        ditflow(made, prompts=str(path)).listing()
    said = str(caught.value)
    assert all(word in said for word in ["dataset.prompts", str(path), "ditflow.github.io", *words]), said
    assert "\n" not in said


def test_without_a_copy_it_says_where_one_is_to_be_had(made):
    with pytest.raises(InputError, match=r"dataset.prompts: not set; save https://ditflow.github.io/supp"):
        ditflow(made, prompts=None).listing()


def test_a_sequence_outside_the_50_or_without_prompts_is_named(made, tmp_path):
    (tmp_path / "prompts.js").write_text("{'bus': {'easy': 'a', 'medium': 'b', 'hard': 'c'}}")
    with pytest.raises(InputError, match=r"judo is not in .*prompts.js"):
        ditflow(made, prompts=str(tmp_path / "prompts.js"), names=["judo"]).listing()
    with pytest.raises(InputError, match=r"dataset.names: not-there is not in"):
        ditflow(made, names=["not-there"]).listing()
