"""``action=speed``: measured time beside counted operations and the roofline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_harness_cost import FRAMES, TINY, Toy

from harness import __main__ as cli
from harness import cost, speed
from harness.records import Memory, Record, Source, Timing, save

CARD = "NVIDIA H100 80GB HBM3"


def keep(results: Path, path: str, device: str, stages: dict[str, float], status: str = "ok") -> Any:
    source = Source(name="x", version="1", config={})
    record = Record(
        id="0",
        status=status,
        method=source,
        backbone=source,
        dataset=source,
        clip="c",
        prompt="p",
        seed=0,
        timing=Timing(stages=stages, total=sum(stages.values()) + 1, repeats=3),
        memory={"guide": Memory(allocated=5_000_000_000), "denoise": Memory(allocated=2_000_000_000)},
        environment={"device": device},
    )
    save(results / path / "record.json", record)
    return SimpleNamespace(path=path)


def job(results: Path, **given: Any) -> Any:
    made = {"method": Toy(), "backbone": TINY, "frames": FRAMES, "results": results, "part": None} | given
    return SimpleNamespace(**made)


def test_a_stage_is_the_median_of_its_cells_beside_what_was_counted(tmp_path: Path) -> None:
    rows = cost.cost_report(Toy(), TINY, FRAMES)
    rest = dict.fromkeys((row["stage"] for row in rows[:-1] if row["stage"] not in ("guide", "denoise")), 1.0)
    cells = [
        keep(tmp_path, f"cell{n}", CARD, {"guide": float(n), "denoise": 10.0, **rest}) for n in (1, 2, 9)
    ]
    (found,) = speed.speeds(job(tmp_path), cells)
    executed = sum(row["executed_flops"] for row in rows if row["stage"] == "guide")
    guide, denoise, *others, total = found.stages
    assert (found.cells, found.repeats, found.gpu) == (3, 3, "H100 SXM")
    assert [stage.stage for stage in found.stages] == ["guide", "denoise", *rest, "total"]
    assert (guide.seconds, guide.executed_flops) == (2.0, executed)
    assert guide.flop_rate == pytest.approx(executed / 2)
    # TINY computes in float32, whose products PyTorch leaves outside the tensor cores.
    assert guide.of_peak == pytest.approx(executed / 2 / 66.9e12)
    assert total.seconds == 13.0 + len(rest)
    assert total.executed_flops == pytest.approx(rows[-1]["executed_flops"])
    assert (guide.memory, denoise.memory, total.memory) == (5_000_000_000, 2_000_000_000, 5_000_000_000)
    assert total.roofline == pytest.approx(cost.limits(Toy(), TINY, FRAMES).seconds["H100 SXM"])
    assert 0 < guide.roofline < total.roofline
    assert {stage.stage for stage in others} == set(rest)


def test_a_stage_that_cells_shared_is_not_in_the_total(tmp_path: Path) -> None:
    cells = [keep(tmp_path, "a", CARD, {"guide": 1.0, "denoise": 2.0})]
    (found,) = speed.speeds(job(tmp_path), cells)
    guide, denoise, total = found.stages
    assert total.executed_flops == pytest.approx(guide.executed_flops + denoise.executed_flops)
    assert total.roofline == pytest.approx(guide.roofline + denoise.roofline)


def test_each_device_has_a_table_and_an_unknown_one_no_roofline(tmp_path: Path) -> None:
    cells = [keep(tmp_path, "a", CARD, {"guide": 1.0}), keep(tmp_path, "b", "Some CPU", {"guide": 4.0})]
    card, processor = speed.speeds(job(tmp_path), cells)
    assert (card.device, processor.device) == (CARD, "Some CPU")
    assert processor.stages[0].roofline is None and processor.stages[0].of_peak is None
    assert processor.stages[0].flop_rate == pytest.approx(card.stages[0].flop_rate / 4)
    text = "\n".join(speed.lines(card))
    assert "(H100 SXM: roofline)" in text and "5.00" in text
    assert "roofline)" not in speed.lines(processor)[0]


def test_a_card_of_another_form_is_not_taken_for_the_one_that_is_known() -> None:
    assert set(cost.DEVICES.values()) == set(cost.GPUS)
    assert cost.gpu_named("NVIDIA H100 PCIe") is None
    assert cost.gpu_named("NVIDIA H200 NVL") is None


def test_what_has_not_run_is_named_and_the_rest_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: Any = SimpleNamespace(name="mine")
    done = (job(tmp_path), [keep(tmp_path, "a", CARD, {"guide": 1.0})])
    failed = (
        job(tmp_path, part=SimpleNamespace(label="other")),
        [keep(tmp_path, "b", CARD, {}, "failed"), SimpleNamespace(path="nowhere")],
    )
    (line,) = speed.print_speed(plan, [done, failed])
    assert line.startswith("other: no finished cell")
    assert "toy on tiny" in capsys.readouterr().out
    (kept,) = json.loads((tmp_path / "speed" / "mine.json").read_text())
    assert kept["label"] == "toy" and kept["stages"][0]["seconds"] == 1.0


def test_without_finished_cells_the_action_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", "action=speed", "limit=1", "device=cpu"])
    assert cli.main() == 2
    assert "no finished cell was timed; run the same command with action=run first" in capsys.readouterr().err


def test_the_experiment_at_wans_size_names_what_is_to_be_measured() -> None:
    from omegaconf import OmegaConf

    import conf

    variants = OmegaConf.load(Path(conf.__path__[0]) / "experiment" / "speed_wan.yaml").variants
    wanted = {"none", "full_attention", "no_skipping", "fastvmt", "fastvmt_released"}
    assert wanted <= set(variants)
