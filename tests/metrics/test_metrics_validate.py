"""The yardsticks themselves: TAP-Vid's measures, pairs with known motion, and rank correlations."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from first_frame import from_first
from metric_nodes import names

from datasets.media import video
from datasets.media.video import write_ffv1
from datasets.sprites.world import HELD_OUT, draw
from metrics.interface import Tracks
from metrics.motion_fidelity import MotionFidelity
from metrics.trackers.dis import Dis
from metrics.trackers.starts import start_grid
from metrics.validate import ranking
from metrics.validate.__main__ import main
from metrics.validate.overlay import draw as overlay
from metrics.validate.pairs import KINDS, SPEED, displacements, errors, pairs, reference
from metrics.validate.tracker import THRESHOLDS, moving, score_clips, sprites, tap_vid


def random_tracks(seed: int, n: int = 40, frames: int = 7) -> tuple[Tracks, Tracks]:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 64, (frames, n, 2)).astype(np.float32)
    away = rng.normal(0, 1, points.shape) * rng.choice([0.1, 1, 4], (1, n, 1))
    found = (points + away).astype(np.float32)
    found[0] = points[0]
    seen, claimed = rng.uniform(size=(2, frames, n)) < 0.7
    return from_first(found, claimed), from_first(points, seen)


@pytest.mark.parametrize("seed", range(3))
def test_tap_vids_measures_by_loops(seed):
    """As the paper says them in words, point by point, in frames of 48 rows and 64 columns."""
    found, true = (tracks._replace(start=np.arange(40) % 7) for tracks in random_tracks(seed))
    frames, n = true.visible.shape
    within, jaccard, agree = [], [], []
    for threshold in THRESHOLDS:
        near = visible = hits = false = 0
        for i in range(n):
            for t in set(range(frames)) - {int(true.start[i])}:
                dx, dy = (found.points[t, i].astype(float) - true.points[t, i]) * [256 / 64, 256 / 48]
                close = (dx * dx + dy * dy) ** 0.5 < threshold
                visible += true.visible[t, i]
                near += true.visible[t, i] and close
                hits += true.visible[t, i] and found.visible[t, i] and close
                false += found.visible[t, i] and not (true.visible[t, i] and close)
                agree.append(true.visible[t, i] == found.visible[t, i])
        within.append(near / visible)
        jaccard.append(hits / (visible + false))
    result = tap_vid(found, true, (48, 64))
    assert result.within == pytest.approx(within)
    assert result.delta == pytest.approx(np.mean(within))
    assert result.jaccard == pytest.approx(np.mean(jaccard))
    assert result.occlusion == pytest.approx(np.mean(agree))


def test_true_tracks_score_one_and_none_score_nothing():
    _, true = random_tracks(0)
    assert tap_vid(true, true, (64, 64))[:3] == (1, 1, 1)
    none = from_first(true.points[:, :0], true.visible[:, :0])
    assert np.isnan(tap_vid(none, none, (64, 64)).delta)


def test_points_that_stay_within_a_pixel_of_256_do_not_move():
    points = np.zeros((4, 3, 2), np.float32)
    points[2, 1] = 0.24
    points[3, 2, 0] = 0.26
    assert moving(from_first(points, np.ones((4, 3), bool)), (64, 64)).tolist() == [False, True, True]
    later = from_first(points, np.ones((4, 3), bool))._replace(start=np.array([0, 2, 3]))
    assert moving(later, (64, 64)).tolist() == [False, True, True]
    points[2, 1] = 0.17
    assert moving(from_first(points, np.ones((4, 3), bool)), (64, 64)).tolist() == [False, False, True]


def test_dis_reaches_its_mark_on_moving_points():
    seeds = range(HELD_OUT + 3000, HELD_OUT + 3005)
    clips = list(score_clips(Dis("dis", grid=20), sprites(seeds, 17, 64)))
    assert np.nanmean([clip.moving.delta for clip in clips]) >= 0.85
    assert np.nanmean([clip.all.delta for clip in clips]) >= 0.90
    assert np.nanmean([clip.moving.occlusion for clip in clips]) >= 0.85


class Still:
    """A tracker for tests that only read true tracks."""

    name = "still"
    version = "0"

    def track(self, frames, masks=None):
        start = start_grid(*frames.shape[1:3], 12)
        points = np.repeat(start[None], len(frames), 0)
        return from_first(points, np.ones(points.shape[:2], bool))


def number(motion: str) -> int:
    return next(n for n in range(200) if reference(n, 17, 64).motion == motion)


def made(motion: str):
    found = {pair.kind: pair for pair in pairs(Still(), number(motion), 17, 64, new_look=False)}
    camera = motion in ("pan", "zoom")
    assert list(found) == [k for k in KINDS if not camera or not k.startswith(("shifted", "turned"))]
    return found


def test_every_kind_of_pair_moves_as_it_says():
    found = made("straight")
    truth = found["same"].reference.truth
    speed = np.linalg.norm(displacements(truth), axis=-1).mean()
    for kind in ("same", "re-coloured", "noise"):
        assert found[kind].errors == pytest.approx((0, 1, 0, 0), abs=1e-5)
    assert found["shifted"].errors[:3] == pytest.approx((0, 1, 0), abs=1e-5)
    assert found["shifted"].errors.position > 5
    for kind, factor in (("half speed", 0.5), ("double speed", 2), ("static", 0)):
        assert found[kind].errors.displacement == pytest.approx(abs(factor - 1) * speed, abs=1e-4)
        assert found[kind].errors.speed == pytest.approx(abs(factor - 1) * speed, abs=1e-4)
        assert found[kind].errors.direction == pytest.approx(float(factor > 0), abs=1e-4)
    assert found["reversed"].errors[:3] == pytest.approx((2 * speed, -1, 0), abs=1e-4)
    assert found["re-timed"].errors.direction == pytest.approx(1, abs=1e-4)
    assert found["re-timed"].errors.speed > speed / 4
    for degrees in (30, 60, 90, 120, 150):
        turned, angle = found[f"turned {degrees}"].errors, np.deg2rad(degrees)
        assert turned.direction == pytest.approx(np.cos(angle), abs=1e-4)
        assert turned.displacement == pytest.approx(2 * np.sin(angle / 2) * speed, abs=1e-4)
        assert turned.speed == pytest.approx(0, abs=1e-5)
    x = found["mirrored"].generated.truth.positions[..., 0]
    np.testing.assert_allclose(63 - x, truth.positions[..., 0], atol=1e-4)
    assert 0.5 < found["jitter"].errors.direction < 1
    assert np.abs(found["noise"].generated.frames.astype(int) - found["same"].generated.frames).mean() > 4
    words = [found[kind].generated.truth.attributes for kind in ("same", "re-coloured")]
    assert words[0].background != words[1].background


@pytest.mark.parametrize("side, frames", [(64, 17), (96, 17), (64, 49)])
def test_objects_of_every_clip_go_at_one_speed_and_keep_their_route(side, frames):
    for motion in ("straight", "curved", "accelerating", "stopping", "two"):
        seed = HELD_OUT + number(motion)
        drawn, even, half = (
            displacements(truth).astype(float)
            for truth in (
                draw(seed, frames, side, side),
                reference(number(motion), frames, side),
                reference(number(motion), frames, side, speed=None),
            )
        )
        assert np.linalg.norm(even, axis=-1).mean(0) == pytest.approx(
            SPEED * side / 64 * 16 / (frames - 1), abs=1e-4
        )
        assert (np.linalg.norm(even, axis=-1) <= np.linalg.norm(drawn, axis=-1)).all(), "it fits the frame"
        np.testing.assert_allclose(half, drawn / 2, atol=1e-4)
        faster = np.linalg.norm(even, axis=-1).mean(0) / np.linalg.norm(drawn, axis=-1).mean(0)
        np.testing.assert_allclose(even, drawn * faster[:, None], atol=1e-4)


@pytest.mark.parametrize("motion", ["pan", "zoom"])
def test_camera_pairs_move_as_they_say(motion):
    found = made(motion)
    truth = found["same"].reference.truth
    speed = np.linalg.norm(displacements(truth), axis=-1).mean()
    assert found["static"].errors.displacement == pytest.approx(speed)
    assert found["half speed"].errors.displacement == pytest.approx(speed / 2, rel=0.1)
    assert found["reversed"].errors.direction == pytest.approx(-1, abs=0.01)
    assert found["same"].errors[:3] == (0, pytest.approx(1), 0)
    assert np.isnan(found["same"].errors.position)


@pytest.mark.parametrize("motion", ["straight", "curved", "accelerating", "stopping"])
def test_double_speed_stays_in_the_frame(motion):
    found = made(motion)
    for kind in KINDS:
        assert found[kind].generated.truth.inside.all(), kind


def test_other_things_at_the_same_place_is_what_a_new_look_means():
    one, other = (
        next(iter(pairs(Still(), number("curved"), 17, 64, new_look, ("half speed",))))
        for new_look in (False, True)
    )
    assert errors(one.generated.truth, other.generated.truth) == pytest.approx((0, 1, 0, 0), abs=1e-5)
    assert one.generated.truth.attributes != other.generated.truth.attributes


def test_motion_fidelity_ranks_as_the_truth_does():
    metrics = (MotionFidelity("motion_fidelity"),)
    numbers = [n for n in range(20) if reference(n, 17, 64).kind == "object"][:3]
    all_pairs = (pair for n in numbers for pair in pairs(Still(), n, 17, 64, False))
    frame = ranking.measure(all_pairs, metrics, Still())
    table = ranking.correlations(frame, "object", metrics)
    assert table.at["motion_fidelity", "direction"] >= 0.85
    assert table.at["motion_fidelity", "displacement"] >= 0.85
    means = ranking.by_kind(frame, "object")["motion_fidelity"]
    assert means["same"] == pytest.approx(1)
    assert means["re-coloured"] > 0.9
    assert means["static"] == 0
    assert max(means["chance"], means["shifted"], means["reversed"]) < 0.4


def test_pairs_that_move_alike_elsewhere_have_no_place_in_the_order():
    """Right by displacement, wrong by position: only the values of the others are ranked."""
    frame = pd.DataFrame(
        {
            "clip": "a",
            "moves": "object",
            "kind": ["same", "x", "y", "shifted"],
            "displacement": [0.0, 1, 2, 0],
            "direction": [1.0, 0.5, 0, 1],
            "speed": [0.0, 1, 2, 0],
            "position": [0.0, 1, 2, 9],
            "motion_fidelity": [1.0, 0.9, 0.2, -9],
        }
    )
    table = ranking.correlations(frame, "object", (MotionFidelity("motion_fidelity"),))
    assert table.loc["motion_fidelity"].tolist() == pytest.approx([1, 1, 1, 1, 3])


def test_noise_costs_more_of_a_rank_correlation_where_the_truth_is_equal():
    """Why pairs are turned by several angles: a share f of equal truths leaves at most sqrt(1 - f^3)."""
    rng = np.random.default_rng(0)
    spread = np.linspace(1, -1, 400)
    for truth, most in ((spread, 1.0), (np.where(spread > 0, 1.0, spread), (1 - 0.5**3) ** 0.5)):
        frame = pd.DataFrame(
            {"clip": "a", "moves": "object", "kind": "x", "displacement": 0.0, "direction": truth}
            | {
                "speed": 0.0,
                "position": 0.0,
                "motion_fidelity": truth - rng.uniform(0, 0.04, 400),
            }
        )
        metrics = [metric for metric in ranking.motion_metrics() if metric.name in frame]
        found = ranking.correlations(frame, "object", metrics).at["motion_fidelity", "direction"]
        assert found == pytest.approx(most, abs=0.01)


def test_ties_broken_is_what_true_tracks_with_a_breath_of_noise_reach():
    """Half of the truths are equal; on true tracks so are the values, and the row below shows the cost."""
    spread = np.linspace(1, -1, 400)
    truth = np.where(spread > 0, 1.0, spread)
    frame = pd.DataFrame(
        {"clip": "a", "moves": "object", "kind": "x", "direction": truth, "motion_fidelity": truth}
        | {"motion_fidelity (true tracks)": truth}
        | dict.fromkeys(("displacement", "speed", "position"), 0.0)
    )
    metrics = [metric for metric in ranking.motion_metrics() if metric.name in frame]
    found = ranking.correlations(frame, "object", metrics)["direction"]
    assert found["motion_fidelity (true tracks)"] == pytest.approx(1)
    assert found["motion_fidelity (true tracks, ties broken)"] == pytest.approx(0.875**0.5, abs=0.01)
    noisy = frame.assign(motion_fidelity=truth + np.random.default_rng(1).normal(0, 1e-5, 400))
    beside = ranking.correlations(noisy, "object", metrics)["direction"]
    assert beside["motion_fidelity"] == pytest.approx(
        found["motion_fidelity (true tracks, ties broken)"], abs=0.01
    )


def test_correlations_count_both_ways_and_leave_chance_out():
    frame = pd.DataFrame(
        {
            "clip": list("abcde"),
            "moves": "object",
            "kind": ["same", "x", "y", "z", "chance"],
            "displacement": [0.0, 1, 2, 3, -9],
            "direction": [1.0, 0.5, 0, -1, -9],
            "speed": [0.0, 1, 3, 2, -9],
            "position": [0.0, 0, 0, 0, 0],
            "motion_fidelity": [1.0, 0.9, 0.2, -0.5, 9],
            "position_error": [0.0, 1, 5, 8, -9],
        }
    )
    metrics = [metric for metric in ranking.motion_metrics() if metric.name in frame]
    table = ranking.correlations(frame, "object", metrics)
    for name in ("motion_fidelity", "position_error"):
        assert table.loc[name, ["displacement", "direction", "speed"]].tolist() == pytest.approx([1, 1, 0.8])
        assert np.isnan(table.at[name, "position"]) and table.at[name, "pairs"] == 4


def test_within_clips_a_metric_is_not_asked_which_clip_is_the_harder():
    frame = pd.DataFrame(
        {
            "clip": list("aaabbbc"),
            "moves": "object",
            "kind": ["x", "y", "z"] * 2 + ["x"],
            "displacement": [0.0, 1, 2, 10, 11, 12, 5],
            "direction": 1.0,
            "speed": [0.0, 1, 2, 12, 11, 10, 5],
            "position": 0.0,
            "motion_fidelity": [0.3, 0.2, 0.1, 0.9, 0.8, 0.7, 0.5],
        }
    )
    metrics = [metric for metric in ranking.motion_metrics() if metric.name in frame]
    together, within = (
        ranking.correlations(frame, "object", metrics, within_clips=choice) for choice in (False, True)
    )
    assert together.at["motion_fidelity", "displacement"] < 0
    assert within.at["motion_fidelity", "displacement"] == pytest.approx(1)
    assert within.at["motion_fidelity", "speed"] == pytest.approx(0)
    assert np.isnan(within.at["motion_fidelity", "direction"])


def test_every_metric_of_motion_and_consistency_is_validated():
    of_the_prompt = {"clip_t", "objects_right", "background_right", "count_right"}
    assert {metric.name for metric in ranking.motion_metrics()} == set(names("all")) - of_the_prompt


def test_standing_still_is_as_wrong_as_the_reference_is_fast(tmp_path, capsys, monkeypatch):
    """One speed for all clips, unless the drawn speeds are asked for."""
    monkeypatch.setattr("metrics.validate.__main__.Dis", lambda name, grid: Still())
    monkeypatch.setattr(ranking, "motion_metrics", lambda: (MotionFidelity("motion_fidelity"),))
    clip = number("straight")
    for options, speed in (([], SPEED), (["--drawn-speed"], None)):
        csv = tmp_path / f"{speed}.csv"
        assert main(["--clips", "1", "--first", str(clip), "--csv", str(csv), *options]) == 0
        assert "| motion_fidelity |" in capsys.readouterr().out
        wrong = pd.read_csv(csv).set_index("kind").at["static", "displacement"]
        fast = np.linalg.norm(displacements(reference(clip, 17, 64, speed=speed)), axis=-1).mean()
        assert wrong == pytest.approx(fast, abs=1e-4)
    assert fast != pytest.approx(SPEED, abs=0.05)


def test_the_commands_print_tables_and_write_what_they_say(tmp_path, capsys):
    assert main(["tracker", "--clips", "1", "--grid", "8", "--csv", str(tmp_path / "new" / "t.csv")]) == 0
    assert "delta_avg" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "new" / "t.csv")) == 3
    assert main(["overlay", str(tmp_path / "none.mp4"), str(tmp_path / "o.png")]) == 2
    assert "none.mp4" in capsys.readouterr().err


def test_the_time_is_that_of_81_frames_at_480x832(tmp_path, capsys, monkeypatch):
    shown = []

    class Watching(Still):
        def track(self, frames, masks=None):
            shown.append(frames)
            return super().track(frames)

    monkeypatch.setattr("metrics.validate.__main__.Dis", lambda name, grid: Watching())
    frames = np.random.default_rng(0).integers(0, 255, (7, 24, 40, 3)).astype(np.uint8)
    write_ffv1(tmp_path / "a.mkv", frames, 24)
    assert main(["tracker", "--time", str(tmp_path / "a.mkv")]) == 0
    assert "s of processors" in capsys.readouterr().out
    assert shown[0].shape == (81, 480, 832, 3)
    # To and fro: its ends are held for two frames, and nothing jumps.
    brightness = shown[0].mean((1, 2, 3))
    np.testing.assert_allclose(brightness[7:14], brightness[6::-1])
    np.testing.assert_allclose(brightness[14:21], brightness[:7])


def test_an_overlay_shows_only_visible_points():
    frames = np.zeros((5, 40, 60, 3), np.uint8)
    tracks = Still().track(frames)
    hidden = from_first(tracks.points, np.zeros_like(tracks.visible))
    assert overlay(frames, hidden).shape == (40, 180, 3)
    assert not overlay(frames, hidden).any()
    assert overlay(frames, tracks).any()


def test_a_benchmark_s_tracks_are_set_beside_those_that_begin_nearest(tmp_path, capsys):
    """A texture that slides two pixels a frame, with tracks that know it and one that says it rests."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
    scene = cv2.resize(coarse, (320, 128), interpolation=cv2.INTER_CUBIC)
    frames = np.stack([scene[:, 60 - 2 * t : 60 - 2 * t + 222] for t in range(9)])
    home = tmp_path / "en"
    for part in ("video", "track/single"):
        (home / part).mkdir(parents=True)
    video.write_ffv1(tmp_path / "a.mkv", frames, 16)
    shutil.copy(tmp_path / "a.mkv", home / "video" / "a.mp4")
    begun = rng.uniform([30, 20], [150, 100], (40, 2))
    points = begun[None] + 2 * np.arange(9)[:, None, None] * np.array([1, 0])
    (home / "single_track.txt").write_text("a.mp4,A wall\n")
    asked = [
        "tracker",
        "--movebench",
        str(tmp_path),
        "--frames",
        "9",
        "--side",
        "128",
        "--csv",
        str(tmp_path / "t.csv"),
    ]
    found = []
    for tracks in (points, np.repeat(begun[None], 9, 0)):
        np.save(home / "track/single/a_tracks.npy", tracks.astype(np.float32))
        np.save(home / "track/single/a_visibility.npy", np.ones((9, 40), bool))
        assert main(asked) == 0
        table = pd.read_csv(tmp_path / "t.csv").set_index("points")
        found.append(table.at["all", "delta_avg"])
    assert found[0] > 0.95 and found[1] < 0.75
    assert "mean of 1 clips" in capsys.readouterr().out
    (home / "track/single/a_tracks.npy").unlink()
    assert main(asked) == 2
    assert "none of its first clips has tracks" in capsys.readouterr().err
