"""Reads prompts and beams: in trees or in rows, as the model needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rosepo_core.contracts.records import Bools, Ints, Longs
from rosepo_core.engine.packing import constant_cost, pack
from rosepo_core.engine.prefixes import PrefixStates, Slots
from rosepo_core.engine.preparation import prepared
from rosepo_core.engine.rows import best_tokens, row_log_probs

_H = TypeVar("_H")


class States(Protocol[_H]):
    """States of r prompts and of their beams. The arguments are described in `PrefixStates`.

    Each implementation has its own type for the states of tokens.
    """

    def prompt_ends(self, row: Longs, length: Longs) -> _H:
        """States of the ends of prompts."""

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
    ) -> tuple[_H, Bools]:
        """States of the beams' next tokens, and the beams' paths with them."""

    def log_probs(self, hidden: _H, place: Longs, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """Log-probabilities of tokens[i] after state place[i]: float64 [m]."""

    def best(self, hidden: _H) -> Longs:
        """The most probable token after each state: int64 [n]."""


def read_prompts(model: Any, prompts: Sequence[Ints], token_budget: int) -> States[Any]:
    """Read prompts. Beams can then grow from their states.

    Args:
        model: a causal language model of transformers, with or without PEFT adapters, in evaluation mode.
        prompts: int32 token ids of each prompt, at least one prompt.
        token_budget: tokens in a forward pass over beams.
    """
    return (PrefixStates if prepared(model).trees else RowStates)(model, prompts, token_budget)


@dataclass(frozen=True)
class _Ends:
    """States that are not computed yet: sequences, and how many of their tokens are read.

    Attributes:
        sequences: int32 token ids of each sequence, [q].
        sequence: the sequence of each state, int64 [n].
        read: number of tokens up to and including each state, int64 [n].
    """

    sequences: Sequence[Ints]
    sequence: Longs
    read: Longs


class RowStates:
    """Prompts and beams for models that run in rows. No states are kept: a beam is read from its beginning each
    time."""

    def __init__(self, model: Any, prompts: Sequence[Ints], token_budget: int) -> None:
        """See `read_prompts`."""
        self._model = model
        self._device = next(model.parameters()).device
        self._prompts = prompts
        self._token_budget = token_budget
        self._slots = Slots(len(prompts))
        # The token in each slot of a row, and its depth after the prompt.
        self._tokens = self._depth = np.zeros((len(prompts), 0), np.int64)

    def prompt_ends(self, row: Longs, length: Longs) -> _Ends:
        """See `PrefixStates.prompt_ends`."""
        return _Ends(self._prompts, row, length)

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
    ) -> tuple[_Ends, Bools]:
        """See `PrefixStates.extend`."""
        slot, sees, _ = self._slots.place(row, paths, paths_row, path, counts)
        beam = np.repeat(np.arange(len(row)), counts)
        within = np.arange(len(beam)) - (np.cumsum(counts) - counts)[beam]
        missing = max(0, sees.shape[1] - self._tokens.shape[1])
        self._tokens, self._depth = (np.pad(table, [(0, 0), (0, missing)]) for table in (self._tokens, self._depth))
        self._tokens[row[beam], slot] = tokens
        self._depth[row[beam], slot] = depth[beam] + within
        ends = sees[np.cumsum(counts) - 1]
        sequences = []
        for index, owner in enumerate(row.tolist()):
            held = np.flatnonzero(ends[index])
            grown = self._tokens[owner, held[np.argsort(self._depth[owner, held])]]
            sequences.append(np.concatenate([self._prompts[owner][: length[index]], grown]))
        return _Ends(sequences, beam, length[beam] + depth[beam] + within + 1), ends

    def log_probs(self, hidden: _Ends, place: Longs, tokens: NDArray[np.integer]) -> NDArray[np.float64]:
        """See `PrefixStates.log_probs`."""
        found = np.empty(len(place), np.float64)
        sequence, read = hidden.sequence[place], hidden.read[place]
        for ids, members, row in self._batches(hidden, sequence):
            log_probs = row_log_probs(
                self._model,
                ids,
                self._tensor(row),
                self._tensor(read[members] - 1),
                self._tensor(tokens[members].astype(np.int64)),
                self._token_budget,
            )
            found[members] = log_probs.cpu().numpy()
        return np.minimum(found, 0.0)

    def best(self, hidden: _Ends) -> Longs:
        """See `PrefixStates.best`."""
        found = np.empty(len(hidden.sequence), np.int64)
        for ids, members, row in self._batches(hidden, hidden.sequence):
            best = best_tokens(self._model, ids[self._tensor(row)], self._tensor(hidden.read[members] - 1))
            found[members] = best.cpu().numpy()
        return found

    def _batches(self, hidden: _Ends, sequence: Longs) -> list[tuple[Tensor, Longs, Longs]]:
        """Padded batches of the needed sequences: their tokens [b, t], the indices in `sequence` that belong to the
        batch, and the row of each."""
        needed, which = np.unique(sequence, return_inverse=True)
        batches = []
        lengths = [len(hidden.sequences[index]) for index in needed.tolist()]
        for held in pack(lengths, self._token_budget, constant_cost(self._device.type)):
            ids = np.zeros((len(held), max(len(hidden.sequences[needed[each]]) for each in held)), np.int64)
            for row, each in enumerate(held.tolist()):
                tokens = hidden.sequences[needed[each]]
                ids[row, : len(tokens)] = tokens
            number = np.full(len(needed), -1)
            number[held] = np.arange(len(held))
            members = np.flatnonzero(number[which] >= 0)
            batches.append((self._tensor(ids), members, number[which[members]]))
        return batches

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
