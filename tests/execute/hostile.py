"""Plug-ins without a model, whose method does to its process what real ones do by accident."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import field
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from datasets.interface import Clip, ClipInfo, Dataset, Listing, Prompt
from methods.backbones.interface import BackboneConfig, Grid
from methods.interface import LatentMethod, VideoMethod
from metrics.interface import Column, Metric, Score, Tracker

plain = dataclass(config={"extra": "forbid"})


def kill(number: int) -> None:
    print("about to end", flush=True)
    os.kill(os.getpid(), number)
    time.sleep(60)


def hang() -> None:
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    time.sleep(600)


ACTS = {
    "exit": lambda: sys.exit(0),
    "leave": lambda: os._exit(0),
    "segfault": lambda: kill(signal.SIGSEGV),
    "kill": lambda: kill(signal.SIGKILL),
    "terminate": lambda: kill(signal.SIGKILL),
    "hang": hang,
}


@plain
class Hostile(VideoMethod):
    """Brightens the reference after ``seconds``. ``acts``: what it does first, by clip;
    with ``once``, a folder, only on the first try."""

    name: str
    acts: dict[str, str] = field(default_factory=dict)
    once: str | None = None
    seconds: float = 0.0
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("acts", "once", "seconds")
    made_here = True
    uncounted = "no model"

    def video(self, request):
        act = self.acts.get(request.clip)
        if self.once and act:
            marker = Path(self.once) / f"{request.clip}-{request.seed}"
            act = None if marker.exists() else act
            marker.parent.mkdir(exist_ok=True)
            marker.touch()
        if act == "memory":
            raise MemoryError
        if act:
            ACTS[act]()
        time.sleep(self.seconds)
        return np.minimum(request.reference, 250) + np.uint8(5), 0.5


@plain
class Latent(LatentMethod):
    """Works on the backbone, which hangs when it is loaded."""

    name: str
    version: ClassVar[str] = "1"

    def transfer(self, backbone, reference, prompt, noise, observer):
        raise AssertionError("it is never loaded")


@plain
class Clips(Dataset):
    name: str
    frames: int
    default_frames: int = 5
    clips: int = 4
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("clips", "default_frames")
    real_footage = False

    def listing(self):
        infos = [ClipInfo(f"c{i}", f"content {i}", (Prompt("p"),)) for i in range(self.clips)]
        return Listing(tuple(infos), ())

    def load(self, name):
        frames = np.random.default_rng(int(name[1:])).integers(0, 200, (self.frames, 16, 16, 3), np.uint8)
        return Clip(ClipInfo(name, "", ()), frames)


@plain
class Backbone(BackboneConfig):
    name: str
    height: int = 16
    width: int = 16
    version: ClassVar[str] = "1"
    num_blocks = 4
    own_world_only = True

    def grid(self, frames):
        return Grid(frames // 4 + 1, 4, 4)

    def check(self, frames, device):
        return self.grid(frames)

    def identity(self):
        return "sha256:0"

    def load(self, device):
        hang()


@plain
class Brightness(Metric):
    name: str
    seconds: float = 0.0
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("seconds",)
    column = Column("Brightness")

    def score(self, sample):
        time.sleep(self.seconds)
        return Score(float(sample.generated.mean()))


@plain
class Points(Tracker):
    name: str
    version: ClassVar[str] = "1"

    def track(self, frames, masks=None):
        raise AssertionError("no tracks are needed")
