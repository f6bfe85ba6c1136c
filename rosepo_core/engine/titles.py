"""The catalogue's titles as a trie, so that a decoder can be kept to titles that exist.

The titles' token sequences are sorted; a node is an interval of them that share a prefix. Chains without a choice are
folded into one edge (a radix tree), since a token that is forced needs no decision, only its log-probability. All is
kept in flat arrays, and every question is answered for many nodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rosepo_core.errors import RequestError
from rosepo_core.records import Bools, Ints, Longs


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> Longs:
    """``[starts[0], starts[0] + 1, ..., starts[0] + counts[0] - 1, starts[1], ...]``: int64 [sum of counts]."""
    counts = counts.astype(np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    flat: Longs = np.arange(total, dtype=np.int64) + np.repeat(starts.astype(np.int64) - (ends - counts), counts)
    return flat


@dataclass(frozen=True)
class TitleTrie:
    """A radix tree over t titles. Node 0 is the root, at depth 0; the children of a node have consecutive numbers,
    in the order of their first tokens; a node without children is one whole title.

    Attributes:
        items: the item of each title in sorted order, int32 [t].
        ranks: the inverse, each item's place in that order, int32 [t].
        tokens: the titles' tokens in sorted order, terminator included, padded with -1: int32 [t, longest].
        low, high: each node's interval of sorted titles, int32 [nodes].
        parent_depth: tokens above a node's edge, int32 [nodes].
        depth: tokens down to its end, int32 [nodes]; the edge is ``tokens[low, parent_depth:depth]``.
        first_child: int32 [nodes].
        children: how many, int32 [nodes].
    """

    items: Ints
    ranks: Ints
    tokens: Ints
    low: Ints
    high: Ints
    parent_depth: Ints
    depth: Ints
    first_child: Ints
    children: Ints

    @staticmethod
    def of(responses: Sequence[Ints], titles: Sequence[str] | None = None) -> TitleTrie:
        """Build the trie.

        Args:
            responses: token ids of each item's title, terminator included.
            titles: the titles themselves, for error messages.

        Raises:
            RequestError: a title is empty, or equals another or begins another, token for token: no decoder can
                tell such titles apart, nor are their probabilities those of distinct outcomes.
        """
        lengths = np.array([len(tokens) for tokens in responses], dtype=np.int64)
        names = titles if titles is not None else [f"item {item}" for item in range(len(responses))]
        if not len(lengths):
            raise RequestError("the catalogue is empty: there is no title to recommend")
        if not lengths.all():
            raise RequestError(f"title {names[int(np.argmin(lengths))]!r} has no tokens; give it a text")
        table = np.full((len(lengths), int(lengths.max())), -1, dtype=np.int32)
        table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(responses)
        items = np.lexsort(table.T[::-1]).astype(np.int32)
        table, lengths = table[items], lengths[items]
        # Tokens that each title shares with the one before it in order.
        shared = np.cumprod(table[1:] == table[:-1], axis=1, dtype=np.int64).sum(axis=1)
        same = np.flatnonzero(shared >= lengths[:-1])
        if len(same):
            one, other = (names[item] for item in sorted(items[same[0] : same[0] + 2].tolist()))
            raise RequestError(
                f"titles {one!r} and {other!r} cannot be told apart: the tokens of one are those of the other, or "
                "begin them; rename one or merge the two items"
            )
        ranks = np.empty_like(items)
        ranks[items] = np.arange(len(items), dtype=np.int32)
        return TitleTrie(items, ranks, table, *_nodes(shared, lengths))

    def __len__(self) -> int:
        return len(self.items)

    def is_leaf(self, nodes: Longs) -> Bools:
        """Whether each node is a whole title."""
        leaf: Bools = self.children[nodes] == 0
        return leaf

    def first_tokens(self, nodes: Longs) -> Ints:
        """The first token of each node's edge (not for the root)."""
        first: Ints = self.tokens[self.low[nodes], self.parent_depth[nodes]]
        return first

    def expand(self, nodes: Longs) -> tuple[Longs, Longs]:
        """All children of `nodes`.

        Returns:
            owner int64 [c], which of `nodes` each child belongs to (ascending), and the children int64 [c].
        """
        counts = self.children[nodes]
        return np.repeat(np.arange(len(nodes)), counts), ranges(self.first_child[nodes], counts)

    def exclusion_keys(self, excluded: Sequence[NDArray[np.integer]]) -> Longs:
        """What `holds` needs to know of the items excluded for each of n examples: int64, sorted and unique."""
        rows = np.repeat(np.arange(len(excluded), dtype=np.int64), [len(items) for items in excluded])
        items = np.concatenate([np.zeros(0, np.int64), *excluded]).astype(np.int64)
        rows, items = rows[items >= 0], items[items >= 0]
        return np.unique(rows * len(self) + self.ranks[items])

    def holds(self, nodes: Longs, examples: Longs, keys: Longs) -> Bools:
        """Whether at least one title below nodes[i] is not excluded for examples[i].

        Args:
            nodes: int64 [c].
            examples: int64 [c].
            keys: from `exclusion_keys`.
        """
        base = examples * len(self)
        out = np.searchsorted(keys, base + self.high[nodes]) - np.searchsorted(keys, base + self.low[nodes])
        left: Bools = self.high[nodes] - self.low[nodes] > out
        return left


def _nodes(shared: Longs, lengths: Longs) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints]:
    """The fields of `TitleTrie` from `low` on, level by level from the root.

    Args:
        shared: tokens that title i + 1 shares with title i, in sorted order, [t - 1].
        lengths: of the titles, [t].
    """
    low, high = np.zeros(1, np.int64), np.array([len(lengths)])
    above = np.zeros(1, np.int64)
    levels: list[NDArray[np.int64]] = []
    total = 1
    while len(low):
        # Borders between neighbouring titles inside each node; the node ends where the first of them begins.
        inside = high - low - 1
        borders = ranges(low, inside)
        many = np.flatnonzero(inside)
        depth = lengths[low].copy()
        if len(many):
            starts = np.concatenate([[0], np.cumsum(inside[many])[:-1]])
            depth[many] = np.minimum.reduceat(shared[borders], starts)
        if not levels:
            depth[0] = 0
        cuts = borders[shared[borders] == np.repeat(depth, inside)] + 1
        # The root stays at depth 0 even if all titles begin alike: it is where the prompt ends.
        parents = (high - low > 1) | (not levels)
        edges = np.sort(np.concatenate([low[parents], cuts]))
        owner = np.searchsorted(low, edges, side="right") - 1
        children = np.bincount(owner, minlength=len(low))
        first = total + np.cumsum(children) - children
        levels.append(np.stack([low, high, above, depth, first, children]))
        total += len(edges)
        last = np.flatnonzero(np.diff(owner, append=-1))
        ends = np.concatenate([edges[1:], [0]])
        ends[last] = high[owner[last]]
        low, high, above = edges, ends, depth[owner]
    fields = np.concatenate(levels, axis=1).astype(np.int32)
    return fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]
