"""Groups trees into the forward passes that cost least.

A pass costs a fixed time (on a GPU: starting its kernels), a time for each token, padding included, and a time for
each pair of tokens in attention. On a CPU the fixed time is that of a few tokens, so trees of nearly the same length
go together. On a GPU a small model computes thousands of tokens in the fixed time, so there are few passes with more
padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.records import Longs


@dataclass(frozen=True)
class PassCost:
    """What a pass over b rows of t tokens costs: ``fixed + token * b * t + square * b * t**2``.

    Attributes:
        fixed: of each pass, in any unit of time.
        token: of each token, padding included, in the same unit.
        square: of each token for each token of its row (attention), in the same unit.
    """

    fixed: float
    token: float = 1.0
    square: float = 0.0

    def of(self, rows: NDArray[np.integer] | int, width: int) -> NDArray[np.float64]:
        """The cost of passes of so many rows of `width` tokens."""
        each = self.token * width + self.square * width * width
        return np.asarray(self.fixed + rows * each, dtype=np.float64)


CPU = PassCost(fixed=60.0, token=1.0, square=1 / 2000)
"""The cost of a pass on a CPU, in tokens. `benchmarks/pass_cost.py` measured it for SmolLM2-135M on two cores: 61 and
1 / 1300 in training, 57 and 1 / 2900 in scoring. It is not measured in each run: the grouping decides the last bits
of a result, and runs on a CPU repeat bit for bit."""

GPU = PassCost(fixed=8192.0, token=1.0, square=1 / 8192)
"""The cost of a pass on a GPU in tokens where it is not measured, in a run with ``deterministic = true``. It is a
guess: in a pass of 135 million parameters, starting the kernels takes as long as computing some thousand tokens."""


def constant_cost(device: str) -> PassCost:
    """The cost of a pass where it is not measured, on a device of this type (``"cpu"``, ``"cuda"``)."""
    return CPU if device == "cpu" else GPU


def pack(lengths: Sequence[int] | NDArray[np.integer], token_budget: int, cost: PassCost = CPU) -> list[Longs]:
    """Group trees into passes. The longest come first, so that too little memory shows at once.

    The grouping is the cheapest one: sorting the trees by length loses nothing, because a pass costs what its longest
    tree makes it cost, and where to cut the sorted trees is found by dynamic programming.

    Args:
        lengths: number of tokens of each tree, [n].
        token_budget: most tokens of a pass, padding included; a longer tree is a pass of its own.
        cost: what a pass costs.

    Returns:
        the indices of the trees, one array for each pass, int64 [n] in total.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    widths = np.maximum(lengths[order], 1).tolist()
    count = len(widths)
    # best[j]: the least cost of the first j trees; begins[j]: where the last of their passes begins.
    best = np.full(count + 1, np.inf)
    best[0] = 0.0
    begins = np.zeros(count + 1, np.int64)
    for first, width in enumerate(widths):
        fitting = min(count - first, max(1, token_budget // width))
        reached = slice(first + 1, first + fitting + 1)
        found = best[first] + cost.of(np.arange(1, fitting + 1), width)
        # Of equal groupings, the one whose last pass is largest was found first and stays.
        better = found < best[reached]
        best[reached][better] = found[better]
        begins[reached][better] = first
    cuts = [count]
    while cuts[-1]:
        cuts.append(int(begins[cuts[-1]]))
    cuts.reverse()
    return [order[start:stop] for start, stop in pairwise(cuts)]


def pack_in_rows(lengths: Sequence[int] | NDArray[np.integer], token_budget: int) -> list[Longs]:
    """Group trees into as few passes as possible, where the trees of a pass stand one after another without padding.

    Args and result are those of `pack`; in their order, the longest first, trees go into the pass before if they fit.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    passes: list[list[int]] = []
    held = token_budget
    for index in order.tolist():
        if held + lengths[index] > token_budget:
            passes.append([])
            held = 0
        passes[-1].append(index)
        held += int(lengths[index])
    return [np.array(each, dtype=np.int64) for each in passes]


def price(lengths: NDArray[np.integer], passes: Sequence[Longs], cost: PassCost, *, in_rows: bool) -> float:
    """What some passes cost.

    Args:
        lengths: number of tokens of each tree, [n].
        passes: the indices of the trees of each pass.
        cost: what a pass costs.
        in_rows: whether trees stand one after another; otherwise they are padded to the longest of their pass.
    """
    total = 0.0
    for members in passes:
        widths = lengths[members] if in_rows else np.full(len(members), lengths[members].max())
        total += cost.fixed + float((cost.token * widths + cost.square * widths.astype(np.float64) ** 2).sum())
    return total
