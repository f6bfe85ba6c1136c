"""Lists without a language model: what a recommender answers if it is not confident enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.ranking import best_items
from rosepo_core.contracts.records import Floats, Ints
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.serving.places import places_of
from rosepo_core.serving.ranker import oracle_scores

Fallback = Literal["popularity", "oracle"]
"""Who answers instead of the language model."""

FALLBACKS: tuple[Fallback, ...] = ("popularity", "oracle")


def most_popular(in_use: CatalogueInUse, histories: Sequence[Ints], k: int) -> tuple[Ints, Floats]:
    """The items with the most training interactions that are not in a history, for each history: items int32 [n, k]
    and their interactions, float32 [n, k], best first; -1 and -inf if there are fewer."""
    counts = in_use.items.popularity.astype(np.float32)
    return best_items(np.tile(counts, (len(histories), 1)), _possible(len(counts), in_use, histories), k)


def best_of_oracle(
    oracle: SmoothingOracle, in_use: CatalogueInUse, histories: Sequence[Ints], k: int
) -> tuple[Ints, Floats]:
    """As `most_popular`, by the scores of an oracle that ranks. It knows the items of the training only."""
    count = len(in_use.trained)
    items = _possible(count, in_use, histories)
    scores = oracle_scores(oracle, places_of(histories), items, count)
    assert scores is not None, "the oracle ranks"
    return best_items(scores, items, k)


def _possible(count: int, in_use: CatalogueInUse, histories: Sequence[Ints]) -> Ints:
    """The first `count` items for each history, int32 [n, count]; -1 in the place of one that is retired or in the
    history."""
    items = np.tile(np.arange(count, dtype=np.int32), (len(histories), 1))
    items[:, in_use.retired[:count]] = -1
    for row, some in zip(items, histories, strict=True):
        row[some[some < count]] = -1
    return items
