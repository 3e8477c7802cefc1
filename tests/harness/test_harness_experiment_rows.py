"""Every row of every experiment runs what its label says, and nothing else.

Labels with numbers are parsed; the others stand in a table of words, written by hand. A row is compared with
the plain ``method=NAME`` it starts from: it must differ in just the keys that its label speaks of.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.command.terminal import HOME

CONF = HOME / "conf"
FOLDER = CONF / "experiment"
# A named protocol has tests of its own (tests/reports/test_reports_protocol.py).
EXPERIMENTS = sorted(
    name for name in (path.stem for path in FOLDER.glob("*.yaml")) if not name.startswith("vmtbench")
)
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
WITHOUT = ("~metrics", "~wandb", "~tracker", "~execute")
ROWS = {
    # One that sets more than rows keeps these under `experiment`.
    name: (node := OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=False)).get(
        "experiment", node
    )
    for name in EXPERIMENTS
}

Changes = dict[str, Any]
Row = tuple[str, Changes]  # the method it starts from, and what it changes of it

# Wan's experiments are for Wan's sizes.
BACKBONE = {"scaling_wan": "wan2.1-1.3b", "speed_wan": "wan2.1-1.3b", "speed_backends": "wan2.1-1.3b"}


@functools.cache
def leaves(words: tuple[str, ...], backbone: str) -> Changes:
    """Every value of a run's method, backbone and frames, by its dotted key."""
    chosen = [] if any(word.startswith("backbone=") for word in words) else [f"backbone={backbone}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*chosen, *WITHOUT, *words])
    node = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("method", "backbone")}
    node["backbone"].pop("tuned", None)
    return dict(_flat({**node, "frames": config.frames, "seed": config.seed, "limit": config.limit}))


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def changes(experiment: str, label: str, method: str) -> Changes:
    """What a row sets otherwise than ``method=METHOD`` does."""
    backbone = BACKBONE.get(experiment, "sprites")
    plain = leaves((f"method={method}",), backbone)
    row = leaves(tuple(ROWS[experiment]["variants"][label]), backbone)
    assert row.keys() == plain.keys()
    return {key: row[key] for key in row if row[key] != plain[key]}


# --- labels with numbers ---

SCALES = r"(?P<method>fastvmt|full_attention) "
NUMBERED = {
    r"interval (?P<n>\d+)": lambda n: {"method.reuse.interval": int(n)},
    r"block (?P<n>\d+)": lambda n: {"method.block": int(n)},
    r"window (?P<n>\d+)": lambda n: {"method.window": int(n)},
    r"span (?P<n>\d+)": lambda n: {"method.span": int(n)},
    r"tile (?P<rows>\d+)x(?P<columns>\d+)": lambda rows, columns: {"method.tile": [int(rows), int(columns)]},
    r"SDEdit (?P<strength>[\d.]+)": lambda strength: {"method.start.strength": float(strength)},
    SCALES + r"(?P<n>\d+) frames": lambda n: {"frames": int(n)},
    SCALES + r"(?P<width>\d+)x(?P<height>\d+)": lambda width, height: {
        "backbone.height": int(height),
        "backbone.width": int(width),
    },
    r"(?:only )?every (?P<n>\d+)(?:nd|rd|th)(?: gradient)?": lambda n: {"method.reuse.interval": int(n)},
}


def parsed(label: str) -> Row | None:
    """What a label with numbers says, or None for one without."""
    for pattern, says in NUMBERED.items():
        match = re.fullmatch(pattern, label)
        if match:
            given = match.groupdict()
            return given.pop("method", "fastvmt"), says(**given)
    return None


# --- labels in words ---

CAREFUL = {"method.reuse.policy": "adaptive", "method.reuse.interval": 1}
# Turned off again, one after the other: what makes ``fastvmt_turbo`` out of ``fastvmt``.
EACH = {"method.reuse.interval": 3, "method.unconditional.every": 1, "method.caching.every": 1}
THESE = {
    "method.reuse.interval": 3,
    "method.reuse.policy": "adaptive",
    "method.coarse.stride": 2,
    "method.caching.every": 2,
}
WORDS: dict[str, dict[str, Row]] = {
    "ablation_components": {
        "full": ("fastvmt", {}),
        "without sliding window": ("fastvmt", {"method.extractor": "dense"}),
        "without window loss": (
            "fastvmt",
            {"method.name": "no_window_loss", "method.loss.window_weight": 0},
        ),
        "without gradient reuse": ("fastvmt", {"method.name": "no_skipping", "method.reuse.interval": 1}),
    },
    "ablation_init": {"noise": ("fastvmt", {})},
    "ablation_interval": {"adaptive": ("fastvmt", {"method.reuse.policy": "adaptive"})},
    "ablation_window": {"default": ("fastvmt", {})},
    "gradient_reuse": {
        "every gradient true": ("fastvmt", {"method.reuse.interval": 1}),
        # Guided steps have 10 inner iterations.
        "one a step": ("fastvmt", {"method.reuse.interval": 10}),
        "one in two steps": (
            "fastvmt",
            {"method.reuse.interval": 20, "method.reuse.across_steps": True},
        ),
        "adaptive, careful": ("fastvmt", {**CAREFUL, "method.reuse.turn": 15, "method.reuse.move": 2.5}),
        "adaptive": ("fastvmt", CAREFUL),
        "adaptive, bold": ("fastvmt", {**CAREFUL, "method.reuse.turn": 60, "method.reuse.move": 10}),
        "adaptive from 3": ("fastvmt", {"method.reuse.policy": "adaptive"}),
        "adaptive across steps": (
            "fastvmt",
            {**CAREFUL, "method.reuse.across_steps": True, "method.reuse.longest": 20},
        ),
    },
    "speed_backends": {
        "as it is": ("fastvmt", {}),
        "not compiled": ("fastvmt", {"backbone.compile": False}),
        "flash attention": (
            "fastvmt",
            {"backbone.compile": False, "backbone.attention": "_native_flash"},
        ),
        "cuDNN attention": (
            "fastvmt",
            {"backbone.compile": False, "backbone.attention": "_native_cudnn"},
        ),
    },
    # Ten guided steps whatever their total could not be multiplied.
    "speed_wan": {"fastvmt_released": ("fastvmt_released", {"method.optimiser.guided_count": None})},
    "turbo_goal": {"one gradient a step": ("fastvmt_turbo", {"method.reuse.interval": 10})},
    "turbo_ingredients": {
        "only skipped unconditional": (
            "fastvmt_turbo",
            {key: EACH[key] for key in EACH if key != "method.unconditional.every"},
        ),
        "only reused velocities": ("fastvmt_turbo", {**EACH, "method.caching.every": 2}),
        "only adaptive reuse": ("fastvmt_turbo", {**EACH, "method.reuse.policy": "adaptive"}),
        "only fewer frames": ("fastvmt_turbo", {**EACH, "method.coarse.stride": 2}),
        "only pooled": ("fastvmt_turbo", {**EACH, "method.coarse.pool": 2}),
        "every 3rd gradient": ("fastvmt_turbo", {"method.reuse.interval": 3}),
        "one gradient a step": ("fastvmt_turbo", {"method.reuse.interval": 10}),
        "adaptive reuse": (
            "fastvmt_turbo",
            {key: THESE[key] for key in THESE if key != "method.coarse.stride"},
        ),
        "every 3rd and fewer frames": (
            "fastvmt_turbo",
            {key: THESE[key] for key in THESE if key != "method.reuse.policy"},
        ),
        "adaptive and fewer frames": ("fastvmt_turbo", THESE),
        "these, limited interval": ("fastvmt_turbo", {**THESE, "method.unconditional.within": [0.3, 1.0]}),
        "these, velocities held": ("fastvmt_turbo", {**THESE, "method.caching.order": 0}),
        "these, velocities adaptive": (
            "fastvmt_turbo",
            {**THESE, "method.caching.every": 4, "method.caching.threshold": 0.05},
        ),
        "these, bolder": (
            "fastvmt_turbo",
            {
                "method.reuse.policy": "adaptive",
                "method.coarse.stride": 2,
                "method.unconditional.every": 6,
            },
        ),
    },
}

# --- what is there ---

BASELINES = {
    "ablation_block": None,
    "ablation_components": "full",
    "ablation_init": "noise",
    "ablation_interval": "interval 1",  # every gradient true
    "ablation_window": "default",
    "first": "none",
    "gradient_reuse": "every gradient true",
    "main_table": "full_attention",  # what the paper's speed-up is over
    "release_to_paper": None,  # each row is read against the one before
    "scaling": None,
    "scaling_wan": None,
    "speed_backends": "not compiled",
    "speed_wan": "full_attention",
    "transfer": "none",
    "turbo_goal": "fastvmt",
    "turbo_ingredients": "fastvmt",
}
OPTIONAL = {"ablation_interval": ["adaptive"], "release_to_paper": ["heads"]}
LABELS = {
    "ablation_block": [f"block {n}" for n in (*range(8), 10, 14, 18, 22, 26, 29, 34, 39)],
    "ablation_components": [*WORDS["ablation_components"]],
    "ablation_init": ["noise", *(f"SDEdit {n}" for n in (0.9, 0.8, 0.7, 0.6, 0.5))],
    "ablation_interval": [*(f"interval {n}" for n in range(1, 6)), "adaptive"],
    "ablation_window": [
        "default",
        *(f"window {n}" for n in (3, 5, 7, 13, 21, 29)),
        *(f"tile {size}" for size in ("1x1", "2x2", "3x4", "4x4", "6x8", "10x13")),
        *(f"span {n}" for n in range(1, 5)),
    ],
    "gradient_reuse": [
        "every gradient true",
        *("every 2nd", "every 3rd", "every 5th", "one a step", "one in two steps"),
        *("adaptive, careful", "adaptive", "adaptive, bold", "adaptive from 3", "adaptive across steps"),
    ],
    "main_table": ["none", "full_attention", "fastvmt"],
    "scaling": [
        f"{method} {size}"
        for method in ("fastvmt", "full_attention")
        for size in (*(f"{n} frames" for n in (9, 17, 33, 49)), "96x96", "128x128")
    ],
    "scaling_wan": [
        f"{method} {size}"
        for method in ("fastvmt", "full_attention")
        for size in (*(f"{n} frames" for n in (17, 33, 49, 81)), "416x240", "1280x720")
    ],
    "speed_backends": ["as it is", "not compiled", "flash attention", "cuDNN attention"],
    "speed_wan": ["none", "full_attention", "no_skipping", "fastvmt", "fastvmt_released", "fastvmt_turbo"],
    "first": ["none", "fastvmt"],
    "transfer": ["none", "full_attention", "fastvmt"],
    "turbo_goal": ["none", "fastvmt", "fastvmt_turbo", "one gradient a step"],
    "turbo_ingredients": [
        *("none", "fastvmt", "fastvmt_turbo", "only every 5th gradient"),
        *WORDS["turbo_ingredients"],
    ],
}


def test_every_experiment_has_the_rows_and_the_baseline_that_it_is_for() -> None:
    assert sorted(BASELINES) == EXPERIMENTS
    for name, node in ROWS.items():
        assert node.get("baseline") == BASELINES[name], name
        assert node.get("optional", []) == OPTIONAL.get(name, []), name
        if name != "release_to_paper":
            assert list(node["variants"]) == LABELS[name], name
    rest = {key: value for key, value in ROWS["main_table"].items() if key not in ("baseline", "variants")}
    # One needs a manifest, the other a command.
    assert rest == {"every": "method", "without": ["precomputed", "external"]}
    assert all(not {"every", "without"} & ROWS[name].keys() for name in EXPERIMENTS if name != "main_table")


@pytest.mark.parametrize(
    "experiment, label",
    [(name, label) for name in EXPERIMENTS if name != "release_to_paper" for label in ROWS[name]["variants"]],
)
def test_a_row_runs_what_its_label_says_and_nothing_else(experiment: str, label: str) -> None:
    said = (
        WORDS.get(experiment, {}).get(label) or parsed(label) or ((label, {}) if label in METHODS else None)
    )
    assert said is not None, "a label that nobody here can read"
    method, wanted = said
    backbone = BACKBONE.get(experiment, "sprites")
    plain = leaves((f"method={method}",), backbone)
    # What the plain method has already is no change.
    assert changes(experiment, label, method) == {k: v for k, v in wanted.items() if plain[k] != v}


# What each row of ``release_to_paper`` changes of the one before: one key, from the release's to the paper's.
TO_PAPER: dict[str, Changes] = {
    "released": {},
    "head_mean": {"method.reduction": "head_mean"},
    "tile_centre": {"method.windows.tile_centre": "floor"},
    "rounding": {"method.windows.rounding": "nearest"},
    "clamp": {"method.windows.clamp": "centre"},
    "positions": {"method.windows.positions": "frame"},
    "checkerboard": {"method.windows.checkerboard": False},
    "self_pairs": {"method.pairs.self_pairs": False},
    "span": {"method.pairs.span_counts_self": False},
    "amf_mean": {"method.loss.amf_reduction": "mean"},
    "window_average": {"method.loss.window_average": "window"},
    "window_norm": {"method.loss.window_norm": "squared"},
    "clean_reference": {"method.reference": "clean"},
    "depth": {"method.depth": None},
    "weight_decay": {"method.optimiser.weight_decay": 0},
    "lr_over": {"method.optimiser.lr_over": "steps"},
    "guided_count": {"method.optimiser.guided_count": None},
    "float32": {"method.optimiser.precision": "float32"},
    "paper": {"method.start.strength": None},
    "heads": {"method.reduction": "concat"},  # as the embedded world has it
}


def test_the_rows_from_release_to_paper_change_one_key_each_and_end_at_fastvmt() -> None:
    rows = ROWS["release_to_paper"]["variants"]
    assert list(rows) == list(TO_PAPER)
    before = leaves(("method=fastvmt_released",), "sprites")
    for label, wanted in TO_PAPER.items():
        row = leaves(tuple(rows[label]), "sprites")
        assert {key: row[key] for key in row if row[key] != before[key]} == wanted, label
        before = row
    fastvmt = leaves(("method=fastvmt",), "sprites")
    shared = before.keys() & fastvmt.keys() - {"method.name", "method._target_"}
    assert {key: before[key] for key in shared} == {key: fastvmt[key] for key in shared}
    # What the paper's method has no key for is off, and all of its own keys are there.
    assert fastvmt.keys() <= before.keys()
