"""The embedded world: coloured shapes that move over textured backgrounds, and the truth about them.

``render(seed)`` draws a clip; everything in it (shapes, colours, textures, paths, camera) follows from the
seed. Captions name shapes, colours and background in plain English and never the motion. A text-to-video
model trained on them must therefore take the motion from elsewhere: from its noise, or a reference clip.

Object and background palettes are disjoint in hue (at least 25 degrees apart), so that a generated object can
be found by colour alone (``datasets/sprites/detect.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RENDERER = "2"
SHAPES = ("circle", "square", "triangle", "star", "cross")
OBJECT_HUES = {"red": 0.0, "yellow": 55.0, "green": 115.0, "blue": 225.0, "magenta": 305.0}
BACKGROUNDS = {  # hue in degrees, saturation, value
    "brown": (28.0, 0.60, 0.50),
    "teal": (172.0, 0.60, 0.50),
    "purple": (265.0, 0.45, 0.50),
    "grey": (0.0, 0.0, 0.50),
}
Motion = Literal["straight", "curved", "accelerating", "stopping", "two", "pan", "zoom"]
MOTIONS: tuple[Motion, ...] = (
    "straight",
    "curved",
    "accelerating",
    "stopping",
    "two",
    "pan",
    "zoom",
)
MOTION_SHARES = (0.24, 0.2, 0.12, 0.12, 0.16, 0.08, 0.08)
FPS = 8.0
HELD_OUT = 1_000_000
"""Seeds from here on are for evaluation; the training script draws below it."""

_SIDE = 64.0
"""Geometry is stated for a 64-pixel side and scaled to the frame's shorter side."""
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Attributes:
    """What a caption says: (shape, colour) of each object, and the background's name."""

    objects: tuple[tuple[str, str], ...]
    background: str


def caption(attributes: Attributes) -> str:
    """The one grammar of this world: ``a red star and a blue circle on a teal background``."""
    objects = " and ".join(f"a {colour} {shape}" for shape, colour in attributes.objects)
    return f"{objects} on a {attributes.background} background"


def parse(text: str) -> Attributes:
    """The inverse of ``caption``. Raises ValueError for a text outside the grammar."""
    match = re.fullmatch(r"(.+) on a (\w+) background", text.strip().lower())
    objects = []
    for part in match[1].split(" and ") if match else []:
        words = part.split()
        if len(words) != 3 or words[0] != "a" or words[1] not in OBJECT_HUES or words[2] not in SHAPES:
            match = None
            break
        objects.append((words[2], words[1]))
    if match is None or match[2] not in BACKGROUNDS:
        raise ValueError(f"not a caption of the sprites world: {text!r}")
    return Attributes(tuple(objects), match[2])


def vocabulary() -> list[str]:
    """Every word a caption can hold, in a fixed order."""
    return ["a", "and", "on", "background", *OBJECT_HUES, *SHAPES, *BACKGROUNDS]


def outline(shape: str) -> NDArray[np.float64]:
    """Unit polygon (V, 2) whose centroid is the origin; areas are alike across shapes."""

    def ring(radii: Sequence[float], start: float = -90.0) -> NDArray[np.float64]:
        angles = np.deg2rad(start + np.arange(len(radii)) * 360.0 / len(radii))
        return np.asarray(np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)[:, None])

    if shape == "circle":
        return ring([0.95] * 48)
    if shape == "square":
        return ring([1.2] * 4, start=-45.0)
    if shape == "triangle":
        return ring([1.45] * 3)
    if shape == "star":
        return ring([1.45, 0.62] * 5)
    arm, bar = 1.15, 0.42
    corners = [(-bar, -arm), (bar, -arm), (bar, -bar), (arm, -bar), (arm, bar), (bar, bar)]
    corners += [(bar, arm), (-bar, arm), (-bar, bar), (-arm, bar), (-arm, -bar), (-bar, -bar)]
    return np.array(corners)


def inside_polygon(points: NDArray[np.float64], polygon: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Even-odd rule for points (N, 2) against a polygon (V, 2)."""
    x, y = points[:, None, 0], points[:, None, 1]
    x0, y0 = polygon[None, :, 0], polygon[None, :, 1]
    x1, y1 = np.roll(x0, -1, 1), np.roll(y0, -1, 1)
    crosses = (y0 > y) != (y1 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = x < (x1 - x0) * (y - y0) / (y1 - y0) + x0
    return np.asarray((crosses & left).sum(1) % 2 == 1)


@dataclass(frozen=True)
class Wave:
    """A texture: a sum of plane waves over world coordinates; values about in -1..1."""

    vectors: NDArray[np.float64]
    phases: NDArray[np.float64]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (...,) at points (..., 2)."""
        return np.asarray(np.sin(points @ self.vectors.T + self.phases).mean(-1))

    @staticmethod
    def draw(rng: np.random.Generator, count: int, shortest: float, longest: float) -> Wave:
        """``count`` waves whose lengths in pixels lie between the bounds, in spread directions."""
        length = rng.uniform(shortest, longest, count)
        angle = rng.uniform(0, np.pi) + np.arange(count) * np.pi / count
        vectors = np.stack([np.cos(angle), np.sin(angle)], 1) * (2 * np.pi / length)[:, None]
        return Wave(vectors, rng.uniform(0, 2 * np.pi, count))


@dataclass(frozen=True)
class Thing:
    """One object: its look and its centre in world coordinates, (T, 2) px."""

    shape: str
    colour: str
    radius: float
    path: NDArray[np.float64]
    texture: Wave


@dataclass(frozen=True)
class Truth:
    """All there is to know of a clip. Coordinates are x, y in pixels; pixel centres are integers.

    ``kind``: ``object`` (objects move) or ``camera`` (only the camera does). ``zoom`` (T,) and
    ``pan`` (T, 2) map world to image: ``(world - centre) * zoom + centre - pan``. Later objects
    hide earlier ones.
    """

    attributes: Attributes
    motion: Motion
    things: tuple[Thing, ...]
    background_texture: Wave
    zoom: NDArray[np.float64]
    pan: NDArray[np.float64]
    height: int
    width: int

    @property
    def kind(self) -> Literal["object", "camera"]:
        return "camera" if self.motion in ("pan", "zoom") else "object"

    @property
    def frames(self) -> int:
        return len(self.zoom)

    @property
    def colours(self) -> tuple[str, ...]:
        """Colour names of the objects, in the order of ``positions``."""
        return tuple(thing.colour for thing in self.things)

    @property
    def centre(self) -> NDArray[np.float64]:
        return np.array([(self.width - 1) / 2, (self.height - 1) / 2])

    def to_image(self, world: NDArray[np.float64], frame: int) -> NDArray[np.float64]:
        """World points (..., 2) as seen in a frame."""
        return np.asarray((world - self.centre) * self.zoom[frame] + self.centre - self.pan[frame])

    def to_world(self, image: NDArray[np.float64], frame: int) -> NDArray[np.float64]:
        """The inverse of ``to_image``."""
        return np.asarray((image + self.pan[frame] - self.centre) / self.zoom[frame] + self.centre)

    @cached_property
    def positions(self) -> NDArray[np.float32]:
        """(T, K, 2) centres of the objects in the image."""
        centres = [[self.to_image(thing.path[t], t) for thing in self.things] for t in range(self.frames)]
        return np.asarray(centres, np.float32)

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """(T, K): the object's centre lies inside the frame and no later object covers any of it."""
        limits = np.array([self.width - 1, self.height - 1])
        inside = np.asarray(((self.positions >= 0) & (self.positions <= limits)).all(-1))
        for t in range(self.frames):
            for k in range(len(self.things)):
                for other in range(k + 1, len(self.things)):
                    lower, upper = self.polygon(k, t), self.polygon(other, t)
                    inside[t, k] &= not (
                        inside_polygon(lower, upper).any() or inside_polygon(upper, lower).any()
                    )
        return inside

    @property
    def background_flow(self) -> NDArray[np.float32]:
        """(T - 1, 2) translation of the background at the frame's centre, px per step."""
        return np.asarray(-np.diff(self.pan, axis=0), np.float32)

    def polygon(self, k: int, frame: int) -> NDArray[np.float64]:
        """Outline (V, 2) of object ``k`` in the image."""
        thing = self.things[k]
        return self.to_image(thing.path[frame] + outline(thing.shape) * thing.radius, frame)

    def tracks(
        self, points: NDArray[np.floating], begun: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """True tracks of any points (N, 2) of frame ``begun``: (T, N, 2) px and visibility (T, N).

        A point belongs to the topmost object that covers it in that frame, else to the background.
        """
        start = np.asarray(points, np.float64).reshape(-1, 2)
        owner = self.owners(start, begun)
        world = self.to_world(start, begun)
        tracks = np.empty((self.frames, len(start), 2))
        visible = np.empty((self.frames, len(start)), bool)
        limits = np.array([self.width - 1, self.height - 1])
        for t in range(self.frames):
            moved = world.copy()
            for k, thing in enumerate(self.things):
                moved[owner == k] += thing.path[t] - thing.path[begun]
            tracks[t] = self.to_image(moved, t)
            visible[t] = ((tracks[t] >= -0.5) & (tracks[t] <= limits + 0.5)).all(-1)
            for k in range(len(self.things)):
                visible[t] &= ~((owner < k) & inside_polygon(tracks[t], self.polygon(k, t)))
        return tracks.astype(np.float32), visible

    def owners(self, points: NDArray[np.floating], frame: int) -> NDArray[np.intp]:
        """Number (N,) of the topmost object that covers each point (N, 2) in a frame; -1 for none."""
        owner = np.full(len(points), -1)
        for k in range(len(self.things)):
            owner[inside_polygon(np.asarray(points, np.float64), self.polygon(k, frame))] = k
        return owner


def _progress(rng: np.random.Generator, motion: Motion, frames: int) -> NDArray[np.float64]:
    """How far along its path an object is in each frame: (T,), from 0 to 1."""
    t = np.linspace(0, 1, frames)
    if motion == "accelerating":
        return t**2
    if motion == "stopping":
        return np.minimum(t / rng.uniform(0.45, 0.7), 1.0)
    return t


def _path(
    rng: np.random.Generator, motion: Motion, frames: int, room: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Centre positions (T, 2) inside the box ``room`` ((2, 2): low, high corner)."""
    progress = _progress(rng, motion, frames)
    for _ in range(1000):
        start = rng.uniform(room[0], room[1])
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(16.0, 36.0)
        if motion == "curved":
            turn = rng.uniform(0.6, 1.6) * np.pi * rng.choice([-1, 1])
            radius = length / abs(turn) * 1.3
            along = angle + progress * turn
            pivot = start - radius * np.array([np.cos(angle), np.sin(angle)])
            path = pivot + radius * np.stack([np.cos(along), np.sin(along)], 1)
        else:
            path = start + progress[:, None] * length * np.array([np.cos(angle), np.sin(angle)])
        if (path >= room[0]).all() and (path <= room[1]).all():
            return np.asarray(path)
    raise AssertionError("no path fits the frame")


def draw(seed: int, frames: int = 17, height: int = 64, width: int = 64) -> Truth:
    """Choose a clip's content: everything but its pixels."""
    rng = np.random.default_rng(seed)
    scale = min(height, width) / _SIDE
    box = np.array([width, height]) / scale
    motion: Motion = MOTIONS[rng.choice(len(MOTIONS), p=MOTION_SHARES)]
    count = 2 if motion == "two" else 1
    colours = rng.permutation(list(OBJECT_HUES))[:count]
    shapes = rng.choice(SHAPES, count)
    background = str(rng.choice(list(BACKGROUNDS)))
    attributes = Attributes(tuple((str(s), str(c)) for s, c in zip(shapes, colours, strict=True)), background)
    zoom, pan = np.ones(frames), np.zeros((frames, 2))
    t = np.linspace(0, 1, frames)
    things = []
    for shape, colour in attributes.objects:
        radius = rng.uniform(8.0, 9.5) if count == 2 else rng.uniform(10.0, 12.5)
        margin = radius + 1.0
        room = np.stack([np.full(2, margin), box - 1 - margin])
        each: Motion = motion if motion != "two" else rng.choice(np.array(["straight", "curved"]))
        path = _path(rng, each, frames, room)
        if motion in ("pan", "zoom"):
            middle = (box - 1) / 2
            path = np.repeat(rng.uniform(middle - 10, middle + 10)[None], frames, 0)
        things.append((shape, colour, radius, path, Wave.draw(rng, 2, 6.0, 10.0)))
    if motion == "pan":
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(10.0, 18.0)
        pan = t[:, None] * length * np.array([np.cos(angle), np.sin(angle)])
    if motion == "zoom":
        zoom = (1.0 + t * rng.uniform(0.3, 0.55)) ** rng.choice([-1.0, 1.0])
    texture = Wave.draw(rng, 3, 11.0, 22.0)
    scaled = tuple(
        Thing(s, c, r * scale, p * scale, Wave(w.vectors / scale, w.phases)) for s, c, r, p, w in things
    )
    return Truth(
        attributes,
        motion,
        scaled,
        Wave(texture.vectors / scale, texture.phases),
        zoom,
        pan * scale,
        height,
        width,
    )


def rgb(hue: float, saturation: float, value: NDArray[np.float64]) -> NDArray[np.float64]:
    """HSV (degrees, 0..1, (...,) 0..1) to RGB (..., 3) in 0..1."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    shade = 1.0 - saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return np.asarray(value[..., None] * shade)


def paint(truth: Truth, only: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """The clip's pixels: (T, H, W, 3) uint8 RGB; with ``only``, just those frames."""
    import cv2

    rows, columns = np.mgrid[0 : truth.height, 0 : truth.width].astype(np.float64)
    pixels = np.stack([columns, rows], -1)
    hue, saturation, value = BACKGROUNDS[truth.attributes.background]
    wanted = range(truth.frames) if only is None else only
    video = np.empty((len(wanted), truth.height, truth.width, 3), np.uint8)
    ground = None
    for place, t in enumerate(wanted):
        if ground is None or truth.kind == "camera":
            ground = rgb(
                hue, saturation, value * (1 + 0.5 * truth.background_texture(truth.to_world(pixels, t)))
            )
        image = ground.copy()
        for k, thing in enumerate(truth.things):
            cover = np.zeros((truth.height * _SUPERSAMPLING, truth.width * _SUPERSAMPLING), np.uint8)
            corners = (truth.polygon(k, t) + 0.5) * _SUPERSAMPLING - 0.5
            cv2.fillPoly(cover, [np.round(corners * 256).astype(np.int32)], 255, shift=8)
            resized = cv2.resize(cover, (truth.width, truth.height), interpolation=cv2.INTER_AREA)
            alpha = np.asarray(resized, np.float64)[..., None] / 255.0
            local = truth.to_world(pixels, t) - thing.path[t]
            colour = rgb(OBJECT_HUES[thing.colour], 0.9, 0.82 + 0.18 * thing.texture(local))
            image += alpha * (colour - image)
        video[place] = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return video


def render(seed: int, frames: int = 17, height: int = 64, width: int = 64) -> tuple[NDArray[np.uint8], Truth]:
    """A clip and the truth about it."""
    truth = draw(seed, frames, height, width)
    return paint(truth), truth


def target(attributes: Attributes, rng: np.random.Generator) -> Attributes:
    """As many objects, each of another shape and colour, on another background."""
    taken = {colour for _, colour in attributes.objects}
    free = [colour for colour in OBJECT_HUES if colour not in taken]
    colours = rng.permutation(free)[: len(attributes.objects)]
    shapes = [rng.choice([s for s in SHAPES if s != shape]) for shape, _ in attributes.objects]
    background = rng.choice([name for name in BACKGROUNDS if name != attributes.background])
    return Attributes(tuple((str(s), str(c)) for s, c in zip(shapes, colours, strict=True)), str(background))
