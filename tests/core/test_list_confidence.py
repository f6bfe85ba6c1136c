"""The calibrated confidence of lists: against scikit-learn, by hand, and on lists whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from rosepo_core.contracts.errors import RequestError
from rosepo_core.evaluation.calibration import calibration_of_groups
from rosepo_core.evaluation.list_confidence import ListCalibration, Lists, fit, log_masses, reliability


def lists_of(chances: np.ndarray, rng: np.random.Generator, bias: float = 0.0, slope: float = 1.0) -> Lists:
    """Lists with these probabilities of their items, [n, K], by a model that says
    logit(mass) = (logit(truth) - bias) / slope."""
    users, longest = chances.shape
    edges = chances.cumsum(axis=1)
    place = (rng.random(users)[:, None] > edges).sum(axis=1)
    claimed = special.log_expit((special.logit(edges) - bias) / slope)
    return Lists(claimed, place[:, None] <= np.arange(longest), np.ones(chances.shape, dtype=bool))


def drawn(rng: np.random.Generator, users: int, longest: int) -> np.ndarray:
    first = rng.uniform(0.02, 0.2, users)
    return first[:, None] * 0.8 ** np.arange(longest)


def test_the_mass_of_a_list_by_hand():
    likelihood = np.log(np.array([[0.25, 0.125, 0.125]], dtype=np.float32))
    np.testing.assert_allclose(np.exp(log_masses(likelihood, np.zeros(1))), [[0.25, 0.375, 0.5]], rtol=1e-6)
    # A pool of three titles with the scores log 4, log 2, log 2, of which two are in the list.
    pooled = np.log(np.array([[4.0, 2.0]], dtype=np.float32))
    np.testing.assert_allclose(np.exp(log_masses(pooled, np.log([8.0]))), [[0.5, 0.75]], rtol=1e-6)
    # The whole pool has a mass of 1, which has no logit; an empty slot adds nothing.
    whole = np.array([[0.0, -np.inf]], dtype=np.float32)
    assert (log_masses(whole, np.zeros(1)) == -1e-9).all()


def test_confidence_by_hand():
    known = ListCalibration((-0.5, 0.5, 1.0), ((0.04, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), 4, 100)
    # mass 0.2: logit -1.3863; -0.5 - 0.6931 + log 1 = -1.1931 -> 0.23269. Of 4 titles: + 1.3863 = 0.1931 -> 0.54814.
    mass = np.log([0.2, 0.2])
    np.testing.assert_allclose(known.confidence(mass, np.array([1, 4])), [0.23269, 0.54814], atol=1e-5)
    # The standard error of the intercept is 0.2: -1.1931 +- 1.95996 * 0.2.
    low, high = known.interval(mass[:1], np.array([1]))
    assert [float(low[0]), float(high[0])] == pytest.approx([0.17007, 0.30977], abs=1e-5)


def test_the_fit_for_one_length_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    lists = lists_of(drawn(rng, 300, 1), rng, bias=0.7, slope=0.5)
    logit = lists.log_mass[:, 0] - np.log(-np.expm1(lists.log_mass[:, 0]))
    scaled = (logit - logit.mean()) / logit.std()
    other = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(scaled[:, None], lists.hit[:, 0])
    found = fit(lists).confidence(lists.log_mass[:, 0], np.ones(300, dtype=np.int64))
    np.testing.assert_allclose(found, other.predict_proba(scaled[:, None])[:, 1], atol=1e-5)


def test_a_model_that_is_sure_of_itself_gets_the_true_probabilities():
    """Its logits are twice too large and shifted; 20,000 users tell the truth."""
    rng = np.random.default_rng(2)
    chances = drawn(rng, 20_000, 6)
    known = fit(lists_of(chances, rng, bias=-0.8, slope=0.5))
    assert known.parameters == pytest.approx((-0.8, 0.5, 0.0), abs=0.08)
    fresh = lists_of(chances, np.random.default_rng(3), bias=-0.8, slope=0.5)
    for k in (1, 3, 6):
        found = known.confidence(fresh.log_mass[:, k - 1], np.full(20_000, k))
        np.testing.assert_allclose(found, chances[:, :k].sum(axis=1), atol=0.02)


def test_confidence_grows_with_the_list_and_never_falls_with_the_mass():
    """Here a larger mass means fewer hits, so the mass tells nothing, and the rates of each length are left."""
    rng = np.random.default_rng(4)
    chances = drawn(rng, 2_000, 8)
    lists = lists_of(chances, rng)
    lists = Lists(
        lists.log_mass[np.argsort(-lists.log_mass[:, 0])], lists.hit[np.argsort(lists.log_mass[:, 0])], lists.there
    )
    known = fit(lists)
    assert known.parameters[1] == 0
    found = known.confidence(lists.log_mass[0], np.arange(1, 9))
    assert (np.diff(found) > 0).all()
    # log k is not exactly the form of these rates.
    np.testing.assert_allclose(found, lists.hit.mean(axis=0), atol=0.05)


def test_the_intervals_hold_the_truth_about_as_often_as_they_say():
    inside = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        chances = drawn(rng, 300, 5)
        known = fit(lists_of(chances, rng, slope=0.7))
        truth = np.array([0.15, 0.4])
        low, high = known.interval(special.log_expit(special.logit(truth) / 0.7), np.array([1, 5]))
        inside.append((low <= truth) & (truth <= high))
    share = np.mean(inside, axis=0)
    # 44 of 50 or more, where the interval says 47.5.
    assert (share >= 0.88).all(), share


def test_lists_that_end_early_count_once():
    rng = np.random.default_rng(5)
    full = lists_of(drawn(rng, 200, 3), rng)
    short = Lists(
        np.hstack([full.log_mass, full.log_mass[:, -1:]]),
        np.hstack([full.hit, full.hit[:, -1:]]),
        np.hstack([full.there, np.zeros((200, 1), dtype=bool)]),
    )
    assert fit(short).parameters == pytest.approx(fit(full).parameters, abs=1e-9)


def test_groups_by_hand():
    found = calibration_of_groups(np.array([0.9, 0.1, 0.5, 0.3]), np.array([True, False, False, True]), 2)
    assert [(each.low, each.high, each.count) for each in found.reliability] == [(0.1, 0.3, 2), (0.5, 0.9, 2)]
    assert [each.predicted for each in found.reliability] == pytest.approx([0.2, 0.7])
    assert [each.observed for each in found.reliability] == [0.5, 0.5]
    assert found.ece == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)


def test_reliability_is_of_users_that_the_calibration_has_not_seen():
    rng = np.random.default_rng(6)
    chances = drawn(rng, 2_000, 5)
    honest, tells_nothing = lists_of(chances, rng, slope=0.5), lists_of(chances, rng, slope=0.5)
    tells_nothing = Lists(tells_nothing.log_mass[rng.permutation(2_000)], tells_nothing.hit, tells_nothing.there)
    first, last = reliability(honest, [1, 5], np.random.default_rng(0))
    assert (first.k, last.k) == (1, 5)
    assert first.rate == pytest.approx(honest.hit[:, 0].mean())
    assert first.brier == pytest.approx((chances[:, 0] * (1 - chances[:, 0])).mean(), abs=0.01)
    assert last.brier < last.constant_brier - 0.01
    assert sum(group.count for group in last.groups) == 2_000
    assert last.ece < 0.05
    (other,) = reliability(tells_nothing, [5], np.random.default_rng(0))
    assert other.brier == pytest.approx(other.constant_brier, abs=0.002)


def test_too_few_hits_are_refused():
    rng = np.random.default_rng(7)
    lists = lists_of(np.full((40, 2), 0.05), rng)
    lists.hit[:] = False
    lists.hit[:4, 1] = True
    with pytest.raises(RequestError, match="4 of 40 users have their next item in a list of 2, and at least 5 must"):
        fit(lists)
