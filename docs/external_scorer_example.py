"""An external scorer: how sharp videos are. `python external_scorer_example.py JOB.json`.

The variance of the Laplacian of a frame's brightness (Pech-Pacheco et al., ICPR 2000), its mean over frames.
It needs av and numpy and nothing of vmtbench; docs/external.md has the contract.
"""

import json
import sys
from pathlib import Path

import av
import numpy as np


def sharpness(path):
    """Of each frame, in grey levels squared."""
    found = []
    with av.open(path) as video:
        for picture in video.decode(video=0):
            grey = picture.to_ndarray(format="rgb24") @ np.array([0.299, 0.587, 0.114])
            middle = grey[1:-1, 1:-1]
            around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
            found.append(float((around - 4 * middle).var()))
    return found


job = json.loads(Path(sys.argv[-1]).read_text())
scores = {}
for video in job["videos"]:
    frames, reference = sharpness(video["video"]), sharpness(video["reference"])
    scores[video["id"]] = {
        "value": float(np.mean(frames)),
        "per_frame": frames,
        "details": {"reference": float(np.mean(reference))},
    }
    print(f"{video['clip']}: {scores[video['id']]['value']:.1f}")
Path(job["output"]).write_text(json.dumps(scores))
