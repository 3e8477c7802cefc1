"""Three references and the finished videos of three methods, of other sizes and rates, with their tables.

`python docs/finished_example.py FOLDER`; docs/finished.md says what to do with them.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from datasets.media.images import resize_crop
from datasets.media.video import write_h264
from datasets.sprites.world import HELD_OUT, render

folder = Path(sys.argv[1])
listed, prompts = [], []
for number, (height, width, fps) in enumerate([(96, 128, 24), (128, 128, 30), (144, 96, 12)]):
    clip = f"clip-{number}"
    reference, truth = render(HELD_OUT + number, 25, height, width)
    prompts.append((clip, f"what moves as in {truth.motion} {number}"))
    turned = reference[..., [1, 2, 0]]
    # method: frames, frames a second, size
    videos = {
        # The same motion in other colours, at another size.
        "recolour": (turned, fps, (160, 208)),
        # Every other frame of it, at half the rate.
        "half-rate": (turned[::2], fps / 2, (96, 128)),
        # The first frame, held.
        "still": (np.repeat(turned[:1], 25, axis=0), fps, (96, 128)),
    }
    for method, (frames, rate, size) in videos.items():
        file = Path("videos") / method / f"{clip}.mp4"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_h264(folder / file, resize_crop(frames, *size), rate, min_side=1)
        listed.append((f"{clip}.mp4", method, file))
    (folder / "references").mkdir(exist_ok=True)
    write_h264(folder / "references" / f"{clip}.mp4", reference, fps, min_side=1)

for name, header, rows in (
    ("references/prompts.csv", ("clip", "prompt"), prompts),
    ("videos.csv", ("clip", "method", "file"), listed),
):
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
