"""``action=speed``: measured time beside counted operations and the roofline."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_harness_cost import FRAMES, TINY, Toy, Uncounted

from harness import __main__ as cli
from harness.actions import speed
from harness.cost import cards
from harness.cost import model as cost
from harness.records import store
from harness.records.record import RECOMPUTED, Flops, Memory, Record, Source, Timing

CARD = "NVIDIA H100 80GB HBM3"


def keep(results: Path, path: str, device: str, stages: dict[str, float], **given: Any) -> Any:
    source = Source(name="x", version="1", config={})
    record = Record(
        id="0",
        status=given.get("status", "ok"),
        method=source,
        backbone=source,
        dataset=source,
        clip="c",
        prompt="p",
        seed=0,
        timing=Timing(
            stages=stages,
            total=given.get("total", sum(stages.values()) + 1),
            repeats=3,
            amortised=given.get("amortised", {}),
        ),
        flops=Flops(executed_flops=given.get("executed")),
        notes=given.get("notes", []),
        memory={"guide": Memory(allocated=5_000_000_000), "denoise": Memory(allocated=2_000_000_000)},
        environment={"device": device},
    )
    store.save_record(results / path, record)
    return SimpleNamespace(path=path)


def job(results: Path, **given: Any) -> Any:
    made = {
        "method": Toy(),
        "backbone": TINY,
        "frames": FRAMES,
        "results": results,
        "label": "toy",
        "full_steps": None,
    } | given
    return SimpleNamespace(**made)


def measured(made: Any, cells: list[Any]) -> list[speed.Speed]:
    return speed.speeds(made, made.method, speed.finished(made, cells))


def counted(stage: str) -> float:
    rows = cost.cost_report(Toy(), TINY, FRAMES)
    return sum(row["executed_flops"] for row in rows if row["stage"] == stage)


def test_a_stage_is_the_median_of_its_cells_beside_what_was_counted(tmp_path: Path) -> None:
    rows = cost.cost_report(Toy(), TINY, FRAMES)
    rest = dict.fromkeys((row["stage"] for row in rows[:-1] if row["stage"] not in ("guide", "denoise")), 1.0)
    cells = [
        keep(tmp_path, f"cell{n}", CARD, {"guide": float(n), "denoise": 10.0, **rest}, executed=n * 1e6)
        for n in (1, 2, 9)
    ]
    (found,) = measured(job(tmp_path), cells)
    guide, denoise, *others, total = found.stages
    assert (found.cells, found.repeats, found.gpu) == (3, 3, "H100 SXM")
    assert [stage.stage for stage in found.stages] == ["guide", "denoise", *rest, "total"]
    assert (guide.seconds, guide.executed_flops) == (2.0, counted("guide"))
    assert guide.flop_rate == pytest.approx(counted("guide") / 2)
    # TINY computes in float32, whose products PyTorch leaves outside the tensor cores; its VAE's convolutions
    # it does not.
    assert guide.of_peak == pytest.approx(counted("guide") / 2 / 66.9e12)
    shares = {stage.stage: stage.of_peak for stage in others}
    assert shares["decode"] == pytest.approx(counted("decode") / 494.7e12)
    # What the total executed, the records say.
    assert (total.seconds, total.executed_flops, total.of_peak) == (13.0 + len(rest), 2e6, None)
    assert (guide.memory, denoise.memory, total.memory) == (5_000_000_000, 2_000_000_000, 5_000_000_000)
    assert total.roofline == pytest.approx(cost.limits(Toy(), TINY, FRAMES).seconds["H100 SXM"])
    assert 0 < guide.roofline < total.roofline


def test_what_cells_of_a_clip_shared_is_not_predicted(tmp_path: Path) -> None:
    """The stage is in the records all the same, with the microseconds of looking it up."""
    stages = {"encode": 2e-6, "guide": 1.0, "decode": 1.0}
    cells = [keep(tmp_path, "a", CARD, stages, amortised={"encode": 0.2})]
    (found,) = measured(job(tmp_path), cells)
    encode, guide, _, total = found.stages
    assert (encode.executed_flops, encode.flop_rate, encode.roofline) == (None, None, None)
    assert guide.executed_flops == counted("guide")
    whole = cost.roofline(Toy(), TINY, FRAMES)["H100 SXM"]
    assert total.roofline == pytest.approx(sum(whole.values()) - whole["encode"])


def test_blocks_that_were_recomputed_are_counted_twice(tmp_path: Path) -> None:
    cells = [keep(tmp_path, "a", CARD, {"guide": 1.0}, notes=[RECOMPUTED])]
    (found,) = measured(job(tmp_path), cells)
    assert found.stages[0].executed_flops > counted("guide")


def test_a_backbone_without_a_cost_model_has_its_seconds_and_the_reason(tmp_path: Path) -> None:
    made = job(tmp_path, backbone=Uncounted(name="mine"))
    (found,) = measured(made, [keep(tmp_path, "a", CARD, {"guide": 1.0})])
    assert found.stages[0].seconds == 1.0 and found.stages[0].executed_flops is None
    text = speed.lines(found)
    assert "roofline:" not in text[0] and "no cost model" in text[1] and "mine" in text[1]


def test_each_device_has_a_table_and_an_unknown_one_no_roofline(tmp_path: Path) -> None:
    cells = [keep(tmp_path, "a", CARD, {"guide": 1.0}), keep(tmp_path, "b", "Some CPU", {"guide": 4.0})]
    card, processor = measured(job(tmp_path), cells)
    assert (card.device, processor.device) == (CARD, "Some CPU")
    assert processor.stages[0].roofline is None and processor.stages[0].of_peak is None
    assert processor.stages[0].flop_rate == pytest.approx(card.stages[0].flop_rate / 4)
    text = "\n".join(speed.lines(card))
    assert "(roofline: H100 SXM)" in text and "5.00" in text
    assert "(roofline" not in speed.lines(processor)[0]


@dataclass
class Steps(Toy):
    """Guides a fifth of its steps."""

    name: str = "steps"
    steps: int = 5

    def transfer(self, backbone, reference, prompt, noise, observer):
        prompts = backbone.embed([prompt, ""])
        for index, timestep in enumerate(backbone.schedule(self.steps).timesteps):
            if index < self.steps / 5:
                with observer.stage("guide"):
                    x = noise.detach().requires_grad_()
                    query, key = backbone.queries_keys(x, timestep, prompts[:1], 1, grad=True)
                    (query.sum() + key.sum()).backward()
            with observer.stage("denoise"):
                backbone.predict(noise, timestep, prompts[:1], prompts[1:], 4.0)
        return noise


def test_few_timed_steps_are_multiplied_to_what_all_of_them_would_take(tmp_path: Path) -> None:
    """A machine that takes a second for so many operations takes one also for more of them."""

    def seconds(steps: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for row in cost.cost_report(Steps(steps=steps), TINY, FRAMES)[:-1]:
            found[row["stage"]] = found.get(row["stage"], 0.0) + row["executed_flops"] / 1e6
        return found

    timed = {**seconds(5), "wait": 3.0}
    cells = [keep(tmp_path, "a", CARD, timed)]
    (short,) = measured(job(tmp_path, method=Steps()), cells)
    (found,) = measured(job(tmp_path, method=Steps(), full_steps=50), cells)
    assert short.full is None and found.full is not None
    expected = {**seconds(50), "wait": 3.0}
    assert found.full.seconds == pytest.approx({**expected, "total": sum(expected.values())})
    assert found.full.seconds["guide"] == pytest.approx(10 * timed["guide"])
    assert found.full.seconds["decode"] == pytest.approx(timed["decode"])
    least = cost.roofline(Steps(steps=50), TINY, FRAMES)["H100 SXM"]
    assert found.full.roofline["guide"] == pytest.approx(least["guide"])
    assert found.full.flops == cost.cost_report(Steps(steps=50), TINY, FRAMES)[-1]["executed_flops"]
    assert "multiplied to 50 steps, seconds:" in speed.lines(found)[-1]


def test_a_method_without_steps_says_so_and_is_not_set_beside_those_that_are_multiplied(
    tmp_path: Path,
) -> None:
    cells = [keep(tmp_path, "a", CARD, {"guide": 1.0})]
    (without,) = measured(job(tmp_path, full_steps=50), cells)
    assert without.full is None and without.stages[0].executed_flops == counted("guide")
    assert "toy has no steps to multiply" in speed.lines(without)[1]
    labels = ["slow", "quick"]
    slow, quick = (
        measured(job(tmp_path, method=Steps(), full_steps=50, label=label), cells)[0] for label in labels
    )
    assert [line.split()[0] for line in speed.ratios([slow, without, quick], "slow")[2:]] == ["slow", "quick"]
    assert speed.ratios([slow, without], "slow") == []


def test_variants_are_set_beside_the_baseline_by_time_and_by_flops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: Any = SimpleNamespace(name="mine", baseline="slow")
    parts = [
        (
            job(tmp_path, label=label),
            [keep(tmp_path, label, CARD, {"guide": seconds - 1}, executed=flops)],
        )
        for label, seconds, flops in (("slow", 30.0, 8e15), ("quick", 10.0, 4e15))
    ]
    assert speed.print_speed(plan, parts) == []
    *_, title, header, slow, quick, _ = capsys.readouterr().out.splitlines()
    assert title == f"{CARD}, beside slow:" and header.split()[:2] == ["variant", "seconds"]
    assert slow.split()[:3] == ["slow", "30", "1.00"]
    assert quick.split()[:3] == ["quick", "10", "3.00"] and quick.split()[-2:] == ["4", "2.00"]
    assert speed.ratios(measured(*parts[0]), "slow") == []


def test_a_card_of_another_form_is_not_taken_for_the_one_that_is_known() -> None:
    assert set(cards.DEVICES.values()) == set(cards.GPUS)
    assert cards.gpu_named("NVIDIA H100 PCIe") is None
    assert cards.gpu_named("NVIDIA H200 NVL") is None


def test_what_has_not_run_is_named_and_the_rest_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: Any = SimpleNamespace(name="mine", baseline=None)
    done = (job(tmp_path), [keep(tmp_path, "a", CARD, {"guide": 1.0})])
    elsewhere = (
        job(tmp_path, label="elsewhere"),
        [keep(tmp_path, "c", CARD, {}, total=None)],
    )
    failed = (
        job(tmp_path, label="other"),
        [keep(tmp_path, "b", CARD, {}, status="failed"), SimpleNamespace(path="nowhere")],
    )
    (line,) = speed.print_speed(plan, [done, elsewhere, failed])
    assert line.startswith("mine: other: no finished cell")
    out = capsys.readouterr().out
    assert "mine, medians over cells:" in out and "toy on tiny" in out
    assert "mine: elsewhere: its videos were made elsewhere" in out
    (kept,) = json.loads((tmp_path / "speed" / "mine.json").read_text())
    assert kept["label"] == "toy" and kept["stages"][0]["seconds"] == 1.0


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    # An only clip would be rendered, at Wan's size for half a minute.
    monkeypatch.setattr(sys, "argv", ["harness", *arguments, "limit=2", "device=cpu"])
    return cli.main()


def test_without_finished_cells_the_action_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path, "action=speed") == 2
    assert "no finished cell; run the same command with action=run first" in capsys.readouterr().err


def test_variants_that_do_not_fit_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 7 windows are wider than the grid of 4x4 tokens; what needs none is asked for its cells.
    small = ("experiment=speed_wan", "backbone.height=16", "backbone.width=16", "action=speed")
    assert command(monkeypatch, tmp_path, *small) == 2
    err = capsys.readouterr().err
    assert "variant fastvmt is left out: method.window=7" in err
    assert "none: no finished cell" in err


def test_the_experiment_at_wans_size_fits_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = ("backbone=wan2.1-1.3b", "backbone.weights=random", "frames=81")
    assert command(monkeypatch, tmp_path, "experiment=speed_wan", *random, "action=plan") == 0
    out = capsys.readouterr().out
    assert "left out" not in out
    for name in ("none", "full_attention", "no_skipping", "fastvmt", "fastvmt_released", "fastvmt_turbo"):
        assert f": {name} on wan2.1-1.3b, sprites: 2 cells" in out
