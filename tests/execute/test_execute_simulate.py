"""The simulated fleet, against timelines by hand and bounds that hold for every schedule."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from datasets.errors import InputError
from harness.execute import simulate as module
from harness.execute.simulate import SCORING_S, Fleet, main, read_costs, simulate

MEASURED = Path(module.__file__).resolve().parents[2] / "reports" / "measured"


def test_one_worker_takes_all_cells_and_loads_each_variant_once() -> None:
    course = simulate(Fleet(1, ["a", "b", "a", "b", "a"], load=7), {"a": 100, "b": 200})
    assert course.videos == 3 * 100 + 2 * 200 + 2 * 7
    assert course.loads == 2
    assert course.idle == pytest.approx(14 / 714)
    assert course.scores == course.videos + SCORING_S


def test_whoever_takes_whatever_is_next_loads_at_every_change() -> None:
    assert (
        simulate(
            Fleet(1, ["a", "b", "a", "b", "a"], keep=False, spread=False, load=7), {"a": 10, "b": 10}
        ).loads
        == 5
    )


def test_two_workers_by_hand() -> None:
    # The first takes a, a, b; the second a, b: 0-15 15-25 25-50 against 0-15 15-40.
    course = simulate(Fleet(2, ["a", "a", "a", "b", "b"], spread=False, load=5), {"a": 10, "b": 20})
    assert (course.videos, course.loads) == (50, 4)
    assert course.idle == pytest.approx(1 - 70 / 100)


def test_workers_that_spread_begin_with_different_variants() -> None:
    order, seconds = [*["a"] * 4, *["b"] * 4], {"a": 10.0, "b": 10.0}
    assert simulate(Fleet(2, order, load=5), seconds).loads == 2
    assert simulate(Fleet(2, order, spread=False, load=5), seconds).loads == 4
    # A third variant goes to both, as they come free at the same time.
    assert simulate(Fleet(2, [*order, "c", "c"], load=5), {**seconds, "c": 10.0}).loads == 4


def test_a_worker_that_is_free_helps_where_most_is_unmade() -> None:
    # Both take c, which has most, until none is left: 0-10 10-20, 0-10. Then b, which has two unmade,
    # though one is being made: 20-50, 10-40. Last the second takes a: 40-50.
    course = simulate(Fleet(2, ["a", "b", "b", "c", "c", "c"], load=0), {"a": 10, "b": 30, "c": 10})
    assert (course.videos, course.loads, course.idle) == (50, 5, 0)


def test_scores_in_the_workers_turn_hold_up_its_next_cell() -> None:
    beside = simulate(Fleet(1, ["a"] * 3, load=0), {"a": 200})
    in_turn = simulate(Fleet(1, ["a"] * 3, load=0, beside=False), {"a": 200})
    assert (beside.videos, beside.scores) == (600, 600 + SCORING_S)
    assert (in_turn.videos, in_turn.scores) == (600 + 2 * SCORING_S, 600 + 3 * SCORING_S)


def test_a_scorer_that_is_slower_than_the_gpu_ends_later() -> None:
    assert simulate(Fleet(1, ["a"] * 3, load=0), {"a": 10}).scores == 10 + 3 * SCORING_S


def test_a_lost_workers_cell_is_made_by_another() -> None:
    # The first is lost at 15, in its second cell; the second makes three, the last from 20 to 30.
    course = simulate(Fleet(2, ["a"] * 4, load=0, lost=1, lost_at=15), {"a": 10})
    assert course.videos == 30
    assert course.idle == pytest.approx(1 - 40 / (15 + 30))
    # Nothing is left but what the lost one holds: the other waits for it.
    assert simulate(Fleet(2, ["a"] * 2, load=0, lost=1, lost_at=9), {"a": 10}).videos == 20
    assert simulate(Fleet(2, ["b", "a"], load=0, lost=1, lost_at=50), {"a": 10, "b": 100}).videos == 150


@pytest.mark.parametrize("seed", range(5))
def test_no_schedule_beats_the_bound_nor_is_worse_than_any_list(seed: int) -> None:
    draw = random.Random(seed)
    seconds = {name: draw.uniform(1, 100) for name in "abcdef"}
    order = draw.choices("abcdef", k=60)
    work = sum(seconds[name] for name in order)
    for workers in (1, 3, 8):
        for keep, spread in ((True, False), (True, True), (False, False)):
            course = simulate(Fleet(workers, order, keep=keep, spread=spread, load=0), seconds)
            assert course.videos >= max(work / workers, *(seconds[name] for name in order)) - 1e-9
            # Graham, "Bounds on Multiprocessing Timing Anomalies", 1969.
            assert course.videos <= work / workers + (1 - 1 / workers) * max(seconds.values()) + 1e-9
            assert course.idle == pytest.approx(1 - work / (workers * course.videos))


def test_costs_are_those_of_the_documents() -> None:
    costs = read_costs(MEASURED / "cost_wan.txt")
    assert len(costs) == 18
    assert {name: costs[name] for name in ("none", "full_attention", "fastvmt", "fastvmt_turbo")} == {
        "none": 100.0,
        "full_attention": 226.6,
        "fastvmt": 150.9,
        "fastvmt_turbo": 73.7,
    }
    assert sum(costs.values()) == pytest.approx(5606, abs=1)


def test_the_table_is_the_measured_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(MEASURED / "cost_wan.txt")]) == 0
    assert capsys.readouterr().out == (MEASURED / "fleet.md").read_text()


def test_a_file_without_costs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("nothing\n")
    with pytest.raises(InputError, match=r"empty\.txt: it holds no costs; write it with action=cost"):
        read_costs(tmp_path / "empty.txt")
    assert main([str(tmp_path / "absent.txt")]) == 2
    assert "absent.txt" in capsys.readouterr().err
