"""Intervals, tests and corrections: by hand, by enumeration of every resample, and against SciPy's own."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from rosepo_core.evaluation import statistics
from rosepo_core.evaluation.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    bootstrap_test,
    difference_of_means,
    holm,
    over_seeds,
    paired_test,
    resampled_means,
    seeds_and_users,
)

NAN = float("nan")


def test_resampled_means_follow_the_distribution_of_every_possible_draw():
    values = np.array([0.0, 1.0, 5.0])
    means = resampled_means(values[:, None], 27_000, seed=1)[:, 0]
    every, expected = np.unique([np.mean(draw) for draw in product(values, repeat=3)], return_counts=True)
    found = [np.isclose(means, mean).sum() for mean in every]
    assert sum(found) == 27_000
    # Each of the 27 draws comes 1,000 times on average; five standard deviations of a binomial.
    np.testing.assert_allclose(found, expected * 1000, atol=5 * np.sqrt(expected.max() * 1000))


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).random((40, 3))
    whole = resampled_means(values, 100, seed=2)
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 7 * 40)
    np.testing.assert_allclose(resampled_means(values, 100, seed=2), whole, rtol=1e-12)


def test_users_whom_a_metric_does_not_apply_to_do_not_count():
    values = np.array([[1.0, 1.0], [NAN, 1.0], [3.0, 1.0]])
    means = resampled_means(values, 500, seed=0)
    # Draws of users 0 and 2: their own mean, whatever else was drawn; only user 1 drawn: nothing to average.
    kept = means[~np.isnan(means[:, 0]), 0]
    assert set(np.round(kept, 9)) == {1.0, 3.0, 2.0, round(5 / 3, 9), round(7 / 3, 9)}
    assert np.isnan(means[:, 0]).mean() == pytest.approx(1 / 27, abs=0.03)
    assert (means[:, 1] == 1).all()
    low, high = bootstrap_interval(values, 2000)
    assert 1 <= low[0] < 2 < high[0] <= 3
    assert (low[1], high[1]) == (1, 1)


@pytest.mark.parametrize("draw", ["normal", "exponential", "rare hits"])
def test_intervals_are_scipys_bca(draw):
    rng = np.random.default_rng(5)
    values = {
        "normal": rng.normal(size=80),
        "exponential": rng.exponential(size=80),
        "rare hits": (rng.random(200) < 0.08).astype(float),
    }[draw]
    low, high = bootstrap_interval(values, 40_000, seed=1)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(2))
    # Two runs of 40,000 resamples: an end moves by about 2 % of the standard error, or from one count to the next.
    tolerance = 1.01 / 200 if draw == "rare hits" else 0.06 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_the_correction_shifts_the_interval_of_skewed_values():
    values = np.random.default_rng(5).exponential(size=80)
    low, high = bootstrap_interval(values, 40_000, seed=1)
    plain = np.quantile(resampled_means(values[:, None], 40_000, seed=1)[:, 0], [0.025, 0.975])
    assert low > plain[0]
    assert high > plain[1]
    # z0 is nearly 0 here; a = skewness / (6 sqrt(n)).
    a = stats.skew(values) / (6 * np.sqrt(80))
    shifted = stats.norm.cdf([z / (1 - a * z) for z in (-1.959964, 1.959964)])
    expected = np.quantile(resampled_means(values[:, None], 40_000, seed=1)[:, 0], shifted)
    np.testing.assert_allclose([low, high], expected, atol=0.004)


def test_an_interval_needs_two_users_and_one_value_is_certain():
    low, high = bootstrap_interval(np.array([[0.1, 0.5, NAN], [0.1, NAN, NAN], [0.1, NAN, NAN]]), 200)
    assert (low[0], high[0]) == (0.1, 0.1)
    assert np.isnan([low[1:], high[1:]]).all()
    assert all(end.shape == () for end in bootstrap_interval(np.array([0.0, 1.0]), 200))


def test_the_bootstrap_test_by_enumeration():
    differences = np.array([3.0, -1.0, 1.0])
    observed = 1.0
    every = [np.mean(draw) for draw in product(differences, repeat=3)]
    exact = np.mean([abs(mean - observed) >= abs(observed) - 1e-12 for mean in every])
    # 3 3 3; -1 -1 -1; 3 3 1 (2.33, three orders); -1 -1 1 (-0.33, three orders); -1 1 1 and so on by the computer.
    assert bootstrap_test(differences, 50_000) == pytest.approx(exact, abs=0.01)
    assert bootstrap_test(np.zeros(9), 100) == 1
    # Everyone gains: no resample strays as far as zero, but the observed one counts.
    assert bootstrap_test(np.full(50, 0.2) + np.arange(50) / 1e3, 999) == pytest.approx(1 / 1000)


def test_a_paired_test_pairs():
    rng = np.random.default_rng(3)
    users = rng.normal(size=300)
    first, second = users + 0.1 + 0.2 * rng.normal(size=300), users
    test = paired_test(first[:, None], second[:, None], 4000)
    assert test.users.tolist() == [300]
    assert test.difference[0] == pytest.approx((first - second).mean())
    assert 0 < test.low[0] < test.difference[0] < test.high[0]
    assert test.p_bootstrap[0] < 0.01
    assert test.p_wilcoxon[0] == stats.wilcoxon(first, second).pvalue
    # Without pairing nothing shows.
    assert stats.mannwhitneyu(first, second).pvalue > 0.05


def test_a_pair_counts_where_the_metric_applies_under_both():
    first = np.array([[1.0, 1.0, NAN], [NAN, 1.0, NAN], [1.0, 1.0, 1.0]])
    second = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.5, 1.0, 0.0]])
    test = paired_test(first, second, 200)
    assert test.users.tolist() == [2, 3, 1]
    assert test.difference[:2].tolist() == [0.75, 0.0]
    assert (test.p_bootstrap[1], test.p_wilcoxon[1], test.low[1], test.high[1]) == (1, 1, 0, 0)
    assert np.isnan([test.difference[2], test.low[2], test.p_bootstrap[2], test.p_wilcoxon[2]]).all()


@pytest.mark.parametrize("users", [2, 5, 8, 14, 30])
@pytest.mark.parametrize("kind", ["all differ", "ties", "ties and zeros"])
def test_the_signed_rank_test_is_scipys(users, kind):
    rng = np.random.default_rng(users)
    differences = {
        "all differ": rng.normal(0.3, 1, users),
        "ties": rng.choice([-1.0, -0.5, 0.5, 1.0, 1.5], users),
        "ties and zeros": np.append(rng.choice([-1.0, 0.0, 0.5, 1.0], users - 1), 1.0),
    }[kind][:, None]
    found = paired_test(differences, np.zeros((users, 1)), 100).p_wilcoxon
    assert found == pytest.approx(stats.wilcoxon(differences[:, 0]).pvalue, rel=1e-12)


def test_the_signed_rank_test_by_hand():
    # Ranks 1.5 1.5 3 4, of which 1.5 is negative; 3 of the 16 combinations of signs give at most 1.5.
    differences = np.array([[1.0], [-1.0], [2.0], [4.0], [0.0]])
    assert paired_test(differences, np.zeros((5, 1)), 100).p_wilcoxon == 2 * 3 / 16
    # 13 users, of whom 12 gain one: 1 + 13 of the 2^13 combinations have so few positive or negative ones.
    differences = np.array([[1.0]] * 12 + [[-1.0]])
    assert paired_test(differences, np.zeros((13, 1)), 100).p_wilcoxon == 2 * 14 / 2**13


def test_corrections_by_hand():
    p = np.array([0.01, 0.04, NAN, 0.03, 0.5])
    # Ascending 0.01 0.03 0.04 0.5, times 4 3 2 1, never falling.
    np.testing.assert_allclose(holm(p), [0.04, 0.09, NAN, 0.09, 0.5])
    # Times 4/1 4/2 4/3 4/4, the least of those after.
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, 4 * 0.04 / 3, NAN, 4 * 0.04 / 3, 0.5])
    assert holm(np.array([0.7, 0.8])).tolist() == [1, 1]
    assert benjamini_hochberg(np.array([])).tolist() == []


def test_benjamini_hochberg_is_scipys():
    p = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


def test_over_seeds():
    found = over_seeds([0.2, 0.4, 0.3])
    assert (found.mean, found.deviation) == (pytest.approx(0.3), pytest.approx(0.1))
    # Student's quantile with two degrees of freedom is 4.3027; 4.3027 * 0.1 / sqrt(3) = 0.24841.
    assert (found.low, found.high) == (pytest.approx(0.05159, abs=1e-5), pytest.approx(0.54841, abs=1e-5))
    alone = over_seeds([0.2])
    assert alone.mean == 0.2
    assert np.isnan([alone.deviation, alone.low, alone.high]).all()


def test_the_difference_of_two_samples_is_scipys_welch_interval():
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 1, 9), rng.normal(1, 4, 5)
    difference, low, high = difference_of_means(first, second)
    theirs = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert difference == pytest.approx(second.mean() - first.mean())
    assert (low, high) == pytest.approx((theirs.low, theirs.high))


def test_two_samples_without_any_spread_differ_by_what_they_differ():
    assert difference_of_means(np.full(3, 2.0), np.full(2, 5.0)) == (3.0, 3.0, 3.0)


def test_seeds_that_differ_are_drawn_like_users():
    """All users of one seed have 0 and all of the other 1: of two drawn seeds both are the first, both the second, or
    they are mixed, in one of four, one of four and two of four draws."""
    test = seeds_and_users(np.repeat([[0.0], [1.0]], 30, axis=1), 20_000)
    assert (test.mean, test.low, test.high) == (0.5, 0, 1)
    # As far from 0.5 as that is from 0: both pure draws.
    assert test.p == pytest.approx(0.5, abs=0.02)


def test_one_seed_leaves_the_users_alone():
    values = np.random.default_rng(3).normal(0.2, 1, size=200)
    test = seeds_and_users(values[None], 20_000)
    error = values.std() / np.sqrt(200)
    assert test.mean == pytest.approx(values.mean())
    assert (test.low, test.high) == pytest.approx((test.mean - 1.96 * error, test.mean + 1.96 * error), abs=0.01)


def test_seeds_widen_the_interval_of_the_users():
    """Deviations of 0.3 between five seeds and of 1 between a hundred users: the variances 0.09 / 5 and 1 / 100 of
    their means add up."""
    rng = np.random.default_rng(8)
    seeds, users = rng.permutation(np.linspace(-1, 1, 5)) * 0.3 / np.sqrt(0.5), rng.normal(size=100)
    users = (users - users.mean()) / users.std()
    test = seeds_and_users(1 + seeds[:, None] + users[None], 20_000)
    expected = 1.96 * np.sqrt(0.09 / 5 + 1 / 100)
    assert test.mean == pytest.approx(1)
    assert (test.high - test.low) / 2 == pytest.approx(expected, rel=0.03)


def test_users_that_a_seed_did_not_test_do_not_count():
    values = np.array([[1.0, NAN, 1.0, NAN], [NAN, 1.0, 1.0, NAN]])
    test = seeds_and_users(values, 2000)
    assert (test.mean, test.low, test.high) == (1, 1, 1)
    assert np.isnan(seeds_and_users(values[:, :1]).mean)
