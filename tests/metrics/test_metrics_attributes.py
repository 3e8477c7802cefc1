"""Reading prompts from pixels: on rendered clips the truth is known."""

import cv2
import numpy as np
import pytest

from datasets.sprites.read import read
from datasets.sprites.world import HELD_OUT, SHAPES, Attributes, caption, draw, outline, paint
from metrics.attributes import PromptRead
from metrics.interface import Sample

DETECTOR = PromptRead(name="objects_right").detector
COUNT = 30


def clip(number: int) -> tuple[np.ndarray, Attributes]:
    truth = draw(HELD_OUT + 70_000 + number, 17)
    return paint(truth, only=[0, 8, 16]), truth.attributes


def value(attribute: str, frames: np.ndarray, prompt: str) -> float | None:
    metric = PromptRead(name=attribute, attribute=attribute)
    return metric.score(Sample("a", frames, frames, prompt, None, truth=True)).value


@pytest.mark.parametrize("number", range(COUNT))
def test_true_clips_are_read_as_their_captions_say(number):
    frames, attributes = clip(number)
    for attribute in ("objects", "background", "count"):
        assert value(attribute, frames, caption(attributes)) == 1


@pytest.mark.parametrize("number", range(10))
def test_another_shape_colour_background_or_count_is_seen(number):
    frames, attributes = clip(number)
    shape, colour = attributes.objects[0]
    shapes = Attributes(((SHAPES[SHAPES.index(shape) - 1], colour), *attributes.objects[1:]), "grey")
    assert value("objects", frames, caption(shapes)) == 0
    ground = "teal" if attributes.background != "teal" else "brown"
    assert value("background", frames, caption(Attributes(attributes.objects, ground))) == 0
    free = next(c for c in ("red", "yellow", "green") if c not in {c for _, c in attributes.objects})
    more = Attributes((*attributes.objects, ("star", free)), attributes.background)
    assert value("count", frames, caption(more)) == 0
    assert value("objects", frames, caption(more)) == 0


def test_an_empty_frame_holds_no_object():
    assert read(np.full((64, 64, 3), 127, np.uint8), DETECTOR).objects == ()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rounding", [0.0, 2.0, 3.0])
def test_rounded_off_shapes_are_read_as_what_they_were(shape, rounding):
    """As generated ones are: a star whose points are round is not a circle."""
    mask = np.zeros((64, 64), np.float32)
    cv2.fillPoly(mask, [np.round((outline(shape) * 11 + (30, 33)) * 256).astype(np.int32)], 1, shift=8)
    if rounding:
        mask = cv2.GaussianBlur(mask, (0, 0), rounding)
    frame = np.full((64, 64, 3), 127, np.uint8)
    frame[mask > 0.5] = (220, 20, 20)
    assert read(frame, DETECTOR).objects == ((shape, "red"),)


def test_a_clip_counts_only_when_most_of_its_frames_are_right():
    frames, attributes = clip(0)
    other = np.full_like(frames[0], 127)
    assert value("objects", np.stack([frames[0], frames[1], other]), caption(attributes)) == 1
    assert value("objects", np.stack([frames[0], other, other]), caption(attributes)) == 0


def test_reading_needs_the_grammar_and_a_rendered_world():
    frames = clip(0)[0]
    metric = PromptRead(name="objects_right")
    assert metric.score(Sample("a", frames, frames, "a dog", None, truth=True)).value is None
    assert not metric.score(Sample("a", frames, frames, "a dog", None)).applies
