"""Turns margins between scores into probabilities with a temperature, and measures how good the probabilities are.

A margin is the score of the item that the user chose, minus the score of another item. With temperature T it means
that the user prefers the chosen item with probability sigmoid(margin / T). Each pair is known in one order only (the
chosen item first). By symmetry, the probability of the other order is one minus this.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

LARGEST_RATIO = 1e3
"""The temperature is within this factor of the mean absolute margin. Without this limit it would be infinite if the
margins are negative on average, and zero if none is negative."""


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

    The log-likelihood is concave in 1 / T, so its slope, the mean of margin * sigmoid(-margin / T), changes sign
    once. The place is found by bisection of log T. This is logistic regression on the margins, in both orders,
    without an intercept.
    """
    margins = np.asarray(margins, dtype=np.float64)
    return _bisect(margins, lambda temperature: float((margins * sigmoid(-margins / temperature)).mean()) < 0)


def temperature_for_mean_flip(margins: NDArray[np.floating], flip: float) -> float:
    """The temperature T at which the flip probability, sigmoid(-margin / T), has the mean `flip`.

    The mean can lie between the share of margins below zero (T near zero) and 1/2 (very large T).
    """
    margins = np.asarray(margins, dtype=np.float64)
    return _bisect(margins, lambda temperature: float(sigmoid(-margins / temperature).mean()) < flip)


def _bisect(margins: Doubles, too_low: Callable[[float], bool]) -> float:
    """The temperature, within the bounds, where `too_low` changes from true to false; 1 if all margins are zero."""
    scale = float(np.abs(margins).mean()) if margins.size else 0.0
    if scale == 0.0:
        return 1.0
    low, high = -np.log(LARGEST_RATIO), np.log(LARGEST_RATIO)
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if too_low(scale * float(np.exp(middle))) else (low, middle)
    return scale * float(np.exp(0.5 * (low + high)))


def pairwise_auc(margins: NDArray[np.floating]) -> float:
    """Share of the pairs in the right order; ties count half. It is the mean of the users' AUCs if each user has the
    same number of pairs. It does not depend on the temperature."""
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
