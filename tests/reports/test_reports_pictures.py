"""The picture of reference over generations shows what the cells hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.video import write_ffv1, write_h264
from harness.records.record import Plan, PlannedCell, Variant
from reports.pictures import compose, rows_of


def plan_of(results: Path, label: str, colours: dict[str, tuple[int, int, int]]) -> Plan:
    cells = []
    for clip, colour in colours.items():
        path = f"cells/{label}/{clip}"
        (results / path).mkdir(parents=True)
        frames = np.full((5, 32, 48, 3), colour, np.uint8)
        write_ffv1(results / path / "frames.mkv", frames, 8.0)
        write_h264(results / path / "reference.mp4", np.full((5, 32, 48, 3), 128, np.uint8), 8.0)
        cells.append(PlannedCell(id=label + clip, path=path, clip=clip, prompt="a dog", seed=0))
    variant = Variant(label=label, method=label, backbone="b", dataset="d", config_id=label, cells=cells)
    return Plan(name=label, variants=[variant])


def test_every_clip_shows_its_reference_above_each_variant(tmp_path: Path) -> None:
    red, blue = (250, 10, 10), (10, 10, 250)
    plans = [
        plan_of(tmp_path, "none", {"x": red, "y": red, "z": red}),
        plan_of(tmp_path, "fastvmt", {"y": blue, "x": blue}),
    ]
    rows = rows_of(tmp_path, plans, clips=5, count=3, side=16)
    assert [label for label, _ in rows] == [
        label for clip in "xy" for label in (f"reference {clip}", "none: a dog", "fastvmt: a dog")
    ]
    assert rows[1][1].shape == (16, 3 * 24, 3)
    assert np.abs(rows[0][1].astype(int) - 128).max() < 6
    assert (rows[1][1] == red).all() and (rows[2][1] == blue).all()
    picture = np.asarray(compose(rows))
    assert (picture[-1, -1] == blue).all() and picture.shape[1] == 72


def test_no_shared_clip_is_bad_input(tmp_path: Path) -> None:
    plans = [plan_of(tmp_path, "none", {"x": (1, 1, 1)}), plan_of(tmp_path, "fastvmt", {"y": (1, 1, 1)})]
    with pytest.raises(InputError, match="no clip"):
        rows_of(tmp_path, plans, clips=5, count=3, side=16)
