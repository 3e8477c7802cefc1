"""One dimension of VBench for an external scorer: `python score_vbench.py JOB.json`, docs/external.md.

In an environment of VBench's own (`pip install vbench`, Vchitect/VBench at 45e79ec: transformers 4.33.2,
numpy < 2). Its `custom_input` mode takes any video. options: `dimension`. Not run against the real package.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from vbench import VBench

job = json.loads(Path(sys.argv[-1]).read_text())
dimension = job["options"]["dimension"]
with tempfile.TemporaryDirectory() as folder:
    videos, results = Path(folder, "videos"), Path(folder, "results")
    videos.mkdir()
    for video in job["videos"]:
        # VBench goes by the name and wants mp4; OpenCV and decord, which read for it, go by the content.
        (videos / f"{video['id']}.mp4").symlink_to(video["video"])
    # A torch.device, as its own script has it: motion_smoothness treats the word "cuda" otherwise.
    bench = VBench(torch.device(job["device"]), "", str(results))
    bench.evaluate(
        videos_path=str(videos),
        name="job",
        prompt_list={f"{video['id']}.mp4": video["prompt"] for video in job["videos"]},
        dimension_list=[dimension],
        mode="custom_input",
    )
    _, answers = json.loads((results / "job_eval_results.json").read_text())[dimension]

# Of all videos VBench divides this one by 100, of each video it does not.
scale = 100 if dimension == "imaging_quality" else 1
scores = {Path(one["video_path"]).stem: float(one["video_results"]) / scale for one in answers}
Path(job["output"]).write_text(json.dumps(scores))
