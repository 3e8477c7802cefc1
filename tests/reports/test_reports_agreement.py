"""Metrics are set against the truth that a rendered world's records hold."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import scipy.stats
from reports_world import metric, write_plan, write_record
from study_world import simulate, source, write_votes

from datasets.errors import InputError
from harness.records.store import write_json
from reports.agreement import agreement, main
from reports.study.plan import make_plan
from reports.study.source import Source
from reports.table.rows import find_plans, groups


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
    assert "embedded world" in shown
    assert "position_error, within clips" in shown


def test_records_without_the_truth_are_refused(tmp_path, capsys):
    world(tmp_path, {("a", "x"): (None, None, 0.5), ("b", "x"): (None, None, 0.4)})
    (group,) = groups(tmp_path, find_plans(tmp_path))
    with pytest.raises(InputError, match="rendered"):
        agreement(group)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def people(results, scores, asked=("motion",)):
    """A study of the results in which every rater prefers the higher score, and its files of votes."""
    plan = make_plan(Source("sprites", "sprites", "a", tuple("abc"), takes(len(scores["a"])), ()), raters=6)[
        0
    ]
    plan = plan.model_copy(update={"questions": {key: key for key in asked}})

    def rater(trial, question, chance):
        if trial.kind == "catch":
            return trial.answer
        clip = int(trial.clip)
        return "left" if scores[trial.left][clip] > scores[trial.right][clip] else "right"

    write_json(results / "study" / "plan.json", plan.model_dump(mode="json"))
    votes = write_votes(results / "votes.csv", plan, simulate(plan, [rater] * 6))
    return ["--votes", str(results / "study"), str(votes)]


def takes(count):
    return tuple(
        dataclasses.replace(take, clip=str(index), prompt="a red square")
        for index, take in enumerate(source(("a", "b", "c"), count).takes)
    )


def test_metrics_are_set_against_what_people_prefer(tmp_path, capsys):
    """One metric orders each clip's videos as people do, its level differs by clip; the other is reversed."""
    chance = np.random.default_rng(0)
    scores = {label: chance.permutation(8) + 0.1 * place for place, label in enumerate("abc")}
    values = {
        (label, str(clip)): (float(scores[label][clip]), 0.5, float(100 * clip + scores[label][clip]))
        for label in scores
        for clip in range(8)
    }
    world(tmp_path, values)
    words = people(tmp_path, scores)
    assert main([str(tmp_path), *words]) == 0
    out = capsys.readouterr().out
    table = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in out.splitlines() if line.startswith("|"))
    }
    assert table[""] == ["motion", "motion, Kendall", "motion, within clips", "cells"]
    assert "direction_cosine" not in table, "it varies nowhere"
    assert table["position_error"][2].startswith("-1.00") and table["motion_fidelity"][3] == "24"
    # Wilson's interval of eight in eight.
    assert table["motion_fidelity"][2] == "1.00 [.68, 1.00]"
    # Independently: share of pairs won within a clip, and ranks over all cells.
    share = {
        (label, clip): sum(scores[label][clip] > scores[other][clip] for other in scores) / 2
        for label in scores
        for clip in range(8)
    }
    fidelity = [values[label, str(clip)][2] for label, clip in share]
    rho = scipy.stats.spearmanr(fidelity, list(share.values())).statistic
    tau = scipy.stats.kendalltau(fidelity, list(share.values())).statistic
    for cell, wanted in zip(table["motion_fidelity"][:2], (rho, tau), strict=True):
        found, low, high = (float(part) for part in re.findall(r"-?\d*\.\d+", cell))
        assert found == pytest.approx(wanted, abs=0.006) and low <= found <= high


def test_votes_on_other_results_are_refused(tmp_path, capsys):
    scores = {"a": [3.0] * 8, "b": [2.0] * 8, "c": [1.0] * 8}
    words = people(tmp_path, scores)
    world(tmp_path, {("x", "y"): (1.0, 0.9, 0.2), ("z", "y"): (2.0, 0.5, 0.1)})
    assert main([str(tmp_path), *words]) == 2
    assert "fewer than three cells have votes" in capsys.readouterr().err
    assert main([str(tmp_path), *words[:2]]) == 2
    said = capsys.readouterr().err
    assert "name files of votes too" in said and said.count("\n") == 1
