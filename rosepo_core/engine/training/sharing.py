"""How the processes of a run share the passes of a batch.

Every rank reads the whole batch, so that each knows the counts of all, and takes its share of the trees. Each makes
the same number of passes, because they meet in the passes: with FSDP in every layer, with DDP in the last backward
pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rosepo_core import ranks
from rosepo_core.contracts.records import Longs
from rosepo_core.engine.passes import Passes


def shares(costs: Sequence[int], count: int) -> list[Longs]:
    """Divide work among `count` ranks so that each has about the same cost: the largest first, to and fro
    (0 1 2 2 1 0 0 ...). Returns the indices of each share, ascending; there may be none."""
    order = np.argsort(-np.asarray(costs), kind="stable")
    turn = np.arange(len(order)) % (2 * count)
    owner = np.minimum(turn, 2 * count - 1 - turn)
    return [np.sort(order[owner == each]).astype(np.int64) for each in range(count)]


def shared_passes(lengths: Sequence[int], passes: Passes) -> tuple[list[Longs], bool, int]:
    """The passes of this process.

    Args:
        lengths: tokens of each tree of a batch.
        passes: how passes are made, the same in all processes.

    Returns:
        the indices of the trees of each pass; whether each pass is one long row (`TreeBatch.of`); and the number of
        passes that every process must make.
    """
    sizes = np.asarray(lengths)
    made: list[tuple[list[Longs], bool]] = []
    for share in shares(lengths, ranks.count()):
        members, packed = passes.of_trees(sizes[share])
        made.append(([share[held] for held in members], packed))
    return *made[ranks.rank()], max(len(members) for members, _ in made)
