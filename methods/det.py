"""DeT (arXiv 2503.17350): convolutions along time beside self-attention, trained along a clip's tracks.

Source: Shi-qingyu/DeT, src/det/attention_processor.py (``Conv1DModule``,
``SkipConv1dWanVideoAttentionProcessor2_0``), train_cogvideox.py and train_cogvideox.sh. In every block,
what enters self-attention also goes through two convolutions along time at each place, whose result is
added to the attention's. They are trained on the clip with the plain loss and, at low noise, the dense
tracking loss: along a point's track the predicted clean latent shall not change.

Where we differ, and why:

* Velocities instead of clean latents: the authors' squared error of the clean latent over the noise's power
  is, in flow matching, the squared error of the velocity.
* The tracking loss is on (its weight is the paper's). The authors' shipped script never turns it on. It acts
  at noise levels up to sigma .555: on CogVideoX-5B's schedule, where they train (snr_shift_scale 1), their
  timestep 400 has that ratio of signal to noise. How many training steps that are depends on the schedule.
* The tracks are those of a tracker plug-in on the decoded reference, CoTracker's in the authors' code; the
  points are those that move least like the median point, where the authors have a mask of the object, which
  no method is given.
* The adapters trained are all sampled with; the authors' test script loads those of the first 15 blocks only.
* The empty prompt (``methods/training/adapter_training.py``); classifier-free guidance and steps are the
  backbone's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, runtime_checkable

import pydantic
from pydantic import Field

from datasets.errors import InputError
from methods.backbones.interface import Backbone, Grid, TemporalConvolution
from methods.interface import Observer
from methods.training.adapter_training import AdapterMethod, Trainer, copied, drawing, examples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@runtime_checkable
class PointTracker(Protocol):
    """What is asked of the tracker: any plug-in of ``conf/tracker`` will do."""

    @property
    def version(self) -> str:
        """Changes where its code changes what it finds."""
        ...

    def track(
        self, frames: NDArray[np.uint8], masks: None = None
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Points (T, N, 2) x, y in pixels, whether visible (T, N), and the frame (N,) that each begins in.

        Of frames (T, H, W, 3) uint8 RGB.
        """
        ...


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Tracking:
    """The dense tracking loss: its ``weight``, how many ``points``, up to which noise ``below_sigma``."""

    weight: Annotated[float, Field(ge=0)]
    points: Annotated[int, Field(ge=1)]
    below_sigma: Annotated[float, Field(ge=0, le=1)]


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class DeT(AdapterMethod, kind="det"):
    """DeT; ``conf/method/det.yaml`` says what each key is. ``tracker`` is a tracker plug-in."""

    width: Annotated[int, Field(ge=1)]
    kernel: Annotated[int, Field(ge=1)]
    tracking: Tracking
    tracker: Any

    @property
    def version(self) -> str:
        """With the tracker's: what it finds is part of the result."""
        return f"2-{self.tracker.version if isinstance(self.tracker, PointTracker) else ''}"

    def check(self, grid: Grid, num_blocks: int) -> None:
        """InputError for clips of a single latent frame, an even kernel, or a tracker that is none."""
        super().check(grid, num_blocks)
        if self.kernel % 2 == 0:
            raise InputError(f"method.kernel={self.kernel} must be odd; use {self.kernel + 1}")
        if self.tracking.weight and not isinstance(self.tracker, PointTracker):
            raise InputError(
                "method.tracker: not a tracker; give the keys of one of conf/tracker, with its _target_"
            )

    def adapter(self) -> TemporalConvolution:
        return TemporalConvolution(self.width, self.kernel)

    def train(self, backbone: Backbone, clean: Tensor, observer: Observer) -> dict[str, Tensor]:
        """The convolutions after training on the clean latent (1, C, F, h, w), float32.

        A trace row a step: ``plain``, ``tracking`` where it took part, ``loss``.
        """
        tracks = None
        if self.tracking.weight and self.training.steps:
            frames = backbone.decode(clean)
            points, visible, start = self.tracker.track(frames)
            tracks = on_latent(points, visible, start, clean, frames.shape[1:3], self.tracking.points)
        with (
            drawing(self.training.seed, clean.device),
            backbone.adapted(self.adapter(), backbone.grid(clean)) as convolutions,
        ):
            prompt = backbone.embed([""])
            trainer = Trainer(self.training, convolutions.parameters.values())
            for example in examples(backbone, clean, self.training, observer):
                predicted = backbone.velocity(example.noisy, example.timestep, prompt, grad=True)
                loss = (predicted - example.velocity).square().mean()
                row = {"train_step": example.step, "sigma": example.sigma, "plain": float(loss.detach())}
                if tracks is not None and example.sigma <= self.tracking.below_sigma:
                    term = tracking_loss(example.noisy - example.sigma * predicted, tracks)
                    row["tracking"] = float(term.detach())
                    loss = loss + self.tracking.weight * term
                observer.trace(**row, loss=trainer.update(loss))
            return copied(convolutions.parameters)


class LatentTracks(NamedTuple):
    """Tracks on a latent's cells: ``rows`` and ``columns`` (F, N) int64, ``visible`` (F, N) bool."""

    rows: Tensor
    columns: Tensor
    visible: Tensor


def on_latent(
    points: NDArray[Any],
    visible: NDArray[Any],
    start: NDArray[Any],
    latent: Tensor,
    size: Sequence[int],
    count: int,
) -> LatentTracks:
    """At most ``count`` of the tracks, on the cells of ``latent`` (1, C, F, h, w).

    ``points`` (T, N, 2) x, y in pixels of frames of ``size`` (height, width), ``visible`` (T, N), ``start``
    (N,). The chosen are those whose way differs most, in the frames in which they are visible, from the
    median point's of the same start: an object's, rather than the background's. As in train_cogvideox.py,
    latent frames are spread evenly over the video's, and a point is in the cell it falls into.
    """
    import numpy as np
    import torch

    way = points - points[start, np.arange(len(start))]
    for begun in np.unique(start):
        way[:, start == begun] -= np.median(way[:, start == begun], axis=1, keepdims=True)
    apart = (np.linalg.norm(way, axis=-1) * visible).sum(0) / np.maximum(visible.sum(0), 1)
    chosen = np.argsort(-apart, kind="stable")[:count]
    frames = np.linspace(0, len(points) - 1, latent.shape[2]).astype(int)
    inside = (points[frames][:, chosen] + 0.5) / np.array(size[::-1])
    cells = np.floor(inside * np.array([latent.shape[4], latent.shape[3]])).astype(np.int64)
    columns, rows = (
        torch.from_numpy(cells[..., axis].clip(0, extent - 1)).to(latent.device)
        for axis, extent in enumerate((latent.shape[4], latent.shape[3]))
    )
    return LatentTracks(rows, columns, torch.from_numpy(visible[frames][:, chosen]).to(latent.device))


def tracking_loss(clean: Tensor, tracks: LatentTracks) -> Tensor:
    """Mean squared change of ``clean`` (1, C, F, h, w) along the tracks from frame to frame (0-d).

    A change counts 0 where the point is not visible in both frames; 0 without tracks. DeT's dense point
    tracking loss (Shi-qingyu/DeT:train_cogvideox.py, ``tracking_loss``), whose points all begin in frame 0.
    """
    import torch

    if not tracks.rows.numel():
        return clean.sum() * 0
    frame = torch.arange(len(tracks.rows), device=clean.device)[:, None]
    along = clean[0][:, frame, tracks.rows, tracks.columns]
    return (along.diff(dim=1).square() * (tracks.visible[1:] & tracks.visible[:-1])).mean()


__all__ = ["DeT", "LatentTracks", "PointTracker", "Tracking", "on_latent", "tracking_loss"]
