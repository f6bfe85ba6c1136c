"""Ids of users and items as numbers.

A log has few different ids and many rows. Hashing the text of an id costs half a microsecond a row and takes 16 bytes
or more; a number takes four, and counting numbers needs no hashing at all.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rosepo_core.contracts.records import Ints, Longs

_SMALL = 1 << 24


def coded(ids: pl.Series) -> pl.Series:
    """Ids as `polars.Enum`: the text of each different id once, and a number of 32 bits in each row.

    Args:
        ids: text, whole numbers, or categories; without nulls.
    """
    if isinstance(ids.dtype, pl.Enum):
        return ids
    if ids.dtype.is_integer():
        different, numbers = _distinct(ids)
        names = pl.Series(different).cast(pl.String)
    else:
        categories = ids.cast(pl.Categorical)
        different, numbers = _distinct(categories.to_physical())
        names = names_of(categories).gather(different)
    return pl.Series(ids.name, numbers.astype(np.uint32)).cat.to(pl.Enum(names))


def numbered(ids: pl.Series) -> tuple[Ints, pl.Series]:
    """The number of each id, int32 [n], and the ids that the numbers stand for, as text.

    Args:
        ids: as in `coded`.
    """
    enum = coded(ids)
    return enum.to_physical().cast(pl.Int32).to_numpy(), names_of(enum)


def names_of(categories: pl.Series) -> pl.Series:
    """The text of each number of a column of categories: those of ``to_physical()``, from 0."""
    if isinstance(categories.dtype, pl.Enum):
        return categories.dtype.categories
    last = categories.to_physical().max()
    known = 0 if last is None else int(last) + 1  # type: ignore[arg-type]
    return pl.int_range(known, dtype=pl.UInt32, eager=True).cat.to(categories.dtype).cast(pl.String)


def repeated_pairs(interactions: pl.DataFrame) -> pl.Series:
    """Which interactions have the user and the item of another one: bool [n].

    Args:
        interactions: columns ``user`` and ``item``, as in `coded`.
    """
    users, _ = numbered(interactions["user"])
    items, names = numbered(interactions["item"])
    pairs = users.astype(np.int64) * names.len() + items
    # Sorting numbers is twenty times as fast as hashing them, and most logs have no repeats.
    ordered = np.sort(pairs)
    if not (ordered[1:] == ordered[:-1]).any():
        return pl.zeros(len(pairs), pl.Boolean, eager=True)
    return pl.Series(pairs).is_duplicated()


def _distinct(values: pl.Series) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The different values, ascending, and the place of each value among them."""
    array = values.to_numpy()
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if high - low >= max(_SMALL, 4 * len(array)):
        return values.unique().sort().to_numpy(), values.rank("dense").to_numpy() - 1
    shifted = array.astype(np.int64) - low
    present = np.zeros(high - low + 1, dtype=np.bool_)
    present[shifted] = True
    return np.flatnonzero(present) + low, (np.cumsum(present, dtype=np.int32) - 1)[shifted]


def first_rows(numbers: Ints, count: int) -> Longs:
    """The first row of each number: int64 [count], the number of rows if it has none.

    Args:
        numbers: int32 [n], from 0 to `count` - 1.
        count: how many numbers there are.
    """
    first = np.full(count, len(numbers), dtype=np.int64)
    # Of several values for one place, numpy keeps the last.
    first[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)
    return first
