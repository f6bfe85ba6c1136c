"""Generation constrained to the catalogue: beam search, exact search, and sampling without replacement.

Many examples share a prompt (a timeline: each place in a user's history is an example). The prompt's states are
computed once; the beams of all its examples then grow side by side in one row of the batch, each token seeing its
own example's part of the prompt and its own ancestors. No cache is ever reordered: a beam that is dropped leaves
slots that nobody sees, and these are swept out when they get many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rosepo_core.contracts import Reporter
from rosepo_core.engine.titles import TitleTrie, ranges
from rosepo_core.records import Bools, Floats, Ints, Longs

Doubles = NDArray[np.float64]
Exclude = Callable[[Longs], Sequence[NDArray[np.integer]]]

# Rows of the vocabulary's logits that are in memory at a time.
_HEAD_ROWS = 512


@dataclass(frozen=True)
class Trunks:
    """The prompts of n examples: example i is prompted with ``tokens[trunk[i]][:anchor[i]]``.

    Attributes:
        tokens: int32 token ids of each trunk.
        trunk: int32 [n].
        anchor: int32 [n], at least 1.
    """

    tokens: Sequence[Ints]
    trunk: Ints
    anchor: Ints

    def __len__(self) -> int:
        return len(self.trunk)


def decode(
    model: PreTrainedModel,
    trunks: Trunks,
    trie: TitleTrie,
    k: int,
    *,
    reporter: Reporter,
    token_budget: int,
    beams: int = 8,
    exact: bool = False,
    temperature: float = 0.0,
    exclude: Exclude | None = None,
    rng: np.random.Generator | None = None,
    score: bool = True,
) -> tuple[Ints, Floats]:
    """The titles that the model would write after each prompt, best first.

    A title's score is the sum of its tokens' log-probabilities under the model, over the whole vocabulary and with
    the terminator: what scoring the title gives.

    *Temperature 0* searches for the titles with the highest scores; equal scores go to the lower item index. A
    round compares beams that have made equally many choices rather than written equally many tokens, for tokens
    without a choice are read in one go. What is finished is set aside, its place in the beam goes to the next best,
    and a prompt is done when no beam can beat its k-th finished title, scores only falling. The result is exact if
    `exact` is set, or if `beams` is at least the number of titles.

    *Above 0*, titles are drawn without replacement, in the order drawn, from the distribution that picks among the
    allowed next tokens in proportion to p^(1/temperature): stochastic beam search by top-down perturbed
    log-probabilities (Kool, van Hoof and Welling, ICML 2019, arXiv 1903.06059, algorithm 1). It needs exactly `k`
    beams and is never approximate, so `beams` and `exact` are not used.

    Args:
        model: a causal language model that takes four-dimensional boolean masks (``attn_implementation="sdpa"``).
        trunks: n prompts.
        trie: the catalogue.
        k: titles per prompt.
        reporter: told of examples done.
        token_budget: tokens in a forward pass; memory and speed only, never the result.
        beams: unfinished titles per prompt that are read in a round.
        exact: keep what does not fit into the beam for later rounds instead of dropping it.
        temperature: see above.
        exclude: gives for rows of `trunks` the items that must not come out, one array a row.
        rng: needed above temperature 0. An example's draw depends on its row, never on the batches.
        score: unset, a draw above temperature 0 leaves out what only serves to report its score.

    Returns:
        items int32 [n, k], -1 where fewer titles are left; their scores float32 [n, k], -inf where there is no
        title, and NaN if not asked for.
    """
    items = np.full((len(trunks), k), -1, dtype=np.int32)
    scores = np.full((len(trunks), k), -np.inf, dtype=np.float32)
    seeds = None
    if temperature > 0:
        if rng is None:
            raise ValueError("drawing titles needs a random generator")
        seeds = rng.integers(0, 2**64, size=len(trunks), dtype=np.uint64)
        beams, exact = k, False
    beams = max(beams, k)
    done = 0
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for rows in _batches(trunks, beams, token_budget):
                search = _Search(
                    trie=trie,
                    k=k,
                    beams=beams,
                    exact=exact,
                    temperature=temperature,
                    score=score or not temperature,
                    seeds=seeds[rows] if seeds is not None else None,
                    excluded=trie.exclusion_keys(exclude(rows) if exclude is not None else []),
                )
                items[rows], scores[rows] = search.run(_States(model, trunks, rows, token_budget))
                done += len(rows)
                reporter.progress(done, len(trunks), "examples")
    finally:
        model.train(was_training)
    return items, scores


def _batches(trunks: Trunks, beams: int, token_budget: int) -> Iterator[Longs]:
    """Rows of `trunks` in batches: ascending by trunk and then by row, trunks of like size together."""
    order = np.argsort(trunks.trunk, kind="stable").astype(np.int64)
    _, starts, counts = np.unique(trunks.trunk[order], return_index=True, return_counts=True)
    if not len(order):
        return
    sizes = np.maximum.reduceat(trunks.anchor[order], starts) + counts * beams
    # The largest first: what does not fit into memory shows at once.
    by_size = np.argsort(-sizes, kind="stable")
    first = 0
    for last in range(1, len(by_size) + 1):
        if last == len(by_size) or (last + 1 - first) * sizes[by_size[first]] > token_budget:
            groups = np.sort(by_size[first:last])
            yield order[ranges(starts[groups], counts[groups])]
            first = last


class _States:
    """Key and value states of a batch of trunks, one a row, and after them slots for the tokens of their beams.

    Attributes:
        row: the row of each example, int64 [n], ascending.
        anchor: tokens of the trunk that each example sees, int64 [n].
    """

    def __init__(self, model: PreTrainedModel, trunks: Trunks, rows: Longs, token_budget: int) -> None:
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._decoder = base.base_model
        self._head = base.get_output_embeddings()
        self._device = next(model.parameters()).device
        self._cache = DynamicCache()
        self.anchor = trunks.anchor[rows].astype(np.int64)
        used, self.row = np.unique(trunks.trunk[rows], return_inverse=True)
        reach = np.zeros(len(used), np.int64)
        np.maximum.at(reach, self.row, self.anchor)
        self._width = int(reach.max())
        self._columns = max(1, token_budget // len(used))
        tokens = np.zeros((len(used), self._width), dtype=np.int64)
        tokens[np.arange(self._width) < reach[:, None]] = np.concatenate(
            [trunks.tokens[trunk][:stop] for trunk, stop in zip(used.tolist(), reach.tolist(), strict=True)]
        )
        # Padding stands after all that is ever looked at, so the plain causal mask does.
        self._prompt = self._forward(tokens)

    def prompts(self) -> Tensor:
        """Hidden states at the end of each example's prompt: [n, d]. Frees those of the rest."""
        hidden = self._prompt[torch.from_numpy(self.row), torch.from_numpy(self.anchor - 1)]
        del self._prompt
        return hidden

    def extend(self, example: Longs, depth: Longs, sees: Bools, tokens: Longs, counts: Longs) -> tuple[Tensor, Bools]:
        """Read the next tokens of b beams.

        Args:
            example: int64 [b], ascending.
            depth: tokens that each beam has after its prompt already, int64 [b].
            sees: which slots hold those tokens, bool [b, slots].
            tokens: the beams' next tokens, one beam after another, int64 [total].
            counts: how many each beam has, at least 1, int64 [b].

        Returns:
            hidden states [total, d], and `sees` with the new slots: bool [b, more slots].
        """
        row = self.row[example]
        ends = np.cumsum(counts)
        # A row's beams stand side by side; what is wider than the budget allows is read in several passes.
        row_start = (ends - counts)[np.searchsorted(row, row)]
        chunk = (ends - counts - row_start) // self._columns
        hidden: Tensor | None = None
        for part in np.unique(chunk).tolist():
            beams = np.flatnonzero(chunk == part)
            flat = ranges((ends - counts)[beams], counts[beams])
            states, sees = self._extend(row, example, depth, sees, tokens[flat], counts, beams)
            if hidden is None:
                hidden = states.new_empty((len(tokens), states.shape[-1]))
            hidden[torch.from_numpy(flat)] = states
        assert hidden is not None
        return hidden, sees

    def _extend(
        self, rows: Longs, example: Longs, depth: Longs, sees: Bools, tokens: Longs, counts: Longs, beams: Longs
    ) -> tuple[Tensor, Bools]:
        """One forward pass for some of the beams of `extend`."""
        counts = counts[beams]
        beam = np.repeat(beams, counts)
        row, anchor = rows[beam], self.anchor[example[beam]]
        within = ranges(np.zeros_like(counts), counts)
        column = np.arange(len(beam)) - np.searchsorted(row, row)
        start = column - within
        width = int(column.max()) + 1
        columns = np.arange(width)
        own = (columns >= start[:, None]) & (columns <= column[:, None])

        shape = (int(self.row[-1]) + 1, width)
        ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        ids[row, column] = tokens
        positions[row, column] = anchor + depth[beam] + within
        mask = np.zeros((*shape, self._width + sees.shape[1] + width), np.bool_)
        # A padded query must see something, or its states are NaN and spread.
        mask[:, :, 0] = True
        mask[row, column] = np.concatenate([np.arange(self._width) < anchor[:, None], sees[beam], own], axis=1)
        states = self._forward(ids, positions, mask)[torch.from_numpy(row), torch.from_numpy(column)]

        new = np.zeros((len(sees), width), np.bool_)
        new[beams] = own[np.cumsum(counts) - 1]
        return states, np.concatenate([sees, new], axis=1)

    def _forward(self, ids: Longs, positions: Longs | None = None, mask: Bools | None = None) -> Tensor:
        states: Tensor = self._decoder(
            input_ids=self._tensor(ids),
            position_ids=None if positions is None else self._tensor(positions),
            attention_mask=None if mask is None else self._tensor(mask[:, None]),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return states

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def sweep(self, example: Longs, sees: Bools) -> Bools:
        """Drop the slots that none of the beams sees, if they are many; gives the new `sees`."""
        row = self.row[example]
        used = np.zeros((int(self.row[-1]) + 1, sees.shape[1]), np.bool_)
        order = np.argsort(row, kind="stable")
        present, starts = np.unique(row[order], return_index=True)
        used[present] = np.logical_or.reduceat(sees[order], starts)
        width = int(used.sum(axis=1).max(initial=0))
        if width > 0.75 * sees.shape[1]:
            return sees
        kept = np.argsort(~used, axis=1, kind="stable")[:, :width]
        index = self._tensor(kept + self._width)
        index = torch.cat([torch.arange(self._width, device=self._device).expand(len(kept), -1), index], dim=1)
        for layer in self._cache.layers:
            chosen = index[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values = layer.keys.gather(2, chosen), layer.values.gather(2, chosen)
        swept: Bools = np.take_along_axis(sees, kept[row], axis=1)
        return swept

    def log_probs(self, hidden: Tensor, place: Longs, tokens: NDArray[np.integer]) -> Doubles:
        """Log-probabilities of tokens[i] after hidden[place[i]]: float64 [m]; `place` ascends."""
        out = np.empty(len(place), np.float64)
        for first in range(0, len(hidden), _HEAD_ROWS):
            low, high = np.searchsorted(place, [first, first + _HEAD_ROWS])
            if low < high:
                logits = self._head(hidden[first : first + _HEAD_ROWS]).float()
                wanted = self._tensor(place[low:high] - first), self._tensor(tokens[low:high].astype(np.int64))
                out[low:high] = (logits[wanted] - logits.logsumexp(dim=-1)[wanted[0]]).cpu().numpy()
        return out


@dataclass(frozen=True)
class _Beams:
    """Prefixes of titles, or whole ones; any order.

    Attributes:
        example: int64 [b], row of the batch.
        node: int64 [b], of the trie.
        score: log-probability of the tokens scored so far, float64 [b].
        key: what beams are ranked by, and an upper bound of what their titles can get: the score, or the perturbed
            log-probability; float64 [b].
        log_prob: of the node under the distribution that is drawn from, float64 [b]; unused at temperature 0.
        parent: int64 [b], row of the table of slots of the beam that this one came from.
    """

    example: Longs
    node: Longs
    score: Doubles
    key: Doubles
    log_prob: Doubles
    parent: Longs

    def __len__(self) -> int:
        return len(self.example)

    def take(self, index: Longs | Bools) -> _Beams:
        return _Beams(*(getattr(self, field.name)[index] for field in fields(self)))

    def __add__(self, other: _Beams) -> _Beams:
        return _Beams(
            *(np.concatenate([getattr(self, field.name), getattr(other, field.name)]) for field in fields(self))
        )


@dataclass(frozen=True)
class _Search:
    """One batch of `decode`, whose arguments these are.

    Attributes:
        seeds: of each example's draw, uint64 [n]; `None` at temperature 0.
        excluded: from `TitleTrie.exclusion_keys`.
    """

    trie: TitleTrie
    k: int
    beams: int
    exact: bool
    temperature: float
    score: bool
    seeds: NDArray[np.uint64] | None
    excluded: Longs

    def run(self, states: _States) -> tuple[Ints, Floats]:
        """Items int32 [n, k] and scores float32 [n, k]."""
        n = len(states.row)
        rows, zeros = np.arange(n), np.zeros(n)
        roots = _Beams(rows, np.zeros(n, np.int64), zeros, zeros, zeros, rows)
        owner, nodes, tokens = self._children(roots)
        waiting = self._grow(roots, owner, nodes, states.log_probs(states.prompts(), owner, tokens))
        finished = roots.take(rows[:0])
        # Row waiting.parent: the slots that hold what a waiting beam has read.
        sees = np.zeros((n, 0), np.bool_)
        while True:
            done = self._is_done(waiting)
            finished, place = self._ranked(finished + waiting.take(done))
            finished, place = finished.take(place < self.k), place[place < self.k]
            last = place == self.k - 1
            bound = np.full(n, -np.inf, np.float32)
            bound[finished.example[last]] = finished.key[last]
            waiting = waiting.take(~done)
            waiting, rank = self._ranked(waiting.take(waiting.key.astype(np.float32) >= bound[waiting.example]))
            chosen = waiting.take(rank < self.beams)
            if not len(chosen):
                return self._table(finished, place, n)
            waiting = waiting.take((rank >= self.beams) & self.exact)
            old, parent = np.unique(waiting.parent, return_inverse=True)
            waiting = replace(waiting, parent=parent)
            owners = np.zeros(len(old), np.int64)
            owners[parent] = waiting.example

            read, grown, children = self._read(chosen, states, sees[chosen.parent])
            leaf = self.trie.is_leaf(chosen.node)
            finished = finished + read.take(leaf)
            # Only inner nodes have children, whose parents then follow those of the beams left over.
            inner = np.flatnonzero(~leaf)
            place_of = np.zeros(len(chosen), np.int64)
            place_of[inner] = len(old) + np.arange(len(inner))
            waiting = waiting + replace(children, parent=place_of[children.parent])
            kept = np.zeros((len(old), grown.shape[1]), np.bool_)
            kept[:, : sees.shape[1]] = sees[old]
            sees = states.sweep(np.concatenate([owners, chosen.example[inner]]), np.concatenate([kept, grown[inner]]))

    def _is_done(self, beams: _Beams) -> Bools:
        """Which beams are whole titles with nothing left to read."""
        node = beams.node
        if not self.score:
            return self.trie.is_leaf(node)
        done: Bools = self.trie.is_leaf(node) & (self.trie.depth[node] == self.trie.parent_depth[node] + 1)
        return done

    def _ranked(self, beams: _Beams) -> tuple[_Beams, Longs]:
        """The beams by example, the best first, and each one's place among its example's: int64 [b]."""
        # Equal in float32 is equal, however the sum was taken; the lower item goes first.
        order = np.lexsort((self.trie.items[self.trie.low[beams.node]], -beams.key.astype(np.float32), beams.example))
        beams = beams.take(order)
        place: Longs = np.arange(len(beams)) - np.searchsorted(beams.example, beams.example)
        return beams, place

    def _children(self, beams: _Beams) -> tuple[Longs, Longs, Ints]:
        """The allowed children of `beams`: whose they are (ascending), their nodes and their edges' first tokens."""
        owner, nodes = self.trie.expand(beams.node)
        allowed = self.trie.holds(nodes, beams.example[owner], self.excluded)
        owner, nodes = owner[allowed], nodes[allowed]
        return owner, nodes, self.trie.first_tokens(nodes)

    def _read(self, beams: _Beams, states: _States, sees: Bools) -> tuple[_Beams, Bools, _Beams]:
        """Read the rest of each beam's edge: the beams with their full score, what each sees then, and the allowed
        children, whose `parent` is a row of `beams`."""
        trie, node = self.trie, beams.node
        # A title's last token is only predicted; nothing comes after it.
        counts = (trie.depth[node] - trie.parent_depth[node] - trie.is_leaf(node)).astype(np.int64)
        depth = trie.parent_depth[node].astype(np.int64)
        beam, within = np.repeat(np.arange(len(beams)), counts), ranges(np.zeros_like(counts), counts)
        tokens = trie.tokens[trie.low[node[beam]], depth[beam] + within].astype(np.int64)
        hidden, sees = states.extend(beams.example, depth, sees, tokens, counts)

        follows = np.flatnonzero(depth[beam] + within + 1 < trie.depth[node[beam]])
        owner, nodes, first = self._children(beams)
        place = np.concatenate([follows, np.cumsum(counts)[owner] - 1])
        wanted = np.concatenate([trie.tokens[trie.low[node[beam]], depth[beam] + within + 1][follows], first])
        order = np.argsort(place, kind="stable")
        log_probs = np.empty(len(place))
        log_probs[order] = states.log_probs(hidden, place[order], wanted[order])

        rest = np.bincount(beam[follows], weights=log_probs[: len(follows)], minlength=len(beams))
        score = beams.score + rest
        beams = replace(beams, score=score, key=beams.key if self.temperature else score)
        return beams, sees, self._grow(beams, owner, nodes, log_probs[len(follows) :])

    def _grow(self, beams: _Beams, owner: Longs, nodes: Longs, log_probs: Doubles) -> _Beams:
        """Children of `beams`, given their first tokens' log-probabilities; `parent` is a row of `beams`."""
        score = beams.score[owner] + log_probs
        example = beams.example[owner]
        if self.seeds is None or not len(owner):
            return _Beams(example, nodes, score, score, score, owner)
        segment = np.cumsum(np.diff(owner, prepend=-1) > 0) - 1
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        scaled = log_probs / self.temperature
        scaled -= np.maximum.reduceat(scaled, starts)[segment]
        log_prob = beams.log_prob[owner] + scaled - np.log(np.add.reduceat(np.exp(scaled), starts))[segment]
        perturbed = log_prob + _gumbel(self.seeds[example], nodes)
        # Kool et al., appendix B.3: shift the perturbed values so that the largest is the parent's.
        largest, limit = np.maximum.reduceat(perturbed, starts)[segment], beams.key[owner]
        with np.errstate(divide="ignore"):
            gap = limit - perturbed + np.log(-np.expm1(perturbed - largest))
        key = limit - np.maximum(gap, 0.0) - np.log1p(np.exp(-np.abs(gap)))
        return _Beams(example, nodes, score, key, log_prob, owner)

    def _table(self, finished: _Beams, place: Longs, n: int) -> tuple[Ints, Floats]:
        items = np.full((n, self.k), -1, dtype=np.int32)
        scores = np.full((n, self.k), -np.inf, dtype=np.float32)
        items[finished.example, place] = self.trie.items[self.trie.low[finished.node]]
        scores[finished.example, place] = finished.score if self.score else np.nan
        return items, scores


def _gumbel(seeds: NDArray[np.uint64], counters: Longs) -> Doubles:
    """Standard Gumbel variates, number counters[i] of the stream seeds[i]: float64 [m].

    The streams are SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which can be entered anywhere: what an example
    draws at a node depends neither on the batch nor on the order of visits.
    """
    state = seeds + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    uniform = ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    variates: Doubles = -np.log(-np.log(uniform))
    return variates
