"""An external method: the reference with inverted colours. `python external_example.py JOB.json`.

It needs av and nothing of vmtbench; docs/external.md has the contract.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path

import av

job = json.loads(Path(sys.argv[1]).read_text())
print(f"{job['clip']}: {job['frames']} frames for {job['prompt']!r}")

with av.open(job["reference"]) as reference, av.open(job["output"], "w") as output:
    stream = output.add_stream("ffv1", rate=Fraction(job["fps"]).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = job["width"], job["height"], "bgr0"
    for picture in reference.decode(video=0):
        inverted = av.VideoFrame.from_ndarray(255 - picture.to_ndarray(format="rgb24"), format="rgb24")
        output.mux(stream.encode(inverted.reformat(format="bgr0")))
    output.mux(stream.encode())
