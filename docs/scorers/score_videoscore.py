"""One aspect of VideoScore for an external scorer: `python score_videoscore.py JOB.json`, docs/external.md.

In an environment with `pip install mantis-vl av pillow` and a clone of TIGER-AI-Lab/VideoScore (8e44973), in
which the question to the model is read. options: `clone`, its folder; `aspect`, one of ASPECTS; the others
stand in the details. Not run against the real model (TIGER-Lab/VideoScore-v1.1, 8 B parameters).
"""

import ast
import json
import sys
from pathlib import Path

import av
import torch
from mantis.models.idefics2 import Idefics2ForSequenceClassification
from PIL import Image
from transformers import AutoProcessor

MODEL, MOST_FRAMES = "TIGER-Lab/VideoScore-v1.1", 48
ASPECTS = (
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)


def question(clone):
    """The text that the model was trained with, which has a place for the prompt."""
    script = ast.parse((Path(clone) / "examples" / "run_videoscore.py").read_text())
    for node in script.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REGRESSION_QUERY_PROMPT":
            return ast.literal_eval(node.value)
    raise SystemExit(f"{clone}: examples/run_videoscore.py has no REGRESSION_QUERY_PROMPT")


def pictures(path):
    """All frames, or as many as the model takes, evenly spread."""
    with av.open(path) as video:
        frames = [picture.to_ndarray(format="rgb24") for picture in video.decode(video=0)]
    count = min(len(frames), MOST_FRAMES)
    return [Image.fromarray(frames[number * len(frames) // count]) for number in range(count)]


job = json.loads(Path(sys.argv[-1]).read_text())
wanted = ASPECTS.index(job["options"]["aspect"])
asked = question(job["options"]["clone"])
processor = AutoProcessor.from_pretrained(MODEL, torch_dtype=torch.bfloat16)
model = Idefics2ForSequenceClassification.from_pretrained(MODEL, torch_dtype=torch.bfloat16).eval()
model.to(job["device"])
scores = {}
for video in job["videos"]:
    images = pictures(video["video"])
    text = asked.format(text_prompt=video["prompt"]) + "<image> " * len(images)
    inputs = processor(text=text, images=images, return_tensors="pt")
    with torch.no_grad():
        given = model(**{key: value.to(job["device"]) for key, value in inputs.items()}).logits[0].tolist()
    scores[video["id"]] = {
        "value": given[wanted],
        "details": {"frames": len(images), **dict(zip(ASPECTS, given, strict=True))},
    }
Path(job["output"]).write_text(json.dumps(scores))
