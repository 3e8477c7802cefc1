"""The detector and its metrics on discs and squares drawn here, and on true clips of the sprites world."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from datasets.sprites.detect import Detector, detect
from datasets.sprites.world import HELD_OUT, OBJECT_HUES, caption, draw, render
from metrics.interface import Sample
from metrics.position import (
    BackgroundFlowError,
    DirectionCosine,
    PositionError,
    direction_cosine,
    flow_errors,
    match,
)

DETECTOR = Detector(hue=18, saturation=0.5, value=0.3, area=0.002)
GREY = (110, 110, 110)
COLOURS = {"red": (200, 20, 20), "blue": (20, 60, 200), "green": (20, 200, 35)}
T = 9
CENTRE = 31.5


def line(start, step) -> np.ndarray:
    return np.array(start, float) + np.arange(T)[:, None] * np.array(step, float)


def drawn(things, height: int = 64, width: int = 64, background=GREY) -> np.ndarray:
    """Discs (colour, path, radius) over a flat background, painted later over earlier; None skips a frame."""
    frames = np.empty((T, height, width, 3), np.uint8)
    frames[:] = background
    for colour, path, radius in things:
        for frame, centre in zip(frames, path, strict=True):
            if not np.isnan(centre).any():
                place = np.round(np.array(centre) * 16).astype(int).tolist()
                cv2.circle(frame, place, radius * 16, COLOURS[colour], -1, cv2.LINE_AA, 4)
    return frames


def world(*positions, kind: str = "object", inside=None, pan=None, zoom=None):
    """The part of a rendered world's truth that metrics read."""
    stacked = np.stack(positions, 1).astype(np.float32) if positions else np.zeros((T, 1, 2), np.float32)
    pan = np.zeros((T, 2)) if pan is None else pan
    zoom = np.ones(T) if zoom is None else zoom
    return SimpleNamespace(
        kind=kind,
        frames=T,
        positions=stacked,
        inside=np.ones(stacked.shape[:2], bool) if inside is None else inside,
        to_image=lambda points, t: (points - CENTRE) * zoom[t] + CENTRE - pan[t],
        to_world=lambda points, t: (points + pan[t] - CENTRE) / zoom[t] + CENTRE,
    )


def score(metric, frames, truth, prompt: str, reference=None):
    reference = np.zeros((T, 64, 64, 3), np.uint8) if reference is None else reference
    return metric.score(Sample("a", frames, reference, prompt, None, truth=truth))


RED = "a red circle on a grey background"
TWO = "a red circle and a blue star on a grey background"
ERROR = PositionError("position_error")
COSINE = DirectionCosine("direction_cosine")
FLOW = BackgroundFlowError("background_flow_error")


def test_a_disc_is_found_to_a_fraction_of_a_pixel():
    path = line((15, 40), (3.3, -2.1))
    frames = drawn([("red", path, 7)])
    found = detect(frames, [OBJECT_HUES["red"]], DETECTOR)
    assert np.abs(found[:, 0] - path).max() < 0.25
    result = score(ERROR, frames, world(path), RED)
    assert result.value < 0.25
    assert result.details["missed"] == 0
    assert score(COSINE, frames, world(path), RED).value == pytest.approx(1, abs=0.01)


def test_a_square_is_found_exactly():
    frames = np.full((1, 40, 40, 3), 110, np.uint8)
    frames[0, 10:15, 20:27] = COLOURS["green"]
    assert detect(frames, [OBJECT_HUES["green"]], DETECTOR)[0, 0].tolist() == [23, 12]


def test_an_offset_is_the_error():
    path = line((20, 30), (2, 1))
    frames = drawn([("red", path + np.array([3, 4]), 7)])
    result = score(ERROR, frames, world(path), RED)
    assert result.value == pytest.approx(5, abs=0.2)
    assert result.per_frame == pytest.approx([5] * T, abs=0.3)
    assert score(COSINE, frames, world(path), RED).value == pytest.approx(1, abs=0.01)


def test_the_opposite_direction():
    frames = drawn([("red", line((40, 40), (-2, -1)), 7)])
    assert score(COSINE, frames, world(line((20, 30), (2, 1))), RED).value == pytest.approx(-1, abs=0.01)


def test_only_the_largest_region_of_the_prompted_colour_counts():
    path = line((20, 30), (2, 1))
    crumbs = line((55, 8), (0, 0))
    frames = drawn([("red", path, 7), ("red", crumbs, 3), ("blue", line((10, 55), (0, 0)), 9)])
    assert score(ERROR, frames, world(path), RED).value < 0.25


def test_frames_without_the_object_count_half_the_diagonal():
    path = line((20, 30), (2, 1))
    shown = path.copy()
    shown[[2, 5, 6]] = np.nan
    result = score(ERROR, drawn([("red", shown, 7)]), world(path), RED)
    half = np.hypot(64, 64) / 2
    assert result.details["missed"] == pytest.approx(3 / T)
    assert result.value == pytest.approx(3 * half / T, abs=0.2)
    empty = score(ERROR, drawn([]), world(path), RED)
    assert empty.value == pytest.approx(half)
    assert empty.details["missed"] == 1
    assert score(COSINE, drawn([]), world(path), RED).value is None


def test_specks_are_no_object():
    path = line((20, 30), (0, 0))
    assert score(ERROR, drawn([("red", path, 1)]), world(path), RED).details["missed"] == 1


def test_the_wrong_colour_is_no_object():
    path = line((20, 30), (2, 1))
    assert score(ERROR, drawn([("blue", path, 7)]), world(path), RED).details["missed"] == 1


def test_two_objects_are_matched_whichever_colour_goes_where():
    a, b = line((15, 15), (3, 1)), line((48, 50), (-2, -2))
    for red, blue in ((a, b), (b, a)):
        result = score(ERROR, drawn([("red", red, 6), ("blue", blue, 6)]), world(a, b), TWO)
        assert result.value < 0.3
        assert result.details["objects"] == 2


def test_two_objects_of_one_colour_keep_their_identity():
    a, b = line((12, 20), (5, 0)), line((52, 44), (-5, 0))
    frames = drawn([("red", a, 6), ("red", b, 5)])
    result = score(ERROR, frames, world(b, a), "a red circle and a red star on a grey background")
    assert result.value < 0.3
    assert score(COSINE, frames, world(b, a), "a red star and a red star on a grey background").value > 0.99


def test_an_object_too_few_is_missed_and_one_too_many_ignored():
    a, b = line((15, 15), (3, 1)), line((48, 50), (-2, -2))
    one = score(ERROR, drawn([("red", a, 6), ("blue", b, 6)]), world(a, b), RED)
    assert one.details["missed"] == 0.5
    assert one.value == pytest.approx(np.hypot(64, 64) / 4, abs=0.2)
    assert score(ERROR, drawn([("red", a, 6), ("blue", b, 6)]), world(a), TWO).value < 0.3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_matching_equals_the_best_permutation(count):
    rng = np.random.default_rng(count)
    detected, true = rng.uniform(0, 64, (2, T, count, 2))
    detected[3, 0] = np.nan
    best = min(
        np.mean(
            [
                np.nan_to_num(np.linalg.norm(detected[:, j] - true[:, k], axis=-1), nan=45).mean()
                for k, j in enumerate(order)
            ]
        )
        for order in permutations(range(count))
    )
    matched = match(detected, true, 45)
    found = np.nan_to_num(np.linalg.norm(matched - true, axis=-1), nan=45).mean()
    assert found == pytest.approx(best)


def test_frames_in_which_the_truth_is_hidden_do_not_count():
    path = line((20, 30), (2, 1))
    inside = np.ones((T, 1), bool)
    inside[4:] = False
    wrong = path.copy()
    wrong[4:] += 20
    result = score(ERROR, drawn([("red", wrong, 5)]), world(path, inside=inside), RED)
    assert result.value < 0.3
    assert len(result.per_frame) == 4


def test_positions_are_read_in_the_reference_frame():
    path = line((20, 30), (2, 1))
    frames = drawn([("red", (path + 0.5) * 2 - 0.5, 12)], height=128, width=128)
    assert score(ERROR, frames, world(path), RED).value < 0.25


def test_direction_cosine_by_loops():
    rng = np.random.default_rng(0)
    true = np.cumsum(rng.normal(0, 1, (T, 2, 2)), 0)
    detected = np.cumsum(rng.normal(0, 1, (T, 2, 2)), 0)
    detected[4, 1] = np.nan
    seen = np.ones((T, 2), bool)
    seen[7, 0] = False
    values = []
    for t in range(T - 2):
        for k in range(2):
            truth, step = true[t + 2, k] - true[t, k], detected[t + 2, k] - detected[t, k]
            if np.linalg.norm(truth) > 0.5 and seen[t, k] and seen[t + 2, k] and not np.isnan(step).any():
                values.append(truth @ step / np.linalg.norm(truth) / np.linalg.norm(step))
    assert direction_cosine(detected, true, seen) == pytest.approx(np.mean(values))
    still = np.repeat(detected[:1], T, 0)
    assert direction_cosine(still, true, seen) == 0
    assert direction_cosine(detected, still, seen) is None


def test_reasons_when_there_is_no_value():
    path = line((20, 30), (2, 1))
    frames = drawn([("red", path, 7)])
    for metric in (ERROR, COSINE, FLOW):
        none = score(metric, frames, None, RED)
        assert none.reason == "only rendered clips know the truth" and not none.applies
    for metric in (ERROR, COSINE):
        camera = score(metric, frames, world(path, kind="camera"), RED)
        assert "background_flow_error" in camera.reason and not camera.applies
        foreign = score(metric, frames, world(path), "a dog runs")
        assert "grammar" in foreign.reason and foreign.applies
    objects = score(FLOW, frames, world(path), RED)
    assert "position_error" in objects.reason and not objects.applies


def test_a_shorter_generation_is_compared_with_the_start_of_the_truth():
    path = line((20, 30), (2, 1))
    frames = drawn([("red", path, 7)])
    assert score(ERROR, frames[:5], world(path), RED).value < 0.25
    assert "more frames" in score(ERROR, np.concatenate([frames, frames]), world(path), RED).reason
    camera = world(kind="camera")
    assert score(FLOW, frames[:4, :40], camera, RED).value is not None
    assert "more frames" in score(FLOW, np.concatenate([frames, frames]), camera, RED).reason
    assert score(FLOW, frames[:1], camera, RED).value is None


def panned(step) -> np.ndarray:
    coarse = np.random.default_rng(0).uniform(20, 235, (40, 40, 3)).astype(np.float32)
    big = cv2.resize(coarse, (160, 160), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(np.arange(64.0), np.arange(64.0))
    maps = [((x + 40 - t * step[0]), (y + 40 - t * step[1])) for t in range(T)]
    frames = [cv2.remap(big, *(m.astype(np.float32) for m in pair), cv2.INTER_CUBIC) for pair in maps]
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def test_flow_error_of_a_pan():
    step = np.array([1.2, -0.7])
    frames = panned(step)
    truth = world(kind="camera", pan=-np.arange(T)[:, None] * step)
    true = score(FLOW, frames, truth, RED)
    assert true.value < 0.1 and true.per_frame == pytest.approx([true.value] * (T - 1), abs=0.05)
    assert true.details["used"] > 0.9 and true.details["missed"] == 0
    still = np.repeat(frames[:1], T, 0)
    assert score(FLOW, still, truth, RED).value == pytest.approx(np.hypot(1.2, 0.7), abs=0.01)
    back = world(kind="camera", pan=np.arange(T)[:, None] * step)
    assert score(FLOW, frames, back, RED).value == pytest.approx(2 * np.hypot(1.2, 0.7), abs=0.1)


def test_a_frozen_video_misses_all_of_a_zoom():
    """A pixel at distance r of the centre goes (s - 1) r in a step that zooms by s."""
    still = np.repeat(panned((0, 0))[:1], T, 0)
    truth = world(kind="camera", zoom=1.03 ** np.arange(T))
    # 64 pixels enlarged to 256: a mean over quarter pixels
    x, y = np.meshgrid(*2 * [(np.arange(256) + 0.5) / 4 - 0.5 - CENTRE])
    expected = 0.03 * np.hypot(x, y).mean()
    result = score(FLOW, still, truth, RED)
    assert result.value == pytest.approx(expected, abs=0.01)
    assert result.per_frame == pytest.approx([expected] * (T - 1), abs=0.01)


def test_flow_errors_are_in_pixels_of_the_reference():
    frames = panned((1.2, -0.7))
    truth = world(kind="camera")
    wide = np.stack([cv2.resize(frame, (128, 64), interpolation=cv2.INTER_CUBIC) for frame in frames])
    errors, _ = flow_errors(wide, truth, (64, 64))
    assert errors == pytest.approx([np.hypot(1.2, 0.7)] * (T - 1), abs=0.1)


def test_true_clips_are_read_to_half_a_pixel():
    errors, flows, cosines = [], [], []
    for seed in range(HELD_OUT, HELD_OUT + 24):
        frames, truth = render(seed)
        sample = Sample("a", frames, frames, caption(truth.attributes), None, truth=truth)
        if truth.kind == "camera":
            flows.append(FLOW.score(sample).value)
        else:
            errors.append(ERROR.score(sample).value)
            cosines.append(COSINE.score(sample).value)
    assert max(errors) <= 0.5
    assert max(flows) <= 0.1
    assert min(cosines) > 0.95
    assert len(flows) > 1
    assert draw(HELD_OUT).kind in ("object", "camera")


@pytest.mark.parametrize("rows, columns", [(3, 2), (2, 5)])
def test_a_generation_of_another_size_and_shape_is_measured_in_the_reference_s_pixels(rows, columns):
    """Every pixel of a clip wider than high repeated: the objects are where they were."""
    number = HELD_OUT
    while draw(number, T, 48, 80).motion != "curved":
        number += 1
    frames, truth = render(number, T, 48, 80)
    prompt = caption(truth.attributes)
    large = frames.repeat(rows, axis=1).repeat(columns, axis=2)
    same = score(ERROR, frames, truth, prompt, frames)
    other = score(ERROR, large, truth, prompt, frames)
    assert other.value == pytest.approx(same.value, abs=0.02)
    assert same.value < 1
    assert score(COSINE, large, truth, prompt, frames).value == pytest.approx(1, abs=0.02)


def test_a_displacement_counts_where_the_object_is_seen_at_both_of_its_ends():
    true = line((10, 20), (3, 0))[:, None]
    seen = np.ones((T, 1), bool)
    for hidden in (0, 4, T - 1):
        detected = true.copy()
        # Found somewhere else entirely while the true one is hidden.
        detected[hidden] += (0.0, 80.0)
        assert direction_cosine(detected, true, seen) < 0.95
        there = seen.copy()
        there[hidden] = False
        assert direction_cosine(detected, true, there) == pytest.approx(1)
