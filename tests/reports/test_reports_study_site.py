"""What a rater gets: a folder without a method's name, and videos that look alike from outside."""

from __future__ import annotations

import json
import re
import shutil

import av
import numpy as np
import pytest
from reports_world import FPS, HOSTILE, bar, gallery, write_plan, write_record

from datasets.media.video import read_video, write_h264
from reports.__main__ import main
from reports.study.plan import read_plan

LABELS = ["fastvmt", "ditflow", HOSTILE]


def prompt_of(index):
    return f"{HOSTILE} a square" if index % 2 else "some blue star"


@pytest.fixture
def results(tmp_path):
    gallery(tmp_path / "results", LABELS, 4, prompt_of, failing=None)
    return tmp_path / "results"


def study(results, out, *options):
    return main(["study", str(results), "--out", str(out), "--raters", "3", "--trials", "20", *options])


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.S)[1])


def test_nothing_that_is_published_tells_the_method(results, tmp_path):
    out = tmp_path / "study"
    assert study(results, out) == 0
    plan = read_plan(out / "plan.json")
    files = [path for path in (out / "site").rglob("*") if path.is_file()]
    told = {*plan.methods, *plan.clips, "vmtbench", "reversed", "frozen", "wrong prompt"}
    told |= {path.parent.name for path in results.glob("cells/*/record.json")}
    # Prompts are shown, and one of them is a method's name in this world.
    prompts = {trial.prompt for trial in plan.trials}
    for path in files:
        text = path.read_bytes().decode(errors="replace")
        for prompt in prompts:
            text = text.replace(json.dumps(prompt)[1:-1].replace("<", "\\u003c"), "")
        assert not [word for word in told if word in text or word in path.name], path.name
        # x264 names its own page in what it writes.
        assert path.suffix == ".mp4" or not re.search("https?:", text)
    page = (out / "site" / "index.html").read_text()
    data = data_of(page)
    assert data["plan"] == plan.hash and set(data) == {"plan", "questions", "slots"}
    for slot, trials in zip(data["slots"], plan.slots, strict=True):
        assert all(set(shown) == {"id", "prompt", "videos", "seconds"} for shown in slot)
        assert [shown["id"] for shown in slot] == [trial.id for trial in trials]
        assert [tuple(shown["videos"]) for shown in slot] == [trial.videos for trial in trials]
    named = {name for slot in data["slots"] for shown in slot for name in shown["videos"]}
    assert named == {path.name for path in (out / "site" / "media").iterdir()}
    assert all(re.fullmatch(r"[0-9a-f]{16}\.mp4", name) for name in named)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src 'none'" in policy and "connect-src" not in policy and page.count("<script") == 2


def test_all_videos_of_a_trial_are_alike_in_size_length_and_coding(tmp_path):
    """Methods that make other sizes and lengths: everything is brought to the reference's, and cut."""
    results, cells = tmp_path / "results", {}
    for label, side, length in (("wide", 96, 24), ("small", 64, 17)):
        for clip in "abc":
            cell = write_record(results, label, clip, f"prompt {clip}")
            write_h264(results / cell.path / "video.mp4", bar(length, (200, 20, 20), side), FPS, 1)
            write_h264(results / cell.path / "reference.mp4", bar(20, (240, 240, 240), 80), FPS, 1)
            cells.setdefault(label, []).append(cell)
    write_plan(results, cells)
    assert study(results, tmp_path / "study", "--raters", "20") == 0
    plan, media = read_plan(tmp_path / "study" / "plan.json"), tmp_path / "study" / "site" / "media"
    sizes = set()
    for path in media.iterdir():
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            sizes.add((stream.codec_context.name, stream.width, stream.height, stream.frames))
    # 80 pixels are enlarged by a whole number; 17 frames are the shortest video's.
    assert sizes == {("h264", 320, 320, 17)}
    assert {trial.seconds for trial in plan.trials} == {round(17 / FPS, 3)}
    changes = set()
    for trial in plan.trials:
        if trial.question == "motion":
            shown = {
                trial.left: read_video(media / trial.videos[1])[0],
                trial.right: read_video(media / trial.videos[2])[0],
            }
            true = read_video(media / trial.videos[0])[0]
            same = shown.pop("reference")
            ((change, other),) = shown.items()
            changes.add(change)
            wanted = true[::-1] if change == "reversed" else np.repeat(true[8:9], 17, axis=0)
            assert np.abs(same.astype(float) - true).mean() < 1
            # Coding in another order differs a little.
            assert np.abs(other.astype(float) - wanted).mean() < 2 < np.abs(other.astype(float) - true).mean()
    assert changes == {"reversed", "frozen"}


def test_the_same_command_goes_on_and_another_study_is_kept(results, tmp_path, capsys):
    out = tmp_path / "study"
    assert study(results, out) == 0
    plan, index = (out / "plan.json").read_bytes(), (out / "site" / "index.html").read_bytes()
    lost = next((out / "site" / "media").iterdir())
    lost.unlink()
    (out / "site" / "index.html").unlink()
    assert study(results, out) == 0
    assert lost.is_file() and (out / "site" / "index.html").read_bytes() == index
    capsys.readouterr()
    assert study(results, out, "--seed", "1") == 2
    assert "holds another study" in capsys.readouterr().err
    assert (out / "plan.json").read_bytes() == plan


def bad(results, tmp_path):
    """Command -> what its line says."""
    other = tmp_path / "home"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    new = tmp_path / "new"
    return {
        (results, other): "holds other files",
        (results, file): "is a file",
        (results, file / "below"): "file",
        (tmp_path / "none", new): "no such results folder",
        (results, new, "--rows", "ditflow"): "fewer than two methods",
        (results, new, "--rows", "ditflwo", "fastvmt"): "did you mean ditflow",
        (results, new, "--raters", "0"): "--raters 0",
        (results, new, "--trials", "3"): "--trials 3",
        (results, new, "--limit", "0"): "--limit 0",
    }


def test_bad_input_is_one_line_and_nothing_is_written(results, tmp_path, capsys):
    for (place, out, *options), line in bad(results, tmp_path).items():
        assert main(["study", str(place), "--out", str(out), *options]) == 2, line
        said = capsys.readouterr().err
        assert line in said and said.count("\n") == 1
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "home" / "letter.txt").read_text() == "mine"


def test_methods_without_a_common_clip_are_no_study(tmp_path, capsys):
    results = tmp_path / "results"
    plan = gallery(results, ["a", "b"], 4, prompt_of, failing=None)
    for index, variant in enumerate(plan.variants):
        for cell in variant.cells[2 * index : 2 * index + 2]:
            shutil.rmtree(results / cell.path)
    assert study(results, tmp_path / "study") == 2
    assert "no clip, prompt and seed has a video by each of a, b" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_take_with_a_video_that_cannot_be_read_is_left_out(tmp_path):
    results = tmp_path / "results"
    plan = gallery(results, ["a", "b"], 4, prompt_of, failing=None)
    path = results / plan.variants[0].cells[1].path / "video.mp4"
    path.unlink()
    path.write_bytes(b"no video")
    assert study(results, tmp_path / "study") == 0
    assert read_plan(tmp_path / "study" / "plan.json").clips == ["clip-000", "clip-002", "clip-003"]
