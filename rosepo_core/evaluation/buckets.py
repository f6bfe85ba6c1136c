"""Accuracy by the popularity of the target in training. Here it shows whether titles help for rare items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rosepo_core.contracts.records import Longs
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.statistics import bootstrap_interval

BUCKETS = ((0, "cold: never"), (1, "rare: 1 to 4"), (5, "some: 5 to 49"), (50, "popular: 50 and more"))
"""The lowest number of training interactions of each bucket, and its name."""

FEWEST_USERS = 5
"""Buckets with fewer users are left out, because they say nothing."""


@dataclass(frozen=True)
class Bucket:
    """Users whose targets have a similar popularity.

    Attributes:
        name: a name of `BUCKETS`, or "all".
        users: number of users.
        means: by model, the mean with its 95 % interval over these users: mean, low, high.
    """

    name: str
    users: int
    means: Mapping[str, tuple[float, float, float]]


def bucket_names(popularity: Longs) -> list[str]:
    """The bucket of each target, by its training interactions [n]."""
    names = [name for _, name in BUCKETS]
    place = np.searchsorted([low for low, _ in BUCKETS], popularity, side="right") - 1
    return [names[each] for each in place.tolist()]


def by_popularity(evaluation: Evaluation, popularity: Longs, column: str) -> Sequence[Bucket]:
    """All users, then each bucket with at least `FEWEST_USERS` users.

    Args:
        evaluation: the evaluation of one protocol.
        popularity: training interactions, int64 [items].
        column: such as ``"ndcg@10"``, a mean over users.
    """
    of_user = np.array(bucket_names(popularity[evaluation.examples.target]))
    groups = {"all": np.ones(len(of_user), dtype=np.bool_)} | {name: of_user == name for _, name in BUCKETS}
    return [
        Bucket(name, int(chosen.sum()), _means(evaluation, chosen, column))
        for name, chosen in groups.items()
        if name == "all" or chosen.sum() >= FEWEST_USERS
    ]


def _means(evaluation: Evaluation, chosen: np.ndarray, column: str) -> Mapping[str, tuple[float, float, float]]:
    values = np.stack([result.per_user[column][chosen] for result in evaluation.models.values()], axis=1)
    low, high = bootstrap_interval(values)
    return {
        name: (float(mean), float(low[place]), float(high[place]))
        for place, (name, mean) in enumerate(zip(evaluation.models, values.mean(axis=0), strict=True))
    }
