"""Finished videos: what the manifest says, and what is wrong with it."""

from __future__ import annotations

import hashlib

import av
import numpy as np
import pytest

from datasets.errors import InputError
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
        ("clip,prompt,file\n", "lacks the columns seed"),
        ("", "lacks the columns clip, prompt, seed, file"),
        ("clip,prompt,seed,file\n", "no rows"),
        ("clip,prompt,seed,file\nbear,fox,first,a.mp4\n", "row 1.*seed 'first'"),
        ("clip,prompt,seed,file\nbear,fox,0,\n", "row 1.*no file"),
        ("clip,prompt,seed,file,seconds\nbear,fox,0,a.mp4,soon\n", "row 1.*seconds 'soon'"),
        ("clip,prompt,seed,file,seconds\nbear,fox,0,a.mp4,-1\n", "row 1.*seconds '-1'"),
        ("clip,prompt,seed,file,seconds\nbear,fox,0,a.mp4,inf\n", "row 1.*seconds 'inf'"),
        ("clip,prompt,seed,file,seconds\nbear,fox,0,a.mp4,nan\n", "row 1.*seconds 'nan'"),
        ("clip,prompt,seed,file\nbear,fox,0,a.mp4\nbear,fox,0,b.mp4\n", "row 2.*repeats"),
    ],
)
def test_a_bad_manifest_is_bad_input_in_one_line(tmp_path, text, says):
    path = tmp_path / "manifest.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"method\.manifest.*{says}") as error:
        precomputed(path).listed()
    assert "\n" not in str(error.value)


def test_no_manifest_is_bad_input():
    with pytest.raises(InputError, match=r"method\.manifest"):
        Precomputed(name="precomputed").listed()
