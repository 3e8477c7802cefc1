"""A dataset from outside the package: one file, and one YAML that names it."""

from __future__ import annotations

FILES = {
    "dataset_from_outside/bars.py": '''
from typing import ClassVar

import numpy as np
import pydantic

from datasets.interface import Clip, ClipInfo, Dataset, Listing, Prompt


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Bars(Dataset):
    """A bright bar that moves to the right; ``clips`` of them, each faster than the last."""

    name: str
    frames: int
    height: int
    width: int
    default_frames: int
    clip_model: str
    clips: int

    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple[str, ...]] = ("clips", "default_frames", "clip_model")
    real_footage: ClassVar[bool] = False

    def listing(self):
        prompt = Prompt("a red square on a grey background")
        names = [f"bars-{speed}" for speed in range(1, self.clips + 1)]
        return Listing(tuple(ClipInfo(name, f"{name} v1", (prompt,), fps=8.0) for name in names), ())

    def load(self, name):
        speed = int(name.removeprefix("bars-"))
        frames = np.full((self.frames, self.height, self.width, 3), 90, np.uint8)
        for t in range(self.frames):
            frames[t, :, (np.arange(self.width // 4) + speed * t) % self.width] = 220
        return Clip(self.listing().clips[speed - 1], frames)
''',
    "configs/dataset/bars.yaml": """
_target_: dataset_from_outside.bars.Bars
name: bars
frames: ${frames}
height: ${backbone.height}
width: ${backbone.width}
default_frames: 17
clip_model: sprites
clips: 2
""",
}


def test_a_dataset_from_outside_is_run_like_ours(outside):
    records = outside(FILES, "dataset=bars")
    assert [(record.clip, record.status) for record in records] == [("bars-1", "ok"), ("bars-2", "ok")]
    assert len({record.frames_sha256 for record in records}) == 2
    for record in records:
        assert record.prompt == "a red square on a grey background"
        assert record.metrics["clip_t"].value is not None
        assert record.metrics["clip_f"].value is not None
        assert not record.metrics["position_error"].applies
