"""What a metric and a tracker promise the harness."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.plugin import Plugin


class MetricUnavailable(RuntimeError):
    """Weights or a package of a metric or tracker are missing; the message says which and the remedy.

    The harness records the value as null with this reason and goes on, unless
    ``metrics.required`` names the metric.
    """


Details = dict[str, float | int | str]
"""What a score says besides its value."""


class Tracks(NamedTuple):
    """``points`` (T, N, 2) float32 x, y in pixels; ``visible`` (T, N) bool; ``start`` (N,) int: the frame
    that each track begins in, from which it is followed both ways.

    Where a point is not visible its place is unknown: ``points`` holds a guess there.
    """

    points: NDArray[np.float32]
    visible: NDArray[np.bool_]
    start: NDArray[np.intp]

    def chosen(self, which: NDArray[np.bool_]) -> Tracks:
        """The tracks for which ``which`` (N,) holds."""
        return Tracks(self.points[:, which], self.visible[:, which], self.start[which])


class Weighted(Plugin):
    """A plug-in that may need weights. One that needs none declares nothing."""

    def ready(self) -> None:
        """Raises MetricUnavailable when the weights are not to be had; asked before anything runs."""

    def weights_id(self) -> str:
        """Identity of the weights it would use now, never a path; empty while they are not at hand.

        It becomes part of the plug-in's version.
        """
        return ""


class Tracker(Weighted):
    """A point tracker plug-in."""

    @abstractmethod
    def track(self, frames: NDArray[np.uint8], masks: NDArray[np.bool_] | None = None) -> Tracks:
        """Tracks through (T, H, W, 3) uint8 RGB of a regular grid of points in several frames.

        ``masks`` (T, H, W; another size is rescaled): the points of a frame are those inside its mask.
        """


@dataclass(frozen=True)
class Score:
    """One metric's result. ``value`` is None only with a ``reason``.

    ``applies`` is False where the metric has no meaning for the clip (it needs a truth that only rendered
    clips have, say), so that there is nothing to mend. ``fault``: a program of the user's did not give what
    it should, which the command's exit code tells.
    """

    value: float | None
    reason: str | None = None
    per_frame: tuple[float, ...] | None = None
    details: Details = field(default_factory=dict)
    applies: bool = True
    fault: bool = False


@dataclass
class Sample:
    """A generated video beside its reference.

    ``generated``, ``reference``: (T, H, W, 3) uint8 RGB of the same T (and the
    same H, W unless the video was made elsewhere). ``fps``: frames of either a second. ``masks`` and
    ``truth`` are the reference clip's (``Clip``), masks of those same T frames. Tracks are computed once,
    when first asked for, and kept in ``tracks`` as ``generated`` and ``reference``; who has them already puts
    them there.
    """

    clip: str
    generated: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    prompt: str
    tracker: Tracker
    caption: str | None = None
    masks: NDArray[np.bool_] | None = None
    truth: Any = None
    fps: float = 24.0
    tracks: dict[str, Tracks] = field(default_factory=dict, repr=False)

    @property
    def generated_tracks(self) -> Tracks:
        return self._tracked("generated", self.generated)

    @property
    def reference_tracks(self) -> Tracks:
        return self._tracked("reference", self.reference)

    def _tracked(self, name: str, frames: NDArray[np.uint8]) -> Tracks:
        if name not in self.tracks:
            self.tracks[name] = self.tracker.track(frames, self.masks)
        return self.tracks[name]


WAITS = "waits for its program, which scores all videos at once"
"""The reason of a value that ``score_all`` has not given yet."""


@dataclass(frozen=True)
class Stored:
    """A cell's video as a file, for a program to read.

    ``video``: its lossless frames; ``reference``: those it is compared with, lossless too, as many and of
    the same rate. ``fps``: that rate.
    """

    id: str
    video: Path
    reference: Path
    prompt: str
    caption: str | None
    clip: str
    seed: int
    fps: float


@dataclass(frozen=True)
class Column:
    """How a metric stands in tables.

    ``digits`` stand after the point. ``primary`` columns are shown wherever the metric applies, the others
    when they are asked for. ``sees_motion``: a frozen video cannot win it. ``beside_motion``: a frozen
    video wins it, so that it is shown only beside a column that sees motion. ``truth``: it compares with what
    is known of a rendered clip, so that other metrics are judged by it.
    """

    label: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int = 4
    primary: bool = True
    sees_motion: bool = False
    beside_motion: bool = False
    truth: bool = False


class Metric(Weighted):
    """A metric plug-in.

    ``quality`` metrics are null for ``weights=random``. ``uses_tracks`` makes the tracker part of its
    version. ``uses_masks``: it is scored anew where masks change, as one that uses tracks always is.
    ``together``: it scores all videos of a job at once, by ``score_all``, when they are there.
    """

    uses_tracks: ClassVar[bool] = False
    uses_masks: ClassVar[bool] = False
    quality: ClassVar[bool] = True
    together: ClassVar[bool] = False

    @property
    @abstractmethod
    def column(self) -> Column:
        """How it stands in tables; as a rule a class attribute, ``column = Column(...)``."""

    @abstractmethod
    def score(self, sample: Sample) -> Score:
        """The value of one video."""

    def score_all(self, videos: Sequence[Stored], folder: Path, device: str) -> dict[str, Score]:
        """The value of each video, by its id, of a metric that scores them ``together``.

        ``folder`` is empty, of this call alone, and stays. ``device``: ``cpu``, ``cuda`` or ``cuda:N``.
        """
        raise NotImplementedError(f"{self.name} scores one video at a time")

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """Levels to read the values against, from all finished cells of one variant.

        ``chance`` (mismatched pairs), ``true`` (the value true clips reach),
        ``pairs`` (how many were averaged); empty when the metric has none. The
        samples come one at a time and are not kept.
        """
        return {}


__all__ = [
    "Column",
    "Details",
    "Metric",
    "WAITS",
    "MetricUnavailable",
    "Sample",
    "Score",
    "Stored",
    "Tracker",
    "Tracks",
    "Weighted",
]
