"""Leakage: known pairs, and a second implementation frame by frame with the tiny CLIP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import tiny_dino
from torch.nn.functional import cosine_similarity

from datasets.sprites.world import HELD_OUT, draw, paint
from metrics.clip_model import load_clip
from metrics.dino import load_dino, vbench_images
from metrics.interface import Sample
from metrics.leak import Leak, LeakDino


def clip(seed: int, frames: int = 5) -> np.ndarray:
    return paint(draw(HELD_OUT + seed, frames, 64, 64))


def sample(generated: np.ndarray, reference: np.ndarray, name: str = "a") -> Sample:
    return Sample(name, generated, reference, "", None)


def by_hand(generated: np.ndarray, reference: np.ndarray) -> float:
    model = load_clip("sprites")
    cosines = []
    for g, r in zip(generated, reference, strict=False):
        with torch.no_grad():
            features = [model.model.encode_image(model.preprocess(frame[None]))[0] for frame in (g, r)]
        cosines.append(cosine_similarity(*features, dim=0).item())
    return sum(cosines) / len(cosines)


def test_leak_equals_its_second_implementation():
    generated, reference = clip(0), clip(1, 4)
    score = Leak("leak", "sprites").score(sample(generated, reference))
    assert score.value == pytest.approx(by_hand(generated, reference), abs=1e-5)
    assert len(score.per_frame) == 4 and score.details["model"].startswith("sprites sha256:")


def test_the_reference_itself_leaks_all_and_another_scene_less():
    metric = Leak("leak", "sprites")
    assert metric.score(sample(clip(0), clip(0))).value == pytest.approx(1)
    assert metric.score(sample(clip(1), clip(0))).value < 0.9
    assert metric.column.beside_motion and not metric.column.higher_is_better


def test_dinos_leak_equals_its_second_implementation(tmp_path):
    """Frame by frame, on a tiny network of the class; the other way of reading is checked beside VBench."""
    folder = tiny_dino(tmp_path)
    model = load_dino(folder)
    generated, reference = clip(0), clip(1)
    cosines = []
    for g, r in zip(generated, reference, strict=True):
        with torch.no_grad():
            features = [
                model.model(vbench_images(frame[None]), interpolate_pos_encoding=True)[0][0, 0]
                for frame in (g, r)
            ]
        cosines.append(cosine_similarity(*features, dim=0).item())
    score = LeakDino("leak_dino", folder).score(sample(generated, reference))
    assert score.value == pytest.approx(np.mean(cosines), abs=1e-5)
    assert LeakDino("leak_dino", folder).score(sample(reference, reference)).value == pytest.approx(1)


def test_chance_is_over_the_references_of_other_clips():
    clips = {name: clip(seed) for name, seed in (("a", 0), ("b", 1), ("c", 2))}
    made = {name: clip(10 + seed) for seed, name in enumerate(clips)}
    levels = Leak("leak", "sprites").levels(sample(made[name], clips[name], name) for name in clips)
    pairs = [by_hand(made[one], clips[other]) for one in clips for other in clips if one != other]
    assert levels == {"chance": pytest.approx(np.mean(pairs), abs=1e-5), "pairs": 6, "true": 1}
    assert Leak("leak", "sprites").levels([sample(made["a"], clips["a"])]) == {}
