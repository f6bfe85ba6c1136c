"""Uncertainty of means over users, and tests of the difference of two models on the same users.

All functions work on whole tables of values: float64 [n] or [n, m], one row for each user and one column for each
metric, NaN where a metric does not apply to a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from rosepo_core.contracts.records import Doubles

LEVEL = 0.95
"""The level of every interval."""

RESAMPLES = 10_000

EXACT_USERS = 13
"""Up to this number of users, the signed-rank test is exact whether differences are tied or not, as in SciPy."""

# Cells of the largest temporary array, of 8 bytes each.
CHUNK_CELLS = 1 << 22


@dataclass(frozen=True)
class PairedTest:
    """Differences of two models over the same users, one entry for each column.

    Attributes:
        users: number of users that the metric applies to for both models, int64 [m].
        difference: mean of the differences, float64 [m].
        low: lower end of its 95 % interval (BCa bootstrap), float64 [m].
        high: upper end.
        p_bootstrap: two-sided, by `bootstrap_test`, float64 [m].
        p_wilcoxon: two-sided, by the signed-rank test, float64 [m].
    """

    users: NDArray[np.int64]
    difference: Doubles
    low: Doubles
    high: Doubles
    p_bootstrap: Doubles
    p_wilcoxon: Doubles


@dataclass(frozen=True)
class OverSeeds:
    """A number over runs that differ in their seed only.

    Attributes:
        mean: mean of the runs.
        deviation: standard deviation, with n - 1.
        low: lower end of the 95 % interval of the mean (Student).
        high: upper end.
    """

    mean: float
    deviation: float
    low: float
    high: float


def resampled_means(values: Doubles, resamples: int = RESAMPLES, seed: int = 0) -> Doubles:
    """Means over users drawn with replacement, with the same draws for all columns: float64 [resamples, m].

    A mean is over the drawn users that the metric applies to. It is NaN if there is none.

    Args:
        values: float64 [n, m], n at least 1.
        resamples: how many times n users are drawn.
        seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    users = len(values)
    missing = np.isnan(values)
    present = np.where(missing, 0.0, values)
    holed = np.flatnonzero(missing.any(axis=0))
    counted = (~missing[:, holed]).astype(np.float64)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, CHUNK_CELLS // users)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        resampled = rng.integers(users, size=(rows, users)) + users * np.arange(rows)[:, None]
        weights = np.bincount(resampled.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
        part = means[start : start + rows]
        np.matmul(weights, present, out=part)
        # Without any user that the metric applies to, 0 / 0 gives NaN, as intended.
        with np.errstate(invalid="ignore"):
            sizes = np.full(part.shape, float(users))
            sizes[:, holed] = weights @ counted
            part /= sizes
    return means


def bootstrap_interval(values: Doubles, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Doubles, Doubles]:
    """95 % interval of each column's mean over users, by the BCa bootstrap: two float64 of shape [] or [m].

    Efron, "Better bootstrap confidence intervals", JASA 1987: percentiles of the resampled means, shifted by the bias
    z0 and the acceleration a = sum (x - mean)^3 / (6 (sum (x - mean)^2)^1.5). Ends are NaN if the metric applies to
    fewer than two users. If all users have the same value, both ends are this value.
    """
    table = values.reshape(len(values), -1)
    low, high = _bca(table, resampled_means(table, resamples, seed))
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def _bca(values: Doubles, means: Doubles) -> tuple[Doubles, Doubles]:
    """Interval ends, float64 [m] each, from values [n, m] and resampled means [resamples, m]."""
    users = (~np.isnan(values)).sum(axis=0)
    deviations, observed = _deviations(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        acceleration = (deviations**3).sum(axis=0) / (6 * (deviations**2).sum(axis=0) ** 1.5)
        known = (~np.isnan(means)).sum(axis=0)
        share = ((means < observed).sum(axis=0) + (means <= observed).sum(axis=0)) / (2 * known)
        bias = special.ndtri(share)
        ordered = np.sort(means, axis=0)
        ends = []
        for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
            shifted = bias + special.ndtri(tail)
            at = special.ndtr(bias + shifted / (1 - acceleration * shifted))
            ends.append(_quantiles(ordered, at, known))
    same = (deviations == 0).all(axis=0)
    low, high = (np.where(users < 2, np.nan, np.where(same, observed, end)) for end in ends)
    return low, high


def _deviations(values: Doubles) -> tuple[Doubles, Doubles]:
    """Values minus the mean of their column, 0 where missing, [n, m]; and the means, NaN if all are missing, [m]."""
    missing = np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(missing, 0.0, values).sum(axis=0) / (~missing).sum(axis=0)
    # A column of equal values has no deviation, even if its mean was rounded.
    lowest = np.where(missing, np.inf, values).min(axis=0)
    highest = np.where(missing, -np.inf, values).max(axis=0)
    mean = np.where(lowest == highest, lowest, mean)
    return np.where(missing, 0.0, values - mean), mean


def _quantiles(ordered: Doubles, share: Doubles, known: NDArray[np.integer]) -> Doubles:
    """Quantiles by linear interpolation within each sorted column, with NaN at its end: float64 [m]."""
    place = np.nan_to_num(share) * np.maximum(known - 1, 0)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(known - 1, 0))
    columns = np.arange(ordered.shape[1])
    below, above = ordered[low, columns], ordered[high, columns]
    found: Doubles = below + (above - below) * (place - low)
    return found


def paired_test(first: Doubles, second: Doubles, resamples: int = RESAMPLES, seed: int = 0) -> PairedTest:
    """The difference of `first` and `second`, paired by user.

    Only users that the metric applies to for both models count. Everything is NaN if there are fewer than two.

    Args:
        first: float64 [n, m], one row for each user and one column for each metric.
        second: values of the other model, for the same users.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.
    """
    differences = first - second
    means = resampled_means(differences, resamples, seed)
    users = (~np.isnan(differences)).sum(axis=0)
    low, high = _bca(differences, means)
    mean = np.where(users < 2, np.nan, _deviations(differences)[1])
    wilcoxon = [_signed_rank(column[~np.isnan(column)]) for column in differences.T]
    return PairedTest(users, mean, low, high, _shifted_p(means, mean), np.array(wilcoxon, dtype=np.float64))


def difference_of_means(first: Doubles, second: Doubles) -> tuple[float, float, float]:
    """Mean of `second` minus mean of `first`, for two independent samples, and its 95 % interval.

    Welch, "The generalization of 'Student's' problem when several different population variances are involved",
    Biometrika 1947: Student's interval without the assumption of equal variances.

    Args:
        first: float64 [n], n at least 2.
        second: float64 [m], m at least 2.
    """
    parts = [sample.var(ddof=1) / len(sample) for sample in (first, second)]
    difference, squared = float(second.mean() - first.mean()), float(sum(parts))
    if squared == 0:
        return difference, difference, difference
    degrees = squared**2 / sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, (first, second), strict=True)
    )
    half = float(stats.t.ppf((1 + LEVEL) / 2, degrees)) * squared**0.5
    return difference, difference - half, difference + half


def bootstrap_test(differences: Doubles, resamples: int = RESAMPLES, seed: int = 0) -> Doubles:
    """Two-sided p-value for the hypothesis that each column's mean is 0, by the paired bootstrap: float64 of shape []
    or [m].

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 16: under the null hypothesis the
    differences are shifted to mean 0. So p is the share of resamples whose mean is at least as far from the observed
    mean as the observed mean is from 0. The observed mean counts as a resample, so p is never below
    1 / (resamples + 1).
    """
    table = differences.reshape(len(differences), -1)
    p = _shifted_p(resampled_means(table, resamples, seed), _deviations(table)[1])
    return p.reshape(differences.shape[1:])


def _shifted_p(means: Doubles, observed: Doubles) -> Doubles:
    # Equal distances may differ by rounding.
    with np.errstate(invalid="ignore"):
        as_far = (np.abs(means - observed) >= np.abs(observed) * (1 - 1e-12)).sum(axis=0)
    p: Doubles = np.where(np.isnan(observed), np.nan, (1 + as_far) / (1 + len(means)))
    return p


def _signed_rank(differences: Doubles) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, without users that do not differ; 1 if no user differs."""
    if len(differences) < 2:
        return float("nan")
    if not differences.any():
        return 1.0
    if len(differences) <= EXACT_USERS:
        return _exact_signed_rank(differences[differences != 0])
    return float(stats.wilcoxon(differences).pvalue)


def _exact_signed_rank(differences: Doubles) -> float:
    """Two-sided p of the signed-rank test from all 2^n combinations of signs. `differences` is float64 [n], none 0.

    SciPy's p is the same, but if some differences are tied, it ranks them anew for each combination. Here the
    combinations are counted by their sum of positive ranks. Tied ranks may be halves, so sums are counted in halves.
    """
    ranks = np.round(2 * stats.rankdata(np.abs(differences))).astype(np.int64)
    combinations = np.ones(1)
    for rank in ranks:
        combinations = np.pad(combinations, (0, rank)) + np.pad(combinations, (rank, 0))
    observed = ranks[differences > 0].sum()
    tail = min(combinations[: observed + 1].sum(), combinations[observed:].sum())
    return min(1.0, 2 * float(tail / combinations.sum()))


@dataclass(frozen=True)
class SeedsAndUsers:
    """A mean over seeds and users.

    Attributes:
        mean: mean over all values.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided p-value of a mean of 0.
    """

    mean: float
    low: float
    high: float
    p: float


def seeds_and_users(values: Doubles, resamples: int = RESAMPLES, seed: int = 0) -> SeedsAndUsers:
    """A mean over seeds and users, with an interval for other seeds and other users.

    Seeds and users are drawn with replacement, independently. The weight of a value is the number of times that its
    seed was drawn, times the number of times that its user was drawn. This is the pigeonhole bootstrap for two
    crossed factors (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007), whose variance tends
    to be too large rather than too small. The interval consists of percentiles of the drawn means; p is as in
    `bootstrap_test`. With one seed, only users are drawn. With few seeds, their part of the interval is a rough
    estimate.

    Args:
        values: float64 [seeds, users]; NaN if a seed has no value for a user.
        resamples: number of draws.
        seed: seed of the draws.

    Returns:
        the mean and its interval; all NaN if fewer than two users have a value.
    """
    known = ~np.isnan(values)
    values, known = values[:, known.any(axis=0)], known[:, known.any(axis=0)]
    seeds, users = values.shape
    if users < 2:
        return SeedsAndUsers(*[float("nan")] * 4)
    present, counted = np.where(known, values, 0.0), known.astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, CHUNK_CELLS // users)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        of_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=rows).astype(np.float64)
        of_user = rng.multinomial(users, np.full(users, 1 / users), size=rows).astype(np.float64)
        # The drawn seeds and users may have no value in common.
        with np.errstate(invalid="ignore"):
            means[start : start + rows] = ((of_seed @ present) * of_user).sum(axis=1) / (
                (of_seed @ counted) * of_user
            ).sum(axis=1)
    mean = float(present.sum() / counted.sum())
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return SeedsAndUsers(mean, float(low), float(high), float(_shifted_p(means[:, None], np.array([mean]))[0]))


def holm(p: Doubles) -> Doubles:
    """Holm's step-down adjustment of p-values [m]. If only adjusted values below 0.05 are claimed, the probability of
    any false claim is below 5 %. NaN stays NaN and is not counted. Holm, Scandinavian Journal of Statistics 1979."""
    order, ranked = _ascending(p)
    adjusted = np.maximum.accumulate(ranked * np.arange(len(ranked), 0, -1))
    return _put_back(p, order, adjusted)


def benjamini_hochberg(p: Doubles) -> Doubles:
    """Benjamini and Hochberg's step-up adjustment of p-values [m]. Of the claims with an adjusted value below 0.05,
    at most 5 % are expected to be false. NaN stays NaN and is not counted. Journal of the Royal Statistical Society B
    1995."""
    order, ranked = _ascending(p)
    scaled = ranked * len(ranked) / np.arange(1, len(ranked) + 1)
    return _put_back(p, order, np.minimum.accumulate(scaled[::-1])[::-1])


def _ascending(p: Doubles) -> tuple[NDArray[np.int64], Doubles]:
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]
    return order, p[order]


def _put_back(p: Doubles, order: NDArray[np.int64], adjusted: Doubles) -> Doubles:
    out = np.full(p.shape, np.nan)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean, standard deviation and Student's 95 % interval of the mean. For one run, all except the mean are NaN."""
    runs = np.asarray(values, dtype=np.float64)
    mean = float(runs.mean())
    if len(runs) < 2:
        return OverSeeds(mean, float("nan"), float("nan"), float("nan"))
    deviation = float(runs.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(runs) - 1)) * deviation / len(runs) ** 0.5
    return OverSeeds(mean, deviation, mean - half, mean + half)
