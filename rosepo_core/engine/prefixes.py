"""Key and value states of prompts, which are read once, and of all beams that grow from them.

What several prompts begin with, such as an instruction, is computed once for all of them. In a forward pass, the
tokens of all prompts are in one row without padding, so that the layers compute nothing that is not needed. Only
inside the attention does each prompt have its own row, with its queries padded to the longest. There the states of a
prompt and of its beams are in one buffer, which is written in place. The cache is never copied or reordered. A slot
that no beam sees any more is used for the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rosepo_core.contracts.records import Bools, Ints, Longs
from rosepo_core.engine.attention import Mask, Rule, attention, laid_out
from rosepo_core.engine.head import decoder_of, head_of, token_log_probs
from rosepo_core.engine.rows import best_of_logits
from rosepo_core.engine.title_trie import ranges, shared_beginnings, sorted_order

_NEVER = 2**40
"""Depth of empty slots, which no rule lets a token see."""


class Slots:
    """Assigns the slots of each row to the tokens of its beams. A slot that no beam sees any more is used again."""

    def __init__(self, rows: int) -> None:
        """Start with `rows` rows whose slots are all free."""
        self._rows = rows

    def place(
        self, row: Longs, paths: Bools, paths_row: Longs, path: Longs, counts: Longs
    ) -> tuple[Longs, Bools, Longs]:
        """Slots for the next tokens of b beams; the arguments are those of `PrefixStates.extend`.

        Returns:
            the slot of each token, int64 [total]; which slots it sees, including its own, bool [total, slots]; and
            its index among the tokens of its row, int64 [total].
        """
        beam = np.repeat(np.arange(len(row)), counts)
        first = np.cumsum(counts) - counts
        within = np.arange(len(beam)) - first[beam]
        in_row = np.arange(len(beam)) - np.searchsorted(row[beam], row[beam])
        slot = self._free(paths, paths_row, int(in_row.max()) + 1)[row[beam], in_row]
        sees = np.zeros((len(beam), max(paths.shape[1], int(slot.max()) + 1)), np.bool_)
        sees[:, : paths.shape[1]] = paths[path[beam]]
        sees[np.repeat(np.arange(len(beam)), within + 1), slot[ranges(first[beam], within + 1)]] = True
        return slot, sees, in_row

    def _free(self, paths: Bools, paths_row: Longs, count: int) -> Longs:
        """At least `count` slots of each row that no path uses, the lowest first: int64 [r, count]."""
        used = np.zeros((self._rows, paths.shape[1] + count), np.bool_)
        order = np.argsort(paths_row, kind="stable")
        present, starts = np.unique(paths_row[order], return_index=True)
        if paths.shape[1]:
            used[present, : paths.shape[1]] = np.logical_or.reduceat(paths[order], starts)
        free: Longs = np.argsort(used, axis=1, kind="stable")[:, :count]
        return free


def _read_once(flat: Ints, starts: Longs, lengths: Longs) -> tuple[Longs, Longs]:
    """Which tokens of r prompts are computed, if every beginning that prompts share is computed once.

    Args:
        flat: token ids of all prompts, int32 [total].
        starts: where each prompt begins in `flat`, int64 [r]. lengths: of each prompt, int64 [r].

    Returns:
        the places of the computed tokens in `flat`, int64 [c]; and for each token of `flat` the computed one that it
        equals, with everything before it, int64 [total].
    """
    order = sorted_order(flat, starts, lengths)
    shared = shared_beginnings(flat, starts[order], lengths[order]).tolist()
    equal = np.empty(len(flat), np.int64)
    count, before = 0, 0
    for row, same in zip(order.tolist(), [0, *shared], strict=True):
        start, end = int(starts[row]), int(starts[row] + lengths[row])
        equal[start : start + same] = equal[before : before + same]
        equal[start + same : end] = np.arange(count, count + end - start - same)
        count, before = count + end - start - same, start
    return np.unique(equal, return_index=True)[1].astype(np.int64), equal


class PrefixStates:
    """The states of r prompts, one in each row, and after each the slots for its beams' tokens."""

    def __init__(self, model: Any, prompts: Sequence[Ints], token_budget: int) -> None:
        """Read the prompts.

        Args:
            model: a prepared model (`engine.preparation`) that can run in trees, in evaluation mode.
            prompts: int32 token ids of each row, at least one.
            token_budget: tokens in a forward pass over beams, with the padding inside the attention.
        """
        self._model = model
        self._decoder = decoder_of(model)
        self._device = next(model.parameters()).device
        self._slots = Slots(len(prompts))
        self._columns = max(1, token_budget // len(prompts))
        self._keys: dict[Any, Tensor] = {}
        self._values: dict[Any, Tensor] = {}
        lengths = np.array([len(prompt) for prompt in prompts])
        self._starts = np.cumsum(lengths) - lengths
        self._width = self._used = int(lengths.max())
        row = np.repeat(np.arange(len(prompts)), lengths)
        column = ranges(np.zeros_like(lengths), lengths)
        self._depth = np.full((len(prompts), self._width), _NEVER)
        flat = np.concatenate(prompts)
        computed, self._equal = _read_once(flat, self._starts, lengths)
        self._prompt = self._forward(
            flat[computed], column[computed], row[computed], column[computed], (row, column, self._equal), None
        )

    def prompt_ends(self, row: Longs, length: Longs) -> Tensor:
        """Hidden states of token number length[i] of prompt row[i]: [n, d]. All other hidden states are freed."""
        hidden = self._prompt[self._tensor(self._equal[self._starts[row] + length - 1])]
        del self._prompt
        return hidden

    def extend(
        self,
        row: Longs,
        length: Longs,
        depth: Longs,
        paths: Bools,
        paths_row: Longs,
        path: Longs,
        tokens: Longs,
        counts: Longs,
    ) -> tuple[Tensor, Bools]:
        """Read the next tokens of b beams.

        Args:
            row: the row of each beam, int64 [b], ascending.
            length: number of prompt tokens that each beam sees, int64 [b].
            depth: number of tokens that each beam already has after the prompt, int64 [b].
            paths: the slots of the tokens after the prompt, for every beam that is still needed, also for beams that
                are not extended now: bool [p, slots]. All other slots are free.
            paths_row: the row of each path, int64 [p].
            path: the path of each of the b beams, int64 [b].
            tokens: the next tokens of the beams, one beam after another, int64 [total].
            counts: number of next tokens of each beam, at least 1, int64 [b].

        Returns:
            hidden states [total, d], and the paths of the b beams with their new tokens: bool [b, slots].
        """
        slot, sees, in_row = self._slots.place(row, paths, paths_row, path, counts)
        self._reserve(self._width + sees.shape[1])
        beam = np.repeat(np.arange(len(row)), counts)
        first = np.cumsum(counts) - counts
        within = np.arange(len(beam)) - first[beam]

        # If the budget does not allow one pass, several passes read whole beams.
        part = in_row[first[beam]] // self._columns
        hidden: list[Tensor] = []
        order: list[Longs] = []
        for number in np.unique(part):
            now = np.flatnonzero(part == number)
            of = beam[now]
            column = np.arange(len(now)) - np.searchsorted(row[of], row[of])
            shape = len(self._starts), int(column.max()) + 1
            mask = np.zeros((*shape, self._width + sees.shape[1]), np.bool_)
            # A padded query must see a token; otherwise its states become NaN, and spread.
            mask[:, :, 0] = True
            mask[row[of], column, : self._width] = np.arange(self._width) < length[of, None]
            mask[row[of], column, self._width :] = sees[now]
            positions = length[of] + depth[of] + within[now]
            kept = row[of], self._width + slot[now], np.arange(len(now))
            hidden.append(self._forward(tokens[now], positions, row[of], column, kept, self._tensor(mask)))
            order.append(now)
        back = np.argsort(np.concatenate(order), kind="stable")
        return torch.cat(hidden)[self._tensor(back)], sees[first + counts - 1]

    def _reserve(self, used: int) -> None:
        self._used = used
        missing = max(0, used - self._depth.shape[1])
        self._depth = np.pad(self._depth, [(0, 0), (0, missing)], constant_values=_NEVER)
        for states in (self._keys, self._values):
            for layer, buffer in states.items():
                if used > buffer.shape[2]:
                    grown = buffer.new_zeros(*buffer.shape[:2], used + used // 4, buffer.shape[3])
                    grown[:, :, : buffer.shape[2]] = buffer
                    states[layer] = grown

    def _forward(
        self,
        ids: NDArray[np.integer],
        positions: Longs,
        row: Longs,
        column: Longs,
        kept: tuple[Longs, Longs, Longs],
        mask: Tensor | None,
    ) -> Tensor:
        """Hidden states [t, d] of t tokens.

        Args:
            ids: the tokens, [t]. positions: their depths, [t].
            row: the row in which the attention of each token is computed, [t]. column: its column there, [t].
            kept: rows, slots, and which of the t tokens has its keys and values written there, each [s].
            mask: [r, columns, slots]; by default causal.
        """
        self._columns_now = int(column.max()) + 1
        self._place = self._tensor(row * self._columns_now + column)
        self._kept = self._tensor(kept[0]), self._tensor(kept[1]), self._tensor(kept[2])
        self._visible = None if mask is None else mask[:, None]
        self._depth[kept[0], kept[1]] = positions[kept[2]]
        self._depth_now = np.zeros((len(self._starts), self._columns_now), np.int64)
        self._depth_now[row, column] = positions
        tokens = self._tensor(ids.astype(np.int64))[None]
        with laid_out(self):
            hidden: Tensor = self._decoder(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                position_ids=self._tensor(positions)[None],
                use_cache=False,
            ).last_hidden_state[0]
        return hidden

    def mask(self, rule: Rule | None, dtype: torch.dtype) -> Tensor | None:
        """See `Layout.mask`: bool [r, 1, columns, slots]."""
        if rule is None:
            # Without beams, padding comes after all needed tokens, so the plain causal mask is right.
            return self._visible
        query = self._tensor(self._depth_now)[:, None, :, None]
        key = self._tensor(self._depth[:, : self._used])[:, None, None, :]
        # For the model, all tokens belong to one sequence.
        none = torch.zeros_like(query[:1, :, :1])
        allowed = rule(none, none, query, key)
        # Old tokens in free slots have a depth, too, so the rule alone would allow them.
        return allowed if self._visible is None else allowed & self._visible

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, **options: Any
    ) -> Tensor:
        """See `Layout.attend`; query [1, heads, t, d], key and value [1, key heads, t, d] -> [1, t, heads, d]."""
        if self._visible is not None and (mask is None or len(mask.shape) != 4):
            raise NotImplementedError(f"{type(module).__name__} got no mask of the prompts")
        rows = len(self._starts)
        kept = []
        row, slot, token = self._kept
        for states, new in ((self._keys, key), (self._values, value)):
            if module not in states:
                states[module] = new.new_zeros(rows, new.shape[1], self._used, new.shape[3])
            states[module][row, :, slot] = new[0].transpose(0, 1)[token]
            kept.append(states[module][:, :, : self._used])
        padded = query.new_zeros(rows * self._columns_now, query.shape[1], query.shape[3])
        padded[self._place] = query[0].transpose(0, 1)
        padded = padded.view(rows, self._columns_now, *padded.shape[1:]).transpose(1, 2)
        mixed = attention(module, padded, kept[0], kept[1], mask, **options)
        found: Tensor = mixed.flatten(0, 1)[self._place][None]
        return found

    def log_probs(self, hidden: Tensor, place: Longs, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """Log-probabilities of tokens[i] after hidden[place[i]]: float64 [m]."""
        found = token_log_probs(self._model, hidden, self._tensor(tokens.astype(np.int64)), self._tensor(place))
        # By rounding, a certain token could get more than 0, and a title more than its upper bound.
        return np.minimum(found.cpu().numpy().astype(np.float64), 0.0)

    def best(self, hidden: Tensor) -> Longs:
        """The most probable token after each of some states [n, d]: int64 [n], -1 if its logits are no numbers."""
        found: Longs = best_of_logits(head_of(self._model)[0](hidden)).cpu().numpy()
        return found

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
