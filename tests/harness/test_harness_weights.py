"""action=weights: what is listed, what is fetched, and what it ends with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.weights import Weight
from harness.__main__ import run_command
from harness.actions.weights import fetch_all
from metrics.interface import MetricUnavailable


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Empty caches and no network."""
    import torch

    for module in ("clip_model", "dino", "raft"):
        monkeypatch.setattr(f"metrics.{module}.reachable", lambda _: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("methods.backbones.weights._of_hub", lambda *_: (0, ""))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


def test_what_ships_is_here_and_needs_no_network(capsys, offline):
    assert run_command(["action=weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and not any("not here" in line for line in lines)
    assert lines[0].startswith("sprites: ") and "(backbone)" in lines[0]
    assert "clip_t, clip_f" in lines[1]


def test_each_weight_is_listed_once_with_all_that_need_it(capsys, offline):
    command = ["action=weights", "metrics=all", "backbone=wan2.1-1.3b", "tracker=tapnext"]
    assert run_command([*command, "dataset=davis", "dataset.root=/nowhere"]) == 0
    lines = {line.partition(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "Apache-2.0, not here (backbone)" in lines["Wan-AI/Wan2.1-T2V-1.3B-Diffusers"]
    assert "343 MB, Apache-2.0, not here (leak_dino, subject_consistency)" in lines["facebook/dino-vitb16"]
    raft = lines["raft_large_C_T_V1-22a6c225.pth"]
    assert all(name in raft for name in ("dynamic_degree", "motion_smoothness_raft", "flow_fidelity"))
    assert "(tracker)" in lines["bootstapnext_ckpt.npz"]
    # Backbone, CLIP, RAFT, DINO, AMT and the tracker; two of unknown size.
    assert list(lines)[-1] == "6 of 6 are not here" and lines["6 of 6 are not here"].endswith(
        "981 MB and more"
    )


def test_random_weights_need_none(capsys, offline):
    command = ["action=weights", "backbone=wan2.1-1.3b", "backbone.weights=random"]
    assert run_command(command) == 0
    assert "Wan-AI" not in capsys.readouterr().out


def test_what_cannot_be_fetched_is_a_line_each(capsys, offline):
    assert run_command(["action=weights", "metrics=paper", "action.fetch=true"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "facebook/dino-vitb16" in said[0] and "AMT" in said[1]


@dataclass
class Source:
    """Where weights come from: fetching makes the file, or raises."""

    path: Path
    error: Exception | None = None
    asked: list[Path] = field(default_factory=list)

    def weight(self) -> Weight:
        return Weight(self.path.name, 5, "MIT", None, self.fetch)

    def fetch(self) -> None:
        self.asked.append(self.path)
        if self.error is not None:
            raise self.error
        self.path.write_bytes(b"12345")


def test_what_is_missing_is_fetched_and_one_failure_does_not_stop_the_others(tmp_path, capsys):
    errors = [None, InputError("no such model"), MetricUnavailable("no network"), OSError("reset"), None]
    sources = [Source(tmp_path / f"{number}", error) for number, error in enumerate(errors)]
    assert fetch_all([source.weight() for source in sources]) == 1
    assert [source.path.exists() for source in sources] == [True, False, False, False, True]
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["0: fetched", "4: fetched"]
    assert [line.split(": ")[1] for line in shown.err.splitlines()] == [
        "no such model",
        "no network",
        "reset",
    ]
    assert fetch_all([source.weight() for source in sources[::4]]) == 0


def test_size_and_licence_are_said_even_where_they_are_not_known():
    assert Weight("a", 20_100_000, "MIT").known == "20.1 MB, MIT"
    assert str(Weight("a", 0, "")) == "a (size unknown, licence unknown)"
