"""Ranks of targets, best items of a list, and popular items: the basis of the stages and of every metric.

Tied scores get the expectation over all orders of the tied items (McSherry and Najork, "Computing information
retrieval performance measures efficiently in the presence of tied scores", ECIR 2008). So a model that gives every
item the same score gets exactly the result of a random order, whatever the column of the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.records import Bools, Doubles, Floats, Ints, Longs

Scores = NDArray[np.floating]

UNRANKED = int(np.iinfo(np.int32).max)
"""`Ranks.above` of a target that has no rank, because it was neither a candidate nor in the list."""

HEAD_SHARE = 0.2
"""Share of the catalogue that counts as popular (the head); the rest is the long tail."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of the targets among the candidates, or in a list.

    Attributes:
        above: number of items with a higher score than the target, int64 [n] or, with several targets a row, [n, t];
            `UNRANKED` for a target without a rank, and for an empty slot.
        tied: number of other items with the same score as the target, int64 of the same shape.
    """

    above: Longs
    tied: Longs

    @property
    def expected(self) -> Doubles:
        """Mean rank of the target over the orders of the tied items: above + 1 + tied / 2. 1 is best, infinity means
        no rank; float64 of the same shape."""
        return np.where(self.above < UNRANKED, self.above + 1 + self.tied / 2, np.inf)

    def expectation(self, gains: Doubles) -> Doubles:
        """Expected gain of each target over the orders of tied items: float64 of the shape of `above`.

        Args:
            gains: float64 [m], the gain of rank 1, 2, ..., m; every later rank has gain 0.
        """
        sums = np.concatenate([[0.0], np.cumsum(gains)])
        low = np.minimum(self.above, len(gains))
        high = np.minimum(self.above + self.tied + 1, len(gains))
        mean: Doubles = (sums[high] - sums[low]) / (self.tied + 1)
        return mean

    def first_expectation(self, gains: Doubles) -> Doubles:
        """Expected gain of the best target of each row over the orders of tied items: float64 [n].

        Suppose that T items share the score of the best target, and r of them are targets. Then the first target
        among them is at position i of T with probability C(T - i, r - 1) / C(T, r).
        """
        if self.above.ndim == 1:
            return self.expectation(gains)
        rows = np.arange(len(self.above))
        column = self.above.argmin(axis=1)
        best = Ranks(self.above[rows, column], self.tied[rows, column])
        gained = best.expectation(gains)
        rivals = ((self.above == best.above[:, None]) & (self.above < UNRANKED)).sum(axis=1)
        for row in np.flatnonzero(rivals > 1).tolist():
            size, targets = int(best.tied[row]) + 1, int(rivals[row])
            place = np.arange(1, size - targets + 1)
            steps = (size - place - targets + 1) / (size - place)
            chance = targets / size * np.concatenate([[1.0], np.cumprod(steps)])
            reached = gains[best.above[row] : best.above[row] + len(chance)]
            gained[row] = chance[: len(reached)] @ reached
        return gained

    def limit(self) -> int:
        """The lowest rank that any target can have, at least 1."""
        ranked = self.above < UNRANKED
        return int((self.above + self.tied + 1)[ranked].max(initial=1))


def rank_targets(scores: Scores, target_column: NDArray[np.integer], offered: Bools | None = None) -> Ranks:
    """Rank each row's targets by their scores, the highest first.

    Args:
        scores: float [n, c], higher is better. Minus infinity is allowed and ranks last, tied with the row's other
            minus infinities.
        target_column: int [n], the column of the target, or [n, t] for several targets; -1 fills rows with fewer.
        offered: bool [n, c], false for columns without an item. They rank neither above the target nor equal to it.

    Raises:
        ValueError: NaN among the offered scores, or a target that was not offered.
    """
    if offered is None:
        offered = np.ones(scores.shape, dtype=np.bool_)
    bad = (np.isnan(scores) & offered).any(axis=1)
    if bad.any():
        raise ValueError(f"the scores of row {int(bad.argmax())} hold NaN, which has no rank")
    rows = np.arange(len(scores))
    columns = target_column.reshape(len(scores), -1)
    above = np.full(columns.shape, UNRANKED, dtype=np.int64)
    tied = np.zeros(columns.shape, dtype=np.int64)
    for place, column in enumerate(columns.T):
        held = column >= 0
        if not bool(offered[rows, column][held].all()):
            raise ValueError("a target stands in a column that holds no item")
        target = scores[rows, column][:, None]
        above[held, place] = ((scores > target) & offered).sum(axis=1)[held]
        tied[held, place] = ((scores == target) & offered).sum(axis=1)[held] - 1
    return Ranks(above.reshape(target_column.shape), tied.reshape(target_column.shape))


def rank_in_lists(top: NDArray[np.integer], targets: NDArray[np.integer]) -> Ranks:
    """The first position of each target in the list of its row; `UNRANKED` if the list does not have it.

    Args:
        top: int [n, k], best first, -1 for an empty position.
        targets: int [n, t]; -1 fills rows with fewer.
    """
    there = (top[:, None, :] == targets[:, :, None]) & (targets >= 0)[:, :, None]
    above = np.where(there.any(axis=2), there.argmax(axis=2), UNRANKED).astype(np.int64)
    return Ranks(above, np.zeros_like(above))


def top_items(scores: Scores, items: NDArray[np.integer], k: int) -> Ints:
    """The k items of each row with the highest scores, best first: int32 [n, k].

    Tied items keep the order of their columns, which is random for candidates. -1 (no item) fills rows with fewer
    than k items. An item with minus infinity ranks last, and is still recommended if no better item is left.
    """
    order = np.lexsort((-np.asarray(scores, dtype=np.float64), items < 0), axis=1)[:, :k]
    best = np.take_along_axis(items, order, axis=1)
    return np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-1).astype(np.int32)


def best_items(scores: Scores, items: NDArray[np.integer], k: int) -> tuple[Ints, Floats]:
    """The items of `top_items`, int32 [n, k], and their scores, float32 [n, k]; -1 and -inf fill rows with fewer."""
    top = top_items(scores, items, k)
    best = -np.sort(-np.where(items >= 0, scores, -np.inf), axis=1)[:, :k]
    best = np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-np.inf)
    return top, np.where(top >= 0, best, -np.inf).astype(np.float32)


def head_items(popularity: Longs, share: float = HEAD_SHARE) -> Bools:
    """Which items are popular: the `share` (rounded up) of the catalogue with the most training interactions, bool
    [items]. If two items at the border are equally popular, the earlier one counts as popular.

    Abdollahpouri et al., "The unfairness of popularity bias in recommendation", RMSE workshop at RecSys 2019. Other
    work defines the head as the items with 80 % of the interactions; that head is larger in a more even log.
    """
    count = int(np.ceil(round(share * len(popularity), 9)))
    head = np.zeros(len(popularity), dtype=np.bool_)
    head[np.argsort(-popularity, kind="stable")[:count]] = True
    return head
