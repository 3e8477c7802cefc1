"""Inputs that once failed, kept outside the project: VMTBENCH_CASES names their folder.

Its README says what is right. In videos, frames and DAVIS folders the corners are red, green, blue, yellow
(top left to bottom right), and a bar of five bits in the middle is the frame's number.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.davis import Davis
from datasets.errors import InputError
from datasets.folder import Folder
from datasets.media import video
from datasets.media.images import resize_crop
from harness import __main__ as cli
from metrics.interface import Sample
from metrics.motion_fidelity import MotionFidelity
from metrics.trackers.dis import Dis

CASES = Path(os.environ.get("VMTBENCH_CASES") or "no folder named")
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="VMTBENCH_CASES names no folder of cases")
BARE = (
    "wandb=disabled",
    "execute=here",
    "~metrics.metrics.motion_fidelity_legacy",
    "~metrics.metrics.clip_t",
)
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}


def colour(pixel):
    return min(COLOURS, key=lambda name: np.abs(np.subtract(COLOURS[name], pixel, dtype=float)).sum())


def corners(frame):
    height, width = frame.shape[:2]
    y, x = height // 8, width // 12
    return " ".join(colour(frame[i, j]) for i in (y, height - 1 - y) for j in (x, width - 1 - x))


def numbers(frames):
    """The numbers that the bars show."""
    height, width = frames.shape[1:3]
    places = [round(x * width / 96) for x in (22, 34, 46, 58, 70)]
    bits = frames[:, round(height / 2)][:, places].mean(-1) > 127
    return (bits @ [16, 8, 4, 2, 1]).tolist()


UPRIGHT = "red green blue yellow"


@pytest.mark.parametrize(
    "name, size, shown, count, rate",
    [
        ("base.mp4", (64, 96), UPRIGHT, 17, 24),
        ("hflip.mp4", (64, 96), "green red yellow blue", 17, 24),
        ("vflip.mp4", (64, 96), "blue yellow red green", 17, 24),
        ("sar2.mp4", (64, 96), UPRIGHT, 17, 24),
        ("two.mkv", (64, 96), UPRIGHT, 17, 24),
        ("interlaced.mp4", (64, 96), UPRIGHT, 8, 12),
        ("hdr_pq.mp4", (64, 96), UPRIGHT, 17, 24),
    ],
)
def test_videos_are_read_as_they_are_meant_to_be_shown(name, size, shown, count, rate):
    frames, fps = video.read_video(CASES / "video" / name)
    assert frames.shape == (count, *size, 3) and round(fps) == rate
    assert corners(frames[0]) == shown
    if shown == UPRIGHT and name != "interlaced.mp4":
        assert numbers(frames) == list(range(count))


def test_what_is_transparent_lies_over_white():
    frames, _ = video.read_video(CASES / "video/vp9alpha.webm")
    half = frames.shape[2] // 2
    assert (frames[:, :, half + 4 :] > 245).all() and not (frames[:, :, : half - 4] > 245).all()


def test_half_a_file_is_named_as_such():
    with pytest.raises(InputError, match="incomplete"):
        video.read_video(CASES / "video/trunc_moov_end.mp4")


@pytest.mark.parametrize("name, word", [("vfr", "variable"), ("interlaced", "interlaced"), ("hdr_pq", "HDR")])
def test_a_line_says_what_is_unusual_of_a_video(tmp_path, name, word):
    shutil.copy(CASES / "video" / f"{name}.mp4", tmp_path)
    (info,) = Folder(root=str(tmp_path), frames=5, prompt="a").listing().clips
    assert any(word in remark for remark in info.remarks), info.remarks


def test_a_rate_takes_frames_by_time(tmp_path):
    shutil.copy(CASES / "video/vfr.mp4", tmp_path)
    plain, times, _ = video.read_timed(CASES / "video/vfr.mp4")
    clip = Folder(root=str(tmp_path), frames="auto", prompt="a", fps=12).load("vfr")
    assert np.allclose(clip.times, np.arange(len(clip.frames)) / 12)
    shown = [int(np.flatnonzero(times <= time + 1e-3)[-1]) for time in clip.times]
    assert numbers(clip.frames) == [numbers(plain)[place] for place in shown]


@pytest.mark.parametrize("name", ["unpadded", "with_masks", "webp"])
def test_frame_folders_are_read_in_natural_order_without_masks(name):
    clip = Folder(root=str(CASES / "frames"), frames=17, prompt="a").load(name)
    assert numbers(clip.frames) == list(range(17))
    assert {corners(frame) for frame in clip.frames} == {UPRIGHT}


@pytest.mark.parametrize(
    "name, clips, out",
    [
        ("clip_without_prompt", ["a"], ["b"]),
        ("excel_blank_rows", ["a"], []),
        ("excel_trailing_commas", ["a"], []),
        ("header_case", ["a"], []),
        ("m4v", ["a", "b"], []),
        ("nfd", ["café"], []),
        ("winpath_in_clip", ["a"], []),
    ],
)
def test_tables_are_read(name, clips, out):
    listing = Folder(root=str(CASES / "csv" / name), frames=5).listing()
    assert [clip.name for clip in listing.clips] == clips
    assert [one.clip for one in listing.left_out] == out


@pytest.mark.parametrize("name", ["fullres", "png", "nosets", "noann"])
def test_davis_folders_are_read_as_they_lie_on_disks(name):
    dataset = Davis(root=str(CASES / "davis" / name), frames=17, subset=None)
    listing = dataset.listing()
    assert [clip.name for clip in listing.clips] == ["bear", "snowboard"]
    for info in listing.clips:
        clip = dataset.load(info.name)
        assert numbers(clip.frames) == list(range(17)) and corners(clip.frames[0]) == UPRIGHT
        assert (clip.masks is None) == (name == "noann")
        assert any("Full-Resolution" in remark for remark in info.remarks) == (name == "fullres")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(
            sys, "argv", ["harness", "method=precomputed", f"results={tmp_path / 'r'}", *BARE, *words]
        )
        code = cli.main()
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, [json.loads(path.read_text()) for path in sorted(tmp_path.glob("r/cells/**/record.json"))]

    return command


def test_the_table_shows_what_the_last_run_showed(tmp_path, run):
    shutil.copytree(CASES / "regen", tmp_path / "regen")
    values = []
    for name in ("good", "frozen", "reversed", "mirrored"):
        (tmp_path / "regen/mine.mkv").unlink(missing_ok=True)
        (tmp_path / "regen/mine.mkv").write_bytes((tmp_path / "regen" / f"{name}.mkv").read_bytes())
        out, _ = run("dataset=folder", f"dataset.root={tmp_path / 'regen/clips'}", "frames=17",
                     f"method.manifest={tmp_path / 'regen/manifest.csv'}")  # fmt: skip
        row = next(line for line in out.splitlines() if line.strip().startswith("precomputed"))
        values.append(float(row.split()[1]))
    assert values[0] > 0.9 and max(values[1:]) < 0.5 and len(set(values)) == 4


def test_clips_of_one_name_stay_apart(run):
    for name in ("A", "B"):
        _, records = run("dataset=folder", f"dataset.root={CASES / 'clash' / name}", "frames=17",
                         f"method.manifest={CASES / 'clash' / (name + 'gen') / 'm.csv'}")  # fmt: skip
    assert len({one["id"] for one in records}) == 2


@pytest.mark.parametrize(
    ("name", "says"), [("g9.mkv", "first 9"), ("g33.mkv", "first 17"), ("g_half.mp4", "by time")]
)
def test_videos_of_another_length_or_rate_are_said_to_be(run, name, says):
    out, (record,) = run("dataset=folder", f"dataset.root={CASES / 'short/clips'}", "frames=17",
                         f"method.manifest={CASES / 'short' / f'm_{name}.csv'}")  # fmt: skip
    assert any(says in note for note in record["notes"])
    assert record["compared"]["by"] == ("time" if name == "g_half.mp4" else "frame")
    assert "compared" in " ".join(out.split())


def fidelity(generated, reference):
    sample = Sample("clip", generated, reference, "", Dis("dis"))
    return MotionFidelity("motion_fidelity").score(sample).value


def test_what_once_fooled_motion_fidelity_no_longer_does():
    """Its own mirror image scored .893, played backwards .872; a still with one moving dot .91."""
    (path,) = (CASES / "motion").glob("2_car-turn_ref.*")
    reference, _ = video.read_video(path, count=17)
    assert fidelity(reference, reference) > 0.99
    assert fidelity(reference[:, :, ::-1].copy(), reference) < 0.5
    assert fidelity(reference[::-1].copy(), reference) < 0.5
    dotted, _ = video.read_video(CASES / "motion/9_dot_lucia_gen.mp4", count=17)
    beside = resize_crop(reference[: len(dotted)], *dotted.shape[1:3])
    assert fidelity(dotted, beside) < 0.3
