"""Places at the ends of histories, for what asks models about histories of anyone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_core.contracts.records import Ints, Longs, Places, Sequences


def places_of(histories: Sequence[Ints]) -> Places:
    """The ends of histories."""
    lengths = np.array([len(items) for items in histories], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    user = np.arange(len(lengths), dtype=np.int32)
    return Places(Sequences(np.concatenate(histories), offsets), user, lengths, of_split=False)


def with_known_items(places: Places, known: int) -> tuple[Longs, Places]:
    """The places without the items of their histories that were not in the training.

    Args:
        places: n places.
        known: the number of items of the training; those from there on are new.

    Returns:
        the rows that have an item left, int64 [m], ascending, and their places.
    """
    if (places.sequences.items < known).all():
        return np.arange(len(places)), places
    users, positions = places.user.tolist(), places.position.tolist()
    histories = [places.sequences[user][:position] for user, position in zip(users, positions, strict=True)]
    left = [items[items < known] for items in histories]
    rows = np.array([row for row, items in enumerate(left) if len(items)], dtype=np.int64)
    return rows, places_of([np.zeros(0, np.int32), *(left[row] for row in rows.tolist())]).take(
        np.arange(1, len(rows) + 1)
    )
