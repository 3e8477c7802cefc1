"""A protocol as the configuration and the code have it now, to be compared with what its file states.

``python tests/reports/protocol_world.py > harness/protocol/vmtbench-vN.yaml`` writes such a file.
"""

from __future__ import annotations

from typing import Any

import yaml

from datasets.davis import PROMPT_SETS, our_prompts, sequences
from harness.cells.job import Job
from harness.cells.score import metric_version, tracker_version
from harness.command.compose import compose
from harness.command.config import make_job
from harness.protocol.stated import prompts_digest
from harness.records.identity import WEIGHTS, of_plugin

NAME = "vmtbench-v1"
EXPERIMENTS = {NAME: None, f"{NAME}-81": NAME, f"{NAME}-light": NAME, f"{NAME}-sprites": NAME}
"""Each table's experiment, and the one that it is written like."""

HEAD = f"""# The protocol {NAME}: all that a table must hold to bear the name. It never changes; another
# version of a metric makes another protocol. docs/protocol.md explains it.
#     python tests/reports/protocol_world.py > harness/protocol/{NAME}.yaml
"""


def job_of(*words: str) -> Job:
    """The job of an experiment's first variant, nothing loaded."""
    (parts,) = compose([*words, "experiment.every=null", "action=cost", "wandb=disabled"])
    return make_job(parts[0].resolved, parts[0].overrides, parts[0].variant)[0]


def clips_of(job: Job) -> dict[str, list[tuple[str, str]]]:
    """Kind and text of each clip's prompts; of DAVIS without its files, those that are long enough."""
    if job.dataset.name != "davis":
        return {
            clip.name: [(prompt.kind, prompt.text) for prompt in clip.prompts]
            for clip in job.dataset.listing().clips
        }
    column, value = ("ci10", "yes") if job.node("dataset")["subset"] == "ci10" else ("year", "2016")
    chosen = [
        name for name, row in sequences().items() if row[column] == value and int(row["frames"]) >= job.frames
    ]
    return {name: [(kind, our_prompts()[name][kind]) for kind in PROMPT_SETS] for name in chosen}


def stated(experiment: str) -> dict[str, Any]:
    """What the protocol's file would say of the table."""
    job = job_of(f"experiment={experiment}")
    clips = clips_of(job)
    tracker = tracker_version(job.tracker).partition(WEIGHTS)[0]
    versions = {
        name: metric_version(metric, job.tracker).partition(WEIGHTS)[0].partition("; ")[0]
        for name, metric in job.metrics.items()
    }
    sampling = {
        key: value
        for key in ("steps", "guidance_scale", "negative_prompt")
        if (value := job.node("method").get(key, job.node("backbone").get(key))) is not None
    }
    own = job.backbone.name == "sprites"
    weights = {"weights": job.backbone.identity()} if own else {}
    return {
        "dataset": of_plugin(job.dataset, job.node("dataset")),
        "backbone": {**of_plugin(job.backbone, job.node("backbone")), **weights},
        "sampling": sampling,
        "frames": job.frames,
        "seeds": job.seeds,
        "prompts": sorted({kind for prompts in clips.values() for kind, _ in prompts}),
        "prompts_a_clip": len(next(iter(clips.values()))),
        "masks": "whole frame" if own else "masked",
        "tracker": tracker,
        "metrics": versions,
        "clips": {name: prompts_digest(prompts) for name, prompts in clips.items()},
    }


def text() -> str:
    """The file."""
    tables = {name: stated(name) for name in EXPERIMENTS}
    nodes = {
        name: {
            **({"like": like} if like else {}),
            **{key: value for key, value in tables[name].items() if not like or tables[like][key] != value},
        }
        for name, like in EXPERIMENTS.items()
    }
    return HEAD + yaml.safe_dump(nodes, sort_keys=False, width=110, default_flow_style=None)


if __name__ == "__main__":
    print(text(), end="")
