"""What tells cells apart, plug-in by plug-in: each key that changes a video is in its identity, no other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.command.config import make_job
from harness.command.terminal import HOME
from harness.cost import cards
from harness.records.identity import configuration

CONF = HOME / "conf"
DAVIS = {"prompt_set", "prompts", "download", "download_url"}
FOOTAGE = {"root", "names", "fps", "clip_model", "default_frames", "most_frames"}
BACKBONE = {
    # Where weights come from is in their own identity; methods hold what they take from here.
    *("model", "revision", "random_seed", "architecture"),
    *("steps", "guidance_scale", "negative_prompt"),
    # Neither changes what is computed.
    *("checkpoint", "cpu_offload", "own_world_only", "most_frames"),
}
# Fields that are not in a cell's identity, by group and plug-in; all others are.
OUTSIDE: dict[str, dict[str, set[str]]] = {
    "dataset": {
        # Which clips and prompts: each cell names its own.
        "davis": {*FOOTAGE, *DAVIS, "split", "subset"},
        "ditflow50": {*FOOTAGE, *DAVIS},
        "mtbench": FOOTAGE,
        "movebench": {*FOOTAGE, "language", "objects"},
        "folder": {*FOOTAGE, "prompt"},
        "sprites": {"clips", "first", "motions", "prompts", "default_frames", "clip_model"},
    },
    "method": {"precomputed": {"manifest"}, "external": {"folder", "environment", "timeout"}},
    "backbone": {path.stem: BACKBONE for path in (CONF / "backbone").glob("*.yaml")},
    "tracker": {
        "cotracker3": {"repository", "checkpoint", "device"},
        "tapnext": {"checkpoint", "device"},
    },
}
PLUG_INS = [
    (group, path.stem)
    for group in ("dataset", "method", "backbone", "tracker")
    for path in sorted((CONF / group).glob("*.yaml"))
]


def made(*words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node: Any = OmegaConf.to_container(compose("config", ["device=cpu", "~wandb", *words]), resolve=True)
    node["backbone"].pop("tuned", None)
    return make_job({**node, "wandb": {}})[0]


@pytest.mark.parametrize("group, name", PLUG_INS)
def test_every_field_but_those_named_here_tells_cells_apart(group: str, name: str) -> None:
    plug_in = getattr(made(f"{group}={name}"), group)
    fields = {field.name for field in dataclasses.fields(plug_in) if field.init}
    # A plug-in whose fields later versions add to may name more that is no part of the output.
    assert set(configuration(plug_in, {})) == fields - OUTSIDE[group].get(name, set())


@pytest.mark.parametrize("name", ["clip_t", "clip_f"])
def test_a_metric_s_version_holds_all_but_where_its_weights_lie(name: str) -> None:
    metric = made().metrics[name]
    fields = {field.name for field in dataclasses.fields(metric)}
    assert set(configuration(metric, {})) == fields - {"checkpoint"}


def test_gpus_are_those_of_their_data_sheets() -> None:
    """Dense TFLOP/s in bfloat16, TF32 and float32, and TB/s; printed with sparsity they are twice as much."""
    sheets = {
        "A100 SXM 80GB": (312, 156, 19.5, 2.039),
        "H100 SXM": (989.4, 494.7, 66.9, 3.35),
        "H200 SXM": (989.4, 494.7, 66.9, 4.8),
        "L40S": (362, 183, 91.6, 0.864),
        "RTX 4090": (165.2, 82.6, 82.6, 1.008),
    }
    found = {
        name: (gpu.bfloat16 / 1e12, gpu.tf32 / 1e12, gpu.float32 / 1e12, gpu.bandwidth / 1e12)
        for name, gpu in cards.GPUS.items()
    }
    assert found == {name: pytest.approx(values) for name, values in sheets.items()}
    h200 = cards.GPUS["H200 SXM"]
    rates = [h200.rate(precision) / 1e12 for precision in ("bfloat16", "float16", "tf32", "float32")]
    assert rates == pytest.approx([989.4, 989.4, 494.7, 66.9])
    assert cards.gpu_named("NVIDIA H100 80GB HBM3") == "H100 SXM"
    assert cards.gpu_named("NVIDIA H200") == "H200 SXM"
    assert cards.gpu_named("NVIDIA H100 PCIe") is None
