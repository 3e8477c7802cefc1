"""Cut-out footage: its tracks are those of its pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.errors import InputError
from datasets.media import video
from metrics.validate import collage
from metrics.validate.__main__ import main

HEIGHT, WIDTH, FRAMES = 96, 168, 9


def texture(seed: int, height: int, width: int, coarse: int = 12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(20, 236, (height // coarse + 1, width // coarse + 1, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def disc(frame: int) -> np.ndarray:
    y, x = np.mgrid[:160, :240]
    return (x - 90 - 5 * frame) ** 2 + (y - 80) ** 2 < 35**2


def footage(seed: int, frames: int = 5) -> np.ndarray:
    """A textured disc that goes 5 px a frame over a ground that goes 1 px."""
    ground, body = texture(seed, 160, 300), texture(seed + 50, 160, 400, 9)
    clip = np.stack([ground[:, t : t + 240] for t in range(frames)]).copy()
    for t, frame in enumerate(clip):
        frame[disc(t)] = body[:, 100 - 5 * t : 340 - 5 * t][disc(t)]
    return clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in DAVIS's layout: one clip with masks, one without."""
    root = tmp_path_factory.mktemp("footage")
    for name, seed in (("one", 1), ("two", 2)):
        for t, frame in enumerate(footage(seed)):
            for kind, picture in (("JPEGImages", frame), ("Annotations", disc(t).astype(np.uint8))):
                if kind == "Annotations" and name == "two":
                    continue
                suffix = "jpg" if kind == "JPEGImages" else "png"
                path = root / kind / "480p" / name / f"{t:05}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path, **({"quality": 98} if suffix == "jpg" else {}))
    return root


@pytest.fixture(scope="module")
def stills(folder):
    return collage.read(folder)


def drawn(stills, kind: str, number: int = 0) -> collage.Collage:
    return collage.draw(
        stills, collage.KINDS.index(kind) + number * len(collage.KINDS), FRAMES, HEIGHT, WIDTH
    )


def grid(step: int = 4) -> np.ndarray:
    x, y = np.meshgrid(np.arange(8, WIDTH - 8, step), np.arange(8, HEIGHT - 8, step))
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)


def test_masks_are_read_and_outlines_found_where_there_are_none(stills):
    assert [still.clip for still in stills] == ["one"] * 3 + ["two"] * 3
    for still, t in zip(stills, [0, 2, 4] * 2, strict=True):
        both = (still.mask & disc(t)).sum() / (still.mask | disc(t)).sum()
        assert both == 1 if still.clip == "one" else both > 0.8


def test_a_folder_of_videos_may_name_the_first_frame_s_object(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        video.write_ffv1(tmp_path / f"{name}.mkv", footage(seed), 24)
    mask = np.zeros((160, 240), np.uint8)
    mask[10:60, 20:80] = 255
    Image.fromarray(mask).save(tmp_path / "two_mask.png")
    found = collage.read(tmp_path)
    assert [(still.clip, still.mask.any()) for still in found] == [("one", True)] * 3 + [("two", True)] * 3
    np.testing.assert_array_equal(found[3].mask, mask > 0)


@pytest.mark.parametrize("kind", ["plain", "scale and turn", "parts swing", "occluded"])
def test_visible_points_keep_their_colour_along_their_true_tracks(stills, kind):
    """Also backwards; a point that is taken for another's would not."""
    for number in range(2):
        truth = drawn(stills, kind, number)
        frames = truth.paint(0).astype(np.float32)
        for begun in (0, FRAMES // 2, FRAMES - 1):
            points, seen = truth.tracks(grid(), begun)
            assert seen[begun].all() and np.allclose(points[begun], grid(), atol=1e-3)
            colours = np.stack(
                [
                    cv2.remap(frame, at[:, :1], at[:, 1:], cv2.INTER_LINEAR)[:, 0]
                    for frame, at in zip(frames, points, strict=True)
                ]
            )
            away = np.abs(colours - colours[begun]).mean(-1)
            shuffled = np.abs(colours[:, ::-1] - colours[begun]).mean(-1)
            # Edges are a pixel soft, and a size that changes blurs.
            assert np.quantile(away[seen], 0.9) < 12 < 25 < np.median(shuffled)


def test_kinds_are_what_they_say(stills):
    def object_points(truth):
        points = grid(2)
        own = truth.owners(points, 0)
        return truth.tracks(points[own == 0], 0)[0].astype(float)

    def speed(truth):
        return np.linalg.norm(np.diff(object_points(truth).mean(1), axis=0), axis=-1).mean() / HEIGHT

    assert max(speed(drawn(stills, "plain", n)) for n in range(4)) < 0.04
    assert min(speed(drawn(stills, "fast", n)) for n in range(4)) > 0.025
    parts = drawn(stills, "parts swing")
    assert len(parts.layers) == 3
    turns = [np.arctan2(layer.place[:, 1, 0], layer.place[:, 0, 0]) for layer in parts.layers[1:]]
    assert np.ptp(turns[0] - turns[1]) > np.deg2rad(15)
    hidden = drawn(stills, "occluded")
    points = grid(2)
    points = points[hidden.owners(points, 0) == 0]
    assert (~hidden.tracks(points, 0)[1][FRAMES // 2]).mean() > 0.3
    still = drawn(stills, "noisy")
    noise = still.paint(0).astype(float) - collage.Collage("", still.layers, HEIGHT, WIDTH).paint(0)
    assert noise.std() == pytest.approx(collage.NOISE, rel=0.1)
    blurred = drawn(stills, "blurred")
    sharp = collage.Collage("", blurred.layers, HEIGHT, WIDTH).paint(0)
    assert (
        np.abs(np.diff(blurred.paint(0).astype(float), axis=2)).mean()
        < np.abs(np.diff(sharp.astype(float), axis=2)).mean()
    )


def test_a_seed_gives_the_same_clip_again_and_another_one_another(stills):
    one, again, other = (collage.draw(stills, seed, 3, HEIGHT, WIDTH).paint(seed) for seed in (7, 7, 14))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(float) - other).mean() > 5


def test_footage_without_two_clips_or_an_object_is_bad_input(tmp_path, capsys):
    rest = np.repeat(texture(0, 160, 240)[None], 3, 0)
    video.write_ffv1(tmp_path / "one.mkv", rest, 24)
    with pytest.raises(InputError, match="two clips"):
        collage.read(tmp_path)
    video.write_ffv1(tmp_path / "two.mkv", rest, 24)
    assert main(["tracker", "--footage", str(tmp_path), "--clips", "1"]) == 2
    assert "object to cut out" in capsys.readouterr().err


def test_the_command_scores_a_tracker_on_it(folder, tmp_path, capsys):
    csv = tmp_path / "t.csv"
    options = ["--clips", "2", "--grid", "6", "--frames", "4", "--side", "96", "--csv", str(csv)]
    assert main(["tracker", "--footage", str(folder), *options]) == 0
    assert "Points on objects, by motion" in capsys.readouterr().out
    assert csv.read_text().count("on objects") == 2
