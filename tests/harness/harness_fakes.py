"""Tiny plug-ins for the harness's own tests: real tensors and videos, no model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from fake_backbone import FakeBackbone
from pydantic.dataclasses import dataclass

from datasets.interface import Clip, ClipInfo, Dataset, LeftOut, Listing, Prompt
from harness.actions.plan import PrintPlan
from harness.actions.run import Run
from harness.actions.score import Score as ScoreAction
from harness.cells.job import Job
from harness.cells.plan import Cell, make_plan
from harness.execute.here import Here
from harness.records.record import Plan
from methods.backbones.interface import BackboneConfig, Grid
from methods.interface import LatentMethod, Observer, VideoMethod, VideoRequest
from metrics.interface import Column, Metric, MetricUnavailable, Sample, Score, Tracker, Tracks

NEEDS = {"run": Run.needs, "score": ScoreAction.needs, "plan": PrintPlan.needs}
FORBID: Any = {"extra": "forbid"}


@dataclass(config=FORBID)
class Squares(Dataset):
    """Clips of a bright square that moves over noise. ``masks``: a digest for each clip that has masks."""

    name: str = "squares"
    clips: int = 3
    frames: int = 5
    prompts: tuple[str, ...] = ("a red square",)
    unreadable: tuple[str, ...] = ()
    masks: dict[str, str] = field(default_factory=dict)

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("unreadable", "masks")
    real_footage: ClassVar[bool] = False

    def listing(self) -> Listing:
        infos = [
            ClipInfo(
                f"clip{i}",
                hashlib.sha256(f"{i} {self.frames}".encode()).hexdigest(),
                tuple(Prompt(text) for text in self.prompts),
                caption="a square",
                fps=8.0,
                masks=self.masks.get(f"clip{i}", ""),
            )
            for i in range(self.clips)
        ]
        return Listing(tuple(infos), (LeftOut("short", "2 frames, 5 are needed"),))

    def load(self, name: str) -> Clip:
        if name in self.unreadable:
            raise OSError(f"{name}.mp4 is damaged")
        index = int(name.removeprefix("clip"))
        frames = np.random.default_rng(index).integers(0, 60, (self.frames, 16, 16, 3), dtype=np.uint8)
        for t in range(self.frames):
            frames[t, 4:8, 2 + t : 6 + t, index % 3] = 255
        masks = np.zeros((self.frames, 16, 16), dtype=bool)
        for t, mask in enumerate(masks):
            mask[4:8, 2 + t : 6 + t] = True
        info = self.listing().clips[index]
        return Clip(info, frames, masks if info.masks else None, truth={"start": (2, 4)})


@dataclass(config=FORBID)
class FakeConfig(BackboneConfig):
    name: str = "fake"
    height: int = 16
    width: int = 16
    weights: str = "pretrained"
    trouble: str | None = None
    loads: int = field(default=0, init=False)

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("trouble",)
    num_blocks: ClassVar[int] = FakeBackbone.num_blocks
    own_world_only: ClassVar[bool] = True

    @property
    def untrained(self) -> bool:
        return self.weights == "random"

    def grid(self, frames: int) -> Grid:
        return Grid(2, 4, 4)

    def check(self, frames: int, device: str) -> Grid:
        return self.grid(frames)

    def identity(self) -> str:
        return "sha256:none"

    def load(self, device: str) -> FakeBackbone:
        self.loads += 1
        if self.trouble:
            raise RuntimeError(self.trouble)
        return FakeBackbone()


@dataclass(config=FORBID)
class Drift(LatentMethod):
    """Moves the noise towards the reference. ``trouble`` maps a prompt to what goes wrong with it."""

    name: str = "drift"
    steps: int = 3
    trouble: dict[str, str] = field(default_factory=dict)
    noises: list[Any] = field(default_factory=list, init=False)

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("trouble",)

    def transfer(
        self, backbone: Any, reference: torch.Tensor, prompt: str, noise: torch.Tensor, observer: Observer
    ) -> torch.Tensor:
        self.noises.append(noise.tolist())
        trouble = self.trouble.get(prompt)
        with observer.stage("text"):
            words = backbone.embed([prompt])
        schedule = backbone.schedule(self.steps)
        # Randomness from the global generator: the harness must make it repeatable.
        latent = noise + 0.1 * torch.randn(noise.shape)
        for index in range(self.steps):
            observer.step(index, self.steps)
            with observer.stage("guide"):
                backbone.calls["gradient"] += 1
                observer.trace(step=index, loss=float((latent - reference).square().mean()))
            with observer.stage("denoise"):
                change = schedule.sigmas[index + 1] - schedule.sigmas[index]
                # Counted as both passes of guidance; where it leads the reference alone decides.
                backbone.predict(latent, schedule.timesteps[index], words, words, 2.0)
                latent = latent + change * (latent - reference - words.mean())
        if trouble == "nan":
            latent[0, 0, 0, 0, 0] = float("nan")
        if trouble == "error":
            raise ValueError("this prompt is trouble")
        if trouble == "oom":
            raise torch.OutOfMemoryError("out of memory")
        if trouble == "interrupt":
            raise KeyboardInterrupt
        return latent


@dataclass(config=FORBID)
class Corners(Tracker):
    """A 'tracker' whose four points shift by the frame's mean brightness."""

    name: str = "corners"
    step: int = 1
    calls: int = field(default=0, init=False)

    version: ClassVar[str] = "1"

    def track(self, frames: np.ndarray, masks: np.ndarray | None = None) -> Tracks:
        self.calls += 1
        start = np.array([[0, 0], [15, 0], [0, 15], [15, 15]], np.float32)
        shift = frames.mean((1, 2, 3)).astype(np.float32)[:, None, None] * self.step
        return Tracks(start + shift, np.ones((len(frames), 4), bool), np.zeros(4, np.intp))


@dataclass(config=FORBID)
class Likeness(Metric):
    """1 - mean absolute difference of generated and reference video."""

    name: str = "likeness"
    trouble: str | None = None

    version: ClassVar[str] = "1"
    outside_id: ClassVar[Sequence[str]] = ("trouble",)
    column = Column("Likeness")

    def score(self, sample: Sample) -> Score:
        if self.trouble == "unavailable":
            raise MetricUnavailable("likeness needs weights; fetch them")
        if self.trouble == "error":
            raise ZeroDivisionError("no pixels")
        if self.trouble == "nan":
            return Score(float("nan"))
        error = np.abs(sample.generated.astype(int) - sample.reference).mean((1, 2, 3)) / 255
        return Score(float(1 - error.mean()), per_frame=tuple((1 - error).tolist()))

    def levels(self, samples: Iterable[Sample]) -> dict[str, float]:
        if self.trouble == "levels":
            raise ZeroDivisionError("no pairs")
        values = [float(sample.reference.mean()) for sample in samples]
        return {"true": 1.0, "chance": float(np.mean(values)) / 255, "pairs": float(len(values))}


@dataclass(config=FORBID)
class Following(Metric):
    """Mean distance of generated and reference tracks."""

    name: str = "following"

    version: ClassVar[str] = "1"
    column = Column("Following", "px", higher_is_better=False, digits=2)
    uses_tracks: ClassVar[bool] = True

    def score(self, sample: Sample) -> Score:
        gap = sample.generated_tracks.points - sample.reference_tracks.points
        return Score(float(np.linalg.norm(gap, axis=-1).mean()))


@dataclass(config=FORBID)
class Elsewhere(VideoMethod):
    """Finished videos of another size and length."""

    name: str = "elsewhere"

    version: ClassVar[str] = "1"
    made_here = False
    uncounted = "the video was made elsewhere"

    def content(self, clip: str, prompt: str, seed: int) -> str:
        return hashlib.sha256(f"{clip} {prompt} {seed}".encode()).hexdigest()

    def video(self, request: VideoRequest) -> tuple[np.ndarray, float | None]:
        return np.full((4, 32, 40, 3), 7, np.uint8), 12.5


def make_job(results: Path, **changes: Any) -> Job:
    """A job of fakes; keyword arguments replace its fields."""
    fields: dict[str, Any] = {
        "method": Drift(),
        "backbone": FakeConfig(),
        "dataset": Squares(),
        "metrics": {"likeness": Likeness(), "following": Following()},
        "tracker": Corners(),
        "required": [],
        "device": "cpu",
        "seeds": [0],
        "limit": None,
        "frames": 5,
        "results": results,
        "resume": True,
        "keep_frames": True,
        "warmup_steps": 1,
        "repeats": 1,
        "name": "trial",
        "engine": Here("here"),
        "wandb": {},
        "needs": NEEDS["run"],
        "resolved": {"method": {"name": "drift"}, "backbone": {}, "dataset": {}},
    }
    return Job(**{**fields, **changes})


def planned(job: Job) -> tuple[Plan, list[Cell]]:
    """The job's plan and cells, by the harness's own planner."""
    return make_plan(job)
