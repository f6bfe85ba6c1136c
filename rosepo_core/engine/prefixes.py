"""Key and value states of prompts that are read once, and of all the beams that grow from them.

The tokens of a forward pass stand in one row without padding, whichever prompt they belong to, so that the layers
compute nothing in vain; only inside the attention does each prompt have a row of its own, its tokens' queries padded
to the most that one has. There the states of a prompt and of its beams lie in one buffer that is written in place: no
cache is ever copied or reordered, and a slot that no beam sees any more goes to the next token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Bools, Ints, Longs
from rosepo_core.engine.adapters import fused_adapters
from rosepo_core.engine.scoring import decoder_of, token_log_probs
from rosepo_core.engine.title_trie import ranges

NAME = "rosepo-prefixes"


@dataclass(frozen=True)
class Reader:
    """A model in the state that `reading` brings it into.

    Attributes:
        model: with its head.
        decoder: the model below it.
        attention: what the model's own configuration computes attention with.
        device: the model's.
    """

    model: Any
    decoder: Any
    attention: Any
    device: torch.device


@contextmanager
def reading(model: Any) -> Iterator[Reader]:
    """For a while, let `model` read through `PrefixStates`, in evaluation mode and without gradients.

    Raises:
        RequestError: the model's attention takes no mask of one's own.
    """
    decoder = decoder_of(model)
    kind = decoder.config._attn_implementation
    if kind not in ALL_ATTENTION_FUNCTIONS:
        raise RequestError(f"the model was loaded with attention '{kind}'; writing titles needs 'sdpa'")
    was_training = model.training
    model.eval()
    decoder.set_attn_implementation(NAME)
    # Layers that PEFT replicated have copies of the configuration, which that does not reach.
    configs = [getattr(module, "config", None) for module in decoder.modules()]
    copies: list[Any] = [config for config in configs if getattr(config, "_attn_implementation", None) == kind]
    for config in copies:
        config._attn_implementation = NAME
    try:
        with torch.inference_mode(), fused_adapters(model):
            yield Reader(model, decoder, ALL_ATTENTION_FUNCTIONS[kind], next(model.parameters()).device)
    finally:
        decoder.set_attn_implementation(kind)
        for config in copies:
            config._attn_implementation = kind
        model.train(was_training)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    prefix_states: PrefixStates,
    **options: Any,
) -> tuple[Tensor, None]:
    return prefix_states.attend(module, query, key, value, **options), None


# Without an entry for masks: transformers then makes none, and there is none to make of tokens of many prompts.
AttentionInterface.register(NAME, _attend)


class PrefixStates:
    """The states of r prompts, one a row, and behind each the slots of its beams' tokens."""

    def __init__(self, reader: Reader, prompts: Sequence[Ints], token_budget: int) -> None:
        """Read the prompts.

        Args:
            reader: the model.
            prompts: int32 token ids of each row, at least one.
            token_budget: tokens in a forward pass over beams, padding inside the attention included.
        """
        self._reader = reader
        self._columns = max(1, token_budget // len(prompts))
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        lengths = np.array([len(prompt) for prompt in prompts])
        self._starts = np.cumsum(lengths) - lengths
        self._width = self._used = int(lengths.max())
        row = np.repeat(np.arange(len(prompts)), lengths)
        column = ranges(np.zeros_like(lengths), lengths)
        # Padding stands after all that is ever looked at, so the plain causal mask does.
        self._prompt = self._forward(np.concatenate(prompts), column, row, column, column, None)

    def prompt_ends(self, row: Longs, length: Longs) -> Tensor:
        """Hidden states of the last of the first length[i] tokens of prompt row[i]: [n, d]. Frees the others."""
        hidden = self._prompt[self._tensor(self._starts[row] + length - 1)]
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
            row: int64 [b], ascending.
            length: tokens of its prompt that each beam sees, int64 [b].
            depth: tokens that each beam has after them already, int64 [b].
            paths: which slots hold what was read after the prompt, of every beam that is still of use, chosen or not:
                bool [p, slots]. All other slots are free.
            paths_row: the row of each, int64 [p].
            path: the beams' own, int64 [b].
            tokens: the beams' next tokens, one beam after another, int64 [total].
            counts: how many each beam has, at least 1, int64 [b].

        Returns:
            hidden states [total, d], and the paths of the b beams with their new tokens: bool [b, slots].
        """
        beam = np.repeat(np.arange(len(row)), counts)
        first = np.cumsum(counts) - counts
        within = np.arange(len(beam)) - first[beam]
        in_row = np.arange(len(beam)) - np.searchsorted(row[beam], row[beam])
        slot = self._free_slots(paths, paths_row, int(in_row.max()) + 1)[row[beam], in_row]
        sees = np.zeros((len(beam), max(paths.shape[1], int(slot.max()) + 1)), np.bool_)
        sees[:, : paths.shape[1]] = paths[path[beam]]
        sees[np.repeat(np.arange(len(beam)), within + 1), slot[ranges(first[beam], within + 1)]] = True
        self._reserve(self._width + sees.shape[1])

        # What is wider than the budget allows is read in several passes, whole beams in each.
        part = in_row[first[beam]] // self._columns
        hidden: list[Tensor] = []
        order: list[Longs] = []
        for number in np.unique(part):
            now = np.flatnonzero(part == number)
            of = beam[now]
            column = np.arange(len(now)) - np.searchsorted(row[of], row[of])
            shape = len(self._starts), int(column.max()) + 1
            mask = np.zeros((*shape, self._width + sees.shape[1]), np.bool_)
            # A padded query must see something, or its states are NaN and spread.
            mask[:, :, 0] = True
            mask[row[of], column, : self._width] = np.arange(self._width) < length[of, None]
            mask[row[of], column, self._width :] = sees[now]
            positions = length[of] + depth[of] + within[now]
            hidden.append(
                self._forward(tokens[now], positions, row[of], column, self._width + slot[now], self._tensor(mask))
            )
            order.append(now)
        back = np.argsort(np.concatenate(order), kind="stable")
        return torch.cat(hidden)[self._tensor(back)], sees[first + counts - 1]

    def _free_slots(self, paths: Bools, paths_row: Longs, count: int) -> Longs:
        """At least `count` slots of each row that no path has, the first ones first: int64 [r, count]."""
        used = np.zeros((len(self._starts), paths.shape[1] + count), np.bool_)
        order = np.argsort(paths_row, kind="stable")
        present, starts = np.unique(paths_row[order], return_index=True)
        if paths.shape[1]:
            used[present, : paths.shape[1]] = np.logical_or.reduceat(paths[order], starts)
        free: Longs = np.argsort(used, axis=1, kind="stable")[:, :count]
        return free

    def _reserve(self, used: int) -> None:
        self._used = used
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
        slot: Longs,
        mask: Tensor | None,
    ) -> Tensor:
        """Hidden states [t, d] of t tokens, whose keys and values go to `slot` of `row`; mask [r, columns, slots],
        causal without it."""
        self._columns_now = int(column.max()) + 1
        self._place = self._tensor(row * self._columns_now + column)
        self._slot = self._tensor(row), self._tensor(slot)
        self._mask = None if mask is None else mask[:, None]
        hidden: Tensor = self._reader.decoder(
            input_ids=self._tensor(ids.astype(np.int64))[None],
            position_ids=self._tensor(positions)[None],
            use_cache=False,
            prefix_states=self,
        ).last_hidden_state[0]
        return hidden

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """Attention of one layer for the tokens of the current pass.

        Args:
            module: the layer's attention.
            query: [1, heads, t, d]. key, value: [1, key heads, t, d].

        Returns:
            [1, t, heads, d].
        """
        rows, layer = len(self._starts), module.layer_idx
        kept = []
        for states, new in ((self._keys, key), (self._values, value)):
            if layer not in states:
                states[layer] = new.new_zeros(rows, new.shape[1], self._used, new.shape[3])
            states[layer][self._slot[0], :, self._slot[1]] = new[0].transpose(0, 1)
            kept.append(states[layer][:, :, : self._used])
        padded = query.new_zeros(rows * self._columns_now, query.shape[1], query.shape[3])
        padded[self._place] = query[0].transpose(0, 1)
        padded = padded.view(rows, self._columns_now, *padded.shape[1:]).transpose(1, 2)
        mixed, _ = self._reader.attention(module, padded, *kept, self._mask, **options)
        found: Tensor = mixed.flatten(0, 1)[self._place][None]
        return found

    def log_probs(self, hidden: Tensor, place: Longs, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """Log-probabilities of tokens[i] after hidden[place[i]]: float64 [m]."""
        found = token_log_probs(
            self._reader.model, hidden, self._tensor(tokens.astype(np.int64)), self._tensor(place)
        )
        # Rounding may put a sure token above 0, and a title above what bounds it.
        return np.minimum(found.cpu().numpy().astype(np.float64), 0.0)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._reader.device)
