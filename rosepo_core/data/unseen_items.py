"""Uniform draws of items that users have not interacted with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.records import Ints, Longs, SeenItems


def unseen_counts(seen: SeenItems, users: Ints) -> Longs:
    """How many items each of `users`, int32 [n], has not interacted with: int64 [n]."""
    low, high = _bounds(seen, users)
    return seen.items - (high - low)


def draw_unseen(seen: SeenItems, users: Ints, k: int, rng: np.random.Generator) -> Longs:
    """`k` distinct items that the user of each row has not interacted with; all sets have the same probability.

    Args:
        seen: the items that users have interacted with.
        users: the user of each row, int32 [n].
        k: items in a row, at most the lowest of `unseen_counts`.
        rng: the generator of random numbers.

    Returns:
        int64 [n, k].
    """
    each, row_of = np.unique(users, return_inverse=True)
    low, high = _bounds(seen, each)
    ranks = _distinct_below((seen.items - (high - low))[row_of], k, rng)
    return _unseen_at(ranks, seen.keys, each, low, high, row_of, seen.items)


def _bounds(seen: SeenItems, users: NDArray[np.integer]) -> tuple[Longs, Longs]:
    """Where the keys of each user begin and end."""
    first = users.astype(np.int64) * seen.items
    return np.searchsorted(seen.keys, first), np.searchsorted(seen.keys, first + seen.items)


def _distinct_below(limits: Longs, k: int, rng: np.random.Generator) -> Longs:
    """`k` distinct numbers below ``limits[i]`` for each row i; all sets have the same probability: int64 [n, k].

    Robert Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", CACM 30(9), 1987), for all rows at once.
    """
    negative_items = np.empty((len(limits), k), dtype=np.int64)
    for column in range(k):
        largest = limits - k + column
        number = rng.integers(0, largest + 1)
        taken = (negative_items[:, :column] == number[:, None]).any(axis=1)
        negative_items[:, column] = np.where(taken, largest, number)
    return negative_items


def _unseen_at(
    ranks: Longs,
    keys: Longs,
    users: NDArray[np.integer],
    low: NDArray[np.integer],
    high: NDArray[np.integer],
    row_of: NDArray[np.integer],
    items: int,
) -> Longs:
    """The item at each rank among a user's unseen items.

    The j-th seen item s_j of a user has s_j - j unseen items before it, so the unseen item of rank r is r plus the
    number of seen ones with s_j - j <= r.

    Args:
        ranks: int64 [n, k].
        keys: the keys of `SeenItems`; those of ``users[m]`` are ``keys[low[m]:high[m]]``.
        users: ascending, [users].
        low: [users].
        high: [users].
        row_of: index in `users` of each row of `ranks`, [n].
        items: number of items in the catalogue.
    """
    counts = high - low
    start = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(start[-1]) - np.repeat(start[:-1], counts)
    place = np.repeat(low, counts) + within
    # `items + 1` separates users: unseen counts and ranks are both in 0..items.
    block = np.arange(len(users), dtype=np.int64) * (items + 1)
    before = np.repeat(block, counts) + keys[place] - np.repeat(users.astype(np.int64), counts) * items - within
    found = np.searchsorted(before, block[row_of][:, None] + ranks, side="right")
    unseen: Longs = ranks + found - start[:-1][row_of][:, None]
    return unseen
