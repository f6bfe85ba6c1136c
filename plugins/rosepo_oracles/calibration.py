"""From margins between scores to probabilities: a temperature, and how good the probabilities are.

A margin is the score of the item that the user went for less the score of another. With temperature T it stands for
the probability sigmoid(margin / T) that the user prefers the former. Each pair is known in one order only (the item
that was chosen comes first), and by symmetry the probability of the other order is the complement.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

LARGEST_RATIO = 1e3
"""A temperature lies within this factor of the mean absolute margin: the optimum is infinite where margins point the
wrong way on average and zero where none does."""


def sigmoid(x: NDArray[np.floating]) -> Doubles:
    """1 / (1 + exp(-x)), without overflow and exact in both tails."""
    result: Doubles = np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))
    return result


def negative_log_likelihood(margins: NDArray[np.floating], temperature: float) -> float:
    """Mean of -log sigmoid(margin / T)."""
    return float(np.logaddexp(0.0, -np.asarray(margins, dtype=np.float64) / temperature).mean())


def fit_temperature(margins: NDArray[np.floating]) -> float:
    """The temperature T > 0 that minimizes the negative log-likelihood of the pairs (Guo et al., "On Calibration of
    Modern Neural Networks", 2017, section 4.2, in its two-class form).

    The likelihood is concave in 1 / T, so its slope, the mean of margin * sigmoid(-margin / T), changes sign once:
    found by bisection of log T. It is logistic regression on the margins, in both orders, without an intercept.
    """
    margins = np.asarray(margins, dtype=np.float64)
    return _bisect(margins, lambda temperature: float((margins * sigmoid(-margins / temperature)).mean()) < 0)


def temperature_for_mean_flip(margins: NDArray[np.floating], flip: float) -> float:
    """The temperature T at which sigmoid(-margin / T), the flip probability, has the mean `flip`, between the share
    of margins below zero (T near zero) and 1/2 (T without bound)."""
    margins = np.asarray(margins, dtype=np.float64)
    return _bisect(margins, lambda temperature: float(sigmoid(-margins / temperature).mean()) < flip)


def _bisect(margins: Doubles, too_low: Callable[[float], bool]) -> float:
    """Where `too_low` turns from true to false, as a temperature within the bounds; one if all margins are zero."""
    scale = float(np.abs(margins).mean()) if margins.size else 0.0
    if scale == 0.0:
        return 1.0
    low, high = -np.log(LARGEST_RATIO), np.log(LARGEST_RATIO)
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if too_low(scale * float(np.exp(middle))) else (low, middle)
    return scale * float(np.exp(0.5 * (low + high)))


def pairwise_auc(margins: NDArray[np.floating]) -> float:
    """Share of the pairs in the right order, ties counting half: the mean of the users' AUCs where each user has the
    same number of pairs. No temperature changes it."""
    margins = np.asarray(margins)
    return float((margins > 0).mean() + 0.5 * (margins == 0).mean())


def expected_calibration_error(margins: NDArray[np.floating], temperature: float, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over bins of equal width (Guo et al. 2017, equation 3).

    The confidence in a pair is sigmoid(abs(margin) / T), between 1/2 and 1, and its accuracy is 1, 0, or 1/2 for a
    tie.
    """
    margins = np.asarray(margins, dtype=np.float64).ravel()
    confidence = sigmoid(np.abs(margins) / temperature)
    accuracy = 0.5 * (1.0 + np.sign(margins))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=accuracy - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / max(margins.size, 1))
