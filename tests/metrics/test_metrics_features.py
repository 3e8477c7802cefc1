"""Features are read once a video, by its content."""

from __future__ import annotations

import numpy as np
import pytest

from metrics import features
from metrics.features import KeptFeatures


def test_the_same_frames_are_read_once_and_others_anew(monkeypatch):
    monkeypatch.setattr(features, "KEPT", 2)
    read: list[int] = []

    def reader(frames):
        read.append(int(frames[0, 0, 0, 0]))
        return frames.reshape(len(frames), -1)[:, :3].astype(np.float32)

    videos = [np.full((2, 4, 4, 3), level, np.uint8) for level in range(3)]
    kept = KeptFeatures()
    first = kept.of(videos[0], reader)
    assert kept.of(videos[0].copy(), reader) is first and read == [0]
    assert kept.of(videos[1], reader)[0, 0] == 1
    kept.of(videos[0], reader)
    kept.of(videos[2], reader)
    # The one longest not asked for has gone.
    kept.of(videos[0], reader)
    kept.of(videos[1], reader)
    assert read == [0, 1, 2, 1]
    assert kept.of(videos[0][:1], reader).shape == (1, 3)


def test_what_is_kept_cannot_be_changed():
    found = KeptFeatures().of(np.zeros((1, 2, 2, 3), np.uint8), lambda _: np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


def test_another_way_of_showing_frames_to_a_network_has_features_of_its_own():
    from dataclasses import replace

    from metrics.clip_model import load_clip

    clip = load_clip("sprites")
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    own = clip.image_features(frames)
    dark = replace(clip, preprocess=lambda frames: 0 * clip.preprocess(frames))
    assert not np.allclose(dark.image_features(frames), own)
    assert clip.image_features(frames) is own


def test_a_named_network_shares_features_with_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_folder", None)
    features.keep_in(tmp_path / "features")
    read: list[str] = []

    def reader(name):
        def read_frames(frames):
            read.append(name)
            return np.random.default_rng(len(name)).random((len(frames), 3), np.float32)

        return read_frames

    frames = np.full((2, 4, 4, 3), 7, np.uint8)
    first = KeptFeatures("a").of(frames, reader("a"))
    assert np.array_equal(KeptFeatures("a").of(frames, reader("again")), first) and read == ["a"]
    other = KeptFeatures("bb").of(frames, reader("bb"))
    assert not np.array_equal(other, first) and read == ["a", "bb"]
    KeptFeatures().of(frames, reader("nameless"))
    assert len(list((tmp_path / "features").iterdir())) == 2
    for path in (tmp_path / "features").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert np.array_equal(KeptFeatures("a").of(frames, reader("a")), first) and read[-1] == "a"


def test_a_clip_that_shows_frames_otherwise_does_not_share_them(tmp_path, monkeypatch):
    from dataclasses import replace

    from metrics.clip_model import load_clip

    monkeypatch.setattr(features, "_folder", tmp_path)
    clip = load_clip("sprites")
    frames = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    own = clip.image_features(frames)
    dark = replace(clip, preprocess=lambda frames: 0 * clip.preprocess(frames))
    assert not np.allclose(dark.image_features(frames), own)
    assert len(list(tmp_path.iterdir())) == 1
