"""A picture of reference over generations: ``python -m reports.pictures results --out picture.png``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datasets.errors import InputError
from datasets.images import resize_crop
from datasets.video import read_video
from harness.records import store
from harness.records.record import Plan
from reports.rows import find_plans, groups

Frames = NDArray[np.uint8]


def strip(frames: Frames, count: int, side: int) -> Frames:
    """``count`` evenly spaced frames side by side, each ``side`` pixels high: (side, W, 3) uint8."""
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    height, width = chosen.shape[1:3]
    return np.concatenate(list(resize_crop(chosen, side, round(width * side / height))), axis=1)


def rows_of(
    results: Path, plans: Sequence[Plan], clips: int, count: int, side: int
) -> list[tuple[str, Frames]]:
    """(label, strip) of each clip's reference and of its generation by each row, first seed and prompt.

    Only clips that every row has finished; InputError when there is none.
    """
    of_tables = [row for group in groups(results, plans) for row in group.rows]
    found: list[dict[str, tuple[str, Path]]] = []
    for row in of_tables:
        of_row: dict[str, tuple[str, Path]] = {}
        for cell in row.cells.values():
            if (results / cell.path / store.FRAMES).exists():
                of_row.setdefault(cell.clip, (cell.prompt, results / cell.path))
        found.append(of_row)
    shared = [clip for clip in found[0] if all(clip in other for other in found)] if found else []
    if not shared:
        raise InputError(f"{results}: no clip with kept frames in every row; run with keep_frames=true")
    rows: list[tuple[str, Frames]] = []
    for clip in shared[:clips]:
        prompt, first = found[0][clip]
        rows.append((f"reference {clip}", strip(read_video(first / store.REFERENCE)[0], count, side)))
        for row, of_row in zip(of_tables, found, strict=True):
            frames = read_video(of_row[clip][1] / store.FRAMES)[0]
            rows.append((f"{row.label}: {prompt}", strip(frames, count, side)))
    return rows


def compose(rows: Sequence[tuple[str, Frames]]) -> Image.Image:
    """The strips under each other, each below its label; a wider gap before a reference."""
    font = ImageFont.load_default(13)
    line, gap = 18, 14
    height = sum(frames.shape[0] + line + gap * label.startswith("reference") for label, frames in rows)
    picture = Image.new("RGB", (max(frames.shape[1] for _, frames in rows), height), "white")
    drawing, y = ImageDraw.Draw(picture), 0
    for label, frames in rows:
        y += gap * label.startswith("reference")
        drawing.text((2, y + 1), label, fill="black", font=font)
        picture.paste(Image.fromarray(frames), (0, y + line))
        y += line + frames.shape[0]
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reports.pictures", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--plan", action="append", default=[], metavar="NAME", help="only these plans, in order"
    )
    parser.add_argument(
        "--experiment", action="append", default=[], metavar="NAME", help="only plans of these experiments"
    )
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--frames", type=int, default=8, help="frames of a strip")
    parser.add_argument("--side", type=int, default=96, help="height of a frame, pixels")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        plans = find_plans(arguments.results, arguments.plan, arguments.experiment)
        order = {name: place for place, name in enumerate(arguments.plan)}
        plans.sort(key=lambda plan: order.get(plan.name, 0))
        rows = rows_of(arguments.results, plans, arguments.clips, arguments.frames, arguments.side)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    compose(rows).save(arguments.out)
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
