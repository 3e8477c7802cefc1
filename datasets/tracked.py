"""What benchmarks share whose clips are one video each, with prompts and tracks of points beside it."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pydantic
from numpy.typing import NDArray

from datasets.errors import InputError, nearest
from datasets.footage import FPS, Footage, Taken
from datasets.hashing import files_sha256
from datasets.interface import Clip, ClipInfo, LeftOut, Listing, Prompt
from datasets.media import images, video

Tracks = NDArray[np.float32]
"""As ``Clip.tracks``: (T, N, 3), x, y and whether it is seen."""


@dataclass(frozen=True)
class Entry:
    """A clip's files and texts. ``mask`` marks the object in the video's first frame."""

    video: Path
    prompts: tuple[Prompt, ...]
    caption: str | None = None
    mask: Path | None = None
    tracks: Path | None = None


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class TrackedFootage(Footage):
    """``longest``: frames that such a set's clips have and are tracked over; what follows is not used.

    A clip whose tracks are missing is run without them. Fields as in ``Footage``.
    """

    version: ClassVar[str] = "1"
    longest: ClassVar[int]

    @abstractmethod
    def entries(self) -> Mapping[str, Entry | str]:
        """The clips by name, or why one cannot be used. InputError where ``root`` holds no such set."""

    @abstractmethod
    def read_tracks(self, entry: Entry, size: tuple[int, int]) -> Tracks | None:
        """Tracks of a whole video of ``size`` (H, W), in its pixels; None without.

        Raises InputError naming a file that holds none.
        """

    @abstractmethod
    def strata(self, entry: Entry, size: tuple[int, int]) -> Mapping[str, str]:
        """What kind of clip it is, by name."""

    def listing(self) -> Listing:
        """The clips to run, in order; those too short or not as the set has them are left out.

        A video that cannot even be counted stays in the listing and fails when it is decoded. InputError: no
        such folder, none remains, one asked for by name cannot be used, or a mask or tracks are none.
        """
        entries = self.entries()
        clips: list[ClipInfo] = []
        left_out: list[LeftOut] = []
        for name in dict.fromkeys(self.names if self.names is not None else entries):
            entry = entries.get(name, f"is not in {self.root}; {nearest(name, entries)}")
            reason = entry if isinstance(entry, str) else self._too_short(entry)
            if isinstance(entry, str) or reason is not None:
                left_out.append(LeftOut(name, reason or ""))
            else:
                clips.append(self._info(name, entry))
        return self.settle(clips, left_out, f"dataset.root={self.root}", "Set a smaller frames")

    def load(self, name: str) -> Clip:
        """Decode one clip; InputError naming the file that cannot be read or is too short."""
        entry = self.entries()[name]
        if isinstance(entry, str):
            raise InputError(f"dataset.names: {name} {entry}")
        taken = self.taken()
        count = self.count(self._available(entry, taken), taken)
        frames, times, fps = video.read_timed(entry.video, taken.start, count, taken.stride, taken.fps)
        if not count or len(frames) < count:
            raise InputError(f"{entry.video}: only {len(frames)} of {self.frames} frames can be decoded")
        masks = self.resized_masks(self._masks(entry), frames)
        info = replace(self._info(name, entry), fps=fps)
        tracks = self._tracks(entry, frames, taken.places(count, video.frame_times(entry.video)[1]))
        return Clip(info, self.resized(frames), masks, times=times, tracks=tracks)

    def home(self) -> Path:
        """``root``; InputError where it is not set or no folder."""
        remedy = f"name the folder of {self.name}; docs/datasets.md says where it is to be had"
        if not self.root:
            raise InputError(f"dataset.root: not set; {remedy}")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise InputError(f"dataset.root={root}: no such folder; {remedy}")
        return root

    def _masks(self, entry: Entry) -> dict[int, Path]:
        return {} if entry.mask is None or self.start else {0: entry.mask}

    def _available(self, entry: Entry, taken: Taken) -> int:
        count = video.count_frames(entry.video, taken.fps)
        if taken.fps is None:
            return min(count, self.longest)
        return min(count, taken.available(self.longest, video.frame_times(entry.video)[1]))

    def _too_short(self, entry: Entry) -> str | None:
        taken = self.taken()
        try:
            available = self._available(entry, taken)
        except InputError:
            return None
        return None if self.count(available, taken) else self.shortfall(available, taken)

    def _info(self, name: str, entry: Entry) -> ClipInfo:
        taken = self.taken()
        count: int | None = None
        looks: tuple[str, ...] = ()
        remarks: tuple[str, ...] = ()
        strata: Mapping[str, str] = {}
        rate, size = FPS, None
        with contextlib.suppress(InputError):
            looks, remarks = video.looks(entry.video), video.remarks(entry.video)
            rate, size = video.frame_times(entry.video)[1], video.shown_size(entry.video)
            if self.frames == "auto":
                count = self.count(self._available(entry, taken), taken)
        if size is not None:
            self._check_mask(entry, size)
            strata = self.strata(entry, size)
        if entry.tracks is None:
            remarks += ("its tracks are missing: run without them",)
        return ClipInfo(
            name=name,
            content=self.content(files_sha256([entry.video]), taken, looks),
            prompts=entry.prompts,
            caption=entry.caption,
            fps=taken.rate(rate),
            masks=self.masks_sha256(self._masks(entry)),
            frames=count,
            remarks=remarks,
            strata=strata,
        )

    def _check_mask(self, entry: Entry, size: tuple[int, int]) -> None:
        for path in self._masks(entry).values():
            mask = self.read_mask(path)
            if mask.shape != size:
                sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, size)]
                raise InputError(
                    f"{path}: is {sizes[0]}, its clip {sizes[1]}; replace it, or remove it to run the clip "
                    "without a mask"
                )

    def _tracks(self, entry: Entry, frames: images.Frames, places: Sequence[int]) -> Tracks | None:
        """Tracks of the frames used, as they lie after resizing; what was cropped away is not seen."""
        size = (frames.shape[1], frames.shape[2])
        tracks = self.read_tracks(entry, size)
        if tracks is None:
            return None
        if len(tracks) <= places[-1]:
            raise InputError(
                f"{entry.tracks}: holds {len(tracks)} frames, {places[-1] + 1} needed; replace or remove it"
            )
        height, width = self._size(frames)
        points = images.resize_crop_points(tracks[places][..., :2], size, height, width)
        inside = ((points >= -0.5) & (points < (width - 0.5, height - 0.5))).all(-1, keepdims=True)
        seen = (tracks[places][..., 2:] > 0.5) & inside
        return np.concatenate([points, seen.astype(np.float32)], axis=-1)


def checked_tracks(path: Path, tracks: NDArray[np.float32]) -> Tracks:
    """The tracks; InputError naming the file unless they are (T, N, 3) finite numbers."""
    if tracks.ndim != 3 or tracks.shape[-1] != 3 or not tracks.size or not np.isfinite(tracks).all():
        raise InputError(
            f"{path}: holds no tracks (frames, points, 3) of finite numbers but {tracks.shape}; "
            "replace it, or remove it to run the clip without tracks"
        )
    return tracks
