"""Pools: the titles out of a large catalogue that a language model scores for a user.

A search can only find the titles that are most probable after a prompt. Under any other score, the best title may be
one that no search finds. So a pool takes the first titles of several sources in turn: the model's own search, the
oracle, popularity, and the titles nearest in meaning to those of the history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.ranking import top_items
from rosepo_core.contracts.records import Bools, Floats, Ints, Longs, Places

BLOCK_CELLS = 1 << 20
"""Items of the whole catalogue that are looked at at once, over several users."""

Excluded = Sequence[NDArray[np.integer]]
"""The items that must not be recommended, one array for each place."""

NEAR_HISTORY = 10
"""How many of the latest items of a history `nearest_to_history` looks at."""


def allowed(excluded: Excluded, items: int) -> Bools:
    """Which items may be recommended at each place: bool [n, items]."""
    found = np.ones((len(excluded), items), dtype=np.bool_)
    for row, some in enumerate(excluded):
        found[row, some] = False
    return found


def pooled(sources: Sequence[Ints], size: int) -> Ints:
    """The pool of each place: the first items of the sources in turn, each item once.

    Args:
        sources: lists of items, best first, int32 [n, any length] each; -1 for an empty slot.
        size: the most items of a pool.

    Returns:
        int32 [n, size]; -1 fills rows with fewer.
    """
    longest = max(source.shape[1] for source in sources)
    padded = [np.pad(each, ((0, 0), (0, longest - each.shape[1])), constant_values=-1) for each in sources]
    turns = np.stack(padded, axis=2).reshape(len(sources[0]), -1)
    pool = np.full((len(turns), size), -1, dtype=np.int32)
    for row, items in enumerate(turns):
        held, first = np.unique(items, return_index=True)
        ordered = held[np.argsort(np.where(held >= 0, first, len(items)), kind="stable")]
        kept = ordered[ordered >= 0][:size]
        pool[row, : len(kept)] = kept
    return pool


def best(scores: Floats, may: Bools, size: int) -> Ints:
    """The allowed items with the highest scores, best first: int32 [n, size], -1 fills rows with fewer.

    Args:
        scores: float [n, items].
        may: result of `allowed`.
        size: number of items.
    """
    items = np.where(may, np.arange(may.shape[1], dtype=np.int32), np.int32(-1))
    return top_items(np.where(may, scores, -np.inf), items, size)


def nearest_to_history(places: Places, titles: Floats) -> Floats:
    """How near in meaning each title is to the nearest of the latest titles of a history: cosines, float32
    [n, items].

    Args:
        places: n places.
        titles: rows of unit length, float32 [items, d].
    """
    histories = places.histories(NEAR_HISTORY)
    found = np.full((len(places), len(titles)), -1.0, dtype=np.float32)
    for column in histories.T:
        rows = np.flatnonzero(column >= 0)
        found[rows] = np.maximum(found[rows], titles[column[rows]] @ titles.T)
    return found


@dataclass(frozen=True)
class PoolSources:
    """The sources of pools other than the search of a language model.

    Attributes:
        popularity: training interactions of each item, int64 [items].
        oracle: scores items for places, float32 [n, c]; `None` if the run has no oracle that ranks.
        titles: title embeddings, rows of unit length, float32 [items, d]; `None` if there are none.
    """

    popularity: Longs
    oracle: Callable[[Places, Ints], Floats | None] | None = None
    titles: Floats | None = None

    def pools(self, places: Places, excluded: Excluded, searched: Ints, size: int) -> Ints:
        """The pool of each place: int32 [n, size]; -1 fills rows with fewer. If the catalogue has at most `size`
        items, the pool of a place has all that it may.

        Args:
            places: n places.
            excluded: the items that must not be in the pools.
            searched: the result of the model's search, best first, int32 [n, any length].
            size: the most items of a pool.
        """
        items = len(self.popularity)
        step = max(1, BLOCK_CELLS // items)
        found = [np.empty((0, size), dtype=np.int32)]
        for start in range(0, len(places), step):
            rows = np.arange(start, min(start + step, len(places)))
            may = allowed([excluded[row] for row in rows.tolist()], items)
            if items <= size:
                every = best(np.zeros(may.shape, dtype=np.float32), may, size)
                found.append(every)
            else:
                found.append(pooled([searched[rows], *self._lists(places.take(rows), may, size)], size))
        return np.concatenate(found)

    def _lists(self, places: Places, may: Bools, size: int) -> list[Ints]:
        every = np.tile(np.arange(may.shape[1], dtype=np.int32), (len(places), 1))
        scores = [None if self.oracle is None else self.oracle(places, every)]
        scores.append(np.broadcast_to(self.popularity, may.shape).astype(np.float32))
        scores.append(None if self.titles is None else nearest_to_history(places, self.titles))
        return [best(each, may, size) for each in scores if each is not None]
