"""Real pixels whose motion is known: objects cut out of footage, moved over another clip's background.

An object is a frame's mask where the footage has masks, else ``outline``'s. Everything else is drawn by a
seed: which object over which background, the camera's pan or zoom, the object's path, size and turn, and
what makes the clip hard (``KINDS``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.media import images, video
from datasets.media.flow import flows, grey_frames, pixel_grid
from datasets.media.frame_files import frame_files
from metrics.validate import overlay

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

KINDS = ("plain", "scale and turn", "parts swing", "fast", "occluded", "blurred", "noisy")
"""What is hard about a clip: nothing; its size changes by up to a half and it turns by up to 60 degrees; it
is cut in two and the parts swing about a joint; it goes 4 % to 7 % of the frame's height a frame; another
object stands before its path; the shutter is open for half of the time; grey noise of 8 levels."""
NOISE = 8.0
SHUTTER = 0.5
SUPERSAMPLED = 2
"""Frames are drawn so many times larger and averaged, as a camera's pixels average."""
AREA = (0.01, 0.35)
"""Share of a frame that an object covers; what is smaller or larger is not cut out."""


class Still(NamedTuple):
    """A frame (H, W, 3) uint8 RGB of ``clip`` and the mask (H, W) of its object, empty if none was found."""

    clip: str
    frame: Pixels
    mask: Mask


@dataclass(frozen=True)
class Layer:
    """``image`` (h, w, 3) uint8 with ``alpha`` (h, w) float32 in 0 to 1, and where it lies.

    ``place`` (T, 2, 3): the affine map from its pixels to the frame's, for every frame.
    """

    image: Pixels
    alpha: NDArray[np.float32]
    place: Floats

    def at(self, time: float) -> Floats:
        """``place`` at a time between frames, in frames; beyond the ends as it goes on there."""
        first = int(np.clip(np.floor(time), 0, len(self.place) - 2))
        return np.asarray(self.place[first] + (time - first) * (self.place[first + 1] - self.place[first]))


@dataclass(frozen=True)
class Collage:
    """All there is to know of a clip. Later layers hide earlier ones; the first one covers every frame."""

    motion: str
    layers: tuple[Layer, ...]
    height: int
    width: int
    noise: float = 0.0
    shutter: float = 0.0

    @property
    def frames(self) -> int:
        return len(self.layers[0].place)

    def paint(self, seed: int) -> Pixels:
        """The frames (T, H, W, 3) uint8 RGB; ``seed`` is the noise's."""
        rng = np.random.default_rng([seed, 1])
        frames = []
        for t in range(self.frames):
            moments = np.linspace(-0.5, 0.5, 5) * self.shutter if self.shutter else [0.0]
            frame = np.mean([self._moment(t + moment) for moment in moments], axis=0)
            frames.append(frame + rng.normal(0, self.noise, frame.shape))
        return np.clip(np.round(frames), 0, 255).astype(np.uint8)

    def _moment(self, time: float) -> NDArray[np.float32]:
        import cv2

        size = self.width * SUPERSAMPLED, self.height * SUPERSAMPLED
        # Pixel centres are integers at both sizes, so enlarging also shifts by half a pixel.
        shift = np.array([0, 0, (SUPERSAMPLED - 1) / 2])
        canvas = np.zeros((size[1], size[0], 3), np.float32)
        for layer in self.layers:
            place = layer.at(time) * SUPERSAMPLED + shift
            image = cv2.warpAffine(layer.image, place, size, borderMode=cv2.BORDER_REPLICATE)
            alpha = cv2.warpAffine(layer.alpha, place, size)[..., None]
            canvas += alpha * (image - canvas)
        return np.asarray(cv2.resize(canvas, (self.width, self.height), interpolation=cv2.INTER_AREA))

    def tracks(self, points: NDArray[np.floating], begun: int = 0) -> tuple[NDArray[np.float32], Mask]:
        """True tracks of any points (N, 2) of frame ``begun``: (T, N, 2) px and visibility (T, N).

        A point belongs to the topmost layer that covers it in that frame.
        """
        start = np.asarray(points, np.float64).reshape(-1, 2)
        owner = self.owners(start, begun)
        tracks = np.empty((self.frames, len(start), 2))
        visible = np.empty((self.frames, len(start)), bool)
        limits = np.array([self.width - 1, self.height - 1])
        for t in range(self.frames):
            for number, layer in enumerate(self.layers):
                own = owner == number - 1
                tracks[t, own] = _moved(_moved(start[own], _inverse(layer.place[begun])), layer.place[t])
            inside = ((tracks[t] >= -0.5) & (tracks[t] <= limits + 0.5)).all(-1)
            visible[t] = inside & (self.owners(tracks[t], t) == owner)
        return tracks.astype(np.float32), visible

    def owners(self, points: NDArray[np.floating], frame: int) -> NDArray[np.intp]:
        """Number (N,) of the topmost cut-out that covers each point (N, 2) in a frame; -1 for none."""
        owner = np.full(len(points), -1)
        for number, layer in enumerate(self.layers[1:]):
            x, y = (
                np.round(_moved(np.asarray(points, np.float64), _inverse(layer.place[frame]))).astype(int).T
            )
            height, width = layer.alpha.shape
            inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
            owner[inside & (layer.alpha[y.clip(0, height - 1), x.clip(0, width - 1)] > 0.5)] = number
        return owner


def _moved(points: Floats, place: Floats) -> Floats:
    return np.asarray(points @ place[:, :2].T + place[:, 2])


def _inverse(place: Floats) -> Floats:
    import cv2

    return np.asarray(cv2.invertAffineTransform(place))


# --- drawing -----------------------------------------------------------------------------------


def draw(stills: Sequence[Still], seed: int, frames: int, height: int, width: int) -> Collage:
    """Choose a clip's content: everything but its pixels. Kinds take turns by the seed."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    objects = [still for still in stills if still.mask.any()]
    still = objects[rng.integers(len(objects))]
    others = [other for other in stills if other.clip != still.clip]
    background = _background(rng, others[rng.integers(len(others))].frame, frames, height, width)
    path = _path(rng, frames, height, width, fast=kind == "fast")
    growth, turn = (rng.uniform(0.5, 1.5), 60) if kind == "scale and turn" else (rng.uniform(0.9, 1.1), 10)
    t = np.linspace(0, 1, frames)
    size = height * rng.uniform(0.18, 0.4) / np.sqrt(np.count_nonzero(still.mask))
    place = _placed(size * growth**t, rng.uniform(-turn, turn) * t, path)
    layers = [_cut(still, place)]
    if kind == "parts swing":
        layers = _swinging(rng, layers[0], t)
    if kind == "occluded":
        other = objects[rng.integers(len(objects))]
        size = height * rng.uniform(0.2, 0.35) / np.sqrt(np.count_nonzero(other.mask))
        middle = frames // 2
        here = _placed(np.array([size]), np.zeros(1), path[middle : middle + 1])[0]
        on_ground = _joined(_inverse(background.place[middle]), here)
        layers.append(_cut(other, np.stack([_joined(ground, on_ground) for ground in background.place])))
    return Collage(
        kind,
        (background, *layers),
        height,
        width,
        NOISE if kind == "noisy" else 0.0,
        SHUTTER if kind == "blurred" else 0.0,
    )


def _background(rng: np.random.Generator, frame: Pixels, frames: int, height: int, width: int) -> Layer:
    """A frame through which the view pans by up to a quarter of its width, or zooms by up to 1.3, or both."""
    rows, columns = frame.shape[:2]
    pans, zooms = rng.permutation([(True, False), (False, True), (True, True), (False, False)])[0]
    t = np.linspace(0, 1, frames)
    zoom = 1.3 ** (rng.uniform(-1, 1) * zooms * t)
    scale = max(height / rows, width / columns) * rng.uniform(1.4, 1.7) * zoom / zoom.min()
    # The view is centred somewhere in the frame, far enough from its borders.
    low = np.array([width, height]) / (2 * scale.min())
    room = np.maximum(np.array([columns, rows]) - 2 * low, 0)
    begin, end = low + rng.uniform(size=(2, 2)) * room
    reach = np.linalg.norm(end - begin) * scale.min() / (width / 4)
    centre = begin + pans * t[:, None] * (end - begin) / max(1.0, reach)
    place = np.zeros((frames, 2, 3))
    place[:, 0, 0] = place[:, 1, 1] = scale
    place[:, :, 2] = np.array([width, height]) / 2 - 0.5 - scale[:, None] * centre
    return Layer(frame, np.ones(frame.shape[:2], np.float32), place)


def _path(rng: np.random.Generator, frames: int, height: int, width: int, fast: bool) -> Floats:
    """Where an object's middle is (T, 2): along a curve of three points, there and back while it is fast."""
    low, high = (0.04, 0.07) if fast else (0.005, 0.025)
    wanted = rng.uniform(low, high) * height * (frames - 1)
    corners = np.array([width, height]) * (0.2 + 0.6 * rng.uniform(size=(3, 2)))
    s = np.linspace(0, 1, 101)[:, None]
    curve = (1 - s) ** 2 * corners[0] + 2 * s * (1 - s) * corners[1] + s**2 * corners[2]
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()])
    # A triangle wave: as far along the curve as it is long, then back.
    gone = np.linspace(0, wanted, frames) % (2 * along[-1])
    gone = np.minimum(gone, 2 * along[-1] - gone)
    return np.stack([np.interp(gone, along, curve[:, axis]) for axis in (0, 1)], 1)


def _placed(scale: Floats, degrees: Floats, middle: Floats) -> Floats:
    """Affine maps (T, 2, 3) that scale and turn about the origin, then move it to ``middle`` (T, 2)."""
    angle = np.deg2rad(degrees)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.stack(
        [np.stack([cosine, -sine, middle[:, 0]], 1), np.stack([sine, cosine, middle[:, 1]], 1)], 1
    )


def _joined(outer: Floats, inner: Floats) -> Floats:
    """The affine map (2, 3) that does ``inner``, then ``outer``."""
    return np.asarray(np.column_stack([outer[:, :2] @ inner[:, :2], _moved(inner[:, 2], outer)]))


def _cut(still: Still, place: Floats) -> Layer:
    """The object of a still, whose middle ``place`` takes as the origin; its edge is a pixel soft."""
    import cv2

    rows, columns = np.nonzero(still.mask)
    # The margin keeps the soft edge inside.
    top, left = max(rows.min() - 4, 0), max(columns.min() - 4, 0)
    part = (slice(top, rows.max() + 5), slice(left, columns.max() + 5))
    alpha = np.pad(still.mask[part].astype(np.float32), 4)
    image = cv2.copyMakeBorder(still.frame[part], 4, 4, 4, 4, cv2.BORDER_REPLICATE)
    middle = np.array([[1, 0, left - 4 - columns.mean()], [0, 1, top - 4 - rows.mean()]])
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.7)
    return Layer(
        np.asarray(image, np.uint8),
        np.asarray(soft, np.float32),
        np.stack([_joined(one, middle) for one in place]),
    )


def _swinging(rng: np.random.Generator, whole: Layer, t: Floats) -> list[Layer]:
    """An object cut in two through its middle; the parts swing about it against each other."""
    height, width = whole.alpha.shape
    joint = pixel_grid(height, width)[whole.alpha > 0.5].mean(0).astype(np.float64)
    angle = rng.uniform(-30, 30)
    normal = np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    below = (pixel_grid(height, width) - joint) @ normal > 0
    swing = rng.uniform(15, 30) * np.sin(2 * np.pi * (rng.uniform(1, 2) * t + rng.uniform()))
    parts = []
    for part, degrees in ((below, swing), (~below, -swing / 2)):
        about = _placed(np.ones(len(t)), degrees, np.repeat(joint[None], len(t), 0))
        about = np.stack([_joined(one, np.array([[1, 0, -joint[0]], [0, 1, -joint[1]]])) for one in about])
        place = np.stack([_joined(outer, inner) for outer, inner in zip(whole.place, about, strict=True)])
        parts.append(Layer(whole.image, np.where(part, whole.alpha, 0).astype(np.float32), place))
    return parts


# --- footage -----------------------------------------------------------------------------------


def read(folder: Path) -> list[Still]:
    """First, middle and last frame of every clip of a folder, with the masks of their objects.

    The folder has DAVIS's layout (``JPEGImages/480p/CLIP``, ``Annotations/480p/CLIP``) or holds videos, with
    ``CLIP_mask.png`` for a first frame. InputError without two clips, or without an object to cut out.
    """
    pictures = folder / "JPEGImages" / "480p"
    clips = sorted(path for path in pictures.glob("*") if path.is_dir())
    clips = clips or sorted(path for path in folder.glob("*") if path.suffix.lower() in video.VIDEO_SUFFIXES)
    stills = [still for clip in clips for still in _stills(folder, clip)]
    if len(clips) < 2 or not any(still.mask.any() for still in stills):
        raise InputError(
            f"--footage {folder}: needs at least two clips, one of them with an object to cut out; give a "
            "folder in DAVIS's layout or one of videos"
        )
    return stills


def _stills(folder: Path, clip: Path) -> list[Still]:
    frames = overlay.read(clip)
    annotations = {0: folder / f"{clip.stem}_mask.png"}
    if clip.is_dir():
        known = folder / "Annotations" / "480p" / clip.name
        annotations = {t: known / f"{picture.stem}.png" for t, picture in enumerate(frame_files(clip).frames)}
    found = []
    for t in sorted({0, len(frames) // 2, len(frames) - 1}):
        annotation = annotations.get(t)
        if annotation is not None and annotation.is_file():
            mask = images.read_mask(annotation)
        else:
            mask = outline(frames[t], frames[max(t - 1, 0) if t else min(1, len(frames) - 1)])
        fits = AREA[0] <= mask.mean() <= AREA[1]
        found.append(Still(clip.stem, frames[t], mask if fits else np.zeros_like(mask)))
    return found


def outline(frame: Pixels, neighbour: Pixels) -> Mask:
    """The mask (H, W) of what moves otherwise than the camera between two frames; empty where nothing does.

    The camera is the similarity that most of the flow agrees on. The largest region whose flow is further
    from it than a pixel and four times the median is grown to the edges of its colours (Rother, Kolmogorov
    and Blake, "GrabCut", SIGGRAPH 2004).
    """
    import cv2

    grey, _ = grey_frames(np.stack([frame, neighbour]), min(frame.shape[:2]))
    flow = next(flows(grey))
    places = pixel_grid(*flow.occluded.shape)
    some = (slice(None, None, 8), slice(None, None, 8))
    begin, end = (field[some].reshape(-1, 2) for field in (places, places + flow.forward))
    camera, _ = cv2.estimateAffinePartial2D(begin, end, ransacReprojThreshold=1.0)
    if camera is None:
        return np.zeros(frame.shape[:2], bool)
    apart = np.linalg.norm(
        places + flow.forward - _moved(places.astype(np.float64), np.asarray(camera, np.float64)), axis=-1
    )
    region = _largest((apart > max(1.0, 4 * np.median(apart))) & ~flow.occluded)
    if region.sum() < AREA[0] * region.size / 2:
        return np.zeros(frame.shape[:2], bool)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))
    near = cv2.dilate(region.astype(np.uint8), reach)
    core = cv2.erode(region.astype(np.uint8), reach[4:-4, 4:-4])
    labels = np.where(near > 0, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    labels[region] = cv2.GC_PR_FGD
    labels[core > 0] = cv2.GC_FGD
    if not (labels == cv2.GC_FGD).any():
        return np.zeros(frame.shape[:2], bool)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(frame, labels, (0, 0, 1, 1), *models, 5, cv2.GC_INIT_WITH_MASK)
    return _largest((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _largest(mask: Mask) -> Mask:
    """The largest connected part of a mask (H, W)."""
    import cv2

    count, labels, about, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    return np.asarray(labels == 1 + about[1:, cv2.CC_STAT_AREA].argmax())
