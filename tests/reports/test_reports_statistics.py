import itertools
import math

import numpy as np
import pytest
from reports_world import bootstrap_t
from scipy.stats import binomtest, permutation_test

from reports.simulate import main, marked
from reports.table.statistics import (
    adjusted_p,
    clip_differences,
    clip_means,
    cluster_means,
    difference_interval,
    differences,
    mean_interval,
    median_interval,
)


def family_of(matrix):
    """(clips, members) as ``adjusted_p`` takes them; NaN are clips that a member has not."""
    return [
        {f"clip{row}": value for row, value in enumerate(column) if not math.isnan(value)}
        for column in np.asarray(matrix).T.tolist()
    ]


def step_down(matrix):
    """Westfall and Young's step-down max-T (1993, algorithm 2.8), written out over every flip."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(matrix))))
    root = np.sqrt((matrix**2).sum(axis=0))
    flipped = np.abs(signs @ matrix) / root
    observed = np.abs(matrix.sum(axis=0)) / root
    left, adjusted, floor = list(range(matrix.shape[1])), np.empty(matrix.shape[1]), 0.0
    while left:
        first = max(left, key=lambda index: observed[index])
        floor = max(floor, float(np.mean(flipped[:, left].max(axis=1) >= observed[first] - 1e-12)))
        adjusted[first] = floor
        left.remove(first)
    return adjusted


def test_cluster_means_average_within_a_clip_and_skip_what_is_not_finite():
    values = [1.0, 3.0, 10.0, math.nan, math.inf, 20.0]
    clips = ["a", "a", "b", "b", "a", "b"]
    assert cluster_means(values, clips) == {"a": 2.0, "b": 15.0}
    assert cluster_means([math.nan], ["a"]) == {}
    assert cluster_means([1.0, 2.0, 9.0], ["a", "a", "a"], np.median) == {"a": 2.0}


def test_clips_stand_in_the_order_of_their_names():
    cells = {("b", "p", 0): 2.0, ("a", "p", 0): 1.0, ("b", "p", 1): 4.0}
    assert list(clip_means(cells).items()) == [("a", 1.0), ("b", 3.0)]


def test_differences_are_of_shared_cells_within_each_clip():
    ours = {("a", "p", 0): 0.9, ("a", "p", 1): 0.7, ("b", "p", 0): 0.5, ("c", "p", 0): 9.0}
    theirs = {("a", "p", 0): 0.4, ("a", "p", 1): 0.4, ("b", "p", 0): 0.3, ("d", "p", 0): 9.0}
    assert clip_differences(ours, theirs) == pytest.approx({"a": (0.5 + 0.3) / 2, "b": 0.2})
    assert clip_differences({("a", "p", 0): 1.0}, {("a", "q", 0): 1.0}) == {}


@pytest.mark.parametrize("count", [6, 25])
def test_the_interval_of_a_mean_agrees_with_a_plain_loop(count):
    values = np.random.default_rng(3).gamma(2.0, size=count)
    expected = bootstrap_t(values)
    np.testing.assert_allclose(mean_interval(values.tolist()), expected, atol=0.05 * np.ptp(expected))


@pytest.mark.parametrize("count", [6, 8, 16, 30])
@pytest.mark.parametrize("kind", ["normal", "lognormal", "beta"])
def test_the_interval_of_a_mean_covers_it(kind, count):
    rng = np.random.default_rng(count)
    shape = (400, count)
    samples, mean = {
        "normal": (rng.normal(0.5, 0.1, shape), 0.5),
        "lognormal": (rng.lognormal(0, 0.5, shape), math.exp(0.125)),
        "beta": (rng.beta(8, 0.5, shape), 8 / 8.5),
    }[kind]
    held = [low <= mean <= high for low, high in map(mean_interval, samples.tolist())]
    # Beyond the noise of 400 draws; t and BCa intervals cover 80 to 90 % of the skewed ones at six clips.
    assert binomtest(sum(held), len(held), 0.93, alternative="less").pvalue > 0.01


@pytest.mark.parametrize("count", [6, 16])
def test_the_interval_of_a_difference_covers_it(count):
    rng = np.random.default_rng(count)
    alike = rng.beta(8, 0.5, (400, count)) - rng.beta(8, 0.5, (400, count))
    held = [low <= 0 <= high for low, high in map(difference_interval, alike.tolist())]
    assert binomtest(sum(held), len(held), 0.93, alternative="less").pvalue > 0.01


def test_the_interval_of_a_median_is_of_order_statistics():
    values = np.random.default_rng(2).normal(size=16)
    ordered = np.sort(values)
    # Of 16 signs, 3 or fewer are the same one way in 1.1 % of samples, 4 or fewer in 3.8 %.
    shares = [binomtest(count, 16, 0.5, alternative="less").pvalue for count in (3, 4)]
    assert shares[0] < 0.025 < shares[1]
    assert median_interval(values.tolist()) == (ordered[3], ordered[12])
    assert median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)


def test_no_interval_and_no_p_below_six_clips():
    five = [0.1, 0.3, 0.2, 0.5, 0.4]
    for interval in (mean_interval, difference_interval, median_interval):
        assert all(math.isnan(end) for few in ([], [0.3], five) for end in interval(few))
        assert not any(math.isnan(end) for end in interval([*five, 0.6]))
    few, enough = adjusted_p(family_of([[1.0, 1.0]] * 5 + [[math.nan, 1.0]]))
    assert math.isnan(few) and enough == 2 / 64


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e12, 1e200])
def test_neither_interval_nor_p_depends_on_the_scale(scale):
    values = np.array([0.1, 0.4, -0.2, 0.8, 0.3, 0.5, 0.25])
    for interval in (mean_interval, difference_interval):
        np.testing.assert_allclose(np.array(interval((values * scale).tolist())) / scale, interval(values))
    other = np.roll(values, 3) - 0.1
    both = np.stack([values, other], axis=1)
    assert adjusted_p(family_of(both * [scale, 1])) == adjusted_p(family_of(both))


def test_equal_values_have_their_own_as_interval_and_no_difference_has_p_1():
    assert mean_interval([0.3] * 7) == pytest.approx((0.3, 0.3))
    assert difference_interval([0.0] * 6) == (0, 0) and difference_interval([0.25] * 6) == (0.25, 0.25)
    nothing, always = adjusted_p(family_of([[0.0, 0.25]] * 6))
    assert nothing == 1 and always == 2 / 64


def test_the_order_of_clips_does_not_matter():
    values = [0.1, 0.4, 0.2, 0.8, 0.9, 0.35]
    assert mean_interval(values) == mean_interval(values[::-1])


def test_one_p_alone_is_the_permutation_tests():
    values = np.array([0.4, 0.1, -0.2, 0.5, 0.3, 0.25, 0.7])
    expected = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert adjusted_p(family_of(values[:, None])) == [pytest.approx(expected)]


@pytest.mark.parametrize("seed", range(4))
def test_p_values_are_stepped_down_over_every_flip(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (8, 4)) + rng.normal(0, 3, (8, 1)) + [0, 0.3, 1, 3]
    matrix = np.stack([rows[:, a] - rows[:, b] for a, b in itertools.combinations(range(4), 2)], axis=1)
    np.testing.assert_allclose(adjusted_p(family_of(matrix)), step_down(matrix))


def test_clips_that_a_pair_has_not_leave_it_as_it_is():
    rng = np.random.default_rng(5)
    matrix = rng.normal(0.5, 1, (9, 3))
    matrix[:3, 1] = math.nan
    np.testing.assert_allclose(adjusted_p(family_of(matrix)), step_down(np.nan_to_num(matrix)))


def test_drawn_flips_come_near_to_all_of_them():
    matrix = np.random.default_rng(6).normal(0.4, 1, (15, 3))
    np.testing.assert_allclose(adjusted_p(family_of(matrix)), step_down(matrix), atol=0.015)


def test_many_pairs_that_agree_cost_nothing():
    """Holm would ask for 36 times as little: no row of nine could be best of six clips."""
    rows = np.random.default_rng(7).normal(0, 0.01, (6, 1)) + np.arange(9.0)
    pairs = [rows[:, a] - rows[:, b] for a, b in itertools.combinations(range(9), 2)]
    assert set(adjusted_p(family_of(np.stack(pairs, axis=1)))) == {2 / 64}


def test_a_difference_turned_is_theirs_less_ours():
    (one,) = differences(family_of([[0.1], [0.4], [0.3], [0.2], [0.6], [0.5]]))
    assert one.turned.mean == -one.mean and one.turned.p == one.p == 2 / 64


def columns_of_equal_rows(kind, rows, clips, count):
    rng = np.random.default_rng([len(kind), rows, clips])
    for _ in range(count):
        difficulty = rng.normal(0, 1, (1, clips))
        noise = {"normal": rng.normal(0, 1, (rows, clips)), "skewed": rng.lognormal(0, 1, (rows, clips))}
        yield difficulty + noise[kind]


@pytest.mark.parametrize("clips", [6, 8, 16])
@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_equal_methods_get_a_mark_in_one_column_of_twenty_at_most(kind, rows, clips):
    found = [marked(values) for values in columns_of_equal_rows(kind, rows, clips, 300)]
    for wrong in (
        sum("best" in marks.values() for marks, _ in found),
        sum(told_apart for _, told_apart in found),
    ):
        # Beyond the noise of 300 draws; intervals without a correction marked 8 to 50 %.
        assert binomtest(wrong, len(found), 0.05, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("rows", "clips", "lead"), [(2, 6, 4.0), (3, 8, 4.0), (3, 16, 2.0), (9, 16, 4.0)])
def test_a_better_method_gets_its_mark(rows, clips, lead):
    better = [
        values + lead * np.eye(rows)[:, :1] for values in columns_of_equal_rows("normal", rows, clips, 50)
    ]
    firsts = [marked(values)[0] for values in better]
    assert sum(marks.get("0") == "best" for marks in firsts) >= 45
    assert not any("best" in marks.values() and marks.get("0") != "best" for marks in firsts)


def test_the_simulation_prints_both_tables(capsys):
    assert main(["--tables", "2", "--samples", "4"]) == 0
    printed = capsys.readouterr().out
    assert "| Beta(8, .5)" in printed and "| mean, lognormal(0, .5)" in printed and "found, 16" in printed
