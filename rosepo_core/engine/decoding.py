"""Generation constrained to the catalogue: beam search, exact search, and sampling without replacement.

Many examples share a prompt (in a timeline, each position in a user's history is an example). The states of the
prompt are computed once. Then the beams of all its examples grow at the same time; each token sees its own example's
part of the prompt and its own ancestors (`engine.prefixes`). A model that runs in rows reads each beam from its
beginning at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rosepo_core import ranks
from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import DivergedError
from rosepo_core.contracts.records import Bools, Floats, Ints, Longs
from rosepo_core.contracts.sections import TokenBudget
from rosepo_core.engine.passes import scoring_passes
from rosepo_core.engine.reading import States, read_prompts
from rosepo_core.engine.title_trie import TitleTrie, ranges
from rosepo_core.store.partial import KEEPS_NOTHING, Partial

Doubles = NDArray[np.float64]
WIDEST = 4
"""The most beams of an exact search for each title that is wanted, where the search chooses their number."""

Exclude = Callable[[Longs], Sequence[NDArray[np.integer]]]


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

    def take(self, rows: Longs) -> Trunks:
        """The prompts of some examples."""
        return replace(self, trunk=self.trunk[rows], anchor=self.anchor[rows])


def decode(
    model: Any,
    trunks: Trunks,
    trie: TitleTrie,
    k: int,
    *,
    reporter: Reporter,
    token_budget: TokenBudget,
    beams: int | None = 8,
    exact: bool = False,
    temperature: float = 0.0,
    exclude: Exclude | None = None,
    rng: np.random.Generator | None = None,
    score: bool = True,
    partial: Partial = KEEPS_NOTHING,
) -> tuple[Ints, Floats]:
    """The titles that the model generates after each prompt, best first. The processes of a run share the prompts.

    The score of a title is the sum of its tokens' log-probabilities under the model, over the whole vocabulary and
    with the terminator. It is the same as in scoring.

    *Temperature 0* searches for the titles with the highest scores; of equal scores, the lower item index wins.
    Tokens without a choice are read at once, so a round compares beams with the same number of choices, not of
    tokens. A finished title leaves the beam and makes room for the next best. A prompt is done when no beam can beat
    its k-th finished title. The score of a beam is an upper bound for all titles that begin with it, because
    log-probabilities are never above 0. The result is exact if `exact` is set, because then beams are dropped only by
    this bound, or if `beams` is at least the number of titles.

    *Above 0*, titles are drawn without replacement, in the order of drawing. The distribution picks among the allowed
    next tokens in proportion to p^(1/temperature). The method is stochastic beam search with top-down perturbed
    log-probabilities (Kool, van Hoof and Welling, ICML 2019, arXiv 1903.06059, algorithm 1). It needs exactly `k`
    beams and is always exact, so `beams` and `exact` are not used. If a title is the beginning of others, its weight
    is the probability that the model continues with none of them, to the same power.

    Items with the same title tokens have the same score. The probability to be drawn is divided equally among those
    that are not excluded. Each of them fills its own position in the result.

    The model's ``generation_config`` is not used.

    Args:
        model: a causal language model of transformers, with or without PEFT adapters, in evaluation mode.
        trunks: n prompts.
        trie: the catalogue.
        k: titles per prompt.
        reporter: receives the progress.
        token_budget: tokens in a forward pass (`engine.passes`); changes memory and speed only, never the result.
        beams: unfinished titles per prompt that are read in a round, at least `k`; for an exact search it changes
            speed only, and `None` takes what should be fastest, see `_width`.
        exact: keep beams that do not fit for later rounds, instead of dropping them.
        temperature: see above.
        exclude: a function from rows of `trunks` to the items that must not be generated, one array for each row.
        rng: needed above temperature 0. The draw of an example depends on its row, and not on the batches.
        score: if false, draws above temperature 0 skip the work that is needed for scores only.
        partial: keeps the batches that are done. The others are the same as without an interruption.

    Returns:
        items int32 [n, k], -1 fills rows with fewer titles; their scores float32 [n, k], -inf where there is no
        title, and NaN if `score` is false.

    Raises:
        RosepoError: memory is not enough, see `Passes.within_memory`.
    """
    seeds = None
    if temperature > 0:
        if rng is None:
            raise ValueError("drawing titles needs a random generator")
        seeds = rng.integers(0, 2**64, size=len(trunks), dtype=np.uint64)
        beams, exact = k, False
    if not exact:
        beams = max(beams or 0, k)
    if model.training:
        raise ValueError("the model is in training mode; call its eval() first")
    passes = scoring_passes(model, token_budget)

    def search(mine: Longs) -> ranks.Arrays:
        items = np.full((len(mine), k), -1, dtype=np.int32)
        scores = np.full((len(mine), k), -np.inf, dtype=np.float32)
        done = np.zeros(len(mine), dtype=np.bool_)
        some, own_seeds = trunks.take(mine), None if seeds is None else seeds[mine]
        kept = {"items": items, "scores": scores, "done": done}
        about = ("decoding", some.trunk, some.anchor, beams, exact, temperature, score, own_seeds)

        @torch.inference_mode()
        def search_the_rest(block_is_done: Callable[[], None]) -> None:
            for part in _batches(some, WIDEST * k if beams is None else beams, passes.token_budget):
                if done[part].all():
                    continue
                rows = mine[part]
                fixed = passes.cost.fixed / passes.cost.token
                found = _Search(
                    trie=trie,
                    k=k,
                    beams=_width(k, len(part), fixed) if beams is None else beams,
                    exact=exact,
                    small=int(fixed / 2),
                    temperature=temperature,
                    score=score or not temperature,
                    seeds=seeds[rows] if seeds is not None else None,
                    excluded=trie.exclusion_keys(exclude(rows) if exclude is not None else []),
                )
                items[part], scores[part] = found.run(_Prompts.of(model, some, part, passes.token_budget))
                done[part] = True
                block_is_done()
                reporter.progress(int(done.sum()), len(mine), "examples")

        with partial.filled(kept, *about) as block_is_done:
            passes.within_memory(lambda: search_the_rest(block_is_done))
        return {"items": items, "scores": scores}

    asked = ranks.digest(trunks.trunk, trunks.anchor, np.array([k, beams or 0, exact, temperature]), seeds)
    found = ranks.shared(f"decoding {asked}", trunks.trunk, search)
    return found["items"], found["scores"]


def _width(k: int, examples: int, fixed: float) -> int:
    """The number of beams for an exact search.

    Every exact search must read the beams that are better than the k-th title; about `k` of them are open at a time.
    A wider round reads others as well, most of them in vain, and saves rounds. So there may be more where the pass is
    small, and costs more for being a pass than for its tokens.

    Args:
        k: titles per prompt.
        examples: prompts of the batch.
        fixed: what a pass costs besides its tokens, in tokens.
    """
    return min(max(k, int(fixed / (4 * examples))), WIDEST * k)


def _batches(trunks: Trunks, beams: int, token_budget: int) -> Iterator[Longs]:
    """Rows of `trunks` in batches: ascending by trunk and then by row, with trunks of similar size together."""
    order = np.argsort(trunks.trunk, kind="stable").astype(np.int64)
    _, starts, counts = np.unique(trunks.trunk[order], return_index=True, return_counts=True)
    if not len(order):
        return
    sizes = np.maximum.reduceat(trunks.anchor[order], starts) + counts * beams
    # The largest come first, so that too little memory shows at once.
    by_size = np.argsort(-sizes, kind="stable")
    first = 0
    for last in range(1, len(by_size) + 1):
        if last == len(by_size) or (last + 1 - first) * sizes[by_size[first]] > token_budget:
            groups = np.sort(by_size[first:last])
            yield order[ranges(starts[groups], counts[groups])]
            first = last


@dataclass(frozen=True)
class _Prompts:
    """The examples of a batch and the states of their prompts.

    Attributes:
        states: states of the trunks, one in each row.
        row: the row of each example, int64 [n], ascending.
        anchor: number of trunk tokens that each example sees, int64 [n].
    """

    states: States[Any]
    row: Longs
    anchor: Longs

    @staticmethod
    def of(model: Any, trunks: Trunks, rows: Longs, token_budget: int) -> _Prompts:
        """Read the prompts of some rows of `trunks`."""
        anchor = trunks.anchor[rows].astype(np.int64)
        used, row = np.unique(trunks.trunk[rows], return_inverse=True)
        reach = np.zeros(len(used), np.int64)
        np.maximum.at(reach, row, anchor)
        tokens = [trunks.tokens[trunk][:stop] for trunk, stop in zip(used.tolist(), reach.tolist(), strict=True)]
        return _Prompts(read_prompts(model, tokens, token_budget), row, anchor)


class _Rows:
    """Arrays of equal length: a table with named columns."""

    example: Longs
    key: Doubles

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def take(self, index: Longs | Bools) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))  # type: ignore[arg-type]

    def __add__(self, other: Self) -> Self:
        return type(self)(
            *(
                np.concatenate([getattr(self, field.name), getattr(other, field.name)])
                for field in fields(self)  # type: ignore[arg-type]
            )
        )


_R = TypeVar("_R", bound=_Rows)


def _ranked(found: _R, item: NDArray[np.integer]) -> tuple[_R, Longs]:
    """The rows sorted by example, the best first; and the rank of each row within its example: int64 [n]."""
    # Sums that are equal in float32 count as equal, whatever the order of summation; then the lower item comes first.
    order = np.lexsort((item, -found.key.astype(np.float32), found.example))
    found = found.take(order)
    place: Longs = np.arange(len(found)) - np.searchsorted(found.example, found.example)
    return found, place


@dataclass(frozen=True)
class _Beams(_Rows):
    """Prefixes of titles; any order.

    Attributes:
        example: int64 [b], row of the batch.
        node: int64 [b], node of the trie.
        scored: number of tokens of the node's edge with known log-probabilities, at least 1 except at the root; all
            of them except the last have been read, int64 [b].
        score: log-probability of the tokens scored so far, float64 [b].
        key: the ranking key, which is an upper bound for the keys of all titles below: the score, or the perturbed
            log-probability; float64 [b].
        log_prob: log-probability of the node in the distribution of draws, float64 [b]; unused at temperature 0.
        path: int64 [b], row in the table of the tokens read before.
    """

    example: Longs
    node: Longs
    scored: Longs
    score: Doubles
    key: Doubles
    log_prob: Doubles
    path: Longs


@dataclass(frozen=True)
class _Titles(_Rows):
    """Whole titles; any order.

    Attributes:
        example: int64 [t], row of the batch.
        item: int64 [t].
        score: log-probability, float64 [t].
        key: as in `_Beams`, float64 [t].
    """

    example: Longs
    item: Longs
    score: Doubles
    key: Doubles


@dataclass(frozen=True)
class _Search:
    """The search for one batch. Attributes that are not described here are arguments of `decode`.

    Attributes:
        small: in an exact search, a round with at most this many tokens reads whole edges.
        seeds: the seed of each example's draw, uint64 [n]; `None` at temperature 0.
        excluded: the result of `TitleTrie.exclusion_keys`.
    """

    trie: TitleTrie
    k: int
    beams: int
    exact: bool
    small: int
    temperature: float
    score: bool
    seeds: NDArray[np.uint64] | None
    excluded: Longs

    def run(self, prompts: _Prompts) -> tuple[Ints, Floats]:
        """Items int32 [n, k] and scores float32 [n, k]."""
        n = len(prompts.row)
        rows, zeros, nodes = np.arange(n), np.zeros(n), np.zeros(n, np.int64)
        roots = _Beams(rows, nodes, nodes, zeros, zeros, zeros, rows)
        owner, nodes, tokens = self._children(roots)
        hidden = prompts.states.prompt_ends(prompts.row, prompts.anchor)
        finished, waiting = self._grow(roots, owner, nodes, _numbers(prompts.states.log_probs(hidden, owner, tokens)))
        # For each path: its example, and the slots with the tokens that were read.
        whose, paths = rows, np.zeros((n, 0), np.bool_)
        while True:
            done = self._is_done(waiting)
            finished = finished + self._ending(waiting.take(done))
            finished, place = _ranked(finished, finished.item)
            finished, place = finished.take(place < self.k), place[place < self.k]
            last = place == self.k - 1
            bound = np.full(n, -np.inf, np.float32)
            bound[finished.example[last]] = finished.key[last]
            waiting = waiting.take(~done)
            # No title below a beam can exceed the beam's key. An equal title may have a lower item index.
            waiting = waiting.take(waiting.key.astype(np.float32) >= bound[waiting.example])
            waiting, rank = _ranked(waiting, self.trie.items[self.trie.low[waiting.node]])
            chosen = rank < self.beams
            if not chosen.any():
                return self._table(finished, place, n)
            if not self.exact:
                waiting, chosen = waiting.take(chosen), chosen[chosen]
            kept, path = np.unique(waiting.path, return_inverse=True)
            waiting, whose, paths = replace(waiting, path=path), whose[kept], paths[kept]

            now = waiting.take(chosen)
            titles, grown, read = self._read(now, prompts, whose, paths)
            finished = finished + titles
            waiting = waiting.take(~chosen) + replace(grown, path=len(kept) + grown.path)
            paths = np.pad(paths[:, : read.shape[1]], [(0, 0), (0, max(0, read.shape[1] - paths.shape[1]))])
            whose, paths = np.concatenate([whose, now.example]), np.concatenate([paths, read])

    def _is_done(self, beams: _Beams) -> Bools:
        """Which beams are complete titles with nothing left to read."""
        leaf: Bools = self.trie.children[beams.node] == 0
        return leaf & (beams.scored == self.trie.edge_lengths(beams.node)) if self.score else leaf

    def _children(self, beams: _Beams) -> tuple[Longs, Longs, Ints]:
        """All children of `beams`: their beams (ascending), their nodes, and the first tokens of their edges."""
        owner, nodes = self.trie.expand(beams.node)
        return owner, nodes, self.trie.edge_tokens(nodes, np.zeros_like(nodes))

    def _read(self, beams: _Beams, prompts: _Prompts, whose: Longs, paths: Bools) -> tuple[_Titles, _Beams, Bools]:
        """Read the next tokens along each beam's edge.

        A search that is not exact reads the whole edge at once. An exact search first reads one token of an edge, and
        later the rest, because the first token already rules out most beams; but a pass over few tokens would save
        too little to be followed by another one.

        Args:
            beams: b beams, by example.
            prompts: the prompts that they grow from.
            whose: the example of each path. paths: the paths of all waiting beams.

        Returns:
            the titles that end at inner nodes; the unfinished beams, and the children of beams whose edge is read,
            with `path` a row of `beams`; and the paths of `beams`, bool [b, slots].
        """
        trie, node = self.trie, beams.node
        length = trie.edge_lengths(node)
        leaf = trie.children[node] == 0
        # The last token of a title is only predicted and never read.
        counts = length - (beams.scored - 1) - leaf
        if self.exact and counts.sum() > self.small:
            counts = np.where(beams.scored == 1, 1, counts)
        beam = np.repeat(np.arange(len(beams)), counts)
        place = ranges(beams.scored - 1, counts)
        hidden, paths = prompts.states.extend(
            row=prompts.row[beams.example],
            length=prompts.anchor[beams.example],
            depth=trie.parent_depth[node] + beams.scored - 1,
            paths=paths,
            paths_row=prompts.row[whose],
            path=beams.path,
            tokens=trie.edge_tokens(node[beam], place).astype(np.int64),
            counts=counts,
        )
        follows = np.flatnonzero(place + 1 < length[beam])
        ended = np.flatnonzero(~leaf & (beams.scored - 1 + counts == length))
        owner, nodes, first = self._children(beams.take(ended))
        at = np.concatenate([follows, np.cumsum(counts)[ended[owner]] - 1])
        wanted = np.concatenate([trie.edge_tokens(node[beam[follows]], place[follows] + 1), first])
        order = np.argsort(at, kind="stable")
        log_probs = np.empty(len(at))
        log_probs[order] = _numbers(prompts.states.log_probs(hidden, at[order], wanted[order]))

        rest = np.bincount(beam[follows], weights=log_probs[: len(follows)], minlength=len(beams))
        score = beams.score + rest
        beams = replace(
            beams,
            scored=np.minimum(beams.scored + counts, length),
            score=score,
            key=beams.key if self.temperature else score,
            path=np.arange(len(beams)),
        )
        titles, children = self._grow(beams.take(ended), owner, nodes, log_probs[len(follows) :])
        going_on = np.ones(len(beams), np.bool_)
        going_on[ended] = False
        return titles, beams.take(going_on) + children, paths

    def _ending(self, leaves: _Beams) -> _Titles:
        """The titles at leaves."""
        none = np.zeros(0, np.int64)
        return self._grow(leaves, none, none, np.zeros(0))[0]

    def _grow(self, beams: _Beams, owner: Longs, nodes: Longs, log_probs: Doubles) -> tuple[_Titles, _Beams]:
        """The allowed titles that end at `beams`, and the allowed children of `beams`. `log_probs` are those of the
        first tokens of all children. Children have the `path` of their parents."""
        trie = self.trie
        stopping, places = trie.titles_at(beams.node)
        kept = ~trie.excludes(places, beams.example[stopping], self.excluded)
        stopping, places = stopping[kept], places[kept]
        allowed = trie.holds(nodes, beams.example[owner], self.excluded)
        weights = log_probs[allowed] / (self.temperature or 1.0)
        if self.seeds is not None and len(stopping):
            going_on = np.bincount(owner, weights=np.exp(log_probs), minlength=len(beams))
            stop = np.log(np.maximum(1.0 - going_on, np.finfo(np.float64).tiny)) / self.temperature
            weights = np.append(
                weights, (stop - np.log(np.bincount(stopping, minlength=len(beams)).clip(1)))[stopping]
            )
        owner, nodes, log_probs = owner[allowed], nodes[allowed], log_probs[allowed]
        score = np.append(beams.score[owner] + log_probs, beams.score[stopping])
        key = log_prob = score
        if self.seeds is not None:
            whose = np.append(owner, stopping)
            log_prob, key = self._perturbed(beams, whose, weights, np.append(nodes, len(trie.low) + places))
        m = len(owner)
        return (
            _Titles(beams.example[stopping], trie.items[places].astype(np.int64), score[m:], key[m:]),
            _Beams(
                beams.example[owner], nodes, np.ones_like(nodes), score[:m], key[:m], log_prob[:m], beams.path[owner]
            ),
        )

    def _perturbed(self, beams: _Beams, owner: Longs, weights: Doubles, numbers: Longs) -> tuple[Doubles, Doubles]:
        """Log-probabilities and perturbed log-probabilities of the continuations of each beam. The largest perturbed
        one of a beam equals the beam's own.

        Args:
            beams: b beams.
            owner: the beam of each continuation, int64 [m].
            weights: logarithms of the weights of the continuations, float64 [m].
            numbers: positions of the continuations in the example's stream of random numbers, int64 [m].
        """
        assert self.seeds is not None
        shape = len(beams)
        top = np.full(shape, -np.inf)
        np.maximum.at(top, owner, weights)
        scaled = weights - top[owner]
        normalizer = np.log(np.bincount(owner, weights=np.exp(scaled), minlength=shape).clip(1))
        log_prob = beams.log_prob[owner] + scaled - normalizer[owner]
        perturbed = log_prob + _gumbel(self.seeds[beams.example[owner]], numbers)
        # Kool et al., appendix B.3: shift the perturbed values so that the largest is the parent's.
        largest = np.full(shape, -np.inf)
        np.maximum.at(largest, owner, perturbed)
        limit = beams.key[owner]
        with np.errstate(divide="ignore"):
            gap = limit - perturbed + np.log(-np.expm1(perturbed - largest[owner]))
        return log_prob, limit - np.maximum(gap, 0.0) - np.log1p(np.exp(-np.abs(gap)))

    def _table(self, finished: _Titles, place: Longs, n: int) -> tuple[Ints, Floats]:
        items = np.full((n, self.k), -1, dtype=np.int32)
        scores = np.full((n, self.k), -np.inf, dtype=np.float32)
        items[finished.example, place] = finished.item
        scores[finished.example, place] = finished.score if self.score else np.nan
        return items, scores


def _gumbel(seeds: NDArray[np.uint64], counters: Longs) -> Doubles:
    """Standard Gumbel variates: number counters[i] of the stream seeds[i], float64 [m].

    The streams are SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which give any number directly. So the draw of an
    example at a node depends neither on the batch nor on the order of visits.
    """
    state = seeds + (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    uniform = ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    variates: Doubles = -np.log(-np.log(uniform))
    return variates


def _numbers(log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities, which are numbers: the search would silently leave out what has none.

    Raises:
        DivergedError: some are NaN.
    """
    if np.isnan(log_probs).any():
        raise DivergedError(
            "the model gave titles the log-probability NaN: its training diverged, or its numbers are too large for "
            "model.dtype; lower the learning rate or use float32"
        )
    return log_probs
