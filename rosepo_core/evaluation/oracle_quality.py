"""Measures the quality of an oracle's probabilities on held-out pairs, for any oracle.

A pair is the target of a test user and an unseen item, drawn uniformly. The log knows the outcome in one order only:
the target was chosen. An oracle that is always asked in this order could simply answer 0. So each pair is asked in
both orders: with the target as chosen item, outcome 0, and with the drawn item as chosen item, outcome 1. The
measured number is `SmoothingOracle.preference_probability`, before any limit for training: a limit below one half
would make every answer in the second order too low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.records import Bools, Candidates, Examples, Floats, Ints
from rosepo_core.evaluation.calibration import BINS, ReliabilityBin, calibration
from rosepo_core.stages.preferences import flip_probabilities

ITEMS_PER_USER = 5
"""Number of drawn items that each test user's target is paired with. Each makes its own pair."""


@dataclass(frozen=True)
class OracleQuality:
    """Quality of flip probabilities.

    Attributes:
        pairs: number of questions; each pair is asked in both orders.
        auc: probability that a question with outcome 1 has a higher flip probability than one with outcome 0; ties
            count half; 1/2 is chance, higher is better.
        ece: expected calibration error, 0 to 1, lower is better.
        reliability: the bins of flip probabilities that are not empty, in order.
    """

    pairs: int
    auc: float
    ece: float
    reliability: tuple[ReliabilityBin, ...]


def held_out_flips(oracle: SmoothingOracle, examples: Examples, candidates: Candidates) -> tuple[Floats, Bools]:
    """The oracle's flip probabilities for held-out pairs in both orders.

    Args:
        oracle: a fitted oracle.
        examples: test examples.
        candidates: their candidates: the target and unseen items.

    Returns:
        flip probabilities, float32 [pairs], and outcomes, bool [pairs].

    Raises:
        PluginError: the oracle broke its contract.
    """
    others = _others(candidates, ITEMS_PER_USER)
    asked = others >= 0
    flips = [flip_probabilities(oracle, examples, examples.target, others, shaped=False)[asked]]
    for column in range(others.shape[1]):
        rows = np.flatnonzero(asked[:, column])
        if len(rows):
            part = examples.take(rows)
            swapped = flip_probabilities(oracle, part, others[rows, column], part.target[:, None], shaped=False)
            flips.append(swapped[:, 0])
    count = int(asked.sum())
    return np.concatenate(flips), np.repeat([False, True], count)


def quality(flips: Floats, outcomes: Bools, bins: int = BINS) -> OracleQuality:
    """AUC, calibration error and reliability curve.

    Args:
        flips: flip probabilities in [0, 1), [pairs].
        outcomes: whether the pair was flipped, [pairs].
        bins: see `calibration`.
    """
    flipped, kept = int(outcomes.sum()), int((~outcomes).sum())
    above = rankdata(flips.astype(np.float64))[outcomes].sum() - flipped * (flipped + 1) / 2
    measured = calibration(flips, outcomes, bins)
    return OracleQuality(
        pairs=len(flips),
        auc=float(above / (flipped * kept)) if flipped and kept else float("nan"),
        ece=measured.ece,
        reliability=measured.reliability,
    )


def _others(candidates: Candidates, most: int) -> Ints:
    """The first candidates of each row that are not the target: int32 [n, `most` or less], -1 fills rows with
    fewer."""
    items = candidates.items.copy()
    items[np.arange(len(items)), candidates.target_column] = -1
    # Move empty slots to the end, and keep the order of the others.
    order = np.argsort(items < 0, axis=1, kind="stable")
    return np.take_along_axis(items, order, axis=1)[:, : min(most, items.shape[1] - 1)]
