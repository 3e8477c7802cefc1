"""Finished videos: what the manifest says, and what is wrong with it."""

from __future__ import annotations

import hashlib

import av
import numpy as np
import pytest
from PIL import Image

from datasets.errors import InputError
from datasets.media import video
from methods.interface import VideoRequest
from methods.precomputed import Precomputed


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "fox.mp4").write_bytes(b"not really a video")
    path = tmp_path / "manifest.csv"
    path.write_text(
        "clip,prompt,seed,file,seconds\n"
        'bear,"a fox, walking",0,videos/fox.mp4,12.5\n'
        'bear,"a fox, walking",1,videos/gone.mp4,\n'
    )
    return path


def precomputed(path):
    return Precomputed(name="precomputed", manifest=str(path))


def test_files_are_found_beside_the_manifest_and_identified_by_content(manifest):
    method = precomputed(manifest)
    assert method.listed() == [("bear", "a fox, walking", 0), ("bear", "a fox, walking", 1)]
    assert method.missing("bear", "a fox, walking", 0) is None
    assert method.content("bear", "a fox, walking", 0) == hashlib.sha256(b"not really a video").hexdigest()


def test_video_hands_over_frames_as_stored_and_seconds(manifest):
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    with av.open(str(manifest.parent / "videos" / "fox.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for colour in colours:
            frame = av.VideoFrame.from_ndarray(np.broadcast_to(colour, (32, 64, 3)).copy(), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    request = VideoRequest("bear", colours, 8.0, None, "a fox, walking", 0, "cpu", manifest.parent)
    frames, seconds = precomputed(manifest).video(request)
    assert seconds == 12.5
    assert frames.shape == (3, 32, 64, 3)
    assert frames.dtype == np.uint8
    assert np.abs(frames.mean((1, 2)) - colours).max() < 12


def listed(root, frames, fps, suffix=".mp4", told=""):
    """A method whose manifest lists one video of that many frames, and the request for it at 24 a second."""
    if suffix == ".gif":
        pictures = [Image.fromarray(np.full((16, 16, 3), 9 * n, np.uint8)) for n in range(frames)]
        pictures[0].save(root / "a.gif", save_all=True, append_images=pictures[1:], duration=1000 / fps)
    else:
        video.write_h264(root / f"a{suffix}", np.zeros((frames, 64, 64, 3), np.uint8), fps)
    (root / "m.csv").write_text(f"clip,prompt,seed,file,fps\nbear,fox,0,a{suffix},{told}\n")
    reference = np.zeros((17, 64, 64, 3), np.uint8)
    request = VideoRequest("bear", reference, 24.0, None, "fox", 0, "cpu", root)
    return precomputed(root / "m.csv"), request


@pytest.mark.parametrize(
    ("fps", "suffix", "told", "rate"),
    [
        (12, ".mp4", "", 12),
        (16, ".mkv", "24", 24),  # an export that states another rate than its frames have
        (25, ".gif", "", 24),  # hundredths of a second: 0.04 is 1 / 24, rounded
        (10, ".gif", "", 10),
        (20, ".gif", "", 20),
    ],
)
def test_times_are_the_manifests_rate_or_the_files(tmp_path, fps, suffix, told, rate):
    method, request = listed(tmp_path, 9, fps, suffix, told)
    assert np.allclose(method.times(request), np.arange(9) / rate, atol=1e-4)


def test_a_told_rate_makes_another_video_of_it(tmp_path):
    plain, _ = listed(tmp_path, 3, 12)
    alone = plain.content("bear", "fox", 0)
    told, _ = listed(tmp_path, 3, 12, told="24")
    assert told.content("bear", "fox", 0) not in (alone, "")
    assert alone == hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest()


def test_another_rate_is_refused_where_that_is_asked_for(tmp_path):
    method, request = listed(tmp_path, 9, 12)
    refusing = Precomputed(name="precomputed", manifest=method.manifest, other_rate="refuse")
    with pytest.raises(InputError, match=r"a\.mp4: 12 frames a second, its clip 24.*method\.other_rate"):
        refusing.times(request)
    assert len(refusing.times(request._replace(fps=12.05))) == 9, "rounded rates are no other ones"
    (tmp_path / "m.csv").write_text("clip,prompt,seed,file,fps\nbear,fox,0,a.mp4,24\n")
    assert len(refusing.times(request)) == 9


def test_a_folder_of_frames_is_no_video(manifest):
    (manifest.parent / "videos/gone.mp4").mkdir()
    assert "is a folder; make a video" in precomputed(manifest).missing("bear", "a fox, walking", 1)


def test_what_is_missing_is_said(manifest):
    method = precomputed(manifest)
    assert "gone.mp4" in method.missing("bear", "a fox, walking", 1)
    assert "no row" in method.missing("bear", "a fox, walking", 2)
    with pytest.raises(InputError, match=r"method\.manifest.*no row"):
        method.content("bear", "another prompt", 0)


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "cannot read"),
        ("clip,prompt,seed\n", "names no file; begin it with clip,file"),
        ("", "names no clip, file"),
        ("clip,prompt,seed,file\n", "no rows"),
        ("clip,prompt,seed,file\nbear,fox,first,a.mp4\n", "line 2.*seed 'first'"),
        ("clip,prompt,seed,file\nbear,fox,0.5,a.mp4\n", "line 2.*seed '0.5'"),
        ("clip,prompt,seed,file\nbear,fox,0,\n", "line 2.*no file"),
        ("clip,prompt,seed,file,seconds\nbear,fox,0,a.mp4,soon\n", "line 2.*seconds 'soon'"),
        ("clip,prompt,seed,file,fps\nbear,fox,0,a.mp4,0\n", "line 2.*fps '0'"),
        ("clip,prompt,seed,file\nbear,fox,0,a.mp4\nbear,fox,0,b.mp4\n", "line 3.*repeats.*line 2"),
        ("clip,prompt,file\nbear,fox,a.mp4\nbear, fox ,b.mp4\n", "line 3.*repeats"),
        ("clip,file,method\nbear,a.mp4,ours\nbear,b.mp4,\n", "line 3.*names no method"),
        ("clip,file,method\nbear,a.mp4,ours\n", "lists none of that name; there are: ours"),
    ],
)
def test_a_bad_manifest_is_bad_input_in_one_line(tmp_path, text, says):
    path = tmp_path / "manifest.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"method\..*{says}") as error:
        precomputed(path).listed()
    assert "\n" not in str(error.value)


def test_no_manifest_is_bad_input():
    with pytest.raises(InputError, match=r"method\.manifest"):
        Precomputed(name="precomputed").listed()
