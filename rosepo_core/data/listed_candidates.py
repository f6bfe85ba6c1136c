"""The titles to choose from that a training prompt lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Examples, Ints


def draw_lists(
    examples: Examples, count: int, items: int, seed: Sequence[int], *, rejected: Ints | None = None
) -> Ints:
    """A list of candidates for the prompt of each example, in random order.

    A list holds the example's target, its rejected items, and for the rest items that are drawn uniformly among those
    that the user's sequence does not hold. So a model that only copies from the list finds the chosen and the
    rejected title there, and neither its place nor its company tells which is which.

    A list follows from the seed, the user and the position alone (and from the rejected items); what other examples
    there are does not matter.

    Args:
        examples: n examples.
        count: items of a list, the target among them.
        items: of the catalogue.
        seed: non-negative integers.
        rejected: int32 [n, k], -1 for none; k is below `count`. None are held if not given.

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
            # Examples stand by user as a rule: the last user's items are all that is worth keeping.
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
