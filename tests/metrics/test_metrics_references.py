"""Every metric against a second implementation, written apart from the first, on random input, to 1e-5.

The references share no code with the metrics: plain loops, colorsys, scipy.ndimage and torchmetrics. Frames
are wider than high, and captions are not the prompts, so that what is swapped shows.
"""

from __future__ import annotations

import colorsys
import importlib
import json
import statistics
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from first_frame import from_first
from metric_nodes import names, node
from safetensors.torch import load_file
from scipy import ndimage
from torchmetrics.functional import pairwise_cosine_similarity

from datasets.sprites.world import BACKGROUNDS, HELD_OUT, MOTIONS, OBJECT_HUES, caption, draw, paint, parse
from metrics.interface import Sample, Tracks

CLOSE = pytest.approx
T = 6
HEIGHT, WIDTH = 48, 80


class NoTracker:
    name = "given"
    version = "0"


def plug_in(name: str):
    """The metric with the options of its YAML."""
    fields = node(name)
    module, _, attribute = fields.pop("_target_").rpartition(".")
    if "model" in fields:
        fields["model"] = "sprites"
    return getattr(importlib.import_module(module), attribute)(**fields)


# --- random input


def walks(rng: np.random.Generator, n: int) -> Tracks:
    """Random walks around common drifts, some points still, some hidden at times."""
    drift = rng.normal(0, 1.5, (T - 1, 1, 2)) * rng.uniform(0, 2, (1, n, 1))
    steps = drift + rng.normal(0, 0.7, (T - 1, n, 2))
    steps[:, : n // 5] = rng.normal(0, 0.02, (T - 1, n // 5, 2))
    start = rng.uniform(10, 50, (1, n, 2))
    points = np.concatenate([start, start + np.cumsum(steps, 0)]).astype(np.float32)
    return from_first(points, rng.uniform(size=(T, n)) > 0.1)


def texture(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A random texture that drifts and changes a little."""
    coarse = rng.uniform(0, 255, (height // 4, width // 4, 3))
    big = ndimage.zoom(coarse, (6, 6, 1), order=3, mode="nearest")
    shifts = np.cumsum(rng.integers(0, 3, (T, 2)), 0)
    video = np.stack([big[y : y + height, x : x + width] for y, x in shifts])
    return np.clip(video + rng.normal(0, 3, video.shape), 0, 255).astype(np.uint8)


def discs(rng: np.random.Generator, colours) -> np.ndarray:
    """Discs of random colours near the given ones, some too pale, on grey with speckles of all colours."""
    video = rng.integers(90, 130, (T, 1, 1, 3)).repeat(HEIGHT, 1).repeat(WIDTH, 2).astype(np.uint8)
    for frame in video:
        spots = rng.integers(0, (HEIGHT, WIDTH), (60, 2))
        frame[spots[:, 0], spots[:, 1]] = rng.integers(0, 256, (60, 3))
        for colour in colours:
            if rng.uniform() < 0.15:
                continue
            hue = (OBJECT_HUES[colour] + rng.uniform(-22, 22)) / 360
            rgb = [round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.45, 1), 0.8)]
            x, y = rng.integers(8, (WIDTH - 8, HEIGHT - 8)).tolist()
            cv2.circle(frame, (x, y), int(rng.integers(2, 7)), rgb, -1)
    return video


# --- references: each gives the value of a sample


def clip_t(sample: Sample) -> float:
    return float(np.mean(_clip(sample.generated) @ _clip_text(sample.prompt)))


def clip_f(sample: Sample) -> float:
    features = torch.from_numpy(_clip(sample.generated))
    return float(torch.diagonal(pairwise_cosine_similarity(features), 1).mean())


def _tiny():
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from metrics.clip_model import SPRITES_FOLDER

    config = json.loads((SPRITES_FOLDER / "config.json").read_text())
    model = CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=CLIPVisionCfg(**config["vision_cfg"]),
        text_cfg=CLIPTextCfg(**config["text_cfg"]),
    ).eval()
    model.load_state_dict({k: v.float() for k, v in load_file(SPRITES_FOLDER / "model.safetensors").items()})
    return model, config, json.loads((SPRITES_FOLDER / "vocabulary.json").read_text())


def _clip(frames: np.ndarray) -> np.ndarray:
    """Unit features of 64x64 frames, one at a time."""
    model, config, _ = _tiny()
    mean, std = (np.array(config["preprocess"][key]) for key in ("mean", "std"))
    rows = []
    for frame in frames:
        image = torch.tensor(((frame / 255 - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
        with torch.no_grad():
            row = model.encode_image(image)[0].double().numpy()
        rows.append(row / np.sqrt((row**2).sum()))
    return np.stack(rows)


def _clip_text(text: str) -> np.ndarray:
    model, config, words = _tiny()
    ids = [words.index(word) for word in ("<start>", *text.split(), "<end>")]
    padded = ids + [0] * (config["text_cfg"]["context_length"] - len(ids))
    with torch.no_grad():
        row = model.encode_text(torch.tensor([padded]))[0].double().numpy()
    return row / np.sqrt((row**2).sum())


def motion_fidelity(sample: Sample) -> float:
    """Cell by cell: medians of the flow on the main axis of colour, five steps averaged."""
    g, r = (_cells(frames) for frames in (sample.generated, sample.reference))
    lengths = [float(np.hypot(*v)) for v in (*g.values(), *r.values())]
    still = max(0.001, sum(length**2 for length in lengths) / sum(lengths) / 4)
    above = below = 0.0
    for own, other in ((g, r), (r, g)):
        for (row, column), a in own.items():
            if np.hypot(*a) < still:
                continue
            best = -1.0
            for place in ((row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if place in other:
                    b = other[place] if np.hypot(*other[place]) >= still else np.zeros(2)
                    best = max(best, 2 * float(a @ b) / float(a @ a + b @ b))
            above, below = above + np.hypot(*a) * best, below + np.hypot(*a)
    return above / below


def _cells(frames: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Mean motion of each 16th of the height over 5 steps, in heights; 0 where bare or never known."""
    tall, wide = 256, round(WIDTH * 256 / HEIGHT)
    big = [cv2.resize(frame, (wide, tall), interpolation=cv2.INTER_CUBIC) for frame in frames]
    big = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5 * 256 / HEIGHT) for frame in big])
    images = _main_axis(big)
    flows = [_checked(before, after) for before, after in pairwise(images)]
    steep = [
        sum((ndimage.sobel(image.astype(float), axis, mode="mirror") / 8) ** 2 for axis in (0, 1))
        for image in images
    ]
    rows, columns = 16, round(16 * WIDTH / HEIGHT)
    cells = {}
    for row, column in np.ndindex(rows, columns):
        top, bottom = round(row * tall / rows), round((row + 1) * tall / rows)
        left, right = round(column * wide / columns), round((column + 1) * wide / columns)
        known = []
        for (flow, failed), slopes in zip(flows, steep, strict=False):
            if slopes[top:bottom, left:right].mean() < 2**2:
                known.append([0.0, 0.0])
                continue
            good = ~failed[top:bottom, left:right]
            if good.mean() >= 0.25:
                inside = flow[top:bottom, left:right][good].tolist()
                known.append([statistics.median(axis) / tall for axis in zip(*inside, strict=True)])
        cells[row, column] = np.mean(known, 0) if known else np.zeros(2)
    return cells


def _main_axis(big: np.ndarray) -> list[np.ndarray]:
    """Frames along the direction in which the colours spread most, stretched to 0..255 over the video."""
    some = big[:, ::4, ::4].reshape(-1, 3).astype(float)
    mean = some.mean(0)
    direction = np.linalg.svd(some - mean, full_matrices=False)[2][0]
    direction = direction * np.sign(direction[np.abs(direction).argmax()])
    along = (some - mean) @ direction
    low, high = along.min(), along.max()
    levels = [((frame - mean) @ direction - low) * 255 / (high - low) for frame in big]
    return [np.clip(np.round(level), 0, 255).astype(np.uint8) for level in levels]


def _checked(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DIS there, and where the way there and back fails or leaves the image."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = dis.calc(before, after, None), dis.calc(after, before, None)
    y, x = np.mgrid[0 : before.shape[0], 0 : before.shape[1]].astype(np.float32)
    to_x, to_y = x + there[..., 0], y + there[..., 1]
    home = cv2.remap(back, to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    squares = (there**2).sum(-1) + (home**2).sum(-1)
    missed = ((there + home) ** 2).sum(-1) > 0.01 * squares + 0.5
    return there, missed | (to_x < 0) | (to_x > x.max()) | (to_y < 0) | (to_y > y.max())


def motion_fidelity_legacy(sample: Sample) -> float:
    """As Yatim et al. write it, with torchmetrics' cosines: mean over steps, less 1 for the same index."""
    steps = [
        torch.from_numpy(tracks.points).double().diff(dim=0)
        for tracks in (sample.generated_tracks, sample.reference_tracks)
    ]
    table = torch.stack([pairwise_cosine_similarity(g, r) for g, r in zip(*steps, strict=True)]).mean(0)
    for i in range(len(table)):
        table[i, i] -= 1
    return float(table.amax(1).mean())


def _detected(sample: Sample, colours) -> np.ndarray:
    """(T, K, 2) centroids of the largest 8-connected region of each of K distinct colours; NaN without."""
    hues = [OBJECT_HUES[colour] for colour in colours]
    found = np.full((T, len(hues), 2), np.nan)
    for t, frame in enumerate(sample.generated):
        owner = np.full(frame.shape[:2], -1)
        for y, x in np.ndindex(owner.shape):
            h, s, v = colorsys.rgb_to_hsv(*(frame[y, x] / 255))
            away = [min(abs(h * 360 - hue), 360 - abs(h * 360 - hue)) for hue in hues]
            if s >= 0.5 and v >= 0.3 and min(away) <= 18:
                owner[y, x] = int(np.argmin(away))
        for k in range(len(hues)):
            regions, count = ndimage.label(owner == k, np.ones((3, 3)))
            sizes = ndimage.sum_labels(np.ones_like(owner), regions, range(1, count + 1))
            if count and max(sizes) >= 0.002 * owner.size:
                y, x = ndimage.center_of_mass(np.ones_like(owner), regions, int(np.argmax(sizes)) + 1)
                found[t, k] = x, y
    return found


def _matched(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Detected and true paths in the order that costs least, a missing one costing half the diagonal."""
    colours = [word for word in sample.prompt.split() if word in OBJECT_HUES]
    found, true = _detected(sample, colours), sample.truth.positions.astype(float)
    orders = [found[:, order] for order in permutations(range(found.shape[1]))]
    return min(orders, key=lambda paths: _distance(paths, true).mean()), true


def _distance(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.sqrt(((found - true) ** 2).sum(-1)), nan=(WIDTH**2 + HEIGHT**2) ** 0.5 / 2)


def position_error(sample: Sample) -> float:
    return float(_distance(*_matched(sample))[sample.truth.inside].mean())


def direction_cosine(sample: Sample) -> float:
    found, true = _matched(sample)
    values = []
    for t in range(T - 2):
        for k in range(true.shape[1]):
            ours, theirs = found[t + 2, k] - found[t, k], true[t + 2, k] - true[t, k]
            seen = sample.truth.inside[t, k] and sample.truth.inside[t + 2, k]
            if seen and np.hypot(*theirs) > 0.5 and not np.isnan(ours).any():
                values.append(ours @ theirs / max(np.hypot(*ours), 1e-9) / np.hypot(*theirs))
    return float(np.mean(values))


def _flow(frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """DIS there, and where the way there and back fails, of frames enlarged to 256 rows, 427 columns."""
    rows, columns = 256, round(WIDTH * 256 / HEIGHT)
    big = [
        cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), (columns, rows), interpolation=cv2.INTER_CUBIC)
        for f in frames
    ]
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    flows = []
    for a, b in pairwise(big):
        dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        there, back = dis.calc(a, b, None), dis.calc(b, a, None)
        to_x, to_y = x + there[..., 0], y + there[..., 1]
        returned = np.stack([_bilinear(back[..., c], to_y, to_x) for c in (0, 1)], -1)
        missed = ((there + returned) ** 2).sum(-1) > 0.01 * ((there**2).sum(-1) + (returned**2).sum(-1)) + 0.5
        left = (to_x < 0) | (to_x > columns - 1) | (to_y < 0) | (to_y > rows - 1)
        flows.append((there, missed | left))
    return flows


def _shares(small: int, large: int) -> np.ndarray:
    """(small, large): how much of each small pixel each large one covers."""
    edges = np.arange(large + 1) * small / large
    over = np.minimum(edges[1:], np.arange(1, small + 1)[:, None])
    under = np.maximum(edges[:-1], np.arange(small)[:, None])
    return np.clip(over - under, 0, None)


def _bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The four neighbours, each weighted by the area opposite to it; positions held inside the image."""
    y, x = (np.clip(p.astype(float), 0, size - 1) for p, size in zip((y, x), image.shape, strict=True))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, image.shape[0] - 1), np.minimum(left + 1, image.shape[1] - 1)
    down, across = y - top, x - left
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return upper * (1 - down) + lower * down


def warp_consistency(sample: Sample) -> float:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    values = []
    for t, (there, hidden) in enumerate(_flow(sample.generated)):
        down, across = _shares(HEIGHT, there.shape[0]), _shares(WIDTH, there.shape[1])
        blocks = np.stack([down @ there[..., c] @ across.T for c in (0, 1)], -1) * HEIGHT / 256
        use = down @ hidden @ across.T <= 0.5
        nxt, now = sample.generated[t + 1], sample.generated[t].astype(float)
        warped = np.stack(
            [_bilinear(nxt[..., c], y + blocks[..., 1], x + blocks[..., 0]) for c in range(3)], -1
        )
        values.append(1 - np.abs(warped - now)[use].mean() / 255)
    return float(np.mean(values))


def background_flow_error(sample: Sample) -> float:
    """The truth from the world's definition: (world - centre) * zoom + centre - pan."""
    flows = _flow(sample.generated)
    rows, columns = flows[0][1].shape
    shrink = np.array([WIDTH / columns, HEIGHT / rows])
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    here = np.stack([x, y], -1) * shrink - 0.5
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    zoom, pan = sample.truth.zoom, sample.truth.pan
    values = []
    for t, (there, hidden) in enumerate(flows):
        world = (here + pan[t] - centre) / zoom[t] + centre
        true = (world - centre) * zoom[t + 1] + centre - pan[t + 1] - here
        values.append(np.sqrt(((there * shrink - true) ** 2).sum(-1))[~hidden].mean())
    return float(np.mean(values))


def _shown(sample: Sample):
    return sample.truth.attributes, parse(sample.prompt)


def objects_right(sample: Sample) -> float:
    """What was rendered, not what can be read from it."""
    shown, asked = _shown(sample)
    return float(set(asked.objects) <= set(shown.objects))


def background_right(sample: Sample) -> float:
    shown, asked = _shown(sample)
    return float(shown.background == asked.background)


def count_right(sample: Sample) -> float:
    shown, asked = _shown(sample)
    return float(len(shown.objects) == len(asked.objects))


# --- the comparison


def _of(frames: np.ndarray, prompt: str = "", truth=None, n: int = 24, seed: int = 0) -> Sample:
    caption = "a yellow square on a purple background"
    sample = Sample("a", frames, np.zeros_like(frames), prompt, NoTracker(), caption, truth=truth)
    rng = np.random.default_rng([seed, 1])
    sample.tracks.update(generated=walks(rng, n), reference=walks(rng, n))
    return sample


def _truth(seed: int, motions: tuple[str, ...]):
    """The truth of a random clip of T frames with one of these motions."""
    number = HELD_OUT + 100 * seed
    while draw(number, T, HEIGHT, WIDTH).motion not in motions:
        number += 1
    return draw(number, T, HEIGHT, WIDTH)


def _objects(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    truth = _truth(seed, ("two",) if seed % 2 else ("straight", "curved"))
    names = [str(name) for name in rng.permutation(list(OBJECT_HUES))[: len(truth.things)]]
    prompt = " and ".join(f"a {name} circle" for name in names) + " on a grey background"
    return _of(discs(rng, names), prompt, truth)


def _tracks(seed: int) -> Sample:
    """Three crowds of tracks from random places: two that stagger each their own way, one that rests."""
    sample = _of(np.zeros((T, 64, 64, 3), np.uint8))
    rng = np.random.default_rng(seed)

    def crowds() -> Tracks:
        start = rng.uniform(0, (63, 40), (90, 2))
        ways = np.cumsum(rng.normal(0, 2, (T, 3, 2)), 0) * [[[1], [1], [0]]]
        points = start + ways[:, (start[:, 0] // 21.1).astype(int)] + rng.normal(0, 0.25, (T, 90, 2))
        return from_first(points.astype(np.float32), rng.random((T, 90)) > 0.03)

    sample.tracks.update(generated=crowds(), reference=crowds())
    return sample


def _rendered(seed: int) -> Sample:
    """A rendered clip; its prompt is its caption, or one with another object, background or count."""
    truth = _truth(seed, MOTIONS)
    (first, *_), ground = truth.attributes.objects, truth.attributes.background
    other = next(colour for colour in OBJECT_HUES if colour not in truth.colours)
    changed = (
        replace(truth.attributes, objects=((first[0], other), *truth.attributes.objects[1:])),
        replace(truth.attributes, background=next(name for name in BACKGROUNDS if name != ground)),
        replace(truth.attributes, objects=(first,) if len(truth.things) == 2 else (first, ("star", other))),
        truth.attributes,
    )
    return _of(paint(truth), caption(changed[seed % 4]), truth)


def _textured(seed: int) -> Sample:
    return _of(texture(np.random.default_rng(seed)), truth=_truth(seed, ("pan", "zoom")))


def _moving(seed: int) -> Sample:
    """Two textures that drift, the generation's right half as the reference's left one does."""
    rng = np.random.default_rng(seed)
    sample = _of(texture(rng))
    sample.reference = texture(rng)
    half = WIDTH // 2
    sample.generated[:, :, half:] = sample.reference[:, :, :half]
    return sample


def _described(seed: int) -> Sample:
    """At the tiny CLIP's own size, which takes any other whole."""
    prompts = ("a red star on a teal background", "a blue cross and a green circle on a grey background")
    return _of(texture(np.random.default_rng(seed), 64, 64), prompts[seed % 2])


REFERENCES = {
    "clip_t": (clip_t, _described),
    "motion_fidelity": (motion_fidelity, _moving),
    "motion_fidelity_legacy": (motion_fidelity_legacy, _tracks),
    "clip_f": (clip_f, _described),
    "warp_consistency": (warp_consistency, _textured),
    "position_error": (position_error, _objects),
    "direction_cosine": (direction_cosine, _objects),
    "background_flow_error": (background_flow_error, _textured),
    "objects_right": (objects_right, _rendered),
    "background_right": (background_right, _rendered),
    "count_right": (count_right, _rendered),
}


# With seed 0 no two frames at a distance of two both show a disc to the detector.
@pytest.mark.parametrize("seed", (1, 2, 3, 4))
@pytest.mark.parametrize("name", list(REFERENCES))
def test_a_metric_equals_its_second_implementation(name, seed):
    reference, random = REFERENCES[name]
    sample = random(seed)
    score = plug_in(name).score(sample)
    assert score.value is not None, score.reason
    assert score.value == CLOSE(reference(sample), abs=1e-5, rel=1e-5)


def test_every_metric_has_a_second_implementation():
    """Those of VBench, of trajectories, smoothness, leakage and flow stand in files of their own."""
    elsewhere = {
        "test_metrics_vbench.py": (
            "subject_consistency background_consistency temporal_flicker dynamic_degree motion_smoothness"
        ),
        "test_metrics_trajectories.py": "ftd ftd_legacy mf_hybrid det_mf",
        "test_metrics_smoothness.py": "motion_smoothness_dis motion_smoothness_raft",
        "test_metrics_leak.py": "leak leak_dino",
        "test_metrics_flow_fidelity.py": "flow_fidelity",
    }
    assert all((Path(__file__).parent / name).is_file() for name in elsewhere)
    apart = {name for names_ in elsewhere.values() for name in names_.split()}
    assert set(REFERENCES) | apart == set(names("all"))
