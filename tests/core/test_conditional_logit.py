"""The conditional logit against scikit-learn, scipy and values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from rosepo_core.contracts.errors import RequestError
from rosepo_core.evaluation.conditional_logit import ConditionalLogit, fit, folds


def choices(users: int, candidates: int, weights: list[float], seed: int = 0):
    """Features of candidates, and choices drawn from the model with these weights."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(users, candidates, len(weights))) * np.array([2.0, 0.5, 1.0])[: len(weights)]
    gumbel = rng.gumbel(size=(users, candidates))
    chosen = np.argmax(values @ np.array(weights) + gumbel, axis=1).astype(np.int32)
    return values, np.ones((users, candidates), dtype=bool), chosen


def test_two_candidates_are_a_logistic_regression_of_the_difference():
    values, offered, chosen = choices(200, 2, [0.7, -1.0])
    found = fit(["a", "b"], values, offered, chosen, ridge=2.0)
    difference = (values[:, 0] - values[:, 1]) / np.array(found.scales)
    expected = LogisticRegression(C=1 / 2.0, fit_intercept=False, tol=1e-10).fit(difference, chosen == 0)
    np.testing.assert_allclose(found.weights, expected.coef_[0], atol=1e-5)


def test_many_candidates_minimize_the_penalized_likelihood():
    values, offered, chosen = choices(150, 6, [0.7, -1.0, 0.3])
    offered[::3, 5] = False
    values[::3, 5] = np.nan
    chosen = np.where((chosen == 5) & ~offered[:, 5], 0, chosen).astype(np.int32)
    found = fit(["a", "b", "c"], values, offered, chosen, ridge=0.5)

    def loss(weights):
        total = 0.25 * np.sum((np.asarray(weights) * found.scales) ** 2)
        for row, held, column in zip(values, offered, chosen, strict=True):
            utility = row[held] @ weights
            total -= row[column] @ weights - np.log(np.exp(utility).sum())
        return total

    expected = optimize.minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).x
    np.testing.assert_allclose(found.per_unit, expected, atol=1e-4)


def test_probabilities_by_hand():
    logit = ConditionalLogit(("a", "b"), (2.0, 1.0), (1.0, -0.5), (0.0, 0.0), (0.0, 0.0), 10)
    values = np.array([[[2.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])
    found = logit.log_probabilities(values, np.array([[True, True, False]]))
    # The utilities are 2 / 2 = 1 and -0.5 * 2 = -1, so the first has 1 / (1 + exp(-2)).
    np.testing.assert_allclose(np.exp(found), [[0.880797, 0.119203, 0.0]], atol=1e-6)


def test_intervals_cover_the_truth_as_often_as_they_say():
    inside = 0
    for seed in range(200):
        found = fit(["a"], *choices(120, 5, [0.5], seed), ridge=1e-6)
        low, high = (end[0] / found.scales[0] for end in (found.low, found.high))
        inside += low <= 0.5 <= high
    # The standard error of the share is 0.015.
    assert 0.90 <= inside / 200 <= 0.99


def test_features_that_tell_nothing_are_left_out_with_the_reason():
    values, offered, chosen = choices(50, 4, [0.7])
    constant = np.full((50, 4, 1), 3.1)
    of_user = np.repeat(np.arange(50.0)[:, None, None], 4, axis=1)
    holed = values.copy()
    holed[3, 2] = -np.inf
    together = np.concatenate([constant, values, of_user, holed], axis=2)
    found = fit(["constant", "good", "of the user", "holed"], together, offered, chosen)
    alone = fit(["good"], values, offered, chosen)
    assert found.features == ("good",)
    np.testing.assert_allclose(found.weights, alone.weights)
    assert dict(found.left_out) == {
        "constant": "it is the same for all candidates of each user",
        "of the user": "it is the same for all candidates of each user",
        "holed": "it has no value for some candidates",
    }
    with pytest.raises(RequestError, match=r"no feature left \(constant: it is the same .*ranking.features"):
        fit(["constant"], constant, offered, chosen)


def test_users_with_one_candidate_tell_nothing():
    values, offered, chosen = choices(40, 3, [0.7])
    offered[:10, 1:] = False
    chosen[:10] = 0
    found = fit(["a"], values, offered, chosen)
    assert found.users == 30
    np.testing.assert_allclose(found.weights, fit(["a"], values[10:], offered[10:], chosen[10:]).weights)
    with pytest.raises(RequestError, match="validation users with two or more candidates"):
        fit(["a"], values[:10], offered[:10], chosen[:10])


def test_a_feature_that_decides_every_choice_has_a_finite_weight():
    values = np.zeros((30, 3, 1))
    values[:, 0] = 1.0
    found = fit(["a"], values, np.ones((30, 3), dtype=bool), np.zeros(30, dtype=np.int32))
    assert 1 < found.weights[0] < 20


def test_a_fit_is_read_as_it_was_written(tmp_path: Path):
    found = fit(["a", "b"], *choices(60, 3, [0.7, 0.1]))
    found.write(tmp_path / "fusion.json")
    assert ConditionalLogit.read(tmp_path / "fusion.json") == found


def test_folds_hold_each_user_once():
    parts = folds(12, np.random.default_rng(0))
    assert sorted(np.concatenate(parts).tolist()) == list(range(12))
    assert sorted(map(len, parts)) == [2, 2, 2, 3, 3]
    assert len(folds(3, np.random.default_rng(0))) == 3
