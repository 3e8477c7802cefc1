"""Bright bars that move over grey, one speed a clip."""

from typing import ClassVar

import numpy as np
import pydantic

from datasets.interface import Clip, ClipInfo, Dataset, Listing, Prompt


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Bars(Dataset):
    """Clip ``bars-K`` moves by K pixels a frame."""

    name: str
    frames: int
    height: int
    width: int
    default_frames: int
    clip_model: str
    clips: int = 3

    version: ClassVar[str] = "1"  # change it when the code changes the frames
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
            columns = (np.arange(self.width // 4) + speed * t) % self.width
            frames[t, :, columns] = 220
        info = next(clip for clip in self.listing().clips if clip.name == name)
        return Clip(info, frames)
