"""Two results folders beside each other, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
from reports_world import metric, write_plan, write_record

from reports.compare import main


def world(results: Path, shift: float, labels: tuple[str, ...] = ("a", "b")) -> Path:
    """Six clips a row; the fidelity of ``b`` is shifted."""
    cells = {}
    for label in labels:
        for clip, value in zip("uvwxyz", (0.2, 0.4, 0.5, 0.3, 0.6, 0.1), strict=True):
            metrics = {"motion_fidelity": metric(value + (shift if label == "b" else 0.0))}
            cells.setdefault(label, []).append(write_record(results, label, clip, metrics=metrics))
    write_plan(results, cells)
    return results


def test_a_row_that_changed_is_told_from_one_that_did_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = world(tmp_path / "old", 0.0, ("a", "b", "gone")), world(tmp_path / "new", 0.125)
    assert main([str(old), str(new), "--columns", "motion_fidelity"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "| a | .000 [.000, .000] p 1.000, n 6" in out
    assert "| b | +.125 [+.125, +.125] p .031, n 6" in out
    assert "gone" not in out


def test_a_metric_that_no_record_holds_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = world(tmp_path / "old", 0.0)
    assert main([str(old), str(old), "--columns", "nope"]) == 2
    assert capsys.readouterr().err == "--columns nope: no such metric; there are: motion_fidelity\n"
    assert main([str(old), str(tmp_path / "nowhere"), "--columns", "motion_fidelity"]) == 2
