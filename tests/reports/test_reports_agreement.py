"""Metrics are set against the truth that a rendered world's records hold."""

from __future__ import annotations

import pytest
from reports_world import metric, write_plan, write_record

from datasets.errors import InputError
from reports.agreement import agreement, main
from reports.rows import find_plans, groups


def world(results, values):
    """A cell for each (method, clip): error, direction cosine, and a metric that is better when higher."""
    cells = {}
    for (label, clip), (error, cosine, fidelity) in values.items():
        metrics = {
            "position_error": metric(error),
            "direction_cosine": metric(cosine),
            "motion_fidelity": metric(fidelity),
            "constant": metric(1.0),
        }
        cells.setdefault(label, []).append(write_record(results, label, clip, metrics=metrics))
    return write_plan(results, cells)


def test_a_metric_may_rank_each_clip_rightly_and_all_cells_wrongly(tmp_path):
    """In each clip the fidelity falls as the error grows; the clip with larger errors has larger ones."""
    world(
        tmp_path,
        {
            ("a", "x"): (1.0, 0.9, 0.2),
            ("b", "x"): (2.0, 0.5, 0.1),
            ("a", "y"): (5.0, 0.4, 0.8),
            ("b", "y"): (6.0, 0.1, 0.7),
        },
    )
    (group,) = groups(tmp_path, find_plans(tmp_path))
    found = agreement(group)
    assert list(found.index) == ["position_error", "direction_cosine", "motion_fidelity"]
    # Errors rank 1 2 3 4, fidelities 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6, and a higher error is worse.
    assert found.loc["motion_fidelity", "position_error"] == pytest.approx(-0.6)
    assert found.loc["motion_fidelity", "direction_cosine"] == pytest.approx(-0.6)
    assert found.loc["motion_fidelity", "position_error, within clips"] == pytest.approx(1)
    assert found.loc["direction_cosine", "position_error"] == pytest.approx(1)
    assert found.loc["position_error", "position_error"] == pytest.approx(1)
    assert (found["cells"] == 4).all()


def test_cells_that_do_not_know_the_truth_are_left_out(tmp_path, capsys):
    world(
        tmp_path,
        {
            ("a", "x"): (1.0, 0.9, 0.9),
            ("b", "x"): (2.0, 0.5, 0.5),
            ("a", "y"): (3.0, 0.4, None),
            ("b", "y"): (None, None, 0.7),
        },
    )
    (group,) = groups(tmp_path, find_plans(tmp_path))
    assert agreement(group)["cells"].to_dict() == {
        "position_error": 3,
        "direction_cosine": 3,
        "motion_fidelity": 2,
    }
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "sprites on sprites" in shown
    assert "position_error, within clips" in shown


def test_records_without_the_truth_are_refused(tmp_path, capsys):
    world(tmp_path, {("a", "x"): (None, None, 0.5), ("b", "x"): (None, None, 0.4)})
    (group,) = groups(tmp_path, find_plans(tmp_path))
    with pytest.raises(InputError, match="rendered"):
        agreement(group)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
