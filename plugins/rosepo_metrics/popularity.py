"""Metrics of popularity bias. An item's popularity is the number of its training interactions."""

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
    """ARP@k = 1/|L| sum_{i in L} phi(i), with the popularity phi and the user's first k items L; the mean over users.

    Range 0 to the largest popularity; lower is less popular. Average recommendation popularity of Yin et al.,
    "Challenging the long tail recommendation", VLDB 2012; the name is from Abdollahpouri et al., arXiv 1901.07555. It
    does not apply to a list without any item, because there is no worst value. Tables say how many users are left.
    """

    about = Measure("ARP", "lower", "Popularity bias", high=np.inf, decimals=1)

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        return outcome.list_means(outcome.catalogue.popularity.astype(np.float64), k)


class PopularityLift(CutOffMetric):
    """Lift@k = (ARP of the user's first k items - ARP of the user's history) / ARP of the user's history; the mean
    over users.

    Range from -1 upwards. 0 means that the list is as popular as the user's history. Values near 0 are better, so
    neither direction is better by itself. Abdollahpouri et al., "The unfairness of popularity bias in recommendation"
    (RMSE workshop, RecSys 2019), take means over a group of users before they divide. This is their lift for groups
    of one user, so that users can be paired. It does not apply to an empty list, or to a history without popularity.
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
        HEAD_SHARE, gt=0, lt=1, description="Share of the catalogue that counts as popular and not as long tail."
    )


class APLT(CutOffMetric):
    """APLT@k = long-tail items among the user's first k items / the user's first k items; the mean over users.

    The long tail is the catalogue without its most popular share `head`. Range 0 to 1; higher is less popular.
    Average percentage of long-tail items of Abdollahpouri et al., "Managing popularity bias in recommender systems
    with personalized re-ranking", FLAIRS 2019 (arXiv 1901.07555). It does not apply to an empty list.
    """

    Options = APLTOptions
    about = Measure("Tail", "higher", "Popularity bias")

    def at(self, outcome: Outcome, k: int) -> Doubles:
        """Of each user: float64 [n]."""
        tail = ~head_items(outcome.catalogue.popularity, self.options.head)
        return outcome.list_means(tail.astype(np.float64), k)


class PopularityConfusion(Metric):
    """Of the ranked items that are more popular than the target, the share with a higher score than the target; ties
    count half. The mean over users.

    Range 0 to 1, lower is better. Ranking by popularity gives 1, random order 1/2. It does not apply to a user if no
    ranked item is more popular than the target. Other held-out items do not count. The metric is rosepo's own, for
    the popularity bias that popularity-aware rejection in RosePO (arXiv 2410.12519) trains against.
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
    """Pearson's correlation of the score with log(1 + popularity), over the items ranked for a user; the mean over
    users.

    Range -1 to 1. Neither direction is better by itself, because popular items are in fact chosen more often; compare
    models with each other. Scores of minus infinity are left out. It does not apply to a user with fewer than three
    scores, or if all scores or all popularities are equal. The metric is rosepo's own.
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
    """Each row, minus its mean over the filled positions and scaled to length 1; 0 in other positions. A row whose
    values are all equal becomes NaN."""
    present = np.where(held, values, 0.0)
    mean = present.sum(axis=1, keepdims=True) / np.maximum(held.sum(axis=1, keepdims=True), 1)
    centred = np.where(held, present - mean, 0.0)
    low = np.where(held, values, np.inf).min(axis=1, keepdims=True)
    high = np.where(held, values, -np.inf).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    # Equal values may differ from their mean by rounding.
    return np.where(high > low, unit, np.nan)
