"""Decides which items may be rejected, and draws exactly among them for many examples at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from rosepo_core.api import Bools, Catalogue, Examples, Ints, SamplerContext

# Cells of the largest temporary array, 8 bytes each; a few such arrays exist at once.
BLOCK_CELLS = 1 << 22
# Rounds of rejection sampling. Rows that then still have too few items are drawn from the whole catalogue.
ROUNDS = 4


class Eligibility:
    """Which items may be rejected for an example.

    - Not the target, and no item with the same title, because a language model cannot tell them apart. Two titles are
      the same if they are equal after Unicode NFKC, case folding and collapsing of white space. A year is part of the
      title, so a remake is another item, of the kind that `semantic-similar` looks for.
    - No item that the user has interacted with, unless `allow_seen` is set.
    """

    def __init__(self, context: SamplerContext, allow_seen: bool) -> None:
        self.items = len(context.catalogue)
        self.title = context.catalogue.title_numbers
        self._by_title = np.argsort(self.title, kind="stable")
        self._bounds = np.searchsorted(self.title[self._by_title], np.arange(self.title.max(initial=-1) + 2))
        self._seen = None if allow_seen else context.seen

    def mask(self, examples: Examples, items: NDArray[np.integer]) -> Bools:
        """Whether items[i, j] may be rejected for example i: bool [n, m]; false where the item is -1."""
        good: Bools = (items >= 0) & (self.title[items] != self.title[examples.target][:, None])
        if self._seen is not None:
            good &= ~self._seen.contains(examples.user, items)
        return good

    def excluded(self, examples: Examples) -> list[NDArray[np.integer]]:
        """The items that must not be rejected, including the target: one array for each example, perhaps with
        duplicates."""
        same_title = [
            self._by_title[self._bounds[title] : self._bounds[title + 1]] for title in self.title[examples.target]
        ]
        if self._seen is None:
            return list(same_title)
        seen = {user: self._seen.of_user(user) for user in np.unique(examples.user).tolist()}
        return [
            np.concatenate([twins, seen[user]])
            for twins, user in zip(same_title, examples.user.tolist(), strict=True)
        ]

    def seen_but_target(self, examples: Examples) -> list[NDArray[np.integer]]:
        """The items that the user of each example has interacted with, without the target: one array for each
        example; empty if seen items may be rejected."""
        if self._seen is None:
            return [np.zeros(0, dtype=np.int64) for _ in range(len(examples))]
        seen = {user: self._seen.of_user(user) for user in np.unique(examples.user).tolist()}
        return [
            seen[user][seen[user] != target]
            for user, target in zip(examples.user.tolist(), examples.target.tolist(), strict=True)
        ]

    def blank(self, keys: NDArray[np.floating], examples: Examples) -> None:
        """Set keys[i, j], float [n, items], to -inf if item j must not be rejected for example i. Changes `keys`."""
        excluded = self.excluded(examples)
        rows = np.repeat(np.arange(len(excluded)), [len(items) for items in excluded])
        keys[rows, np.concatenate(excluded)] = -np.inf


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` rows that keep arrays of `width` columns within the memory bound."""
    step = max(1, BLOCK_CELLS // max(width, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def first_kept(items: Ints, kept: Bools, k: int) -> Ints:
    """The first `k` kept items of each row, in order: int32 [n, k]; -1 fills rows with fewer."""
    place = np.cumsum(kept, axis=1) - 1
    rows, columns = np.nonzero(kept & (place < k))
    out = np.full((len(items), k), -1, dtype=np.int32)
    out[rows, place[rows, columns]] = items[rows, columns]
    return out


def largest(keys: NDArray[np.floating], k: int) -> Ints:
    """Columns of the `k` largest keys of each row, largest first: int32 [n, k]; -1 for keys of -inf, and if there are
    fewer columns."""
    # numpy's argpartition takes ten times as long if most keys are equal, as with -inf.
    values, columns = torch.from_numpy(keys).topk(min(k, keys.shape[1]), dim=1)
    out = np.full((len(keys), k), -1, dtype=np.int32)
    out[:, : columns.shape[1]] = columns.masked_fill(values == -np.inf, -1).numpy()
    return out


def uniformly(pool: Ints, k: int, rng: np.random.Generator) -> Ints:
    """`k` items of each row of `pool`, int32 [n, m] with -1 for no item, drawn uniformly without replacement: int32
    [n, k], -1 where the row has fewer."""
    columns = largest(np.where(pool >= 0, rng.random(pool.shape), -np.inf), k)
    return np.where(columns >= 0, np.take_along_axis(pool, np.maximum(columns, 0), 1), -1).astype(np.int32)


def popularity_log_weights(catalogue: Catalogue, power: float) -> NDArray[np.float64]:
    """power * log popularity, shifted so that the maximum is 0: float64 [items]. Items without training interactions
    have -inf, unless `power` is 0."""
    if power == 0:
        return np.zeros(len(catalogue))
    with np.errstate(divide="ignore"):
        log_weights = power * np.log(catalogue.popularity.astype(np.float64))
    log_weights -= log_weights.max(initial=0.0)
    return log_weights


def draw(
    examples: Examples,
    k: int,
    log_weights: NDArray[np.float64],
    eligibility: Eligibility,
    rng: np.random.Generator,
) -> Ints:
    """Draw items one after another without replacement. The probability of an item is proportional to its weight
    among the eligible items that are left (successive sampling, the Plackett-Luce distribution).

    First by rejection sampling: in a stream of independent draws, the distinct eligible items, in order of
    appearance, have this distribution. A few rows may then have too few items, because their users have seen most of
    the weight. These rows are completed with Gumbel-top-k over the whole catalogue (Kool et al. 2019, arXiv
    1903.06059), which is exact, too. Items with weight 0 come after all others, uniformly.

    Args:
        examples: n examples.
        k: items per example.
        log_weights: float64 [items], at most 0; -inf for weight 0.
        eligibility: which items may be drawn.
        rng: the generator of random numbers.

    Returns:
        int32 [n, k]; -1 where fewer than `k` items are eligible.
    """
    cumulative = np.cumsum(np.exp(log_weights))
    if not len(cumulative) or cumulative[-1] == 0:
        return _draw_exactly(examples, np.full((len(examples), k), -1, np.int32), log_weights, eligibility, rng)
    sampled = np.full((len(examples), k), -1, dtype=np.int32)
    short = np.arange(len(examples))
    for round_number in range(ROUNDS):
        width = (k + 4) << round_number
        for block in blocks(len(short), k + width):
            rows = short[block]
            # `right` never selects items with weight 0; the largest product may round up to the total itself.
            points = rng.random((len(rows), width)) * cumulative[-1]
            stream = np.minimum(
                np.searchsorted(cumulative, points, side="right"), np.searchsorted(cumulative, cumulative[-1])
            )
            together = np.concatenate([sampled[rows], stream.astype(np.int32)], axis=1)
            kept = first_occurrence(together)
            kept[:, :k] &= together[:, :k] >= 0
            kept[:, k:] &= eligibility.mask(examples.take(rows), together[:, k:])
            sampled[rows] = first_kept(together, kept, k)
        short = short[sampled[short, -1] < 0]
        if not len(short):
            return sampled
    sampled[short] = _draw_exactly(examples.take(short), sampled[short], log_weights, eligibility, rng)
    return sampled


def _draw_exactly(
    examples: Examples,
    sampled: Ints,
    log_weights: NDArray[np.float64],
    eligibility: Eligibility,
    rng: np.random.Generator,
) -> Ints:
    """`drawn`, int32 [n, k] with -1 at the end of rows, completed by Gumbel-top-k over the whole catalogue."""
    weighty = log_weights > -np.inf
    # So low that Gumbel noise never lifts an item without weight above an item with weight.
    floor = log_weights[weighty].min(initial=0.0) - 1000.0
    keys_without_noise = np.where(weighty, log_weights, floor)
    out = sampled.copy()
    for block in blocks(len(examples), len(log_weights)):
        part = sampled[block]
        keys = keys_without_noise + rng.gumbel(size=(len(part), len(log_weights)))
        eligibility.blank(keys, examples.take(np.arange(block.start, block.stop)))
        rows, columns = np.nonzero(part >= 0)
        keys[rows, part[rows, columns]] = -np.inf
        together = np.concatenate([part, largest(keys, part.shape[1])], axis=1)
        out[block] = first_kept(together, together >= 0, part.shape[1])
    return out


def first_occurrence(items: Ints) -> Bools:
    """Whether items[i, j], which is at least -1, is the first of its value in row i: bool of the same shape."""
    width = items.shape[1]
    tagged = np.sort((items.astype(np.int64) + 1) * width + np.arange(width), axis=1)
    item, column = np.divmod(tagged, width)
    first = np.ones(items.shape, dtype=np.bool_)
    first[:, 1:] = item[:, 1:] != item[:, :-1]
    out = np.empty_like(first)
    np.put_along_axis(out, column, first, axis=1)
    return out
