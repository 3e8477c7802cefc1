"""The detector against the sprites world's own truth."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.sprites import world as sprites
from metrics.interface import Sample
from metrics.position import BackgroundFlowError, PositionError
from metrics.trackers.dis import Dis


def samples(motions: tuple[str, ...], count: int) -> list[Sample]:
    found: list[Sample] = []
    seed = sprites.HELD_OUT + 7000
    while len(found) < count:
        if sprites.draw(seed).motion in motions:
            video, truth = sprites.render(seed)
            text = sprites.caption(truth.attributes)
            found.append(Sample(str(seed), video, video, text, Dis(name="dis"), caption=text, truth=truth))
        seed += 1
    return found


def test_the_detector_is_within_half_a_pixel_on_true_clips() -> None:
    metric = PositionError(name="position_error")
    scores = [metric.score(s) for s in samples(("straight", "curved", "accelerating", "stopping", "two"), 40)]
    errors = [score.value for score in scores]
    assert all(error is not None for error in errors)
    assert np.mean(errors) <= 0.25 and np.max(errors) <= 0.5
    assert all(score.details["missed"] == 0 for score in scores)


def test_the_wrong_colour_counts_as_missed_at_half_the_diagonal() -> None:
    (sample,) = samples(("straight",), 1)
    (shape, colour), background = sample.truth.attributes.objects[0], sample.truth.attributes.background
    other = next(c for c in sprites.OBJECT_HUES if c != colour)
    sample.prompt = sprites.caption(sprites.Attributes(((shape, other),), background))
    score = PositionError(name="position_error").score(sample)
    assert score.details["missed"] == 1
    assert score.value == pytest.approx(np.hypot(64, 64) / 2)


@pytest.mark.parametrize("motion", ["pan", "zoom"])
def test_camera_clips_are_left_to_the_background_flow(motion: str) -> None:
    metric = BackgroundFlowError(name="background_flow_error")
    for sample in samples((motion,), 2):
        score = PositionError(name="position_error").score(sample)
        assert score.value is None and "background_flow_error" in str(score.reason)
        true = metric.score(sample)
        assert true.value is not None and true.value < 0.25
        sample.generated = np.repeat(sample.generated[:1], len(sample.generated), 0)
        frozen = metric.score(sample)
        # What a frozen video misses is the whole of the true motion.
        y, x = np.mgrid[0:64, 0:64].astype(float)
        points = np.stack([x, y], -1).reshape(-1, 2)
        truth = sample.truth
        steps = [
            truth.to_image(truth.to_world(points, t), t + 1) - points for t in range(len(truth.zoom) - 1)
        ]
        assert frozen.value == pytest.approx(np.linalg.norm(steps, axis=-1).mean(), abs=0.02)
        assert frozen.value > 0.4 > 4 * true.value
