"""What a run has where the command line says nothing: every key of conf/ outside methods and backbones."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.command.compose import compose as compose_command
from harness.command.config import make_job
from harness.command.terminal import HOME

CONF = HOME / "conf"


@functools.cache
def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(words))
    node = OmegaConf.to_container(config, resolve=True)
    node["backbone"].pop("tuned", None)
    return node


def test_a_run_without_words_is_fastvmt_on_the_embedded_world_once_and_resumed() -> None:
    node = composed()
    chosen = {name: node[name]["name"] for name in ("action", "method", "backbone", "dataset", "tracker")}
    assert chosen == {
        "action": "run",
        "method": "fastvmt",
        "backbone": "sprites",
        "dataset": "sprites",
        "tracker": "dis",
    }
    job, _ = make_job(node)
    # Every clip from the noise of seed 0, timed once after one step of warm-up, nothing shared between cells.
    assert (job.seeds, job.limit, job.frames, job.name) == ([0], None, 17, None)
    assert (job.warmup_steps, job.repeats, job.amortise, job.full_steps) == (1, 1, False, None)
    # Finished cells are kept, and so are the frames that action=score reads; a failed cell stops nothing.
    assert (str(job.results), job.resume, job.keep_frames, job.engine.on_error) == (
        "results",
        True,
        True,
        "continue",
    )
    assert job.required == []
    assert (node["device"], node["trust"]) == ("auto", [])


@pytest.mark.parametrize(
    ("words", "methods", "limit"),
    [
        ("", ["none", "fastvmt"], 4),
        ("action=plan limit=8 backbone.steps=5", ["none", "fastvmt"], 8),
        ("action=cost dataset=sprites backbone=wan2.1-14b", ["none", "fastvmt"], 4),
        ("method=fastvmt", ["fastvmt"], None),
        ("method.window=3", ["fastvmt"], None),
        ("experiment=null", ["fastvmt"], None),
        ("experiment=transfer limit=2", ["none", "full_attention", "fastvmt"], 2),
        ("action=profile", ["fastvmt"], None),
        ("dataset=folder dataset.root=clips", ["fastvmt"], None),
    ],
)
def test_none_stands_beside_fastvmt_on_the_embedded_world_where_nothing_is_named(
    words: str, methods: list[str], limit: int | None
) -> None:
    (parts,) = compose_command(words.split())
    assert [one.resolved["method"]["name"] for one in parts] == methods
    assert {one.resolved["limit"] for one in parts} == {limit}
    named = "experiment=transfer" in words
    assert all(one.resolved["page"] == (len(methods) > 1 and not named) for one in parts)


def test_a_grid_without_a_method_has_both_in_each_of_its_jobs() -> None:
    jobs = compose_command(["-m", "seed=0,1"])
    found = [[(one.resolved["seed"], one.resolved["method"]["name"]) for one in parts] for parts in jobs]
    assert found == [[(seed, "none"), (seed, "fastvmt")] for seed in (0, 1)]


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        ("limit=2", ["position_error", "motion_fidelity", "clip_t", "time"]),
        ("metrics=vbench", []),
        ("metrics=vbench metrics.columns=[clip_t]", ["clip_t"]),
    ],
)
def test_whoever_names_the_metrics_sees_more_than_the_first_run_s_columns(
    words: str, columns: list[str]
) -> None:
    (parts,) = compose_command(words.split())
    assert [one.resolved["metrics"]["columns"] for one in parts] == [columns] * 2


def test_the_mirror_is_offline_unless_asked_for() -> None:
    offline = {
        "mode": "offline",
        "project": "vmtbench",
        "entity": None,
        "group": None,
        "timeout_s": 60,
        "videos": 8,
        "dir": "results",
    }
    assert composed()["wandb"] == offline
    assert composed("wandb=online")["wandb"] == {**offline, "mode": "online", "timeout_s": 300}
    assert composed("wandb=disabled")["wandb"] == {**offline, "mode": "disabled"}


SIZES = {
    "backbone=sprites": (64, 64),
    "backbone=wan2.1-1.3b": (480, 832),
    "backbone=cogvideox-2b": (480, 720),
}


@pytest.mark.parametrize("backbone, size", SIZES.items())
def test_clips_have_the_backbone_s_size_and_footage_its_own_length(
    backbone: str, size: tuple[int, int]
) -> None:
    shared = {"height": size[0], "width": size[1]}
    # 49 frames: CogVideoX's length, and what 78 of DAVIS' 90 sequences have.
    footage = {
        "height": None,
        "width": None,
        "fps": None,
        "most_frames": None,
        "root": None,
        "names": None,
        "frames": 49,
        "start": 0,
        "stride": 1,
        "default_frames": 49,
        "clip_model": "ViT-B-32-quickgelu/openai",
    }
    assert composed(backbone, "dataset=davis")["dataset"] == {
        **footage,
        "_target_": "datasets.davis.Davis",
        "name": "davis",
        "download": False,
        "download_url": "https://data.vision.ee.ethz.ch/jpont/davis/DAVIS-2017-trainval-480p.zip",
        "split": "trainval",
        "subset": "davis2016",
        "prompt_set": "subject",
        "prompts": None,
    }
    assert composed(backbone, "dataset=folder")["dataset"] == {
        **footage,
        "_target_": "datasets.folder.Folder",
        "name": "folder",
        "prompt": None,
    }
    assert composed(backbone)["dataset"] == {
        **shared,
        "_target_": "datasets.sprites.dataset.Sprites",
        "name": "sprites",
        "frames": 17,
        "default_frames": 17,
        "clip_model": "sprites",
        "clips": 8,
        "first": 0,
        "motions": None,
        "prompts": 1,
    }


@pytest.mark.parametrize("dataset, model", [("sprites", "sprites"), ("davis", "ViT-B-32-quickgelu/openai")])
def test_metrics_that_see_no_motion_have_their_definitions_values(dataset: str, model: str) -> None:
    node = composed(f"dataset={dataset}")["metrics"]
    clip = {"model": model, "checkpoint": None}
    # The world's object and background hues are 25 degrees apart: 18 tells them, with room for a generation.
    detector = {"hue": 18.0, "saturation": 0.5, "value": 0.3, "area": 0.002}
    wanted = {
        "clip_t": ("metrics.text.ClipT", clip),
        "clip_f": ("metrics.consistency.ClipF", clip),
        "warp_consistency": ("metrics.consistency.WarpConsistency", {"min_side": 256}),
        "position_error": ("metrics.position.PositionError", detector),
        "direction_cosine": ("metrics.position.DirectionCosine", detector),
        "background_flow_error": ("metrics.position.BackgroundFlowError", {"min_side": 256}),
        "objects_right": ("metrics.attributes.PromptRead", {"attribute": "objects"}),
        "background_right": ("metrics.attributes.PromptRead", {"attribute": "background"}),
        "count_right": ("metrics.attributes.PromptRead", {"attribute": "count"}),
    }
    for name, (target, options) in wanted.items():
        assert node["metrics"][name] == {"_target_": target, "name": name, **options}
    assert node["required"] == []


def test_a_plug_in_is_called_what_its_file_or_key_is_called() -> None:
    for group in ("action", "backbone", "dataset", "method", "tracker"):
        for path in (CONF / group).glob("*.yaml"):
            node = OmegaConf.load(path)
            assert node.get("action", node).name == path.stem
    for name, metric in composed()["metrics"]["metrics"].items():
        assert metric["name"] == name
    # One worker a device; a cell that ends its process or runs out of memory is tried once more.
    common = {"on_error": "continue", "retries": 1}
    assert composed("execute=here")["execute"] == {
        "_target_": "harness.execute.here.Here",
        "name": "here",
        **common,
    }
    assert composed("execute=local")["execute"] == {
        "_target_": "harness.execute.local.Local",
        "name": "local",
        **common,
        "devices": "auto",
        "cell_timeout": None,
        "locks": "auto",
        "wait": True,
    }


@pytest.mark.parametrize("path", sorted((CONF / "action").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_action_s_yaml_makes_that_action(path: Any) -> None:
    _, action = make_job({**composed(f"action={path.stem}"), "device": "cpu"})
    named = {"run": "Run", "score": "Score", "verify": "Verify"}.get(
        path.stem, f"Print{path.stem.capitalize()}"
    )
    assert type(action).__name__ == named


@pytest.mark.parametrize("dataset", ["davis", "folder"])
@pytest.mark.parametrize("backbone, size", SIZES.items())
def test_footage_has_the_backbone_s_size_unless_the_method_has_none(
    backbone: str, size: tuple[int, int], dataset: str
) -> None:
    def sides(*words: str) -> tuple[int | None, int | None]:
        made = make_job({**composed(backbone, f"dataset={dataset}", *words), "device": "cpu"})[0].dataset
        return made.height, made.width

    assert sides("method=none") == size
    assert sides("method=none", "dataset.height=32") == (32, size[1])
    for method in ("precomputed", "external"):
        assert sides(f"method={method}") == (None, None)
        assert sides(f"method={method}", "dataset.height=32", "dataset.width=48") == (32, 48)


def test_clips_of_any_length_end_at_the_backbone_s_longest() -> None:
    longest = {"sprites": 17, "wan2.1-1.3b": 81, "cogvideox-2b": 49}
    for backbone, frames in longest.items():
        job, _ = make_job(
            {
                **composed(f"backbone={backbone}", "dataset=davis", "frames=auto", "method=none"),
                "device": "cpu",
            }
        )
        assert job.auto_frames and job.frames == frames == job.dataset.most_frames
