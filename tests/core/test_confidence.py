"""Confidence by hand, and against independent code."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap

from rosepo_core.contracts.outcome import Measure
from rosepo_core.contracts.ranking import rank_targets
from rosepo_core.contracts.records import Candidates, Examples, Sequences
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.confidence import confidence, confidences, cut_offs, risk_coverage
from rosepo_core.evaluation.measurement import Column
from rosepo_core.evaluation.results import Evaluation, ModelResult
from rosepo_core.evaluation.tables import metrics_document

# Three titles and four users. The targets are the titles 0, 2, 1 and 0.
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.25, 0.4, 0.35], [0.3, 0.6, 0.1]])
TARGETS = np.array([0, 2, 1, 0], dtype=np.int32)


def result_of(probabilities, targets):
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities).astype(np.float32)
    ranks = rank_targets(scores, targets, probabilities > 0)
    return ModelResult(scores, ranks, np.zeros((len(scores), 3), dtype=np.int32), {}, {}, {})


RESULT = result_of(PROBABILITIES, TARGETS)


def test_risk_and_coverage_by_hand():
    found = confidence(RESULT, [2])
    first, two = found.curves
    # In the order of confidence, 0.7, 0.6, 0.5 and 0.4, the first titles are right, wrong, wrong and right.
    assert first.k == 1
    assert first.coverages == (0.25, 0.5, 0.75, 1.0)
    assert first.risks == pytest.approx((0, 1 / 2, 2 / 3, 2 / 4))
    assert first.risk == 0.5
    assert first.aurc == pytest.approx((0 + 1 / 2 + 2 / 3 + 1 / 2) / 4)
    # Lists of two have 0.9, 0.9, 0.8 and 0.75; only that of the third, the second user's, misses the target.
    assert (two.k, two.risk) == (2, 0.25)
    assert two.risks == pytest.approx((0, 0, 1 / 3, 1 / 4))
    assert (found.users, found.mean) == (4, pytest.approx(0.55))


def test_calibration_of_the_first_title_by_hand():
    found = confidence(RESULT, []).calibration
    # Each of 0.7, 0.6, 0.5 and 0.4 is alone in its fifteenth; right, wrong, wrong and right.
    assert [(each.count, each.observed) for each in found.reliability] == [(1, 1), (1, 0), (1, 0), (1, 1)]
    assert [each.predicted for each in found.reliability] == pytest.approx([0.4, 0.5, 0.6, 0.7])
    assert found.ece == pytest.approx((0.6 + 0.5 + 0.6 + 0.3) / 4)


def test_lists_of_all_candidates_are_never_wrong_and_left_out():
    assert [each.k for each in confidence(RESULT, [1, 2, 3, 10]).curves] == [1, 2]
    alone = result_of(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 0], dtype=np.int32))
    (only,) = confidence(alone, [5]).curves
    assert (only.risk, only.aurc) == (0, 0)


def test_tied_titles_are_right_as_often_as_in_a_random_order():
    tied = result_of(np.array([[0.4, 0.4, 0.2]]), np.array([1], dtype=np.int32))
    found = confidence(tied, [2])
    assert [each.risk for each in found.curves] == [0.5, 0]
    assert found.calibration.ece == pytest.approx(0.1)


def test_equal_confidence_is_the_mean_over_all_orders():
    losses = np.array([1.0, 0.0, 0.0, 1.0])
    found = risk_coverage(1, np.array([0.5, 0.5, 0.9, 0.1]), losses)
    # After the third user, the first or the second is answered: (0 + 1) / 2 or (0 + 0) / 2.
    assert found.risks == pytest.approx((0, 0.25, 1 / 3, 0.5))
    constant = risk_coverage(1, np.full(4, 0.5), losses)
    assert constant.risks == pytest.approx((0.5,) * 4)


def test_the_area_agrees_with_a_threshold_at_each_user():
    rng = np.random.default_rng(0)
    sure, losses = rng.random(500), (rng.random(500) < 0.3).astype(np.float64)
    found = risk_coverage(1, sure, losses)
    assert found.aurc == pytest.approx(np.mean([losses[sure >= threshold].mean() for threshold in sure]))
    assert len(found.coverages) == 100
    assert found.coverages[:2] == (0.01, 0.02)
    threshold = np.sort(sure)[::-1][49]
    assert found.risks[9] == pytest.approx(losses[sure >= threshold].mean())


def test_the_interval_of_the_area_agrees_with_scipy():
    rng = np.random.default_rng(3)
    sure = rng.integers(8, size=60) / 8
    losses = (rng.random(60) < 0.6 - 0.4 * sure).astype(np.float64)

    def area(chosen):
        """The mean risk over all users, those of equal confidence in a random order."""
        order = sure[chosen].argsort(kind="stable")[::-1]
        levels = [losses[chosen][sure[chosen] == level].mean() for level in sure[chosen][order]]
        return (np.cumsum(levels) / np.arange(1, len(levels) + 1)).mean()

    found = risk_coverage(1, sure, losses)
    assert found.aurc == pytest.approx(area(np.arange(60)))
    other = bootstrap((np.arange(60),), area, vectorized=False, method="percentile", n_resamples=1000, rng=1)
    assert found.aurc_interval == pytest.approx(other.confidence_interval, abs=0.02)
    # All users are alike, so other users would be, too.
    assert risk_coverage(1, sure, np.ones(60)).aurc_interval == (1, 1)


def test_choices_of_the_model_itself_are_calibrated():
    """Targets are drawn with the probabilities that are measured."""
    rng = np.random.default_rng(1)
    utilities = rng.normal(size=(20_000, 6)) * 2
    probabilities = np.exp(utilities) / np.exp(utilities).sum(axis=1, keepdims=True)
    targets = np.argmax(utilities + rng.gumbel(size=utilities.shape), axis=1).astype(np.int32)
    found = confidence(result_of(probabilities, targets), [])
    assert found.calibration.ece < 0.015
    assert found.mean == pytest.approx(1 - found.curves[0].risk, abs=0.01)
    assert found.curves[0].aurc < 0.8 * found.curves[0].risk
    sure = result_of(probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True), targets)
    assert confidence(sure, []).calibration.ece > 0.1


def test_cut_offs_of_columns():
    about = Measure("HR", "higher", "Accuracy")
    assert cut_offs([Column(about, "@10", ""), Column(about, "", ""), Column(about, "@5", "")]) == [1, 5, 10]


@pytest.fixture
def evaluation():
    sequences = Sequences(np.array([0, 2, 1, 0], dtype=np.int32), np.arange(5))
    examples = Examples.of(sequences, np.arange(4, dtype=np.int32), np.zeros(4, dtype=np.int32))
    candidates = Candidates(np.tile(np.arange(3, dtype=np.int32), (4, 1)), TARGETS)
    columns = {"hr@2": Column(Measure("HR", "higher", "Accuracy"), "@2", "")}
    logit = ConditionalLogit(("likelihood",), (2.0,), (1.0,), (0.5,), (1.5,), 4, (("prior", "it is the same"),))
    models = {"aligned": RESULT, "aligned fusion": RESULT}
    fusions = {"aligned fusion": logit}
    return Evaluation("candidates-3", "", examples, candidates, columns, models, (), 1.0, fusions=fusions)


def test_only_fusions_that_rank_candidates_have_a_confidence(evaluation):
    assert list(confidences(evaluation)) == ["aligned fusion"]
    assert confidences(replace(evaluation, candidates=None)) == {}
    assert confidences(replace(evaluation, fusions={})) == {}


def test_the_document_has_fusions_and_confidence(evaluation):
    document = json.loads(json.dumps(metrics_document("log", 0, [evaluation], {})))
    assert document["fusions"]["candidates-3"]["aligned fusion"] == {
        "features": ["likelihood"],
        "scales": [2.0],
        "weights": [1.0],
        "low": [0.5],
        "high": [1.5],
        "users": 4,
        "left_out": [["prior", "it is the same"]],
    }
    found = document["confidence"]["candidates-3"]["aligned fusion"]
    assert set(found) == {"users", "mean", "calibration", "curves"}
    assert set(found["calibration"]) == {"ece", "reliability"}
    assert set(found["calibration"]["reliability"][0]) == {"low", "high", "count", "predicted", "observed"}
    assert [set(each) for each in found["curves"]] == [
        {"k", "risk", "aurc", "aurc_interval", "coverages", "risks"}
    ] * 2
    assert found["curves"][0]["coverages"] == [0.25, 0.5, 0.75, 1]
