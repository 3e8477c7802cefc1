"""MoveBench as its unpacked folder lies on disk: captions, tracks, what is refused."""

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from datasets.errors import InputError
from datasets.interface import LeftOut, Prompt
from datasets.media import video
from datasets.movebench import MoveBench

HEIGHT, WIDTH, FRAMES = 32, 56, 81
LIST = "# id, caption\nPexels_1.mp4,A dog, running, in snow. \n\nPexels_2.mp4, A red car"


def add(home, name, points, kind="single"):
    for part in ("video", f"track/{kind}"):
        (home / part).mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    video.write_h264(home / "video" / f"{name}.mp4", frames, 16, min_side=1)
    at = np.stack(np.meshgrid(np.arange(FRAMES), np.arange(points), indexing="ij"), axis=-1)
    np.save(home / "track" / kind / f"{name}_tracks.npy", at[None].astype(np.float32) / 2)
    seen = np.ones((1, FRAMES, points), bool)
    seen[0, 5] = False
    np.save(home / "track" / kind / f"{name}_visibility.npy", seen)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    home = root / "MoveBench/en"
    add(home, "Pexels_1", 4)
    add(home, "Pexels_2", 1)
    add(home, "Pexels_2", 7, "multi")
    (home / "single_track.txt").write_text(LIST)
    (home / "multi_track.txt").write_text("Pexels_2.mp4,Two cars\r\n")
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / "hub"))


def bench(where, **keys):
    return MoveBench(**{"root": str(where), "frames": 81} | keys)


def test_the_yaml_holds_exactly_the_fields_and_their_defaults():
    path = Path(video.__file__).parents[2] / "conf/dataset/movebench.yaml"
    node = OmegaConf.create({"dataset": OmegaConf.load(path), "frames": 49})
    values = OmegaConf.to_container(node, resolve=True)["dataset"]
    assert values.pop("_target_") == "datasets.movebench.MoveBench"
    assert values.pop("default_frames") == 81
    assert set(values) | {"default_frames"} == {field.name for field in fields(MoveBench)}
    assert MoveBench(**values) == MoveBench()


@pytest.mark.parametrize("below", ["", "MoveBench", "MoveBench/en"])
def test_the_clip_s_only_prompt_is_its_caption_whole(made, below):
    listing = bench(made / below).listing()
    assert {clip.name: clip.prompts for clip in listing.clips} == {
        "Pexels_1": (Prompt("A dog, running, in snow.", "caption"),),
        "Pexels_2": (Prompt("A red car", "caption"),),
    }
    assert [clip.caption for clip in listing.clips] == ["A dog, running, in snow.", "A red car"]
    assert not listing.left_out


def test_the_lists_of_one_and_of_several_objects_have_their_own_clips_and_tracks(made):
    single, multi = bench(made), bench(made, objects="multi")
    assert [clip.strata for clip in single.listing().clips] == [{"objects": "single"}] * 2
    (clip,) = multi.listing().clips
    assert clip.caption == "Two cars" and clip.strata == {"objects": "multi"}
    assert single.load("Pexels_2").tracks.shape == (81, 1, 3)
    assert multi.load("Pexels_2").tracks.shape == (81, 7, 3)


def test_tracks_are_those_of_the_frames_used(made):
    clip = bench(made, frames=9, start=2, stride=3).load("Pexels_1")
    assert np.array_equal(clip.tracks[:, 2, 0], np.arange(2, 27, 3) / 2)
    assert (clip.tracks[:, 2, 1] == 1).all()
    assert clip.tracks[:, 0, 2].tolist() == [1, 0, *[1] * 7], "hidden in frame 5"


def test_tracks_follow_the_crop(made):
    """Half the width is cut away: 14 of 56 columns on either side; what remains is doubled."""
    clip = bench(made, height=64, width=56).load("Pexels_1")
    whole = bench(made).load("Pexels_1").tracks
    assert np.allclose(clip.tracks[..., 0], 2 * (whole[..., 0] + 0.5 - 14) - 0.5)
    assert np.allclose(clip.tracks[..., 1], 2 * (whole[..., 1] + 0.5) - 0.5)
    columns = whole[..., 0]
    assert np.array_equal(
        clip.tracks[..., 2] == 1, (whole[..., 2] == 1) & (columns >= 13.5) & (columns < 41.5)
    )


@pytest.mark.parametrize("lost", ["Pexels_1_tracks.npy", "Pexels_1_visibility.npy"])
def test_a_clip_without_tracks_runs_and_says_so(root, lost):
    (root / "MoveBench/en/track/single" / lost).unlink()
    clip = bench(root).load("Pexels_1")
    assert clip.tracks is None
    assert "its tracks are missing: run without them" in clip.info.remarks


def test_a_clip_without_its_video_is_left_out(root):
    (root / "MoveBench/en/video/Pexels_1.mp4").unlink()
    listing = bench(root).listing()
    assert listing.left_out == (LeftOut("Pexels_1", "has no video/Pexels_1.mp4"),)
    with pytest.raises(InputError, match=r"dataset.names: Pexels_3 is not in .*did you mean"):
        bench(root, names=["Pexels_3"]).listing()


@pytest.mark.parametrize(
    "path, content, words",
    [
        ("single_track.txt", b"Pexels_1.mp4\n", ["single_track.txt, line 1", "<id>.mp4,<caption>"]),
        ("single_track.txt", b"Pexels_1.mp4, \n", ["line 1", "<id>.mp4,<caption>"]),
        ("single_track.txt", b"Pexels_1.mp4,a\nPexels_1.mp4,b\n", ["line 2", "twice"]),
        ("single_track.txt", b"\xff\xfe\xff", ["single_track.txt", "UTF-8"]),
        ("track/single/Pexels_1_tracks.npy", b"none", ["Pexels_1_tracks.npy", "cannot be read as tracks"]),
        ("track/single/Pexels_1_visibility.npy", b"", ["Pexels_1_visibility.npy", "cannot be read"]),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(root, path, content, words):
    (root / "MoveBench/en" / path).write_bytes(content)
    with pytest.raises(InputError) as caught:
        bench(root, names=["Pexels_1"]).listing()
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_visibility_of_other_points_is_refused(root):
    np.save(root / "MoveBench/en/track/single/Pexels_1_visibility.npy", np.ones((1, FRAMES, 3), bool))
    with pytest.raises(InputError, match="does not belong to tracks of"):
        bench(root).load("Pexels_1")


def test_another_language_needs_its_own_folder(made):
    with pytest.raises(InputError, match=r"zh/single_track.txt: missing.*zh.tar.gz"):
        bench(made, language="zh").listing()
