"""``action=profile``: operators of a method's first step, stage by stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from datasets.errors import InputError
from harness import __main__ as cli
from harness.actions import profile as profiling


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["harness", "action=profile", "device=cpu", "limit=1", *arguments])
    return cli.main()


def test_the_first_step_is_profiled_by_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    guidance = ["method.block=3", "method.optimiser.iterations=4", "method.reuse.interval=2"]
    assert main(monkeypatch, "frames=5", "name=mine", *guidance) == 0
    out = capsys.readouterr().out
    assert "fastvmt on sprites, 5 frames, " in out
    (found,) = json.loads((tmp_path / "results" / "profile" / "mine.json").read_text())
    stages = found["stages"]
    assert list(stages) == ["encode", "text", "extract", "guide", "denoise", "decode"]

    def calls(stage: str, operator: str) -> int:
        return int(stages[stage]["operators"].get(operator, {"calls": 0})["calls"])

    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    # Two attentions in each block before the third, and two of attention motion flow: the windows' centres,
    # which have no gradient, and what is in the windows. A true gradient at the iterations 0 and 2.
    assert calls("extract", attention) == 2 * 3 + 2
    assert calls("guide", attention) == 2 * (2 * 3 + 2)
    assert calls("guide", f"{attention}_backward") == 2 * (2 * 3 + 1)
    # Eight blocks; both passes of classifier-free guidance go together.
    assert calls("denoise", attention) == 2 * 8
    assert calls("denoise", f"{attention}_backward") == 0
    for name, stage in stages.items():
        operators = sum(operator["seconds"] for operator in stage["operators"].values())
        assert 0 < operators <= 1.05 * stage["seconds"], name
    assert not (tmp_path / "results" / "cells").exists()


def test_on_a_gpu_the_rows_are_kernels() -> None:
    def event(kind: str, annotation: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            device_type=SimpleNamespace(name=kind),
            is_user_annotation=annotation,
            self_device_time_total=2e6,
            self_cpu_time_total=3e6,
        )

    assert profiling.own_seconds(event("CUDA"), cuda=True) == 2
    assert profiling.own_seconds(event("CUDA", annotation=True), cuda=True) is None
    assert profiling.own_seconds(event("CPU"), cuda=True) is None
    assert profiling.own_seconds(event("CPU"), cuda=False) == 3


def test_weights_that_cannot_be_had_are_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise InputError("backbone.model=x: no weights")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profiling, "profile", refused)
    assert main(monkeypatch, "frames=5") == 2
    assert "backbone.model=x: no weights" in capsys.readouterr().err


def test_finished_videos_have_nothing_to_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = SimpleNamespace(method=SimpleNamespace(name="precomputed", uses_backbone=False), results=tmp_path)
    profiling.print_profiles(SimpleNamespace(name="p"), [(job, ["cell"])])  # type: ignore[arg-type, list-item]
    assert "precomputed: its videos are made elsewhere" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
