import itertools
import math

import numpy as np
import pytest

from reports.statistics import (
    bootstrap_interval,
    cluster_means,
    holm,
    paired_difference,
    sign_flip_p,
)


def test_cluster_means_average_within_a_clip_and_skip_what_is_not_finite():
    values = [1.0, 3.0, 10.0, math.nan, math.inf, 20.0]
    clips = ["a", "a", "b", "b", "a", "b"]
    assert cluster_means(values, clips) == {"a": 2.0, "b": 15.0}
    assert cluster_means([math.nan], ["a"]) == {}
    assert cluster_means([1.0, 2.0, 9.0], ["a", "a", "a"], np.median) == {"a": 2.0}


def test_percentile_interval_agrees_with_a_plain_loop():
    values = np.random.default_rng(3).gamma(2.0, size=25)
    rng = np.random.default_rng(11)
    means = [values[rng.integers(0, 25, 25)].mean() for _ in range(20_000)]
    expected = np.percentile(means, [2.5, 97.5])
    found = bootstrap_interval(list(values), method="percentile")
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_bca_interval_agrees_with_its_formula():
    """Efron's bias correction and acceleration, written out (Efron & Tibshirani 1993, 14.3)."""
    from scipy.stats import norm

    values = np.random.default_rng(5).exponential(size=20)
    rng = np.random.default_rng(13)
    means = values[rng.integers(0, 20, (40_000, 20))].mean(axis=1)
    bias = norm.ppf(np.mean(means < values.mean()))
    left_out = np.array([np.delete(values, index).mean() for index in range(20)])
    around = left_out.mean() - left_out
    acceleration = (around**3).sum() / (6 * (around**2).sum() ** 1.5)
    ends = [bias + norm.ppf(level) for level in (0.025, 0.975)]
    levels = [norm.cdf(bias + end / (1 - acceleration * end)) for end in ends]
    np.testing.assert_allclose(bootstrap_interval(list(values)), np.quantile(means, levels), atol=0.03)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        low, high = bootstrap_interval(list(rng.normal(0.5, 0.1, 40)), resamples=1000)
        inside += low <= 0.5 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_interval_of_few_or_equal_values():
    assert all(math.isnan(end) for end in bootstrap_interval([]))
    assert all(math.isnan(end) for end in bootstrap_interval([0.3]))
    assert bootstrap_interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    low, high = bootstrap_interval([0.1, 0.3])
    assert 0.1 <= low < high <= 0.3


def test_the_same_values_give_the_same_interval():
    values = [0.1, 0.4, 0.2, 0.8]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_sign_flip_p_enumerates_small_samples():
    values = np.array([0.4, 0.1, -0.2, 0.5, 0.3, 0.25])
    flipped = [
        abs(np.mean(values * np.array(signs))) for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    expected = np.mean(np.array(flipped) >= abs(values.mean()) - 1e-12)
    assert sign_flip_p(list(values)) == pytest.approx(expected)
    assert math.isnan(sign_flip_p([1.0]))


def test_holm_multiplies_step_down_and_stays_monotone():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    found = holm([math.nan, 0.02])
    assert math.isnan(found[0]) and found[1] == pytest.approx(0.02)
    assert holm([]) == []


def test_paired_difference_uses_shared_pairs_and_counts_clips():
    ours = {("a", "p", 0): 0.9, ("a", "p", 1): 0.7, ("b", "p", 0): 0.5, ("c", "p", 0): 9.0}
    theirs = {("a", "p", 0): 0.4, ("a", "p", 1): 0.4, ("b", "p", 0): 0.3, ("d", "p", 0): 9.0}
    found = paired_difference(ours, theirs)
    assert found is not None and found.clips == 2
    assert found.mean == pytest.approx(((0.5 + 0.3) / 2 + 0.2) / 2)
    assert paired_difference({("a", "p", 0): 1.0}, {("a", "q", 0): 1.0}) is None


def test_pairing_removes_what_clips_have_in_common():
    rng = np.random.default_rng(1)
    clip = rng.normal(0, 1, 30)
    gain = rng.normal(0.05, 0.02, 30)
    ours = {(str(index), "p", 0): float(clip[index] + gain[index]) for index in range(30)}
    theirs = {(str(index), "p", 0): float(clip[index]) for index in range(30)}
    found = paired_difference(ours, theirs)
    assert found is not None
    assert found.low > 0.03 and found.high < 0.07 and found.p < 0.001
