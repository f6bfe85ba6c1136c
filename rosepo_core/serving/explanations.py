"""Explains recommendations: how popular each item is, and which items of the history it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rosepo_core.serving.recommender import Recommendation, Recommender
from rosepo_core.serving.title_index import By


@dataclass(frozen=True)
class Influence:
    """What one item of the history does to the score of a recommended item.

    Attributes:
        title: the title of the item of the history.
        item: its own id in the log.
        position: its place in the history, from 1, the oldest first.
        change: the score minus the score without this item. Above 0, the item speaks for the recommendation.
    """

    title: str
    item: str
    position: int
    change: float


@dataclass(frozen=True)
class Explanation:
    """Facts about one recommendation.

    Attributes:
        recommendation: the item and its score.
        popularity_rank: the rank of the item by its number of training interactions, from 1; items with equal
            numbers share the best rank.
        influences: every item of the history, those with the largest changes first; empty if the history has one
            item, because there is no score without a history.
    """

    recommendation: Recommendation
    popularity_rank: int
    influences: tuple[Influence, ...]


def explain(
    recommender: Recommender, history: Sequence[str], found: Sequence[Recommendation], *, by: By = "title"
) -> list[Explanation]:
    """Explain recommendations by leaving out each item of the history in turn (leave-one-out).

    The model scores all of `found` again for each history that is one item shorter, so this takes about as long as
    ranking `found` for ``len(history)`` users. The probabilities of the score ``fusion`` are among `found`.

    Args:
        recommender: what recommended.
        history: the history, oldest first.
        found: what it recommended for this history.
        by: whether `history` names items by title or by id.

    Returns:
        one explanation for each of `found`, in this order.

    Raises:
        RequestError: an item is not in the catalogue.
    """
    if not found:
        return []
    catalogue = recommender.catalogue
    items = recommender.ids_of(history, by=by)
    shorter = (
        [[*items[:position], *items[position + 1 :]] for position in range(len(items))] if len(items) > 1 else []
    )
    candidates = [each.item for each in found]
    ranked = recommender.rank_many([items, *shorter], [candidates] * (1 + len(shorter)), by="id")
    scores = [{each.item: each.score for each in of_history} for of_history in ranked]
    numbers = {item: number for number, item in enumerate(catalogue.ids)}
    more_popular = np.sort(-catalogue.popularity)
    explained = []
    for each in found:
        influences = [
            Influence(catalogue.titles[numbers[item]], item, position + 1, scores[0][each.item] - without[each.item])
            for position, (item, without) in enumerate(zip(items, scores[1:], strict=False))
        ]
        rank = int(np.searchsorted(more_popular, -catalogue.popularity[numbers[each.item]])) + 1
        explained.append(
            Explanation(each, rank, tuple(sorted(influences, key=lambda influence: -abs(influence.change))))
        )
    return explained
