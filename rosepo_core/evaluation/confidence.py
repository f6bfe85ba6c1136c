"""Confidence: whether the probabilities of ``fusion`` tell when a recommendation can be trusted.

The probability of a user's first title is the confidence in it. A recommender that may stay silent answers the most
confident users only. Its coverage is the share of users that it answers, and its risk the share of these whose answer
is wrong (Geifman and El-Yaniv, "Selective classification for deep neural networks", NIPS 2017). The area under the
curve of risk against coverage (AURC) is the mean risk over all coverages.

Only the protocol ``candidates`` has these numbers: its probabilities are over everything that the user is offered.
Under ``catalogue`` they are over a pool of titles, and say nothing about the titles outside of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.records import Doubles
from rosepo_core.evaluation.calibration import Calibration, calibration
from rosepo_core.evaluation.measurement import Column
from rosepo_core.evaluation.results import Evaluation, ModelResult
from rosepo_core.evaluation.statistics import CHUNK_CELLS, LEVEL

POINTS = 100
"""The most points of a curve."""
RESAMPLES = 1_000
"""Resamples of users behind the interval of an area."""


@dataclass(frozen=True)
class RiskCoverage:
    """Risk against coverage for lists of k titles. An answer is wrong if the target is not in the list.

    Attributes:
        k: length of the lists.
        risk: the risk if all users are answered.
        aurc: area under the curve, lower is better. If confidence tells nothing, it is about `risk`.
        aurc_interval: ends of its 95 % interval for other users.
        coverages: shares of users that are answered, ascending, the last is 1.
        risks: the risk at each of `coverages`.
    """

    k: int
    risk: float
    aurc: float
    aurc_interval: tuple[float, float]
    coverages: tuple[float, ...]
    risks: tuple[float, ...]


@dataclass(frozen=True)
class Confidence:
    """What the probabilities of one model's ``fusion`` tell.

    Attributes:
        users: number of users.
        mean: mean probability of the first title. Calibrated probabilities have a mean near HR@1.
        calibration: calibration of the probability of the first title.
        curves: risk against coverage, for lists of 1 and of each longer cut-off that does not hold all candidates.
    """

    users: int
    mean: float
    calibration: Calibration
    curves: tuple[RiskCoverage, ...]


def confidences(evaluation: Evaluation) -> Mapping[str, Confidence]:
    """The confidence of each fusion, by its name in tables; empty for protocols that do not rank candidates."""
    if evaluation.candidates is None:
        return {}
    return {
        name: confidence(evaluation.models[name], cut_offs(evaluation.columns.values()))
        for name in evaluation.fusions
        if name in evaluation.models
    }


def cut_offs(columns: Iterable[Column]) -> list[int]:
    """The cut-offs of columns, ascending, and 1."""
    return sorted({1, *(int(column.cut_off.removeprefix("@")) for column in columns if column.cut_off)})


def confidence(result: ModelResult, ks: Sequence[int]) -> Confidence:
    """The confidence of one fusion.

    Args:
        result: the result of a fusion for candidates; its scores are logarithms of probabilities.
        ks: lengths of lists.
    """
    assert result.scores is not None
    probabilities = -np.sort(-np.exp(result.scores.astype(np.float64)), axis=1)
    first = probabilities[:, 0]
    longest = int((result.scores > -np.inf).sum(axis=1).max())
    hits = {k: result.ranks.expectation(np.ones(k)) for k in (1, *ks)}
    return Confidence(
        users=len(first),
        mean=float(first.mean()),
        calibration=calibration(np.minimum(first, 1.0), hits[1]),
        curves=tuple(
            risk_coverage(k, probabilities[:, :k].sum(axis=1), 1 - hits[k]) for k in hits if k == 1 or k < longest
        ),
    )


def risk_coverage(k: int, confidence: Doubles, losses: Doubles) -> RiskCoverage:
    """The curve of risk against coverage.

    Users of equal confidence are answered in a random order: the curve is the mean over all orders.

    Args:
        k: length of the lists.
        confidence: of each user, [n], n at least 1.
        losses: 1 for a wrong answer and 0 for a right one, [n]; between them if tied scores decide.
    """
    users = len(losses)
    answered = np.arange(1, users + 1)
    order = np.argsort(-confidence, kind="stable")
    first = np.flatnonzero(np.diff(confidence[order], prepend=np.inf))
    (risks,) = _risks(losses[order], first, np.ones((1, users), dtype=np.int64))
    shown = np.unique(np.ceil(np.linspace(1 / POINTS, 1, POINTS) * users).astype(np.int64)) - 1
    return RiskCoverage(
        k=k,
        risk=float(risks[-1]),
        aurc=float(risks.mean()),
        aurc_interval=_aurc_interval(losses[order], first),
        coverages=tuple((answered[shown] / users).tolist()),
        risks=tuple(risks[shown].tolist()),
    )


def _risks(losses: Doubles, first: NDArray[np.int64], counts: NDArray[np.int64]) -> Doubles:
    """The risk after each answered user, for samples of users: float64 [samples, n].

    Args:
        losses: of each user, the most confident first, [n].
        first: the first user of each group of equal confidence, ascending, [g].
        counts: how often each user is in each sample, [samples, n]; each row has the sum n.
    """
    samples, users = counts.shape
    sizes = np.add.reduceat(counts, first, axis=1)
    means = np.add.reduceat(counts * losses, first, axis=1) / np.maximum(sizes, 1)
    in_order = np.repeat(means.ravel(), sizes.ravel()).reshape(samples, users)
    risks: Doubles = np.cumsum(in_order, axis=1) / np.arange(1, users + 1)
    return risks


def _aurc_interval(losses: Doubles, first: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % percentile interval of AURC over users drawn with replacement; arguments as in `_risks`."""
    rng, users = np.random.default_rng(0), len(losses)
    step = max(1, CHUNK_CELLS // users)
    areas = [
        _risks(
            losses, first, rng.multinomial(users, np.full(users, 1 / users), size=min(step, RESAMPLES - start))
        ).mean(axis=1)
        for start in range(0, RESAMPLES, step)
    ]
    low, high = np.quantile(np.concatenate(areas), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
