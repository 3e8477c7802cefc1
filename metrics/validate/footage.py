"""Motion metrics on pairs of real videos: a reference clip and what a method made of it.

A metric is asked whether it tells a generation's own reference from those of other scenes, from its mirror
image and from itself played backwards; what it gives the clip itself and harmless copies of it; and what it
gives videos that only seem to move alike.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import whole
from datasets.media import video
from metrics.flow_grid import flow_grid
from metrics.interface import Metric, MetricUnavailable, Sample, Tracker, Tracks

if TYPE_CHECKING:
    import pandas as pd

Frames = NDArray[np.uint8]
Row = dict[str, str | float]

MATCHED = "matched"
MISMATCHED = "mismatched"
COLUMNS = ("scene", "reference", "generated")
DOT = 0.02
"""Radius of the moving dot, in shorter sides."""


@dataclass(eq=False)
class Video:
    """Frames (T, H, W, 3) uint8 RGB; tracked when first asked for."""

    name: str
    frames: Frames
    tracks: dict[int, Tracks] = field(default_factory=dict)

    def tracked(self, tracker: Tracker, length: int) -> Tracks:
        """Tracks through the first ``length`` frames."""
        if length not in self.tracks:
            self.tracks[length] = tracker.track(self.frames[:length])
        return self.tracks[length]


class Pair(NamedTuple):
    """A generation beside the reference it was made from."""

    scene: str
    reference: Video
    generated: Video
    prompt: str


def read_pairs(path: Path) -> list[Pair]:
    """The rows of a CSV with columns scene, reference, generated and, if it has one, prompt.

    Paths are relative to the CSV. InputError naming the file, and its line, when a column or a video is
    missing, or where all pairs are of one scene.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a CSV with the columns {', '.join(COLUMNS)}")
    videos: dict[str, Video] = {}

    def read(name: str, line: int) -> Video:
        if name not in videos:
            if not (path.parent / name).is_file():
                raise InputError(f"{path}, line {line}: no video {name!r} beside the CSV")
            videos[name] = Video(name, video.read_video(path.parent / name)[0])
        return videos[name]

    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: lacks the column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
        pairs = [
            Pair(
                row["scene"],
                read(row["reference"], line),
                read(row["generated"], line),
                row.get("prompt") or "",
            )
            for line, row in enumerate(rows, 2)
        ]
    if len({pair.scene for pair in pairs}) < 2:
        raise InputError(f"{path}: needs pairs of two scenes and more, else nothing is mismatched")
    return pairs


def _mirrored(frames: Frames) -> Frames:
    return frames[:, :, ::-1]


def _reversed(frames: Frames) -> Frames:
    return frames[::-1]


def _doubled(frames: Frames) -> Frames:
    return np.repeat(frames, 2, 0)[: len(frames)]


REFERENCES: dict[str, Callable[[Frames], Frames]] = {
    "mirrored": _mirrored,
    "reversed": _reversed,
    "frames doubled": _doubled,
}
"""Wrong references made from a generation's own."""


def _encoded(frames: Frames, crf: int) -> Frames:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "copy.mp4"
        video.write_h264(path, frames, 24, min_side=1, crf=crf)
        height, width = frames.shape[1:3]
        return video.read_video(path)[0][:, :height, :width]


def _smaller(frames: Frames) -> Frames:
    import cv2

    size = (frames.shape[2] // 2, frames.shape[1] // 2)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _frozen(frames: Frames) -> Frames:
    return np.repeat(frames[:1], len(frames), 0)


def mean_path(frames: Frames) -> NDArray[np.float64]:
    """Where a video's motion leads, each cell weighted by how far it moves: (T, 2) x, y in px, from 0, 0."""
    size = (int(frames.shape[1]), int(frames.shape[2]))
    steps = []
    for cells in np.nan_to_num(flow_grid(frames, size)).astype(np.float64):
        lengths = np.linalg.norm(cells, axis=-1)
        steps.append((cells * lengths[..., None]).sum((0, 1)) / max(float(lengths.sum()), 1e-9))
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)]) * min(size)


def _dotted(frames: Frames) -> Frames:
    """The first frame, frozen, with a red dot on the mean path, held inside the frame."""
    import cv2

    height, width = frames.shape[1:3]
    path = mean_path(frames)
    centre = np.array([width, height]) / 2 - (path.max(0) + path.min(0)) / 2
    places = np.clip(path + centre, 0, [width - 1, height - 1])
    pictures = _frozen(frames).copy()
    for picture, (x, y) in zip(pictures, np.round(places).astype(int).tolist(), strict=True):
        cv2.circle(picture, (x, y), max(2, round(DOT * min(height, width))), (255, 0, 0), -1, cv2.LINE_AA)
    return pictures


def _panned(frames: Frames) -> Frames:
    """The first frame, shifted as a whole along the mean path, its border mirrored."""
    import cv2

    height, width = frames.shape[1:3]
    pictures = []
    for x, y in mean_path(frames).tolist():
        move = np.array([[1, 0, x], [0, 1, y]], np.float32)
        pictures.append(cv2.warpAffine(frames[0], move, (width, height), borderMode=cv2.BORDER_REFLECT))
    return np.stack(pictures).astype(np.uint8, copy=False)


COPIES: dict[str, Callable[[Frames], Frames]] = {
    "the clip itself": lambda frames: frames,
    "crf 28": lambda frames: _encoded(frames, 28),
    "crf 38": lambda frames: _encoded(frames, 38),
    "half the size": _smaller,
    "frozen": _frozen,
    "one moving dot": _dotted,
    "mean pan": _panned,
}
"""Videos made from a reference, scored against it as generations are."""


def measure(pairs: Sequence[Pair], metrics: Sequence[Metric], tracker: Tracker) -> pd.DataFrame:
    """One row a value: ``metric``, ``kind``, ``scene``, ``generated``, ``reference``, ``value`` (NaN: null).

    Videos of different length are cut to the shorter. Their frames correspond by index: published pairs are
    often saved at another rate than they were made at.
    """
    import pandas as pd

    references = {pair.reference.name: (pair.scene, pair.reference) for pair in pairs}
    rows: list[Row] = []

    def add(kind: str, scene: str, generated: Video, reference: Video, prompt: str = "") -> None:
        about: Row = {"kind": kind, "scene": scene, "generated": generated.name, "reference": reference.name}
        rows.extend(about | value for value in _values(generated, reference, prompt, metrics, tracker))

    for scene, reference in references.values():
        for kind, made in _made(reference, COPIES):
            add(kind, scene, made, reference)
    wrong: dict[str, list[tuple[str, Video]]] = {}
    for pair in pairs:
        add(MATCHED, pair.scene, pair.generated, pair.reference, pair.prompt)
        if pair.reference.name not in wrong:
            wrong[pair.reference.name] = list(_made(pair.reference, REFERENCES))
        for kind, made in wrong[pair.reference.name]:
            add(kind, pair.scene, pair.generated, made, pair.prompt)
        for scene, other in references.values():
            if scene != pair.scene:
                add(MISMATCHED, pair.scene, pair.generated, _shown_as(other, pair.reference), pair.prompt)
    return pd.DataFrame(rows)


def _made(source: Video, ways: dict[str, Callable[[Frames], Frames]]) -> Iterator[tuple[str, Video]]:
    for kind, change in ways.items():
        yield kind, Video(f"{source.name} {kind}", np.ascontiguousarray(change(source.frames)))


_resized: dict[tuple[str, int, int], Video] = {}


def _shown_as(other: Video, reference: Video) -> Video:
    """Another scene's reference at the size of a generation's own: a wrong aspect would give it away."""
    import cv2

    height, width = reference.frames.shape[1:3]
    if other.frames.shape[1:3] == (height, width):
        return other
    key = (other.name, height, width)
    if key not in _resized:
        frames = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in other.frames]
        _resized[key] = Video(other.name, np.stack(frames).astype(np.uint8, copy=False))
    return _resized[key]


def _values(
    generated: Video, reference: Video, prompt: str, metrics: Sequence[Metric], tracker: Tracker
) -> Iterator[Row]:
    length = min(len(generated.frames), len(reference.frames))
    sample = Sample(reference.name, generated.frames[:length], reference.frames[:length], prompt, tracker)
    if any(metric.uses_tracks for metric in metrics):
        sample.tracks.update(
            generated=generated.tracked(tracker, length), reference=reference.tracked(tracker, length)
        )
    for metric in metrics:
        try:
            score = metric.score(sample)
        except MetricUnavailable as error:
            raise InputError(f"{metric.name}: {error}") from error
        yield {"metric": metric.name, "value": np.nan if score.value is None else score.value}


def picture(pairs: Sequence[Pair], names: Sequence[str], path: Path) -> None:
    """Write a PNG: for each generation named, its reference and it, with the motion of three moments."""
    from PIL import Image

    from metrics.validate.overlay import draw_flow

    rows = []
    for pair in (pair for name in names for pair in pairs if pair.generated.name == name):
        size = (int(pair.reference.frames.shape[1]), int(pair.reference.frames.shape[2]))
        length = min(len(pair.reference.frames), len(pair.generated.frames))
        moments = np.linspace(0, length - 2, 3).round().astype(int).tolist()
        drawn = []
        for source in (pair.reference, pair.generated):
            grid = flow_grid(source.frames, size)
            for t in moments:
                shown = Image.fromarray(draw_flow(source.frames[t], grid[t]))
                drawn.append(np.asarray(shown.resize((round(160 * size[1] / size[0]), 160))))
        rows.append(np.concatenate(drawn, 1))
    widest = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, widest - row.shape[1]), (0, 0))) for row in rows]
    with whole(path) as temporary:
        Image.fromarray(np.concatenate(padded)).save(temporary, format="PNG")
