"""The videos of a study's site: cut, brought to one size and encoded alike, so that none tells its maker."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.media.images import resize_crop
from datasets.media.video import read_video, write_h264
from reports.study.source import Take, cut


class Shown(NamedTuple):
    """A video as it is shown beside a take's reference.

    ``change``: nothing, ``reversed``, ``frozen``, or ``again`` (the same in a file of its own).
    """

    source: Path
    id: str
    change: str
    take: Take

    def name(self, seed: int) -> str:
        """Its file name: a hash that holds ids of cells, which a rater does not know."""
        place = self.id, self.source.name, self.change, self.take.size, self.take.seconds, seed
        return hashlib.sha256(repr(place).encode()).hexdigest()[:16] + ".mp4"


def reference(take: Take, change: str = "") -> Shown:
    """A take's reference."""
    return Shown(take.reference, take.reference_id, change, take)


def generation(take: Take, method: str, beside: Take | None = None) -> Shown:
    """What a method made of a take, shown beside its own reference or another take's."""
    return Shown(take.videos[method], take.ids[method], "", beside or take)


def write(shown: Shown, path: Path) -> None:
    """Encode one: H.264, the take's size and length. InputError where its source cannot be read."""
    frames, fps = read_video(shown.source)
    frames = cut(frames, fps, shown.take.seconds)
    if shown.change == "reversed":
        frames = frames[::-1]
    if shown.change == "frozen":
        frames = np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)
    write_h264(path, resize_crop(frames, *shown.take.size), fps)
