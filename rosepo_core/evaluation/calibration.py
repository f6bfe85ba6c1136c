"""Calibration: whether what is predicted with a probability happens as often as that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Number of bins of equal width between 0 and 1."""


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability curve.

    Attributes:
        low: lower end of the bin's probabilities.
        high: upper end.
        count: number of predictions in the bin.
        predicted: their mean probability.
        observed: the share of them that happened.
    """

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """How well probabilities agree with outcomes.

    Attributes:
        ece: expected calibration error, 0 to 1, lower is better; NaN without predictions.
        reliability: the bins that are not empty, in order.
    """

    ece: float
    reliability: tuple[ReliabilityBin, ...]


def calibration(probabilities: NDArray[np.floating], outcomes: NDArray[np.generic], bins: int = BINS) -> Calibration:
    """The calibration error and the reliability curve.

    ECE = sum over bins of |bin| / n times |mean probability - mean outcome|, over bins of equal width (Naeini et al.,
    "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; Guo et al. 2017, equation 3, for the
    probability of one outcome).

    Args:
        probabilities: the predictions, in [0, 1], [n].
        outcomes: whether each happened, [n]; a number between 0 and 1 if it happened in part.
        bins: number of bins of equal width between 0 and 1.
    """
    probabilities = probabilities.astype(np.float64)
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    predicted = np.bincount(place, weights=probabilities, minlength=bins)
    observed = np.bincount(place, weights=outcomes.astype(np.float64), minlength=bins)
    return Calibration(
        ece=float(np.abs(predicted - observed).sum() / len(place)) if len(place) else float("nan"),
        reliability=tuple(
            ReliabilityBin(
                low=number / bins,
                high=(number + 1) / bins,
                count=int(counts[number]),
                predicted=float(predicted[number] / counts[number]),
                observed=float(observed[number] / counts[number]),
            )
            for number in np.flatnonzero(counts).tolist()
        ),
    )


def calibration_of_groups(
    probabilities: NDArray[np.floating], outcomes: NDArray[np.generic], groups: int
) -> Calibration:
    """As `calibration`, over groups with the same number of predictions (to within one), the least probable first.

    Where most predictions are alike, bins of equal width would hold nearly all of them in one bin. The ends of a
    group are its least and its most probable prediction (Nguyen and O'Connor, "Posterior calibration and exploratory
    analysis for natural language processing models", EMNLP 2015).

    Args:
        probabilities: the predictions, [n], n at least `groups`.
        outcomes: whether each happened, [n].
        groups: number of groups, at least 1.
    """
    order = np.argsort(probabilities, kind="stable")
    found = tuple(
        ReliabilityBin(
            low=float(probabilities[rows[0]]),
            high=float(probabilities[rows[-1]]),
            count=len(rows),
            predicted=float(probabilities[rows].mean()),
            observed=float(outcomes[rows].astype(np.float64).mean()),
        )
        for rows in np.array_split(order, groups)
    )
    error = sum(each.count * abs(each.predicted - each.observed) for each in found) / len(order)
    return Calibration(ece=error, reliability=found)
