"""Flow fidelity: known flows, a second implementation by loops, and whole clips with a random RAFT."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from networks import random_raft

from datasets.sprites.world import HELD_OUT, OBJECT_HUES, caption, draw, paint
from metrics.flow_fidelity import FlowFidelity, flow_fidelity, likeness, together
from metrics.interface import MetricUnavailable, Sample


def vectors(seed: int, count: int = 60, turn: float = 0.0, stretch: float = 1.0) -> np.ndarray:
    """Vectors about (2, 1) px, turned and stretched."""
    rng = np.random.default_rng(seed)
    found = rng.normal((2, 1), 0.3, (count, 2))
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return (stretch * found @ rotation).astype(np.float32)


def by_hand(generated: np.ndarray, reference: np.ndarray) -> float:
    if not len(generated) or not len(reference):
        return 0.0
    speeds, angles = [], []
    for flow in (generated, reference):
        lengths = [math.hypot(x, y) for x, y in flow.tolist()]
        speeds.append([length / (sum(lengths) / len(lengths)) for length in lengths])
        angles.append([math.atan2(y, x) for x, y in flow.tolist()])
    top = max(np.percentile(one, 99) for one in speeds)

    def counted(values, bins, low, high):
        counts = [0] * bins
        for value in values:
            if low <= value <= high:
                counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
        return [count / sum(counts) for count in counts]

    def coefficient(pair, bins, low, high):
        p, q = (counted(values, bins, low, high) for values in pair)
        return sum(math.sqrt(a * b) for a, b in zip(p, q, strict=True))

    return (coefficient(speeds, 20, 0, top) + coefficient(angles, 18, -math.pi, math.pi)) / 2


@pytest.mark.parametrize("seed", range(4))
def test_likeness_equals_its_second_implementation(seed):
    own, other = vectors(seed), vectors(10 + seed, 80, turn=0.4 * seed, stretch=2)
    assert likeness(own, other) == pytest.approx(by_hand(own, other), abs=1e-6)


def test_known_flows():
    own = vectors(0)
    assert likeness(own, own) == pytest.approx(1)
    assert likeness(own, own / 2) == pytest.approx(1)  # blind to speed
    assert likeness(own, -own) == pytest.approx(0.5)  # speeds alike, directions opposite
    assert likeness(own, own[:0]) == 0 == likeness(own[:0], own)
    assert flow_fidelity([own, own], [own, own[:0]]) == pytest.approx(0.5)


def test_objects_meet_in_the_likest_order():
    right, up = [vectors(0)], [vectors(1, turn=2)]
    assert together([up, right], [right, up]) == pytest.approx(1)
    assert together([right], [up, right]) == pytest.approx(1)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two refinements are as good as twenty where the weights are random."""
    monkeypatch.setattr("metrics.raft.STEPS", 2)


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return FlowFidelity("f", checkpoint=random_raft(tmp_path_factory.mktemp("raft") / "raft.pth"))


def sample(seed: int, frames: int = 3, moves: str = "object") -> Sample:
    while (truth := draw(HELD_OUT + seed, frames, 128, 128)).kind != moves:
        seed += 1
    pixels = paint(truth)
    return Sample("a", pixels, pixels, caption(truth.attributes), None, truth=truth)


def test_a_clip_and_itself_and_another(metric):
    one, other = sample(0), sample(7)
    assert metric.score(one).value == pytest.approx(1)
    mixed = replace(one, generated=other.generated, prompt=other.prompt)
    score = metric.score(mixed)
    assert 0 <= score.value < 1
    hues = [OBJECT_HUES[colour] for colour in other.truth.colours]
    assert score.details["objects"] == len(hues)
    levels = metric.levels([one, replace(other, clip="b")])
    expected = [
        metric.score(mixed).value,
        metric.score(replace(other, reference=one.reference, truth=one.truth)).value,
    ]
    assert levels == {"chance": pytest.approx(np.mean(expected)), "pairs": 2, "true": 1}


def colours_by_hand(frame: np.ndarray, colours) -> list[np.ndarray]:
    """Pixels of each colour, told by colorsys, one at a time."""
    masks = [np.zeros(frame.shape[:2], bool) for _ in colours]
    for y, x in np.ndindex(*frame.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(frame[y, x] / 255))
        away = [abs((360 * hue - OBJECT_HUES[colour] + 180) % 360 - 180) for colour in colours]
        nearest = away.index(min(away))
        masks[nearest][y, x] = away[nearest] <= 18 and saturation >= 0.5 and value >= 0.3
    return masks


def test_the_score_of_two_clips_equals_its_second_implementation(metric):
    one, other = sample(0, 2), sample(7, 2)
    found = []
    for clip in (other, one):
        flow = metric.raft().flow(*clip.generated)
        found.append([flow[mask] for mask in colours_by_hand(clip.generated[0], clip.truth.colours)])
    few, many = sorted(found, key=len)
    orders = permutations(range(len(many)), len(few))
    expected = max(np.mean([by_hand(few[i], many[j]) for i, j in enumerate(order)]) for order in orders)
    mixed = replace(one, generated=other.generated, prompt=other.prompt)
    # A pixel at a threshold may fall on either side of it.
    assert metric.score(mixed).value == pytest.approx(expected, abs=1e-3)


def test_what_it_has_no_meaning_for_does_not_apply(metric):
    one = sample(0)
    for changed, applies in (
        (replace(one, truth=None), False),
        (sample(0, moves="camera"), False),
        (replace(one, prompt="a dog on a beach"), True),
        (replace(one, generated=one.generated[:1], reference=one.reference[:1]), True),
    ):
        score = metric.score(changed)
        assert score.value is None and score.reason and score.applies is applies


def test_without_weights_it_is_one_line(monkeypatch, tmp_path):
    import torch

    from metrics import raft

    monkeypatch.setattr(raft, "reachable", lambda _: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MetricUnavailable, match="raft_large_C_T_V1"):
        FlowFidelity("f").score(sample(0))
    assert FlowFidelity("f").levels([sample(0)]) == {}
