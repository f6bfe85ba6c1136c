"""The confidence of a list: the probability that the next item of a user is in it.

What a model says of its own list, its mass, is no such probability: a language model gives much of its probability
to texts that are no titles, and a pool leaves titles out. So the mass is calibrated on users whose next item is known
(Platt, "Probabilistic outputs for support vector machines", 1999), for lists of all lengths at once:

    confidence = sigmoid(intercept + mass_weight * logit(mass of the first k) + length_weight * log(k))

Both weights are at least 0, so the confidence grows with the list, as a probability must.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Bools, Doubles, Floats
from rosepo_core.evaluation.calibration import Calibration, ReliabilityBin, calibration_of_groups
from rosepo_core.evaluation.conditional_logit import folds
from rosepo_core.evaluation.statistics import LEVEL

RIDGE = 1.0
"""Half of it is the penalty on the sum of the squared weights, per standard deviation. With few users it draws the
confidence towards the constant rate of its length."""
FEWEST = 5
"""The fewest users with their item in the longest list, and without it."""
GROUPS = 10
GROUP_USERS = 20
"""Groups of reliability: at most 10, with 20 users or more each where there are so many."""
LARGEST_MASS = -1e-9
"""The largest logarithm of a mass; its logit is finite."""

_HALF_WIDTH = float(stats.norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Lists:
    """The lists of users whose next item is known.

    Attributes:
        log_mass: logarithm of the mass of the first 1, 2, ..., K items of each list (`log_masses`), float64 [n, K].
        hit: whether the next item is among them, bool [n, K].
        there: whether the list has so many items, bool [n, K]; each has one at least.
    """

    log_mass: Doubles
    hit: Bools
    there: Bools

    def __len__(self) -> int:
        return len(self.hit)

    def take(self, rows: NDArray[np.integer]) -> Lists:
        """The lists of some users."""
        return Lists(self.log_mass[rows], self.hit[rows], self.there[rows])


@dataclass(frozen=True)
class ListCalibration:
    """A fitted calibration. The parameters are the intercept, the weight of the logit of the mass, and the weight of
    the logarithm of the length.

    Attributes:
        parameters: the three.
        covariance: their covariance for other users, three rows of three.
        longest: the longest list that it was fitted on. It holds for no longer one.
        users: the number of users behind it.
    """

    parameters: tuple[float, float, float]
    covariance: tuple[tuple[float, ...], ...]
    longest: int
    users: int

    def confidence(self, log_mass: Doubles, length: NDArray[np.integer]) -> Doubles:
        """The confidence of lists: float64 of the shape of `log_mass`.

        Args:
            log_mass: logarithm of the mass of each list, see `log_masses`.
            length: the number of items of each list.
        """
        found: Doubles = special.expit(_features(log_mass, length) @ np.array(self.parameters))
        return found

    def interval(self, log_mass: Doubles, length: NDArray[np.integer]) -> tuple[Doubles, Doubles]:
        """The ends of the 95 % interval of `confidence` for other calibration users: float64 of this shape each."""
        features = _features(log_mass, length)
        middle = features @ np.array(self.parameters)
        variance = np.einsum("...i,ij,...j->...", features, np.array(self.covariance), features)
        half = _HALF_WIDTH * np.sqrt(np.maximum(variance, 0.0))
        return special.expit(middle - half), special.expit(middle + half)


@dataclass(frozen=True)
class Reliability:
    """How good confidence is for lists of k items of users that the calibration has not seen.

    Attributes:
        k: length of the lists.
        rate: the share of users whose next item is in the list.
        brier: mean squared distance of confidence and outcome; lower is better.
        constant_brier: the same if every list had the rate of other users as its confidence.
        ece: expected calibration error over `groups`.
        groups: users in groups of about equal size, the least confident first.
    """

    k: int
    rate: float
    brier: float
    constant_brier: float
    ece: float
    groups: tuple[ReliabilityBin, ...]


def log_masses(scores: Floats, log_total: Doubles) -> Doubles:
    """Logarithm of the mass of the first 1, 2, ..., K items of each list: float64 [n, K].

    For the score likelihood it is the probability that the model writes one of these titles. For others it is the
    share of exp(score) among all titles that were scored.

    Args:
        scores: of the items, best first, float32 [n, K]; -inf for an empty slot.
        log_total: logarithm of the sum of exp(score) over all titles, [n]; 0 for likelihood.
    """
    summed: Doubles = np.logaddexp.accumulate(scores.astype(np.float64), axis=1)
    found: Doubles = np.minimum(summed - log_total[:, None], LARGEST_MASS)
    return found


def fit(lists: Lists) -> ListCalibration:
    """Fit the parameters: minimize the cross-entropy of the outcomes, as a mean over the lengths of a user's list and
    a sum over users, plus `RIDGE` / 2 times the sum of the squared weights per standard deviation.

    The covariance is that of the sandwich estimator with one term for each user, because the lists of one user
    depend on each other (Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika
    1986). A weight that is 0 because it may not be negative counts as known.

    Args:
        lists: the lists of n users; each has an item at least.

    Raises:
        RequestError: too few users have their next item in the longest list, or not in it.
    """
    users, longest = lists.hit.shape
    hits = int(lists.hit[:, -1].sum()) if users else 0
    if min(hits, users - hits) < FEWEST:
        raise RequestError(
            f"{hits} of {users} users have their next item in a list of {longest}, and at least {FEWEST} must have "
            "it there and as many not: calibrate with more users, or with lists of another length"
        )
    return _fitted(lists)


def _fitted(lists: Lists) -> ListCalibration:
    users, longest = lists.hit.shape
    share = lists.there / lists.there.sum(axis=1, keepdims=True)
    raw = _features(lists.log_mass, np.arange(1, longest + 1))
    raw = np.where(lists.there[:, :, None], raw, 0.0)
    weight = share / users
    means = np.array([0.0, *np.einsum("nk,nkf->f", weight, raw)[1:]])
    spread = np.sqrt(np.einsum("nk,nkf->f", weight, (raw - means) ** 2))
    scales = np.array([1.0, *np.where(spread[1:] > 1e-9, spread[1:], 1.0)])
    features = (raw - means) / scales
    penalty = RIDGE * np.array([0.0, 1.0, 1.0])
    outcome = lists.hit.astype(np.float64)

    def loss(parameters: Doubles) -> tuple[float, Doubles]:
        linear = features @ parameters
        entropy = np.logaddexp(0.0, linear) - outcome * linear
        gradient = np.einsum("nk,nkf->f", share * (special.expit(linear) - outcome), features)
        return float((share * entropy).sum() + penalty @ parameters**2 / 2), gradient + penalty * parameters

    bounds = [(None, None), (0.0, None), (0.0, None)]
    tight = {"ftol": 1e-14, "gtol": 1e-10, "maxiter": 10_000}
    found = optimize.minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=bounds, options=tight).x

    free = np.flatnonzero([True, found[1] > 0, found[2] > 0])
    chance = special.expit(features @ found)
    hessian = np.einsum("nk,nkf,nkg->fg", share * chance * (1 - chance), features, features) + np.diag(penalty)
    of_users = np.einsum("nk,nkf->nf", share * (chance - outcome), features)[:, free]
    of_users -= of_users.mean(axis=0)
    inverse = np.linalg.inv(hessian[np.ix_(free, free)])
    covariance = np.zeros((3, 3))
    covariance[np.ix_(free, free)] = inverse @ (of_users.T @ of_users) @ inverse
    # From standardized features to the raw ones.
    back = np.diag(1 / scales)
    back[0, 1:] = -means[1:] / scales[1:]
    parameters = back @ found
    return ListCalibration(
        parameters=(float(parameters[0]), float(parameters[1]), float(parameters[2])),
        covariance=tuple(tuple(row) for row in (back @ covariance @ back.T).tolist()),
        longest=longest,
        users=users,
    )


def reliability(lists: Lists, ks: Sequence[int], rng: np.random.Generator) -> list[Reliability]:
    """How good the confidence of lists is: each fifth of the users gets it from a calibration on the others.

    Args:
        lists: the lists of at least 2 users.
        ks: lengths of lists.
        rng: divides the users.
    """
    confidence = np.zeros(lists.hit.shape)
    constant = np.zeros(lists.hit.shape)
    lengths = lists.there.cumsum(axis=1)
    for rows in folds(len(lists), rng):
        others = lists.take(np.setdiff1d(np.arange(len(lists)), rows))
        confidence[rows] = _fitted(others).confidence(lists.log_mass[rows], lengths[rows])
        constant[rows] = others.hit.mean(axis=0)
    found = []
    for k in ks:
        hit = lists.hit[:, k - 1].astype(np.float64)
        groups = max(1, min(GROUPS, len(lists) // GROUP_USERS))
        grouped: Calibration = calibration_of_groups(confidence[:, k - 1], hit, groups)
        found.append(
            Reliability(
                k=k,
                rate=float(hit.mean()),
                brier=float(((confidence[:, k - 1] - hit) ** 2).mean()),
                constant_brier=float(((constant[:, k - 1] - hit) ** 2).mean()),
                ece=grouped.ece,
                groups=grouped.reliability,
            )
        )
    return found


def write(calibration: ListCalibration, measured: Sequence[Reliability], about: dict[str, Any], path: Path) -> None:
    """Write a calibration with its reliability and what it is about, as JSON."""
    document = {**about, **asdict(calibration), "reliability": [asdict(each) for each in measured]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _features(log_mass: Doubles, length: NDArray[np.integer]) -> Doubles:
    """1, the logit of the mass, and the logarithm of the length: float64 [..., 3]."""
    logit = log_mass - np.log(-np.expm1(log_mass))
    logs = np.broadcast_to(np.log(np.maximum(length, 1)), log_mass.shape)
    found: Doubles = np.stack([np.ones(log_mass.shape), logit, logs], axis=-1)
    return found
