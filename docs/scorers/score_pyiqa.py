"""A metric of pyiqa for an external scorer: `python score_pyiqa.py JOB.json`, docs/external.md.

In an environment with `pip install pyiqa av` (chaofengc/IQA-PyTorch at 01ae427). The mean over frames;
metrics that need a reference get the clip's frame of the same place. options: `metric`, a name that
`pyiqa.list_models()` gives. Not run against the real package.
"""

import json
import sys
from pathlib import Path

import av
import pyiqa
import torch


def frames(path):
    """Each frame (1, 3, H, W), 0 to 1."""
    with av.open(path) as video:
        for picture in video.decode(video=0):
            pixels = torch.from_numpy(picture.to_ndarray(format="rgb24"))
            yield pixels.permute(2, 0, 1)[None].float() / 255


job = json.loads(Path(sys.argv[-1]).read_text())
metric = pyiqa.create_metric(job["options"]["metric"], device=torch.device(job["device"]))
print("lower is better" if metric.lower_better else "higher is better")
scores = {}
for video in job["videos"]:
    if metric.metric_mode == "FR":
        pairs = zip(frames(video["video"]), frames(video["reference"]), strict=True)
        values = [float(metric(frame, beside)) for frame, beside in pairs]
    else:
        values = [float(metric(frame)) for frame in frames(video["video"])]
    scores[video["id"]] = {"value": sum(values) / len(values), "per_frame": values}
Path(job["output"]).write_text(json.dumps(scores))
