"""A folder of clips as people have them and finished videos of several methods: one command, one table."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from brief import BRIEF

from datasets.media import video
from harness import __main__ as cli
from harness.records import store
from reports.table.tables import tables

SIZES = {"short": (9, 48, 64), "mid": (18, 64, 48), "long": (26, 48, 80)}


def moving(frames, height, width, seed=0, step=1):
    """A textured picture that slides by ``step`` pixels a frame."""
    rng = np.random.default_rng(seed)
    scene = (
        rng.integers(0, 256, (height // 8, (width + 80) // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    )
    return np.stack([scene[:, step * n : step * n + width] for n in range(frames)])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "refs").mkdir()
    (tmp_path / "out").mkdir()
    rows = ["clip,method,seed,file"]
    for seed, (name, (frames, height, width)) in enumerate(SIZES.items()):
        video.write_ffv1(tmp_path / "refs" / f"{name}.mkv", moving(frames, height, width, seed), 12)
        for method, step in (("good", 1), ("frozen", 0)):
            video.write_ffv1(
                tmp_path / "out" / f"{name}-{method}.mkv", moving(frames, height, width, seed + 9, step), 12
            )
            rows.append(f"{name}.mkv,{method},0.0,out\\{name}-{method}.mkv")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    prompts = [f"{name},a wall" for name in SIZES]
    (tmp_path / "refs" / "prompts.csv").write_text("\n".join(["clip,prompt", *prompts]) + "\n")
    return tmp_path


@pytest.fixture
def run(root, monkeypatch, capsys):
    def command(*words):
        given = ["dataset=folder", f"dataset.root={root / 'refs'}", f"results={root / 'r'}", *BRIEF, *words]
        monkeypatch.setattr(sys, "argv", ["harness", *given])
        code = cli.main()
        out, err = capsys.readouterr()
        return code, out, err

    return command


def records(root):
    return [json.loads(path.read_text()) for path in sorted(root.glob("r/cells/**/record.json"))]


def table(root):
    plans = [store.load_plan(path) for path in sorted((root / "r" / "plans").glob("*.json"))]
    (made,) = tables(root / "r", plans)
    return made


def finished(root):
    return "method=precomputed", f"method.manifest={root / 'm.csv'}"


def test_one_manifest_of_two_methods_is_one_table_of_clips_of_any_size_and_length(root, run):
    code, out, err = run(*finished(root), "frames=auto")
    assert code == 0, err
    assert {(one["method"]["name"], one["clip"]) for one in records(root)} == {
        (method, clip) for method in ("good", "frozen") for clip in SIZES
    }
    for one in records(root):
        frames, height, width = SIZES[one["clip"]]
        longest = frames - (frames - 1) % 4
        assert one["reference"] == {"frames": longest, "fps": 12.0, "width": width, "height": height}
        assert one["compared"]["frames"] == longest
    made = table(root)
    assert made.title == "3 clips, own clips", "no backbone had a part in it"
    assert made.values.loc["good", "motion_fidelity"] > 0.9 > made.values.loc["frozen", "motion_fidelity"]
    notes = "\n".join(made.notes)
    assert "Compared at the references' own size: 48x64 to 80x48." in notes
    assert "Clips of 9 to 25 frames, each its longest 4k+1 (frames=auto)." in notes
    assert "backbone" not in out and "sprites" not in out + err


def test_one_of_the_methods_can_be_chosen(root, run):
    code, _, _ = run(*finished(root), "frames=9", "method.name=frozen", "dataset.names=[short]")
    assert code == 0
    assert [one["method"]["name"] for one in records(root)] == ["frozen"]
    code, _, err = run(*finished(root), "frames=9", "method.name=frosen")
    assert code == 2 and "did you mean method.name=frozen?" in err


def test_a_size_can_be_asked_for(root, run):
    words = (*finished(root), "frames=9", "dataset.names=[short]", "method.name=good")
    code, _, err = run(*words, "dataset.height=24")
    assert code == 2 and "dataset.height: set dataset.width too" in err
    code, _, _ = run(*words, "dataset.height=24", "dataset.width=32")
    assert code == 0
    (one,) = records(root)
    assert (one["reference"]["width"], one["reference"]["height"]) == (32, 24)
    assert not any("own size" in note for note in table(root).notes)


def test_a_video_without_a_prompt_is_the_clips_only_ones(root, run):
    prompts = root / "refs" / "prompts.csv"
    prompts.write_text(prompts.read_text() + "short,a fence\n")
    code, _, _ = run(*finished(root), "frames=9", "method.name=good")
    assert code == 0
    assert {one["clip"] for one in records(root)} == {"mid", "long"}
    assert any("short: its row names no prompt, and there are 2" in note for note in table(root).notes)


def test_the_backbone_sets_the_size_and_the_longest_clip_of_methods_that_use_it(root, run):
    code, out, _ = run("method=none", "frames=auto", "action=plan")
    assert code == 0 and out.count("todo") == 3
    code, _, err = run("method=none", "frames=auto", "dataset.names=[short]", "backbone.steps=2")
    assert code == 0, err
    (one,) = records(root)
    assert one["reference"]["frames"] == 9 and one["reference"]["width"] == 64 == one["reference"]["height"]
    assert one["identity"]["clip"]["frames"] == 9 and one["identity"]["frames"] == "auto"


def test_each_clip_may_have_a_rate_or_a_stride_of_its_own(root, run):
    (root / "refs" / "prompts.csv").write_text(
        "clip,prompt,stride,fps\nshort,a wall,,6\nmid,a wall,2,\nlong,a wall,,\n"
    )
    code, _, err = run(
        "method=precomputed", f"method.manifest={root / 'm.csv'}", "method.name=good", "frames=auto"
    )
    assert code == 0, err
    found = {one["clip"]: (one["reference"]["frames"], one["reference"]["fps"]) for one in records(root)}
    assert found == {"short": (5, 6.0), "mid": (9, 6.0), "long": (25, 12.0)}
    assert {one["compared"]["by"] for one in records(root) if one["clip"] != "long"} == {"time"}


def test_prompts_that_are_cut_are_noted(root, run):
    long = "a wall of " + "very " * 60 + "red bricks"
    code, _, err = run(
        *finished(root),
        "frames=9",
        "method.name=good",
        "dataset.names=[short]",
        f'dataset.prompt="{long}"',
        "dataset.clip_model=sprites",
    )
    assert code == 0
    (one,) = records(root)
    (note,) = [note for note in one["notes"] if note.startswith("prompt cut: ")]
    assert "tokens, clip_t reads 40" in note and note in err
    assert any(line.endswith("tokens, clip_t reads 40 (short).") for line in table(root).notes)


@pytest.mark.parametrize("text", ["a cat, a dog", "it's a dog", 'a dog (big): "yes"', "a\\b, c"])
def test_a_prompt_that_must_be_quoted_is_shown_quoted(run, text):
    import shlex

    code, _, err = run("method=none", "frames=9", "action=plan", f"dataset.prompt={text}")
    assert code == 2 and err.count("\n") == 1
    quoted = shlex.split(err.rstrip("\n").partition(" text write ")[2] or err.rpartition("is quoted: ")[2])
    code, out, err = run("method=none", "frames=9", "action=plan", *quoted)
    assert code == 0 and f'"{text}"' in out
