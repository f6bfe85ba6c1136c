"""The catalogue's titles as a trie, so that a decoder generates only titles that exist.

The token sequences of the titles are sorted; a node is an interval of titles that share a prefix. Chains without a
choice are one edge (a radix tree), because a forced token needs no decision, only its log-probability. Everything is
in flat arrays, and every method works on many nodes at once.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Bools, Ints, Longs
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.prompts.token_ids import Ragged

# Only one key, because safetensors writes several keys in changing order.
_FORMAT = {"format": "rosepo title trie 1"}


def ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> Longs:
    """``[starts[0], starts[0] + 1, ..., starts[0] + counts[0] - 1, starts[1], ...]``: int64 [sum of counts]."""
    counts = counts.astype(np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    flat: Longs = np.arange(total, dtype=np.int64) + np.repeat(starts.astype(np.int64) - (ends - counts), counts)
    return flat


@dataclass(frozen=True)
class TitleTrie:
    """A radix tree over t titles. Node 0 is the root, at depth 0. The children of a node have consecutive numbers, in
    the order of their first tokens.

    Titles end at nodes. Most leaves have one title; a leaf has several if items have the same tokens. A title that is
    the beginning of another ends at an inner node. In sorted order, the titles that end at a node come before the
    others below it; equal titles are ordered by item.

    Attributes:
        items: the item of each title in sorted order, int32 [t].
        ranks: the inverse: the position of each item in that order, int32 [t].
        low, high: the interval of sorted titles of each node, int32 [nodes].
        ends: how many of these titles, starting at `low`, end at the node, int32 [nodes].
        parent_depth: number of tokens above a node's edge, int32 [nodes].
        depth: number of tokens down to the end of its edge, int32 [nodes].
        first_child: int32 [nodes].
        children: number of children, int32 [nodes].
        edge: the start of each node's edge in `tokens`, int64 [nodes].
        tokens: the edges, one after another, int32 [sum of ``depth - parent_depth``].
    """

    items: Ints
    ranks: Ints
    low: Ints
    high: Ints
    ends: Ints
    parent_depth: Ints
    depth: Ints
    first_child: Ints
    children: Ints
    edge: Longs
    tokens: Ints

    @staticmethod
    def of(responses: Sequence[Ints], titles: Sequence[str] | None = None) -> TitleTrie:
        """Build the trie.

        Args:
            responses: token ids of each item's title, with the terminator.
            titles: the titles as text, for error messages.

        Raises:
            RequestError: there is no title, or a title has no tokens.
        """
        lengths = np.array([len(tokens) for tokens in responses], dtype=np.int64)
        if not len(lengths):
            raise RequestError("the catalogue is empty: there is no title to recommend")
        if not lengths.all():
            item = int(np.argmin(lengths))
            name = titles[item] if titles is not None else f"item {item}"
            raise RequestError(f"title {name!r} has no tokens; give it a text")
        flat = np.concatenate(responses).astype(np.int32)
        starts = np.cumsum(lengths) - lengths
        return TitleTrie._of_order(sorted_order(flat, starts, lengths), flat, starts, lengths)

    @staticmethod
    def _of_order(order: Longs, flat: Ints, starts: Longs, lengths: Longs) -> TitleTrie:
        """The trie of titles whose order is known.

        Args:
            order: the items in sorted order, [t].
            flat: token ids.
            starts: where each item's title begins in `flat`, [t].
            lengths: tokens of each title, [t].
        """
        starts, lengths = starts[order], lengths[order]
        low, high, ends, above, depth, first_child, children = _nodes(
            shared_beginnings(flat, starts, lengths), lengths
        )
        sizes = depth - above
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32)
        return TitleTrie(
            items=order.astype(np.int32),
            ranks=ranks,
            low=low,
            high=high,
            ends=ends,
            parent_depth=above,
            depth=depth,
            first_child=first_child,
            children=children,
            edge=np.cumsum(sizes, dtype=np.int64) - sizes,
            tokens=flat[ranges(starts[low] + above, sizes)],
        )

    def changed(self, responses: Ragged, items: Longs) -> TitleTrie:
        """The trie after some items were added or renamed. Their places are searched, and the others keep theirs:
        nothing is sorted again.

        Args:
            responses: token ids of all items; those with a number from the length of this trie on are new.
            items: all new items, and those with another title.
        """
        out = np.zeros(len(responses.lengths), dtype=np.bool_)
        out[items] = True
        kept = self.items[~out[self.items]].astype(np.int64)

        def key(item: int) -> tuple[bytes, int]:
            return responses.take(np.array([item])).astype(">u4").tobytes(), item

        added = sorted(items.tolist(), key=key)
        places = [bisect(kept, key(item), key=key) for item in added]
        order = np.insert(kept, np.array(places, dtype=np.int64), np.array(added, dtype=np.int64))
        return TitleTrie._of_order(order, responses.flat, responses.starts, responses.lengths)

    def part(self, responses: Ragged, only: NDArray[np.integer]) -> TitleTrie:
        """The trie of some items.

        Args:
            responses: token ids of all items.
            only: the items, ascending. Item i of the result is ``only[i]``.
        """
        inside = np.zeros(len(self), dtype=np.bool_)
        inside[only] = True
        order = np.searchsorted(only, self.items[inside[self.items]])
        return TitleTrie._of_order(order, responses.flat, responses.starts[only], responses.lengths[only])

    def __len__(self) -> int:
        return len(self.items)

    def edge_lengths(self, nodes: Longs) -> Longs:
        """Number of tokens of each node's edge: int64, 0 for the root."""
        return (self.depth[nodes] - self.parent_depth[nodes]).astype(np.int64)

    def edge_tokens(self, nodes: Longs, places: Longs) -> Ints:
        """The token at places[i] of the edge of nodes[i], counted from 0 (not for the root)."""
        found: Ints = self.tokens[self.edge[nodes] + places]
        return found

    def expand(self, nodes: Longs) -> tuple[Longs, Longs]:
        """All children of `nodes`.

        Returns:
            owner int64 [c], which of `nodes` each child belongs to (ascending), and the children int64 [c].
        """
        counts = self.children[nodes]
        return np.repeat(np.arange(len(nodes)), counts), ranges(self.first_child[nodes], counts)

    def titles_at(self, nodes: Longs) -> tuple[Longs, Longs]:
        """All titles that end at `nodes`.

        Returns:
            owner int64 [e], which of `nodes` each title ends at (ascending), and the titles' places in sorted order,
            int64 [e].
        """
        counts = self.ends[nodes]
        return np.repeat(np.arange(len(nodes)), counts), ranges(self.low[nodes], counts)

    def exclusion_keys(self, excluded: Sequence[NDArray[np.integer]]) -> Longs:
        """The items excluded for each of n examples, in the form for `holds` and `excludes`: int64, sorted and
        unique."""
        rows = np.repeat(np.arange(len(excluded), dtype=np.int64), [len(items) for items in excluded])
        items = np.concatenate([np.zeros(0, np.int64), *excluded]).astype(np.int64)
        rows, items = rows[items >= 0], items[items >= 0]
        return np.unique(rows * len(self) + self.ranks[items])

    def holds(self, nodes: Longs, examples: Longs, keys: Longs) -> Bools:
        """Whether at least one title at or below nodes[i] is not excluded for examples[i].

        Args:
            nodes: int64 [c].
            examples: int64 [c].
            keys: from `exclusion_keys`.
        """
        base = examples * len(self)
        out = np.searchsorted(keys, base + self.high[nodes]) - np.searchsorted(keys, base + self.low[nodes])
        left: Bools = self.high[nodes] - self.low[nodes] > out
        return left

    def excludes(self, places: Longs, examples: Longs, keys: Longs) -> Bools:
        """Whether the title at places[i] of the sorted order is excluded for examples[i]; `keys` as in `holds`."""
        wanted = examples * len(self) + places
        excluded: Bools = np.append(keys, -1)[np.searchsorted(keys, wanted)] == wanted
        return excluded

    def responses(self) -> list[Ints]:
        """The token ids that the trie was built from: int32 [length] each, [t]."""
        lengths = np.empty(len(self), np.int64)
        _, places = self.titles_at(np.arange(len(self.low)))
        lengths[places] = np.repeat(self.depth, self.ends)
        starts = np.cumsum(lengths) - lengths
        flat = np.empty(int(lengths.sum()), np.int32)
        nodes = np.arange(1, len(self.low))
        # Level by level, copy each node's edge to all titles below it.
        counts = (self.high - self.low)[nodes].astype(np.int64)
        titles, node = ranges(self.low[nodes], counts), np.repeat(nodes, counts)
        sizes = self.edge_lengths(node)
        flat[ranges(starts[titles] + self.parent_depth[node], sizes)] = self.tokens[ranges(self.edge[node], sizes)]
        in_order = np.split(flat, starts[1:])
        return [in_order[rank] for rank in self.ranks.tolist()]

    def save(self, path: Path) -> None:
        """Write the arrays as a safetensors file."""
        save_file({field.name: getattr(self, field.name) for field in fields(self)}, path, metadata=_FORMAT)

    @staticmethod
    def load(path: Path) -> TitleTrie:
        """Read what `save` wrote.

        Raises:
            RequestError: the file does not exist, or has other content.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                if file.metadata() != _FORMAT:
                    raise RequestError(
                        f"{path} is no title trie of this version of rosepo; make the run's stage anew"
                    )
                return TitleTrie(**{field.name: file.get_tensor(field.name) for field in fields(TitleTrie)})
        except (OSError, SafetensorError) as error:
            raise RequestError(f"{path} cannot be read ({error}); make the run's stage anew") from None


def sorted_order(flat: Ints, starts: Longs, lengths: Longs) -> Longs:
    """The order of the sequences by their tokens. A sequence comes before longer ones that begin with it; equal ones
    keep their order."""
    # With the most significant byte first, bytes compare in the same way as the tokens.
    text = flat.astype(">u4").tobytes()
    bounds = zip((4 * starts).tolist(), (4 * (starts + lengths)).tolist(), strict=True)
    keys = [text[start:end] for start, end in bounds]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def shared_beginnings(flat: Ints, starts: Longs, lengths: Longs) -> Longs:
    """Number of tokens at the beginning that each sequence shares with the one before it: [t - 1]."""
    shared = np.zeros(len(starts) - 1, np.int64)
    most = np.minimum(lengths[1:], lengths[:-1])
    alike = np.arange(len(shared))
    for place in range(int(most.max(initial=0))):
        alike = alike[most[alike] > place]
        alike = alike[flat[starts[alike + 1] + place] == flat[starts[alike] + place]]
        shared[alike] = place + 1
    return shared


def _nodes(shared: Longs, lengths: Longs) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
    """The fields of `TitleTrie` from `low` to `children`, level by level from the root.

    Args:
        shared: number of tokens that title i + 1 shares with title i, in sorted order, [t - 1].
        lengths: lengths of the titles, [t].
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
            # The root stays at depth 0 even if all titles have the same beginning: it is the end of the prompt.
            depth[0] = 0
        titles = ranges(low, high - low)
        owner = np.repeat(np.arange(len(low)), high - low)
        ends = np.bincount(owner[lengths[titles] == depth[owner]], minlength=len(low))
        first = low + ends
        follows = np.repeat(first, inside)
        cuts = borders[(shared[borders] == np.repeat(depth, inside)) & (borders >= follows)] + 1
        edges = np.sort(np.concatenate([first[first < high], cuts]))
        owner = np.searchsorted(low, edges, side="right") - 1
        children = np.bincount(owner, minlength=len(low))
        levels.append(np.stack([low, high, ends, above, depth, total + np.cumsum(children) - children, children]))
        total += len(edges)
        stops = np.append(edges[1:], 0)
        last = np.flatnonzero(np.diff(owner, append=-1))
        stops[last] = high[owner[last]]
        low, high, above = edges, stops, depth[owner]
    fields_of = np.concatenate(levels, axis=1).astype(np.int32)
    return tuple(fields_of)


_TRIES: WeakKeyDictionary[PromptTemplate, TitleTrie] = WeakKeyDictionary()


def title_trie(template: PromptTemplate) -> TitleTrie:
    """The trie of all items' responses of a bound template; made once for each template."""
    if template not in _TRIES:
        _TRIES[template] = TitleTrie.of(template.response_ids, template.texts)
    return _TRIES[template]


def keep_trie(template: PromptTemplate, trie: TitleTrie) -> None:
    """Keep a trie that is known to be that of a bound template."""
    _TRIES[template] = trie
