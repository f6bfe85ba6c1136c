"""The quality of flip probabilities, by hand, against scikit-learn, and asked of an oracle that shows what it saw."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.errors import PluginError
from rosepo_core.contracts.records import Candidates, Examples, Sequences
from rosepo_core.evaluation.calibration import ReliabilityBin
from rosepo_core.evaluation.oracle_quality import held_out_flips, quality


class Even(SmoothingOracle):
    """Prefers the item of the higher number, by a logistic of the difference; remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def flip_probability(self, places, chosen, rejected):
        histories = [
            places.sequences[user][:position].tolist()
            for user, position in zip(places.user, places.position, strict=True)
        ]
        self.asked.append((places.user.tolist(), histories, chosen.tolist(), rejected.tolist()))
        return (1 / (1 + np.exp(chosen[:, None] - rejected.astype(np.float64)))).astype(np.float32)


# Users 0 and 2 are tested, on items 3 and 5.
SEQUENCES = Sequences(np.array([0, 1, 3, 9, 8, 2, 5, 7], dtype=np.int32), np.array([0, 4, 5, 8]))
EXAMPLES = Examples.of(SEQUENCES, np.array([0, 2], dtype=np.int32), np.array([2, 1], dtype=np.int32))
CANDIDATES = Candidates(np.array([[4, 3, 6], [5, 1, -1]], dtype=np.int32), np.array([1, 0], dtype=np.int32))


def test_every_pair_is_asked_about_in_both_orders():
    oracle = Even()
    flips, outcomes = held_out_flips(oracle, EXAMPLES, CANDIDATES)
    assert oracle.asked == [
        ([0, 2], [[0, 1], [2]], [3, 5], [[4, 6], [1, -1]]),
        ([0, 2], [[0, 1], [2]], [4, 1], [[3], [5]]),
        ([0], [[0, 1]], [6], [[3]]),
    ]
    assert outcomes.tolist() == [False] * 3 + [True] * 3
    margins = np.array([1, 3, -4, -1, 4, -3])
    np.testing.assert_allclose(flips, 1 / (1 + np.exp(-margins)), rtol=1e-6)
    assert SEQUENCES.items.tolist() == [0, 1, 3, 9, 8, 2, 5, 7]


def test_what_an_oracle_believes_is_measured_and_not_what_it_is_clipped_to():
    class Clipped(Even):
        def flip_probability(self, places, chosen, rejected):
            return np.minimum(self.preference_probability(places, chosen, rejected), np.float32(0.45))

        def preference_probability(self, places, chosen, rejected):
            return Even.flip_probability(self, places, chosen, rejected)

    flips, _ = held_out_flips(Clipped(), EXAMPLES, CANDIDATES)
    np.testing.assert_allclose(flips, 1 / (1 + np.exp([-1, -3, 4, 1, -4, 3])), rtol=1e-6)


def test_at_most_five_items_a_user():
    items = np.array([[0, 1, 2, 4, 5, 6, 7, 3]], dtype=np.int32)
    flips, _ = held_out_flips(Even(), EXAMPLES.take(np.array([0])), Candidates(items, np.array([7], dtype=np.int32)))
    assert len(flips) == 2 * 5


def test_a_wrong_answer_names_the_oracle():
    class Sure(Even):
        def flip_probability(self, places, chosen, rejected):
            return np.ones(rejected.shape, dtype=np.float32)

    with pytest.raises(PluginError, match="Sure returned the flip probability"):
        held_out_flips(Sure(), EXAMPLES, CANDIDATES)


def test_quality_by_hand():
    found = quality(np.array([0.1, 0.2, 0.2, 0.8]), np.array([False, False, True, True]), bins=2)
    # Of four pairs of one and the other outcome three are in order, one is tied.
    assert (found.pairs, found.auc) == (4, 3.5 / 4)
    # Below one half: 0.1, 0.2, 0.2 with one of three; above: 0.8 with one of one.
    assert found.reliability == (
        ReliabilityBin(0.0, 0.5, 3, pytest.approx(0.5 / 3), pytest.approx(1 / 3)),
        ReliabilityBin(0.5, 1.0, 1, pytest.approx(0.8), 1.0),
    )
    assert found.ece == pytest.approx((abs(0.5 - 1) + abs(0.8 - 1)) / 4)


def test_quality_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    flips = np.round(rng.random(5000), 2) * 0.99
    outcomes = rng.random(5000) < flips**2
    found = quality(flips, outcomes)
    assert found.auc == pytest.approx(roc_auc_score(outcomes, flips))
    observed, predicted = calibration_curve(outcomes, flips, n_bins=15)
    np.testing.assert_allclose([each.observed for each in found.reliability], observed)
    np.testing.assert_allclose([each.predicted for each in found.reliability], predicted)


def test_what_is_calibrated_has_a_small_error_and_what_is_not_a_large_one():
    rng = np.random.default_rng(1)
    flips = rng.random(20_000) * 0.9
    assert quality(flips, rng.random(20_000) < flips).ece < 0.02
    # The mean of |x - (1 - x)| for x even between 0 and 0.9 is (0.5^2 + 0.4^2) / 0.9.
    assert quality(flips, rng.random(20_000) < 1 - flips).ece == pytest.approx(0.41 / 0.9, abs=0.02)
    nothing = quality(np.array([0.2]), np.array([True]))
    assert np.isnan(nothing.auc)
