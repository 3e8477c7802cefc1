"""``action=cost``: the table of one cell, and what it says where there is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from test_harness_cost import FRAMES, TINY, Toy

from datasets.errors import InputError
from harness.actions.cost import print_cost
from harness.cost.model import cost_report
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
        method=method, backbone=TINY, dataset=dataset, frames=FRAMES, seeds=[0, 1], limit=2, label=method.name
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
