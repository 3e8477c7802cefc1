"""A picture of reference and videos: ``python -m reports.pictures results --out picture.png``.

A .png shows frames in strips under each other, a .webp or .gif plays the videos side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.files import whole
from datasets.media.images import enlarged, line, resize_crop
from datasets.media.video import frame_times, read_video
from harness.records import store
from harness.records.record import Plan
from reports.table.rows import Row, find_plans, groups

Frames = NDArray[np.uint8]
Take = tuple[str, str, int]
"""Clip, prompt and seed."""

MOVING = (".webp", ".gif")
WIDTH = 830
"""Pixels that a README has across."""
LOOP_S, LAST_S = 3.0, 0.8
"""Seconds of a loop, which a longer last frame fills, and those that this one lasts at least."""
GAP = 6


@dataclass(frozen=True)
class Scene:
    """One clip, prompt and seed. ``videos``: the reference, then each row's, by label; (T, H, W, 3) uint8."""

    clip: str
    prompt: str
    fps: float
    videos: list[tuple[str, Frames]]


def scenes(results: Path, plans: Sequence[Plan], clips: int) -> list[Scene]:
    """Of each table the first ``clips`` of which all rows have a video of one prompt and seed.

    A row without a single video is left out. InputError when no clip is left.
    """
    made = []
    for group in groups(results, plans):
        found = [(row.label, _folders(results, row)) for row in group.rows]
        found = [(label, folders) for label, folders in found if folders]
        shared: dict[str, Take] = {}
        for take in found[0][1] if found else ():
            if all(take in folders for _, folders in found):
                shared.setdefault(take[0], take)
        for take in list(shared.values())[:clips]:
            reference = found[0][1][take] / store.REFERENCE
            videos = [("reference", read_video(reference)[0])]
            videos += [(label, _frames(folders[take])) for label, folders in found]
            made.append(Scene(take[0], take[1], frame_times(reference)[1], videos))
    if not made:
        raise InputError(f"{results}: no clip of which every row has a video, so there is no picture")
    return made


def _folders(results: Path, row: Row) -> dict[Take, Path]:
    """The folders of a row's cells that have a video."""
    folders = {(cell.clip, cell.prompt, cell.seed): results / cell.path for cell in row.cells.values()}
    return {take: folder for take, folder in folders.items() if (folder / store.VIDEO).exists()}


def _frames(folder: Path) -> Frames:
    """A cell's video, without loss where its frames were kept."""
    kept = folder / store.FRAMES
    return read_video(kept if kept.exists() else folder / store.VIDEO)[0]


def strips(shown: Sequence[Scene], count: int, side: int) -> Frames:
    """``count`` evenly spaced frames of each video, ``side`` pixels high, below its label.

    (H, W, 3) uint8.
    """
    parts = []
    for scene in shown:
        for label, frames in scene.videos:
            chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
            strip = np.concatenate(list(_sized(chosen, side)), axis=1)
            text = f"{label}: {scene.clip if frames is scene.videos[0][1] else scene.prompt}"
            parts += [line(text, strip.shape[1]), strip]
        parts.append(np.full((GAP * 2, 1, 3), 255, np.uint8))
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_padded(part, len(part), width) for part in parts[:-1]])


def moving(shown: Sequence[Scene], side: int) -> Frames:
    """Each clip's videos side by side below their labels, above its prompt: (T, H, W, 3) uint8.

    As many clips beside each other as a README is wide; a shorter video stays at its last frame.
    """
    length = max(len(frames) for scene in shown for _, frames in scene.videos)
    blocks = [_block(scene, length, side) for scene in shown]
    high, wide = (max(block.shape[axis] for block in blocks) for axis in (1, 2))
    across = max(1, (WIDTH + 2 * GAP) // (wide + 2 * GAP))
    empty = np.full((length, high, wide, 3), 255, np.uint8)
    tiles = [np.stack([_padded(frame, high, wide) for frame in block]) for block in blocks]
    tiles += [empty] * (-len(tiles) % min(across, len(tiles)))
    space = np.full((length, high, 2 * GAP, 3), 255, np.uint8)
    rows = []
    for first in range(0, len(tiles), across):
        parts = [part for tile in tiles[first : first + across] for part in (tile, space)]
        rows.append(np.concatenate(parts[:-1], axis=2))
        rows.append(np.full((length, 2 * GAP, rows[0].shape[2], 3), 255, np.uint8))
    return np.concatenate(rows[:-1], axis=1)


def _block(scene: Scene, length: int, side: int) -> Frames:
    columns = []
    for label, frames in scene.videos:
        played = _sized(frames[np.minimum(np.arange(length), len(frames) - 1)], side)
        head = np.broadcast_to(line(label, played.shape[2]), (length, *line(label, played.shape[2]).shape))
        columns += [np.concatenate([head, played], axis=1), np.full((length, 1, GAP, 3), 255, np.uint8)]
    high = columns[0].shape[1]
    joined = np.concatenate(
        [np.broadcast_to(part, (length, high, *part.shape[2:])) for part in columns[:-1]], axis=2
    )
    foot = line(scene.prompt, joined.shape[2])
    return np.concatenate([joined, np.broadcast_to(foot, (length, *foot.shape))], axis=1)


def _sized(frames: Frames, side: int) -> Frames:
    """Frames ``side`` pixels high; small ones by repeating pixels as far as that goes."""
    bigger = enlarged(frames, side) if side % frames.shape[1] == 0 else frames
    height, width = bigger.shape[1:3]
    return resize_crop(bigger, side, round(width * side / height))


def _padded(picture: Frames, height: int, width: int) -> Frames:
    """White to the right and below."""
    more = (0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)
    return np.pad(picture, more, constant_values=255)


def save(shown: Sequence[Scene], out: Path, count: int = 8, side: int = 96) -> None:
    """Write ``strips`` as .png; as .webp or .gif ``moving``, in a loop. InputError for another suffix."""
    from PIL import Image

    if out.suffix.lower() not in (".png", *MOVING):
        raise InputError(f"--out {out}: name a .png, .webp or .gif")
    if out.suffix.lower() not in MOVING:
        picture = strips(shown, count, side)
        with whole(out, picture.nbytes) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
        return
    frames = moving(shown, side)
    step = 1000 / shown[0].fps
    last = max(LAST_S * 1000, LOOP_S * 1000 - step * (len(frames) - 1))
    durations = [round(step)] * (len(frames) - 1) + [round(last)]
    first, *others = map(Image.fromarray, frames)
    kind = out.suffix[1:].upper()
    with whole(out, frames.nbytes) as temporary:
        first.save(
            temporary,
            format=kind,
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            **({"quality": 90, "method": 4} if kind == "WEBP" else {}),
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reports.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--plan", action="append", default=[], metavar="NAME", help="only these plans, in order"
    )
    parser.add_argument(
        "--experiment", action="append", default=[], metavar="NAME", help="only plans of these experiments"
    )
    parser.add_argument("--clips", type=int, default=3, help="the first so many")
    parser.add_argument("--frames", type=int, default=8, help="frames of a strip")
    parser.add_argument("--side", type=int, default=96, help="height of a frame, pixels")
    parser.add_argument("--out", type=Path, required=True, help="a .png, .webp or .gif")
    arguments = parser.parse_args()
    try:
        plans = find_plans(arguments.results, arguments.plan, arguments.experiment)
        order = {name: place for place, name in enumerate(arguments.plan)}
        plans.sort(key=lambda plan: order.get(plan.name, 0))
        shown = scenes(arguments.results, plans, arguments.clips)
        save(shown, arguments.out, arguments.frames, arguments.side)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
