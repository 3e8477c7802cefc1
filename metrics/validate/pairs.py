"""Pairs of rendered clips whose motions are known, and how well a metric's values follow the truth.

The reference of a pair is a clip of the sprites world whose objects go at one mean speed, ``SPEED``, that
leaves room for its double. The generation is the same world with its motion changed in one of the ways of
``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.sprites.world import HELD_OUT, Thing, Truth, caption, draw, paint, target
from metrics.interface import Sample, Tracker, Tracks
from metrics.trackers.starts import start_grid

Floats = NDArray[np.float64]
Change = Callable[[Truth, Truth, np.random.Generator], Truth]

SPEED = 0.8
"""Mean displacement per frame of a reference's objects, in pixels of a 64-pixel side, in clips of 17 frames;
in longer ones they go as far. Motion fidelity has no unit: were one clip faster than another, one score would
stand beside two displacement errors."""
JITTER = 0.3
"""Standard deviation of ``jitter``, in pixels of a 64-pixel side."""
NOISE = 8.0
"""Standard deviation of ``noise``, in grey levels of 255."""
STILL = 0.05
"""A true step below this many pixels has no direction."""


class Errors(NamedTuple):
    """How far one true motion is from another, over objects (or, for a camera, a grid of points) and steps.

    ``displacement``: mean length of the difference of the displacements, px per frame. ``direction``: mean
    cosine of the displacements, over steps in which the reference moves; a generation that rests has 0.
    ``speed``: mean difference of the lengths of the displacements, px per frame. ``position``: mean
    distance in px, NaN for a camera. Only ``direction`` is better when higher.
    """

    displacement: float
    direction: float
    speed: float
    position: float


def displacements(truth: Truth) -> Floats:
    """(T - 1, K, 2) px: of the objects, or of a 5x5 grid of pixels when only the camera moves."""
    if truth.kind == "object":
        return np.diff(truth.positions.astype(np.float64), axis=0)
    points = start_grid(truth.height, truth.width, 5).astype(np.float64)
    steps = range(truth.frames - 1)
    return np.stack([truth.to_image(truth.to_world(points, t), t + 1) - points for t in steps])


def errors(generated: Truth, reference: Truth) -> Errors:
    """The truth about a pair. The objects correspond by their order."""
    g, r = displacements(generated), displacements(reference)
    far_g, far_r = np.linalg.norm(g, axis=-1), np.linalg.norm(r, axis=-1)
    moves = far_r > STILL
    cosine = (g * r).sum(-1) / np.maximum(far_g * far_r, 1e-9)
    away = np.linalg.norm(generated.positions - reference.positions, axis=-1).mean()
    return Errors(
        float(np.linalg.norm(g - r, axis=-1).mean()),
        float(cosine[moves].mean()) if moves.any() else float("nan"),
        float(np.abs(far_g - far_r).mean()),
        float(away) if reference.kind == "object" else float("nan"),
    )


def moved(truth: Truth, change: Callable[[Floats], Floats]) -> Truth:
    """The same clip with other paths: ``change`` takes and returns (T, 2), applied to each object's path.

    Where only the camera moves, it is applied to its pan and to the logarithm of its zoom, in both columns.
    """
    if truth.kind == "object":
        return replace(truth, things=tuple(replace(thing, path=change(thing.path)) for thing in truth.things))
    zoom = np.log(truth.zoom)
    return replace(truth, pan=change(truth.pan), zoom=np.exp(change(np.stack([zoom, zoom], 1))[:, 0]))


def faster(path: Floats, factor: float) -> Floats:
    """The path (T, 2) from the same start with every displacement times ``factor``."""
    return path[:1] + factor * (path - path[:1])


def at_speed(path: Floats, speed: float) -> Floats:
    """The path (T, 2) from the same start, its shape kept, with this mean displacement per frame in px."""
    return faster(path, speed / float(np.linalg.norm(np.diff(path, axis=0), axis=-1).mean()))


def retimed(path: Floats) -> Floats:
    """The path (T, 2) with the same route and ends, slow first and fast at the end (time squared)."""
    t = np.linspace(0, 1, len(path))
    return np.stack([np.interp(t**2, t, column) for column in path.T], 1)


def _mirrored(truth: Truth) -> Truth:
    if truth.kind == "camera":
        return replace(truth, pan=truth.pan * [-1, 1])
    return moved(truth, lambda path: np.stack([truth.width - 1 - path[:, 0], path[:, 1]], 1))


def _shifted(truth: Truth, rng: np.random.Generator) -> Truth:
    """Each object as far from its place as a few draws find room for in the frame."""

    def shift(thing: Thing) -> Thing:
        margin = thing.radius + 1
        low = margin - thing.path.min(0)
        high = np.array([truth.width, truth.height]) - 1 - margin - thing.path.max(0)
        offsets = rng.uniform(low, np.maximum(low, high), (16, 2))
        return replace(thing, path=thing.path + offsets[np.linalg.norm(offsets, axis=1).argmax()])

    return replace(truth, things=tuple(shift(thing) for thing in truth.things))


def turned(path: Floats, degrees: float) -> Floats:
    """The path (T, 2) with every displacement turned by so many degrees, from the same start."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(path[:1] + (path - path[:1]) @ turn)


def _moved_inside(truth: Truth, change: Callable[[Floats], Floats]) -> Truth:
    """``moved``, and each object's path then shifted into the frame if it has left it."""

    def inside(thing: Thing) -> Thing:
        path, margin = thing.path, thing.radius + 1
        below = np.maximum(margin - path.min(0), 0)
        above = np.maximum(path.max(0) - (np.array([truth.width, truth.height]) - 1 - margin), 0)
        return replace(thing, path=path + below - above)

    made = moved(truth, change)
    return replace(made, things=tuple(inside(thing) for thing in made.things))


def _other(truth: Truth, other: Truth) -> Truth:
    things = zip(truth.things, other.things, strict=True)
    return replace(
        truth,
        things=tuple(replace(ours, path=theirs.path) for ours, theirs in things),
        pan=other.pan,
        zoom=other.zoom,
    )


def _jittered(truth: Truth, rng: np.random.Generator) -> Truth:
    amount = JITTER * min(truth.height, truth.width) / 64
    if truth.motion == "zoom":
        amount /= min(truth.height, truth.width) / 4  # a zoom's logarithm moves the outer half by this
    if truth.motion == "pan":
        return replace(truth, pan=truth.pan + rng.normal(0, amount, truth.pan.shape))
    return moved(truth, lambda path: path + rng.normal(0, amount, path.shape))


def recoloured(truth: Truth, other: Truth, rng: np.random.Generator) -> Truth:
    """The same motion with other shapes, colours and background, and the textures of ``other``."""
    attributes = target(truth.attributes, rng)
    looks = zip(truth.things, attributes.objects, other.things, strict=True)
    return replace(
        truth,
        attributes=attributes,
        things=tuple(
            replace(thing, shape=shape, colour=colour, texture=theirs.texture)
            for thing, (shape, colour), theirs in looks
        ),
        background_texture=other.background_texture,
    )


KINDS: dict[str, Change] = {
    "same": lambda truth, other, rng: truth,
    "re-coloured": recoloured,
    "noise": lambda truth, other, rng: truth,  # on the pixels, see ``pair``
    "shifted": lambda truth, other, rng: _shifted(truth, rng),
    "re-timed": lambda truth, other, rng: moved(truth, retimed),
    "jitter": lambda truth, other, rng: _jittered(truth, rng),
    "half speed": lambda truth, other, rng: moved(truth, lambda path: faster(path, 0.5)),
    "double speed": lambda truth, other, rng: _moved_inside(truth, lambda path: faster(path, 2.0)),
    "static": lambda truth, other, rng: moved(truth, lambda path: faster(path, 0.0)),
    "mirrored": lambda truth, other, rng: _mirrored(truth),
    "reversed": lambda truth, other, rng: moved(truth, lambda path: path[::-1]),
    "other path": lambda truth, other, rng: _other(truth, other),
}
"""What is changed: (reference, an unrelated clip of its kind, random numbers) to the generation's truth."""


def _turning(degrees: float) -> Change:
    return lambda truth, other, rng: _moved_inside(truth, lambda path: turned(path, degrees))


# Half of the kinds above have a true direction of exactly 1. Where a share f of the truth is equal, a metric
# with any noise cannot pass a rank correlation of sqrt(1 - f^3): it puts an order where the truth has none.
TURNS = {f"turned {degrees}": _turning(degrees) for degrees in (30, 60, 90, 120, 150)}
KINDS |= TURNS
OBJECTS_ONLY = ("shifted", *TURNS)
"""Kinds that are not made where only the camera moves."""


@dataclass(frozen=True)
class Video:
    """Frames (T, H, W, 3) uint8 RGB, the truth about them, and their tracks: found and true."""

    frames: NDArray[np.uint8]
    truth: Truth
    found: Tracks
    true: Tracks


@dataclass(frozen=True)
class Pair:
    """A generation beside its reference."""

    clip: str
    kind: str
    generated: Video
    reference: Video
    errors: Errors

    def sample(self, tracker: Tracker, true_tracks: bool = False, reference: Video | None = None) -> Sample:
        """What a metric is given; with another ``reference`` a mismatched pair, for the chance level."""
        beside = reference or self.reference
        sample = Sample(
            self.clip,
            self.generated.frames,
            beside.frames,
            caption(self.generated.truth.attributes),
            tracker,
            caption(beside.truth.attributes),
            truth=beside.truth,
        )
        sample.tracks["generated"] = self.generated.true if true_tracks else self.generated.found
        sample.tracks["reference"] = beside.true if true_tracks else beside.found
        return sample


def reference(
    number: int,
    frames: int,
    side: int,
    kind: str | None = None,
    things: int = 0,
    speed: float | None = SPEED,
) -> Truth:
    """Held-out clip ``number``, or the first one after it of that kind and number of objects.

    Its objects go at ``speed``; with None, and where only the camera moves, at half of what was drawn.
    """
    while True:
        truth = draw(HELD_OUT + number, frames, side, side)
        if (kind in (None, truth.kind)) and things in (0, len(truth.things)):
            break
        number += 1
    if truth.kind == "camera" or speed is None:
        return moved(truth, lambda path: faster(path, 0.5))
    return moved(truth, lambda path: at_speed(path, speed * side / 64 * 16 / (frames - 1)))


def _video(truth: Truth, tracker: Tracker, noise: NDArray[np.float64] | None = None) -> Video:
    frames = paint(truth)
    if noise is not None:
        frames = np.clip(np.round(frames + noise), 0, 255).astype(np.uint8)
    found = tracker.track(frames)
    found = found.chosen(found.start == 0)
    return Video(frames, truth, found, Tracks(*truth.tracks(found.points[0]), found.start))


def pairs(
    tracker: Tracker,
    number: int,
    frames: int,
    side: int,
    new_look: bool,
    kinds: Sequence[str] = tuple(KINDS),
    speed: float | None = SPEED,
) -> Iterator[Pair]:
    """All pairs of held-out clip ``number``. With ``new_look`` every generation is re-coloured."""
    truth = reference(number, frames, side, speed=speed)
    rng = np.random.default_rng([number, 2])
    other = reference(number + 10_000, frames, side, truth.kind, len(truth.things), speed)
    beside = _video(truth, tracker)
    for kind in kinds:
        if kind in OBJECTS_ONLY and truth.kind == "camera":
            continue
        made = KINDS[kind](truth, other, rng)
        if new_look and kind != "re-coloured":
            made = recoloured(made, other, rng)
        noise = rng.normal(0, NOISE, beside.frames.shape) if kind == "noise" else None
        same = made is truth and noise is None
        video = beside if same else _video(made, tracker, noise)
        yield Pair(f"{truth.motion}-{number:04d}", kind, video, beside, errors(made, truth))
