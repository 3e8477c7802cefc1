"""Motion fidelity by place, on videos whose motion is known exactly."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from metrics import flow_grid as grids
from metrics.flow_grid import flow_grid, grid_shape, keep_in, mask_grid
from metrics.interface import Sample
from metrics.motion_fidelity import WINDOW, MotionFidelity, motion_fidelity

STEPS, ROWS, COLUMNS = 8, 16, 24
HEIGHT, WIDTH = 96, 144


class NoTracker:
    name = "none"
    version = "0"

    def track(self, frames, masks=None):
        raise AssertionError("no tracks are needed")


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = gaussian_filter(noise, (2.5, 2.5, 0), mode="wrap")
    return 128 + smooth / smooth.std() * 40


def panned(step: tuple[float, float], frames: int = 9, seed: int = 0) -> np.ndarray:
    """A texture that goes ``step`` (x, y) pixels a frame, around the border."""
    made = [
        shift(texture(seed), (t * step[1], t * step[0], 0), order=3, mode="grid-wrap") for t in range(frames)
    ]
    return np.clip(np.round(made), 0, 255).astype(np.uint8)


def patch(path: np.ndarray, side: int = 24, seed: int = 1, background: int = 2) -> np.ndarray:
    """A square of one texture on another that rests; ``path`` (T, 2) x, y of its corner."""
    ground = texture(background)
    frames = np.repeat(ground[None], len(path), 0)
    for frame, (x, y) in zip(frames, np.round(path).astype(int), strict=True):
        frame[y : y + side, x : x + side] = texture(seed)[:side, :side]
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)


def line(start: tuple[float, float], step: tuple[float, float], frames: int = 9) -> np.ndarray:
    return np.array(start) + np.arange(frames)[:, None] * np.array(step)


def score(generated: np.ndarray, reference: np.ndarray, masks: np.ndarray | None = None):
    sample = Sample("a", generated, reference, "", NoTracker(), masks=masks)
    return MotionFidelity("motion_fidelity").score(sample)


def grid(vector: tuple[float, float] = (0, 0)) -> np.ndarray:
    return np.broadcast_to(np.array(vector, np.float32), (STEPS, ROWS, COLUMNS, 2)).copy()


def by_definition(g: np.ndarray, r: np.ndarray, masked: np.ndarray | None = None) -> float:
    """The docstring written out cell by cell, in Python's own numbers."""

    def mean(cells, t, y, x):
        seen = [cells[s, y, x] for s in range(t, t + window) if np.isfinite(cells[s, y, x]).all()]
        return np.mean(seen, 0) if seen else np.zeros(np.shape(cells[t, y, x]))

    window = min(5, len(g))
    places = [
        (t, y, x) for t in range(len(g) - window + 1) for y in range(g.shape[1]) for x in range(g.shape[2])
    ]
    motion = [{place: mean(cells, *place) for place in places} for cells in (g, r)]
    lengths = [float(np.hypot(*v)) for one in motion for v in one.values()]
    still = max(0.001, 0.25 * sum(length**2 for length in lengths) / sum(lengths))
    motion = [{k: v if np.hypot(*v) >= still else np.zeros(2) for k, v in one.items()} for one in motion]
    above = below = 0.0
    for own, other in (motion, motion[::-1]):
        for t, y, x in places:
            a = own[t, y, x]
            if not a.any() or (masked is not None and mean(masked[..., None], t, y, x) < 0.25):
                continue
            around = [(t, y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            near = [other[place] for place in around if place in other]
            above += np.hypot(*a) * max(2 * (a @ b) / (a @ a + b @ b) for b in near)
            below += np.hypot(*a)
    return above / below


@pytest.mark.parametrize("masked", [False, True])
def test_the_value_is_the_definition_written_out(masked):
    rng = np.random.default_rng(3)
    g, r = (rng.normal(0, 0.02, (7, 5, 6, 2)).cumsum(1).astype(np.float32) for _ in range(2))
    g[:, 1:3, 2] = np.nan
    g[2, 0, 0] = np.nan
    r[:, :2] = 0
    shares = rng.uniform(0, 0.6, (7, 5, 6)).astype(np.float32) if masked else None
    found = motion_fidelity(g, r, shares).value
    assert found == pytest.approx(by_definition(g, r, shares), abs=1e-5)
    assert found == pytest.approx(motion_fidelity(r, g, shares).value, abs=1e-6)


@pytest.mark.parametrize(
    ("generated", "value"),
    [((0.02, 0.01), 1), ((0.01, 0.005), 0.8), ((0.04, 0.02), 0.8), ((-0.02, -0.01), -1), ((-0.01, 0.02), 0)],
)
def test_direction_and_speed_of_a_motion_count(generated, value):
    assert motion_fidelity(grid(generated), grid((0.02, 0.01))).value == pytest.approx(value, abs=1e-6)


def test_what_moves_in_one_video_and_rests_in_the_other_costs_on_either_side():
    half, whole = grid(), grid((0.02, 0))
    half[:, :, :12] = 0.02, 0
    found = motion_fidelity(half, whole).value
    # 12 of 24 columns move in both, one more has a partner beside it.
    assert found == pytest.approx((12 + 13) / 36)
    assert motion_fidelity(whole, half).value == pytest.approx(found)


def test_a_partner_two_cells_away_is_none():
    here, beside, away = grid(), grid(), grid()
    here[:, 5, 5] = beside[:, 5, 6] = away[:, 5, 7] = 0.02, 0
    assert motion_fidelity(beside, here).value == pytest.approx(1)
    assert motion_fidelity(away, here).value == 0


def test_an_unknown_cell_counts_as_rest():
    unknown = grid((0.02, 0))
    unknown[:] = np.nan
    assert motion_fidelity(unknown, grid((0.02, 0))).value == 0


def test_a_cell_known_in_some_steps_moves_as_it_does_in_those():
    gaps = grid((0.02, 0))
    gaps[1::2] = np.nan
    assert motion_fidelity(gaps, grid((0.02, 0))).value == pytest.approx(1)


def test_trembling_cancels_out_over_the_window():
    steady, trembling = grid((0.02, 0)), grid((0.02, 0))
    trembling[::2, ..., 1] += 0.01
    trembling[1::2, ..., 1] -= 0.01
    assert motion_fidelity(trembling, steady).value > 0.98


def test_the_flow_of_a_pan_is_read_in_shorter_sides_a_step():
    found = flow_grid(panned((3, -1.5)), (HEIGHT, WIDTH))
    assert found.shape == (8, *grid_shape((HEIGHT, WIDTH)), 2) == (8, 16, 24, 2)
    inner = found[:, 2:-2, 2:-2]
    assert np.isfinite(inner).mean() > 0.9
    assert np.nanmedian(inner, (0, 1, 2)) * HEIGHT == pytest.approx([3, -1.5], abs=0.15)


def test_grids_kept_in_a_folder_are_those_that_were_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "_kept", OrderedDict())
    monkeypatch.setattr(grids, "_folder", None)
    frames = panned((2, 0), frames=4)
    computed = flow_grid(frames, (HEIGHT, WIDTH))
    for _ in range(2):
        grids._kept.clear()
        keep_in(tmp_path)
        assert np.array_equal(flow_grid(frames, (HEIGHT, WIDTH)), computed, equal_nan=True)
    (kept,) = tmp_path.iterdir()
    grids._kept.clear()
    np.savez(kept, grid=computed + 1)
    assert np.array_equal(flow_grid(frames, (HEIGHT, WIDTH)), computed + 1, equal_nan=True), "it is taken"
    grids._kept.clear()
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(flow_grid(frames, (HEIGHT, WIDTH)), computed, equal_nan=True), "a torn one is not"


def test_flow_is_read_at_the_size_a_video_is_shown_at():
    squeezed = panned((3, 1.5))[:, :, ::2]
    found = flow_grid(squeezed, (HEIGHT, WIDTH))
    assert np.nanmedian(found[:, 2:-2, 2:-2], (0, 1, 2)) * HEIGHT == pytest.approx([3, 1.5], abs=0.2)


def test_a_portrait_video_has_its_cells_along_the_width():
    assert grid_shape((832, 480)) == (28, 16)
    upright = panned((3, -1.5)).transpose(0, 2, 1, 3)
    found = flow_grid(np.ascontiguousarray(upright), (WIDTH, HEIGHT))
    assert np.nanmedian(found[:, 2:-2, 2:-2], (0, 1, 2)) * HEIGHT == pytest.approx([-1.5, 3], abs=0.15)


def test_the_clip_itself_scores_one_and_a_frozen_video_nothing():
    moving = patch(line((20, 20), (6, 3)))
    assert score(moving, moving).value == pytest.approx(1)
    frozen = np.repeat(moving[:1], len(moving), 0)
    found = score(frozen, moving)
    assert found.value == 0
    assert found.details["moving_generated"] == 0 < found.details["moving_reference"]
    assert found.details["cells"] == 16 * 24


def test_the_same_motion_of_another_object_before_another_background_scores_high():
    path = line((20, 20), (6, 3))
    assert score(patch(path, seed=5, background=6), patch(path)).value > 0.75


@pytest.mark.parametrize("change", ["mirrored", "reversed", "elsewhere"])
def test_another_motion_scores_low(change):
    reference = patch(line((20, 20), (6, 3)))
    generated = {
        "mirrored": patch(line((100, 20), (-6, 3)), seed=5),
        "reversed": patch(line((68, 44), (-6, -3)), seed=5),
        "elsewhere": patch(line((20, 66), (6, 0)), seed=5),
    }[change]
    assert score(generated, reference).value < 0.25


def test_a_still_with_one_moving_dot_scores_low_beside_a_moving_camera():
    reference = panned((3, 1))
    dotted = np.repeat(reference[:1], len(reference), 0)
    for frame, (x, y) in zip(dotted, line((40, 40), (3, 1)).astype(int), strict=True):
        frame[y : y + 4, x : x + 4] = 255, 0, 0
    assert -0.1 < score(dotted, reference).value < 0.1


def test_noise_on_a_frozen_video_is_no_motion():
    reference = panned((3, 1))
    rng = np.random.default_rng(0)
    frozen = np.repeat(reference[:1].astype(float), len(reference), 0)
    noisy = np.clip(np.round(frozen + rng.normal(0, 8, frozen.shape)), 0, 255).astype(np.uint8)
    assert -0.1 < score(noisy, reference).value < 0.1


def test_a_bare_image_rests_whatever_flow_makes_of_its_noise():
    textured = panned((2, 0)).astype(float)
    wall = 128 + np.random.default_rng(5).normal(0, 4, textured.shape)
    frames = np.where(np.arange(WIDTH)[:, None] < WIDTH // 2, textured, wall)
    cells = flow_grid(np.clip(np.round(frames), 0, 255).astype(np.uint8), (HEIGHT, WIDTH))
    columns = cells.shape[2]
    assert np.allclose(
        np.nanmedian(cells[:, :, 1 : columns // 2 - 2], (0, 1, 2)), [2 / HEIGHT, 0], atol=0.002
    )
    assert (cells[:, :, columns // 2 + 2 :] == 0).all()


def test_only_a_reference_that_rests_gives_no_value():
    moving = patch(line((20, 20), (6, 3)))
    frozen = np.repeat(moving[:1], len(moving), 0)
    found = score(moving, frozen)
    assert found.value is None
    assert "too little moves in the reference" in found.reason
    tiny = patch(line((20, 20), (6, 3)), side=5)
    assert score(tiny, moving).value is not None


def test_what_appears_late_is_seen():
    path = line((20, 20), (6, 3), 13)
    late = patch(path)
    late[:5] = patch(path, seed=2)[0][None]  # the ground alone: patch and ground share a texture
    late[:5] = np.clip(np.round(texture(2)), 0, 255).astype(np.uint8)
    assert score(late, late).details["moving_reference"] > 0
    rests = np.repeat(late[:1], len(late), 0)
    assert score(rests, late).value == 0


def test_masks_ask_only_what_moves_inside_them():
    path = line((20, 20), (4, 2))
    reference = patch(path)
    generated = patch(path, seed=5)
    busy = generated.copy()
    busy[:, 66:90] = patch(line((100, 66), (-6, 0)), side=24, seed=7)[:, 66:90]
    masks = np.zeros(reference.shape[:3], bool)
    for mask, (x, y) in zip(masks, path.astype(int), strict=True):
        mask[y : y + 24, x : x + 24] = True
    assert score(busy, reference, masks).value == pytest.approx(
        score(generated, reference, masks).value, abs=0.05
    )
    assert score(busy, reference).value < score(generated, reference).value - 0.15


def test_frames_without_a_mask_are_not_asked():
    """A folder's one mask is of its first frame: what moves there then is compared, and nothing later."""
    path = line((20, 20), (4, 2), 13)
    reference, generated = patch(path), patch(path, seed=5)
    generated[7:] = generated[7]
    masks = np.zeros(reference.shape[:3], bool)
    masks[0, 20:44, 20:44] = True
    found = score(generated, reference, masks)
    assert found.value > score(generated, reference).value + 0.1
    assert 0 < found.details["cells"] < 16 * 24 / 8


def test_a_mask_is_read_as_shares_of_cells():
    masks = np.zeros((3, 32, 48), bool)
    masks[0, :2, :2] = True
    masks[1, 0, 0] = True
    shares = mask_grid(masks)
    assert shares.shape == (3, 16, 24)
    assert shares[0, 0, 0] == 1
    assert shares[1, 0, 0] == 0.25
    assert shares[:2].sum() == 1.25
    assert np.isnan(shares[2]).all()


def test_a_smaller_copy_is_the_same_motion():
    reference = panned((4, 2), seed=3)
    smaller = reference[:, ::2, ::2]
    assert score(smaller, reference).value > 0.95


def test_chance_is_the_mean_over_references_of_other_clips():
    right, left = panned((3, 0)), panned((-3, 0))
    samples = [Sample(name, frames, frames, "", NoTracker()) for name, frames in (("a", right), ("b", left))]
    levels = MotionFidelity("motion_fidelity").levels(samples)
    assert levels["pairs"] == 2
    assert levels["chance"] == pytest.approx(score(right, left).value)
    assert levels["true"] == 1


def test_clips_of_fewer_steps_than_the_window_are_averaged_whole():
    short = panned((3, 1), frames=WINDOW - 1)
    assert score(short, short).value == pytest.approx(1)


def test_one_frame_has_no_motion():
    assert score(panned((3, 1), frames=1), panned((3, 1), frames=1)).value is None
