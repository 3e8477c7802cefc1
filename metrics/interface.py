"""What a metric and a tracker promise the harness."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class MetricUnavailable(RuntimeError):
    """Weights or a package of a metric or tracker are missing; the message says which and the remedy.

    The harness records the value as null with this reason and goes on, unless
    ``metrics.required`` names the metric.
    """


class Tracks(NamedTuple):
    """``points`` (T, N, 2) float32 x, y in pixels; ``visible`` (T, N) bool."""

    points: NDArray[np.float32]
    visible: NDArray[np.bool_]


class Tracker(Protocol):
    """A point tracker plug-in (pydantic dataclass); ``ready`` and ``weights_id`` as in a metric."""

    name: str
    version: ClassVar[str]

    def track(self, frames: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> Tracks:
        """Track a regular grid of frame 0 (inside ``mask``, if given) through (T, H, W, 3) RGB."""
        ...


@dataclass(frozen=True)
class Score:
    """One metric's result. ``value`` is None only with a ``reason``.

    ``applies`` is False where the metric has no meaning for the clip (it needs a truth that only rendered
    clips have, say), so that there is nothing to mend.
    """

    value: float | None
    reason: str | None = None
    per_frame: tuple[float, ...] | None = None
    details: dict[str, float | int | str] = field(default_factory=dict)
    applies: bool = True


@dataclass
class Sample:
    """A generated video beside its reference.

    ``generated``, ``reference``: (T, H, W, 3) uint8 RGB of the same T (and the
    same H, W unless the video was made elsewhere). ``truth`` is the reference
    clip's ``Clip.truth``. Tracks are computed once, when first asked for; the
    harness may set ``generated_tracks``/``reference_tracks`` from its cache.
    """

    clip: str
    generated: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    prompt: str
    tracker: Tracker
    caption: str | None = None
    mask: NDArray[np.bool_] | None = None
    truth: Any = None

    @cached_property
    def generated_tracks(self) -> Tracks:
        return self.tracker.track(self.generated, self.mask)

    @cached_property
    def reference_tracks(self) -> Tracks:
        return self.tracker.track(self.reference, self.mask)


class Metric(Protocol):
    """A metric plug-in (pydantic dataclass).

    ``label`` heads the table's column. ``quality`` metrics are null for
    ``weights=random``. ``uses_tracks`` makes the tracker part of its version.
    A metric that needs weights may have ``ready() -> None``, which raises
    MetricUnavailable when they are not to be had: a metric in
    ``metrics.required`` is asked before anything runs. It may also have
    ``weights_id() -> str``, the identity of the weights it would use now (never a
    path; empty while they are not at hand), which becomes part of its version.
    """

    name: str
    version: ClassVar[str]
    label: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    uses_tracks: ClassVar[bool]

    def score(self, sample: Sample) -> Score: ...

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        """Levels to read the values against, from all finished cells of one variant.

        ``chance`` (mismatched pairs), ``true`` (the value true clips reach),
        ``pairs`` (how many were averaged); empty when the metric has none. The
        samples come one at a time and are not kept.
        """
        ...


__all__ = [
    "Metric",
    "MetricUnavailable",
    "Sample",
    "Score",
    "Tracker",
    "Tracks",
]
