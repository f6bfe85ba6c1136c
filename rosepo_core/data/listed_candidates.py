"""The lists of candidates in training prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Examples, Ints


def draw_lists(
    examples: Examples, count: int, items: int, seed: Sequence[int], *, rejected: Ints | None = None
) -> Ints:
    """A list of candidates for the prompt of each example, in random order.

    A list contains the target of the example and its rejected items. The other items are drawn uniformly among those
    that are not in the user's sequence. So both the chosen and the rejected title are in the list, and neither the
    position nor the other items of the list tell which is which. A model cannot learn to copy the chosen one.

    A list depends only on the seed, the user, the position and the rejected items. It does not depend on other
    examples.

    Args:
        examples: n examples.
        count: number of items in a list, including the target.
        items: number of items in the catalogue.
        seed: non-negative integers.
        rejected: the rejected items that must be in the lists, int32 [n, k], -1 for an empty slot; k is below
            `count`.

    Returns:
        int32 [n, count], distinct within a row.

    Raises:
        RequestError: a user has seen nearly all items, so that too few are left to draw from.
    """
    lists = np.empty((len(examples), count), dtype=np.int32)
    losing = np.full((len(examples), 0), -1) if rejected is None else rejected
    assert losing.shape[1] < count, "the rejected items leave no place for the target"
    new_to: dict[int, Ints] = {}
    for row, (user, position) in enumerate(zip(examples.user.tolist(), examples.position.tolist(), strict=True)):
        if user not in new_to:
            # Examples are usually ordered by user, so it is enough to keep the items of the last user.
            new_to = {user: np.setdiff1d(np.arange(items, dtype=np.int32), examples.sequences[user])}
        others = new_to[user]
        if len(others) < count - 1:
            raise RequestError(
                f"option 'prompt.candidates' = {count}: set it lower, only {len(others)} items are new to user {user}"
            )
        rng = np.random.default_rng([*seed, user, position])
        drawn = rng.choice(others, count - 1, replace=False)
        held = dict.fromkeys([int(examples.target[row]), *(item for item in losing[row].tolist() if item >= 0)])
        listed = list(dict.fromkeys([*held, *drawn.tolist()]))[:count]
        lists[row] = rng.permutation(np.array(listed, dtype=np.int32))
    return lists
