"""Popularity bias of what each user gets. An item's popularity is the number of its training interactions."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import (
    HEAD_SHARE,
    Bools,
    CutOffMetric,
    CutOffOptions,
    Doubles,
    Measure,
    Metric,
    Outcome,
    head_items,
)


class ARP(CutOffMetric):
    """ARP@k = 1/|L| sum_{i in L} phi(i), phi the popularity and L the user's first k items; the mean over users.

    Range 0 to the largest popularity; lower is less popular. Average recommendation popularity of Yin et al.,
    "Challenging the long tail recommendation", VLDB 2012; named so by Abdollahpouri et al., arXiv 1901.07555. It does
    not apply to a list that holds no item, for there is no worst value; tables say how many users are left.
    """

    about = Measure("ARP", "lower", "Popularity bias", high=np.inf, decimals=1)

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        return outcome.list_means(outcome.catalogue.popularity.astype(np.float64), k)


class PopularityLift(CutOffMetric):
    """Lift@k = (ARP of the user's first k items - ARP of the user's history) / ARP of the user's history; the mean
    over users.

    Range -1 upwards, 0 is as popular as what the user chose before; nearer to 0 is better calibrated, so neither
    direction is better by itself. Abdollahpouri et al., "The unfairness of popularity bias in recommendation" (RMSE
    workshop, RecSys 2019), take means over a group of users before they divide; this is their lift for groups of one
    user, so that users can be paired. It does not apply to an empty list, nor to a history without popularity.
    """

    about = Measure("Popularity lift", "neither", "Popularity bias", low=-1.0, high=np.inf)

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        popularity = outcome.catalogue.popularity.astype(np.float64)
        row, item = outcome.histories
        total = np.bincount(row, weights=popularity[item], minlength=len(outcome))
        with np.errstate(invalid="ignore", divide="ignore"):
            own = np.where(total > 0, total / np.bincount(row, minlength=len(outcome)), np.nan)
            return outcome.list_means(popularity, k) / own - 1


class APLTOptions(CutOffOptions):
    """Options of `aplt`."""

    head: float = Field(
        HEAD_SHARE, gt=0, lt=1, description="Share of the catalogue, the most popular, that is no tail."
    )


class APLT(CutOffMetric):
    """APLT@k = the long-tail items among the user's first k / the user's first k items; the mean over users.

    The tail is all but the most popular `head` of the catalogue. Range 0 to 1; higher is less popular. Average
    percentage of long-tail items of Abdollahpouri et al., "Managing popularity bias in recommender systems with
    personalized re-ranking", FLAIRS 2019 (arXiv 1901.07555). It does not apply to an empty list.
    """

    Options = APLTOptions
    about = Measure("Tail", "higher", "Popularity bias")

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        tail = ~head_items(outcome.catalogue.popularity, self.options.head)
        return outcome.list_means(tail.astype(np.float64), k)


class PopularityConfusion(Metric):
    """Ranked items that are more popular than the target and have a higher score, ties counting half, / ranked items
    that are more popular than the target; the mean over users.

    Range 0 to 1, lower is better; ranking by popularity gives 1 and random order 1/2. It does not apply to a user of
    whose ranked items none is more popular than the target; other held-out items do not count. The measure is
    rosepo's own, for what popularity-aware rejection in RosePO (arXiv 2410.12519) trains against.
    """

    about = Measure("Popularity confusion", "lower", "Popularity bias")
    needs = frozenset({"scores"})

    def measure(self, outcome: Outcome) -> dict[str, Doubles]:
        """Of each user: float64 [n]."""
        assert outcome.items is not None  # granted by `needs`
        assert outcome.scores is not None
        popularity = outcome.catalogue.popularity
        target = outcome.targets[:, :1]
        held_out = np.zeros(outcome.items.shape, dtype=np.bool_)
        for column in outcome.targets.T:
            held_out |= outcome.items == column[:, None]
        rival = (outcome.items >= 0) & ~held_out & (popularity[outcome.items] > popularity[target])
        own = np.where(outcome.items == target, outcome.scores, -np.inf).max(axis=1, keepdims=True)
        lost = (outcome.scores > own) + (outcome.scores == own) / 2
        ranked = (outcome.items == target).any(axis=1)
        with np.errstate(invalid="ignore"):
            share = np.where(rival, lost, 0.0).sum(axis=1) / rival.sum(axis=1)
        return {"": np.where(ranked, share, np.nan)}


class PopularityCorrelation(Metric):
    """Pearson's correlation, over the items ranked for a user, of the score with log(1 + popularity); the mean over
    users.

    Range -1 to 1; neither direction is better by itself, for popular items are indeed chosen more often: compare it
    with the target's, or between models. A score of minus infinity is left out. It does not apply where fewer than
    three scores are left, or all of them or of the popularities are the same. The measure is rosepo's own.
    """

    about = Measure("Popularity correlation", "neither", "Popularity bias", low=-1.0)
    needs = frozenset({"scores"})

    def measure(self, outcome: Outcome) -> dict[str, Doubles]:
        """Of each user: float64 [n]."""
        assert outcome.items is not None  # granted by `needs`
        assert outcome.scores is not None
        held = (outcome.items >= 0) & np.isfinite(outcome.scores)
        score = _standardized(outcome.scores.astype(np.float64), held)
        popularity = _standardized(np.log1p(outcome.catalogue.popularity)[outcome.items], held)
        correlation = (score * popularity).sum(axis=1)
        return {"": np.where(held.sum(axis=1) < 3, np.nan, np.clip(correlation, -1.0, 1.0))}


def _standardized(values: Doubles, held: Bools) -> Doubles:
    """Each row less its mean over the held places, of length 1, and 0 elsewhere; NaN for a row of one value."""
    present = np.where(held, values, 0.0)
    mean = present.sum(axis=1, keepdims=True) / np.maximum(held.sum(axis=1, keepdims=True), 1)
    centred = np.where(held, present - mean, 0.0)
    low = np.where(held, values, np.inf).min(axis=1, keepdims=True)
    high = np.where(held, values, -np.inf).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    # A row of one value may be off its mean by rounding.
    return np.where(high > low, unit, np.nan)
