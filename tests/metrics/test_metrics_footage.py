"""``metrics.validate footage``: motion metrics on pairs of videos, here pairs whose motion is made up."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_metrics_motion_fidelity import line, patch

from datasets.media import video
from metrics.validate import separation
from metrics.validate.__main__ import main
from metrics.validate.footage import COPIES, MATCHED, MISMATCHED, REFERENCES, mean_path

WAYS = {
    "right": ((10, 30), (7, 1)),
    "down": ((60, 6), (1, 6)),
    "left": ((110, 50), (-7, -2)),
}


@pytest.fixture
def pairs(tmp_path):
    """Three scenes, one of them with two pairs, of a square that goes one way before a ground that rests."""
    rows = []
    for number, (scene, (start, step)) in enumerate(WAYS.items()):
        for name, seed in (("ref", 10), ("one", 20), ("two", 30)):
            frames = patch(line(start, step), seed=seed + number, background=seed + number + 5)
            video.write_ffv1(tmp_path / f"{scene}-{name}.mkv", frames, 10)
        rows.append(f"{scene},{scene}-ref.mkv,{scene}-one.mkv,a square")
    rows.append("left,left-ref.mkv,left-two.mkv,a square")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(["scene,reference,generated,prompt", *rows]) + "\n")
    return path


@pytest.fixture
def only_fidelity(monkeypatch):
    from metrics.motion_fidelity import MotionFidelity
    from metrics.validate import ranking

    monkeypatch.setattr(ranking, "motion_metrics", lambda clip_model: (MotionFidelity("motion_fidelity"),))


def test_a_metric_that_sees_motion_tells_made_up_pairs_apart(pairs, tmp_path, capsys, only_fidelity):
    found, values, drawn = tmp_path / "new" / "auc.json", tmp_path / "all.csv", tmp_path / "worst.png"
    options = ["--json", str(found), "--csv", str(values), "--picture", str(drawn)]
    assert main(["footage", str(pairs), *options]) == 0
    printed = capsys.readouterr().out
    assert "(4 pairs of 3 scenes)" in printed
    shares = json.loads(found.read_text())["motion_fidelity"]
    assert set(shares) == {MISMATCHED, *REFERENCES, separation.OWN}
    for kind in (MISMATCHED, "mirrored", "reversed", separation.OWN):
        assert shares[kind]["value"] == 1, kind
        assert shares[kind]["n"] == 4
    table = pd.read_csv(values)
    assert set(table["kind"]) == {MATCHED, MISMATCHED, *REFERENCES, *COPIES}
    by_kind = table.groupby("kind")["value"].mean()
    assert by_kind["the clip itself"] == pytest.approx(1)
    assert by_kind["frozen"] == 0
    assert by_kind["crf 28"] > 0.9
    assert by_kind[MATCHED] > by_kind["frames doubled"] > by_kind["reversed"]
    # Each generation meets the references of the two other scenes.
    assert (table["kind"] == MISMATCHED).sum() == 4 * 2
    assert Image.open(drawn).size[0] > 400


def test_a_scene_weighs_the_same_however_many_pairs_it_has():
    rows = [("few", 0.9, 0.1)] + [("many", 0.2, 0.8)] * 9
    frame = pd.DataFrame(
        [
            {"scene": scene, "generated": f"{scene}{i}", "kind": kind, "value": value}
            for i, (scene, right, wrong) in enumerate(rows)
            for kind, value in ((MATCHED, right), ("mirrored", wrong))
        ]
    )
    # Of the four comparisons of scenes "few" wins both of its own, "many" one of two (.2 against .1).
    assert separation.auc(frame, "mirrored").value == pytest.approx(3 / 4)
    assert separation.means(frame)[MATCHED] == pytest.approx((0.9 + 0.2) / 2)


def test_ties_are_half_and_nulls_are_left_out_and_counted():
    frame = pd.DataFrame(
        [
            {"scene": scene, "generated": scene, "kind": kind, "value": value}
            for scene, kind, value in (
                ("a", MATCHED, 0.5),
                ("b", MATCHED, np.nan),
                ("a", MISMATCHED, 0.5),
                ("b", MISMATCHED, 0.1),
            )
        ]
    )
    found = separation.auc(frame, MISMATCHED)
    assert (found.value, found.n) == (0.5, 1)
    assert separation.answered(frame) == 0.5
    assert separation.own_beats_another(frame).value == 0.5


def test_the_interval_covers_how_much_scenes_differ():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [
            {"scene": scene, "generated": scene, "kind": kind, "value": value}
            for scene in range(12)
            for kind, value in ((MATCHED, rng.normal(1)), ("mirrored", rng.normal(0)))
        ]
    )
    found = separation.auc(frame, "mirrored")
    assert found.low < found.value < found.high
    right, wrong = (frame[frame["kind"] == kind]["value"].to_numpy() for kind in (MATCHED, "mirrored"))
    assert found.value == pytest.approx((right[:, None] > wrong[None]).mean())


def test_the_worst_pairs_are_those_that_wrong_values_reach():
    rows = [("a", 0.9), ("b", 0.3), ("c", 0.6)]
    frame = pd.DataFrame(
        [
            {"scene": s, "generated": s, "reference": s, "kind": kind, "value": value}
            for s, right in rows
            for kind, value in ((MATCHED, right), (MISMATCHED, 0.5), ("mirrored", 0.1), ("reversed", 0.0))
        ]
    )
    worst = separation.worst(frame, 2)
    assert worst["generated"].tolist() == ["b", "a"] or worst["generated"].tolist() == ["b", "c"]
    assert worst["reached"].tolist()[0] == pytest.approx(1 / 3)


def test_the_mean_path_is_that_of_what_moves():
    path = line((20, 20), (6, 3))
    found = mean_path(patch(path))
    np.testing.assert_allclose(found[-1], path[-1] - path[0], atol=12)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace("generated", "made", 1), "'generated'"),
        (lambda text: text.replace("down-one.mkv", "gone.mkv"), "line 3: no video 'gone.mkv'"),
        (lambda text: "\n".join(text.splitlines()[:2]), "two scenes"),
    ],
)
def test_a_csv_that_cannot_be_used_is_one_line(pairs, capsys, change, named):
    pairs.write_text(change(pairs.read_text()))
    assert main(["footage", str(pairs)]) == 2
    error = capsys.readouterr().err.strip()
    assert named in error and "pairs.csv" in error and "\n" not in error


def test_a_csv_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["footage", str(tmp_path / "none.csv")]) == 2
    assert "none.csv: no such file" in capsys.readouterr().err


def test_only_the_metrics_asked_for_are_measured(pairs, capsys):
    assert main(["footage", str(pairs), "--metrics", "motion_fidelity"]) == 0
    printed = capsys.readouterr().out
    assert "| motion_fidelity |" in printed and "motion_fidelity_legacy" not in printed
    assert main(["footage", str(pairs), "--metrics", "motion"]) == 2
    assert "--metrics motion: no such metric; there are: motion_fidelity" in capsys.readouterr().err


def test_a_metric_without_its_weights_is_a_row_without_values_and_a_line(pairs, capsys, monkeypatch):
    from metrics.validate import ranking
    from metrics.vbench import MotionSmoothness, TemporalFlicker

    of = (TemporalFlicker("temporal_flicker"), MotionSmoothness("motion_smoothness"))
    monkeypatch.setattr(ranking, "motion_metrics", lambda clip_model: of)
    assert main(["footage", str(pairs)]) == 0
    table, lines = capsys.readouterr().out.split("Without a value")
    rows = {row.split("|")[1].strip(): row for row in table.splitlines() if row.startswith("| ")}
    assert "nan" in rows["motion_smoothness"] and "nan" not in rows["temporal_flicker"]
    assert "- motion_smoothness: " in lines and "AMT-S" in lines and "temporal" not in lines
