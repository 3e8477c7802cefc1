"""Trackers and optical flow on images whose motion is known."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from datasets.media.flow import inconsistent
from datasets.sprites.world import HELD_OUT, draw, render
from harness.cells.score import tracker_version
from metrics.interface import MetricUnavailable, Tracks
from metrics.trackers import cotracker3, tapnext
from metrics.trackers.cotracker3 import CoTracker3
from metrics.trackers.dis import Dis
from metrics.trackers.starts import start_grid
from metrics.trackers.surroundings import sample
from metrics.trackers.tapnext import TapNext


def translating(step, frames: int = 6, height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth random texture that moves by ``step`` px per frame (sub-pixel, cubic), RGB uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(20, 235, (height // 4, width // 4, 3)).astype(np.float32)
    big = cv2.resize(coarse, (width * 2, height * 2), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    video = [
        cv2.remap(
            big,
            (x + width / 2 - t * step[0]).astype(np.float32),
            (y + height / 2 - t * step[1]).astype(np.float32),
            cv2.INTER_CUBIC,
        )
        for t in range(frames)
    ]
    return np.clip(np.round(np.stack(video)), 0, 255).astype(np.uint8)


def begins(tracks: Tracks) -> np.ndarray:
    """Where the tracks begin (N, 2)."""
    return tracks.points[tracks.start, np.arange(len(tracks.start))]


def from_frame(tracks: Tracks, frame: int) -> Tracks:
    return tracks.chosen(tracks.start == frame)


@pytest.mark.parametrize("step", [(2.0, 1.0), (-1.5, 0.75), (0.0, 0.0)])
def test_dis_follows_a_translating_texture(step):
    video = translating(step)
    tracks = Dis("dis", grid=12).track(video)
    begin, frames_since = begins(tracks), np.arange(6)[:, None] - tracks.start
    expected = begin + frames_since[..., None] * np.array(step)
    assert tracks.points.dtype == np.float32
    assert tracks.visible.dtype == bool
    assert np.unique(tracks.start).tolist() == [0, 2, 5]
    np.testing.assert_array_equal(begin, np.tile(start_grid(96, 128, 12), (3, 1)))
    assert tracks.visible[-1].mean() > 0.5 and tracks.visible[0].mean() > 0.5
    error = np.linalg.norm(tracks.points - expected, axis=-1)[tracks.visible]
    assert error.mean() < 0.15
    assert np.quantile(error, 0.98) < 0.5


def test_dis_does_not_claim_points_that_have_left_the_frame():
    tracks = Dis("dis", grid=12).track(translating((6.0, 0.0)))
    left = tracks.points[..., 0] > 127
    assert left[-1].any()
    assert not tracks.visible[left].any()
    assert np.isfinite(tracks.points).all()


def test_dis_sees_what_appears_later():
    """A square comes in from the left; nothing of it is in frame 0, and its motion is found all the same."""
    video = translating((0.0, 0.0), frames=12).copy()
    patch = np.random.default_rng(3).integers(0, 255, (10, 10, 3)).astype(np.uint8)
    patch = cv2.resize(patch, (40, 40), interpolation=cv2.INTER_CUBIC)
    for t, frame in enumerate(video):
        seen = min(max(6 * t - 20, 0), 40)
        frame[30:70, max(6 * t - 60, 0) : max(6 * t - 20, 0)] = patch[:, 40 - seen :][:, : max(6 * t - 20, 0)]
    tracks = from_frame(Dis("dis", grid=24).track(video), 11)
    x, y = tracks.points[11].T
    inside = (x > 12) & (x < 40) & (y > 36) & (y < 64)
    assert inside.sum() > 20
    for t in (8, 9, 10):
        seen = inside & (x > 6 * (11 - t) + 6)
        assert tracks.visible[t, seen].mean() > 0.8
        error = tracks.points[t] - (tracks.points[11] - [6 * (11 - t), 0])
        assert np.median(np.linalg.norm(error, axis=1)[seen]) < 0.5


def test_dis_does_not_drag_untextured_water_along():
    """A textured object crosses still water without texture: points of the water rest or are unknown."""
    video = np.full((9, 96, 128, 3), (40, 90, 140), np.uint8)
    patch = np.random.default_rng(3).integers(0, 255, (6, 6, 3)).astype(np.uint8)
    patch = cv2.resize(patch, (24, 24), interpolation=cv2.INTER_CUBIC)
    for t, frame in enumerate(video):
        frame[36:60, 8 + 8 * t : 32 + 8 * t] = patch
    tracks = from_frame(Dis("dis", grid=24).track(video), 0)
    x, y = tracks.points[0].T
    water = (x < 4) | (x > 36) | (y < 32) | (y > 64)
    away = np.linalg.norm(tracks.points - tracks.points[0], axis=-1)
    assert (tracks.visible & (away > 3))[:, water].mean() < 0.02
    assert tracks.visible[:, water].mean() > 0.8
    on_object = (x > 11) & (x < 29) & (y > 39) & (y < 57)
    assert np.median(np.abs(away[-1, on_object] - 64)) < 0.5


@pytest.mark.parametrize("motion", ["pan", "zoom"])
def test_dis_agrees_with_the_rendered_truth(motion):
    seed = next(s for s in range(HELD_OUT, HELD_OUT + 200) if draw(s).motion == motion)
    frames, truth = render(seed)
    found = Dis("dis", grid=15).track(frames)
    for begun, end in ((0, 16), (8, 0), (8, 16), (16, 0)):
        tracks = from_frame(found, begun)
        true, seen = truth.tracks(tracks.points[begun], begun)
        both = seen[end] & tracks.visible[end]
        assert both.mean() > 0.4
        assert np.median(np.linalg.norm(tracks.points[end] - true[end], axis=-1)[both]) < 0.5


def test_dis_sees_colours_that_are_equally_bright():
    """A green square crosses a red ground of the same grey level; the ground's texture is red alone."""
    rng = np.random.default_rng(1)
    red, green = (
        cv2.resize(rng.uniform(-15, 15, (16, 16)), (96, 96), interpolation=cv2.INTER_CUBIC) for _ in range(2)
    )
    video = np.zeros((6, 96, 96, 3), np.uint8)
    for t, frame in enumerate(video):
        x = 20 + 5 * t
        frame[..., 0] = 180 + red
        frame[30:66, x : x + 36] = 0
        frame[30:66, x : x + 36, 1] = 92 + green[30:66, 20:56]
    grey = cv2.cvtColor(video[0], cv2.COLOR_RGB2GRAY).astype(float)
    assert abs(grey[40:56, 30:46].mean() - grey[:20].mean()) < 2
    tracks = from_frame(Dis("dis", grid=20).track(video), 0)
    start = tracks.points[0]
    inside = ((start > (24, 34)) & (start < (51, 61))).all(1)
    expected = start[inside] + [25, 0]
    assert np.median(np.linalg.norm(tracks.points[-1, inside] - expected, axis=1)) < 0.5
    assert tracks.visible[-1, inside].mean() > 0.75


def test_dis_finds_a_point_again_that_was_hidden():
    """A bar passes over a still texture: what it hid is back at its place, and visible, once it has gone."""
    video = translating((0.0, 0.0), frames=12).copy()
    for t, frame in enumerate(video):
        frame[:, max(0, 10 * t - 14) : max(0, 10 * t - 2)] = (250, 20, 20)
    tracks = from_frame(Dis("dis", grid=15).track(video), 0)
    middle = (tracks.points[0, :, 0] > 30) & (tracks.points[0, :, 0] < 80)
    assert (~tracks.visible[:, middle]).any(0).mean() > 0.7
    assert tracks.visible[-1, middle].mean() > 0.95
    away = np.linalg.norm(tracks.points[-1] - tracks.points[0], axis=1)
    assert np.quantile(away[middle], 0.95) < 0.5


def test_dis_admits_that_an_object_covers_the_background():
    """Points of the ground that an object has moved over are not claimed, wherever the flow carries them."""
    claimed = []
    for seed in [s for s in range(HELD_OUT, HELD_OUT + 60) if draw(s).motion == "straight"][:6]:
        frames, truth = render(seed)
        tracks = from_frame(Dis("dis", grid=24).track(frames), 0)
        _, seen = truth.tracks(tracks.points[0])
        claimed.append(tracks.visible[~seen])
    assert np.concatenate(claimed).size > 500
    assert np.concatenate(claimed).mean() < 0.25


def test_dis_leaves_resting_points_where_they_are_in_noise():
    still = render(next(s for s in range(HELD_OUT, HELD_OUT + 60) if draw(s).motion == "straight"))[0][:1]
    noise = np.random.default_rng(0).normal(0, 8, (9, *still.shape[1:]))
    tracks = Dis("dis", grid=24).track(np.clip(still + noise, 0, 255).astype(np.uint8))
    away = np.linalg.norm(tracks.points - begins(tracks), axis=-1)[tracks.visible]
    assert tracks.visible.mean() > 0.9
    assert np.quantile(away, 0.9) < 0.35


def test_dis_follows_an_object_through_noise():
    """Noise shakes the tracks of a moving object; under a Gaussian it shakes them less."""
    frames, truth = render(next(s for s in range(HELD_OUT, HELD_OUT + 60) if draw(s).motion == "straight"))
    noise = np.random.default_rng(0).normal(0, 8, frames.shape)
    noisy = np.clip(frames + noise, 0, 255).astype(np.uint8)
    error = {}
    for blur in (0.0, 1.0):
        tracks = from_frame(Dis("dis", grid=24, blur=blur).track(noisy), 0)
        true, _ = truth.tracks(tracks.points[0])
        moving = np.linalg.norm(true - true[0], axis=-1).max(0) > 4
        shaken = np.diff(tracks.points - true, axis=0)[:, moving]
        error[blur] = np.median(np.linalg.norm(shaken, axis=-1))
    assert error[1.0] < 0.8 * error[0.0]


def test_dis_repeats_itself_on_any_number_of_threads():
    video, before = translating((2.0, 1.0)), cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 3):
            cv2.setNumThreads(threads)
            found.append(Dis("dis", grid=8).track(video))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(found[0].points, found[1].points)


def test_dis_without_points_or_motion_to_follow():
    video = translating((0.0, 0.0), frames=3)
    empty = Dis("dis").track(video, np.zeros((3, 96, 128), bool))
    assert empty.points.shape == (3, 0, 2)
    assert empty.visible.shape == (3, 0)
    single = Dis("dis", grid=4).track(video[:1])
    assert single.points.shape == (1, 16, 2) and single.start.tolist() == [0] * 16
    assert single.visible.all()


def test_the_grid_covers_the_frame_less_a_margin():
    points = start_grid(48, 64, 3)
    assert points[0].tolist() == [1, 1]
    assert points[-1].tolist() == [62, 46]
    assert points[4].tolist() == [31.5, 23.5]
    assert points[1].tolist() == [31.5, 1]


def test_the_grid_lies_inside_the_mask():
    mask = np.zeros((40, 60), bool)
    cv2.circle(mask.view(np.uint8), (30, 20), 8, 1, -1)
    points = start_grid(40, 60, 10, mask)
    assert 50 < len(points) < 100
    column, row = points.round().astype(int).T
    assert mask[row, column].all()
    assert points.min(0).tolist()[1] >= 12
    half = start_grid(20, 30, 10, mask)
    assert half.max(0)[0] < 30 * 0.7


def test_bilinear_sampling_of_a_linear_field_is_exact():
    y, x = np.mgrid[0:20, 0:30].astype(np.float32)
    points = np.random.default_rng(0).uniform(0, 19, (50, 2)).astype(np.float32)
    # OpenCV may round fractions to 1/32
    np.testing.assert_allclose(sample(np.stack([x, y], -1), points), points, atol=1 / 32)
    many = np.zeros((70_000, 2), np.float32)
    assert sample(np.stack([x, y], -1), many).shape == (70_000, 2)


def test_the_occlusion_test_as_it_reads():
    forward = np.array([[3.0, 0.0], [3.0, 0.0], [0.0, 0.0]], np.float32)
    backward = np.array([[-3.0, 0.0], [-2.0, 0.0], [0.6, 0.0]], np.float32)
    # errors 0, 1, .36 against .01 (9 + 9) + .5, .01 (9 + 4) + .5 and .5036
    assert inconsistent(forward, backward).tolist() == [False, True, False]


def test_unknown_tracker_keys_are_errors():
    with pytest.raises(ValidationError, match="grids"):
        Dis("dis", grids=3)
    with pytest.raises(ValidationError, match="commit"):
        CoTracker3("cotracker3", commit="main")


HUBCONF = """
import torch

class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.speed = torch.nn.Parameter(torch.zeros(2))

class Predictor(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Inner()

    def forward(self, video, queries, backward_tracking=False):
        assert video.dtype == torch.float32 and video.max() > 1 and video.shape[2] == 3
        t = torch.arange(video.shape[1])[None, :, None] - queries[:, None, :, 0]
        tracks = queries[:, None, :, 1:] + t[..., None] * self.model.speed
        return tracks, (t >= 0) | backward_tracking

def cotracker3_offline(*, pretrained=True, **kwargs):
    assert not pretrained
    return Predictor()
"""


def test_cotracker_speaks_to_its_predictor(tmp_path):
    """A clone with the same entry point and a constant speed as its weights."""
    import torch

    (tmp_path / "hubconf.py").write_text(HUBCONF)
    torch.save({"speed": torch.tensor([1.5, -0.5])}, tmp_path / "weights.pth")
    tracker = CoTracker3(
        "cotracker3", grid=5, repository=str(tmp_path), checkpoint=str(tmp_path / "weights.pth"), device="cpu"
    )
    tracks = tracker.track(translating((0.0, 0.0), frames=4))
    np.testing.assert_allclose(tracks.points[3] - tracks.points[0], [[4.5, -1.5]] * 75, atol=1e-5)
    assert np.unique(tracks.start, return_counts=True)[1].tolist() == [25, 25, 25]
    for begun in (0, 2, 3):
        of_frame = tracks.chosen(tracks.start == begun)
        np.testing.assert_allclose(of_frame.points[begun], start_grid(96, 128, 5), atol=1e-5)
    assert tracks.visible.shape == (4, 75) and tracks.visible.all()


def test_cotracker_missing_says_why_and_what_to_do(tmp_path):
    tracker = CoTracker3("cotracker3", repository=str(tmp_path / "none"), device="cpu")
    for _ in range(2):
        with pytest.raises(MetricUnavailable, match=r"tracker\.repository"):
            tracker.track(translating((0.0, 0.0), frames=2))


def test_a_cotracker_version_holds_weights_and_code_but_no_path(tmp_path):
    def version() -> str:
        return tracker_version(
            CoTracker3("cotracker3", repository=str(tmp_path), checkpoint=str(tmp_path / "weights.pth"))
        )

    assert "weights" not in version()
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    (tmp_path / "weights.pth").write_bytes(b"one")
    found = {version()}
    (tmp_path / "weights.pth").write_bytes(b"other")
    found.add(version())
    (tmp_path / "cotracker").mkdir()
    (tmp_path / "cotracker" / "predictor.py").write_text("pass")
    found.add(version())
    assert len(found) == 3 and not any(str(tmp_path) in one for one in found)
    known = tracker_version(CoTracker3("cotracker3"))
    assert known.endswith(f" weights sha256:{cotracker3.WEIGHTS_SHA256[:16]}")


TAPNEXT = """
import torch

class TAPNext(torch.nn.Module):
    def __init__(self, image_size):
        super().__init__()
        assert tuple(image_size) == (256, 256)
        self.speed = torch.nn.Parameter(torch.zeros(2))

    def forward(self, video, query_points=None, state=None):
        assert video.shape == (1, 1, 256, 256, 3) and -1 <= video.min() < video.max() <= 1
        if state is None:
            assert (query_points[..., 0] == 0).all()
            state = (0, query_points[..., 1:])
        step, begin = state
        tracks = (begin + step * self.speed)[:, None]
        visible = torch.where(torch.arange(tracks.shape[2]) == step, -1.0, 1.0)[None, None, :, None]
        return tracks, None, visible, (step + 1, begin)
"""
RESTORE = """
import numpy as np
import torch

def restore_model_from_jax_checkpoint(model, path):
    model.speed.data = torch.from_numpy(np.load(path)["speed"])
    return model
"""


@pytest.fixture
def tapnet(tmp_path, monkeypatch):
    """A package with the model's entry points, and a constant speed (rows, columns) as its weights."""
    folder = tmp_path / "tapnet" / "tapnext"
    folder.mkdir(parents=True)
    for name, text in (("__init__", ""), ("tapnext_torch", TAPNEXT), ("tapnext_torch_utils", RESTORE)):
        (folder / f"{name}.py").write_text(text)
    (tmp_path / "tapnet" / "__init__.py").write_text("")
    np.savez(tmp_path / "weights.npz", speed=np.array([4.0, -8.0], np.float32))
    monkeypatch.syspath_prepend(tmp_path)
    tapnext._load.cache_clear()
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "tapnet"]:
        del sys.modules[name]
    tapnext._load.cache_clear()


def test_tapnext_speaks_to_its_model_forwards_and_backwards(tapnet):
    tracker = TapNext("tapnext", grid=5, checkpoint=str(tapnet / "weights.npz"), device="cpu")
    tracker.ready()
    tracks = tracker.track(translating((0.0, 0.0), frames=5))
    since = np.abs(np.arange(5)[:, None] - tracks.start)[..., None]
    # 4 rows and -8 columns of 256x256 are 1.5 rows of 96 and -4 columns of 128.
    np.testing.assert_allclose(tracks.points, begins(tracks) + since * [-4, 1.5], atol=1e-3)
    np.testing.assert_array_equal(begins(tracks), np.tile(start_grid(96, 128, 5), (3, 1)))
    number = np.arange(25).repeat(3).reshape(25, 3).T.ravel()
    np.testing.assert_array_equal(~tracks.visible, (since[..., 0] == number) & (since[..., 0] > 0))


def test_a_tapnext_version_holds_weights_and_code_but_no_path(tapnet):
    tracker = TapNext("tapnext", checkpoint=str(tapnet / "weights.npz"))
    found = {tracker_version(tracker)}
    (tapnet / "tapnet" / "tapnext" / "tapnext_torch.py").write_text(TAPNEXT + "pass")
    found.add(tracker_version(tracker))
    (tapnet / "weights.npz").write_bytes(b"other")
    found.add(tracker_version(tracker))
    assert len(found) == 3 and not any(str(tapnet) in one for one in found)
    assert "weights" not in tracker_version(TapNext("tapnext"))


def test_tapnext_missing_says_why_and_what_to_do(tmp_path):
    tapnext._load.cache_clear()
    for checkpoint, reason in ((None, "no weights"), (str(tmp_path / "none.npz"), "cannot be loaded")):
        with pytest.raises(MetricUnavailable, match=f"{reason}.*pip install.*tracker.checkpoint"):
            TapNext("tapnext", checkpoint=checkpoint, device="cpu").track(translating((0.0, 0.0), frames=2))
    tapnext._load.cache_clear()
