"""``action=cost``: the table of one cell, and what it says where there is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_harness_cost import FRAMES, TINY, Toy

from datasets.errors import InputError
from harness import __main__ as command_line
from harness.actions.cost import cells_of, hours, print_cost
from harness.cost.model import cost_report
from harness.protocol.stated import stated_tables
from methods.interface import Method, VideoMethod


class Video(VideoMethod):
    name = "video"
    version = "1"
    uncounted = "nobody counts these"

    def video(self, request: Any) -> Any:
        raise NotImplementedError


def job(method: Method, listing: Any) -> Any:
    dataset = SimpleNamespace(name="clips", listing=listing)
    return SimpleNamespace(
        method=method,
        backbone=TINY,
        dataset=dataset,
        frames=FRAMES,
        seeds=[0, 1],
        limit=2,
        label=method.name,
        variant=None,
        node=lambda _: {"name": "tiny"},
    )


def clips() -> SimpleNamespace:
    return SimpleNamespace(clips=[SimpleNamespace(prompts=["a", "b"]) for _ in range(5)])


def unlisted() -> SimpleNamespace:
    raise InputError("dataset.root: no such folder")


def test_the_table_ends_with_limits_and_what_all_cells_cost(capsys: pytest.CaptureFixture[str]) -> None:
    rows = cost_report(Toy(), TINY, FRAMES)
    print_cost(job(Toy(), clips), rows)
    title, header, *table, saved, roofline, total = capsys.readouterr().out.splitlines()
    assert title == f"toy on tiny, {FRAMES} frames of clips, one cell:"
    assert header.split()[:3] == ["stage", "operation", "calls"]
    assert [line.split()[0] for line in table] == [row["stage"] for row in rows]
    assert "saved for one backward pass" in saved and "roofline" in roofline
    # Two seeds of two prompts of the first two clips.
    assert total == f"  8 cells: {8 * rows[-1]['flops'] / 1e12:.4f} TFLOPs"


def test_a_dataset_that_cannot_be_listed_costs_the_number_of_cells_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_cost(job(Toy(), unlisted), cost_report(Toy(), TINY, FRAMES))
    assert capsys.readouterr().out.splitlines()[-1] == "  cells: unknown (dataset.root: no such folder)"


def test_a_method_without_a_backbone_says_why_nothing_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    print_cost(job(Video(), clips), [])
    assert capsys.readouterr().out.splitlines()[1:] == ["  nobody counts these"]


def test_a_protocol_s_experiment_tells_its_gpu_hours_without_its_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seconds from the measured table itself: ``fastvmt``'s cell at 81 frames took 89.78 s on an H200."""
    made = job(Toy(), unlisted)
    table = stated_tables()["vmtbench-v1-81"]
    made.variant = SimpleNamespace(experiment="vmtbench-v1-81")
    made.frames, made.seeds, made.limit = table.frames, table.seeds, None
    made.node = lambda _: {"name": "wan2.1-1.3b", "dtype": "bfloat16"}
    measured = next(
        line.split()
        for line in (Path(command_line.__file__).parents[1] / "reports/measured/speed_wan.txt").open()
        if line.startswith("  fastvmt  ")
    )
    seconds, executed = float(measured[1]), float(measured[4]) * 1e15
    rows = [{"stage": "total", "operation": "", "calls": None, "flops": executed, "executed_flops": executed}]
    assert hours(made, rows) == pytest.approx(seconds / 3600)
    assert cells_of(made) == 11 * 3 * 3
    print_cost(made, [row | {"forward_equivalents": None} for row in rows])
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"{99 * seconds / 3600:.1f} GPU-hours")
    made.seeds, made.limit = [0], 2
    assert cells_of(made) == 2 * 3
    made.frames = 33
    assert cells_of(made) is None
