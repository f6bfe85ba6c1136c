"""What a prompt template is: it writes histories as token ids, and items as responses to them.

A prompt is put together from ids of its parts, the fixed text and the titles, so the ids of a title never depend on
what stands beside it, and a response follows its prompt as ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from rosepo_core.contracts.components import Component
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import Options
from rosepo_core.contracts.records import Bools, Examples, Ints, Longs, Places, Sequences
from rosepo_core.prompts.token_ids import Ragged, plain_ids


class PromptOptions(Options):
    """Options of every prompt template."""

    titles: Literal["short", "full"] = Field(
        "full", description="'short' drops a trailing year such as ' (1995)' where the title stays unique without it."
    )
    max_length: int = Field(
        1024,
        ge=16,
        description="Longest prompt with its response, in tokens; a longer history loses its oldest items.",
    )


@dataclass(frozen=True)
class CutCount:
    """What `max_length` took from histories.

    Attributes:
        examples: whose history lost items.
        items: lost, in all.
    """

    examples: int
    items: int


@dataclass(frozen=True)
class PromptGroup:
    """Places whose prompts begin alike and are laid out on one trunk.

    Attributes:
        rows: which places, int64 [k].
        tokens: ids of the longest prompt, int32 [t].
        visible: how many of these tokens each place's prompt has, int64 [k].
        continued: whether the item that each place's user chose next stands in the trunk, right after the prompt;
            bool [k].
    """

    rows: Longs
    tokens: Ints
    visible: Longs
    continued: Bools


class PromptTemplate(Component, ABC):
    """Writes histories as prompts, and items as responses to them.

    A run makes a template with its options and binds it to a tokenizer and a catalogue, see `bind`. From then on
    items are numbers, and prompts are arrays of token ids.

    To write a template of text around a list of titles, extend `rosepo_core.prompts.list_template.ListTemplate`: it
    asks for one method. To write any other, extend this class and give

    - `prepare`: tokenize what is the same in all prompts, once;
    - `prompt`: the token ids of one prompt;
    - `fixed_cost` and `item_costs`: how many tokens a prompt has, without writing it;
    - `terminator`, if a response does not end with the tokenizer's end of sequence.

    The rest has defaults: which part of a history is shown, what is cut, what supervised fine-tuning trains on. One
    example is one prompt; a template whose prompts begin alike can share them, see `groups` and `starts`.

    How much of its history an example's prompt shows depends on `shared`:

    - not shared: the last `history_length` items before the target. Recommending and evaluation ask for this;
    - shared: what stands before the target in its window, see `rosepo_prompts.timeline.Timeline`. Training asks for
      this, for all examples of a window cost about as much as one. Where a template shares nothing, the two are the
      same.

    Either way a prompt that would exceed ``options.max_length`` tokens together with the catalogue's longest response
    loses its oldest items. What an example shows depends on its user's sequence alone, not on the other examples.

    Attributes:
        tokenizer: of transformers.
        texts: what stands for each item, [items].
        history_length: at most this many items make a history.
    """

    Options: ClassVar[type[Options]] = PromptOptions
    tokenizer: Any
    texts: tuple[str, ...]
    history_length: int

    def bind(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        history_length: int,
        responses: Sequence[Ints] | None = None,
    ) -> Self:
        """Make this template write the items of a catalogue.

        Args:
            tokenizer: the language model's, of transformers.
            texts: what stands for each item, one line each, none empty; whatever they hold stays text.
            history_length: at most this many items make a history.
            responses: token ids of each item as a response, where they are known; spares tokenizing the texts.

        Returns:
            this template.

        Raises:
            RequestError: the tokenizer does not do for the template, `max_length` leaves no room for the longest
                title, or more candidates are to be listed than there are items.
        """
        self.tokenizer = tokenizer
        self.texts = tuple(texts)
        self.history_length = history_length
        if self.candidates > len(self.texts):
            raise RequestError(
                f"option 'prompt.candidates' = {self.candidates}: the catalogue has {len(self.texts)} items; "
                "set it lower"
            )
        self.prepare()
        if responses is None:
            terminator = self.terminator
            responses = [np.array([*title, terminator], dtype=np.int32) for title in plain_ids(tokenizer, self.texts)]
        self._responses = Ragged(responses)
        self.room(None)
        return self

    @property
    def candidates(self) -> int:
        """How many titles to choose from a prompt lists, the next one among them; 0 lists none."""
        return 0

    def prepare(self) -> None:
        """Tokenize what is the same in all prompts. `tokenizer`, `texts` and `history_length` are set, and no more.

        Raises:
            RequestError: the tokenizer does not do for the template.
        """

    @property
    def terminator(self) -> int:
        """Id of the token that ends every response: the tokenizer's end of sequence.

        Raises:
            RequestError: it has none.
        """
        token: int | None = self.tokenizer.eos_token_id
        if token is None:
            raise RequestError("the model's tokenizer has no end-of-sequence token; use prompt 'timeline'")
        return token

    @property
    @abstractmethod
    def item_costs(self) -> Longs:
        """Tokens that each item adds to a history, int64 [items]."""

    @abstractmethod
    def fixed_cost(self, candidates: Ints | None) -> Longs:
        """Tokens of prompts without any history: int64 [n], or [1] where all are the same.

        Args:
            candidates: the items that each prompt lists, int32 [n, c], -1 for none; `None` for no list. `bind` asks
                with `None`, whatever the template lists.
        """

    @abstractmethod
    def prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        """Token ids of one prompt, int32: ``fixed_cost`` and the ``item_costs`` of its history.

        Args:
            history: the items that it shows, oldest first, int32 [h]; there may be none.
            candidates: the items that it lists, int32 [c], -1 for none; `None` for no list.
        """

    @cached_property
    def response_ids(self) -> list[Ints]:
        """Token ids of each item as a response, its terminator included: int32 [length] each, [items]."""
        return self._responses.split()

    @property
    def response_lengths(self) -> Longs:
        """Tokens of each item's response, its terminator included: int64 [items]."""
        return self._responses.lengths

    def response_tokens(self, items: Ints) -> Ints:
        """Token ids of the responses of some items, one after another: int32 [sum of their lengths]."""
        return self._responses.take(items)

    @cached_property
    def response_texts(self) -> list[str]:
        """What `response_ids` decode to, [items]."""
        return [self._decode(ids) for ids in self.response_ids]

    def read(self, ids: Sequence[int]) -> str:
        """What a model wrote as a response, given the token ids before its end."""
        return self._decode(np.array(ids, dtype=np.int32))

    def starts(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> Longs:
        """Place of the first history item that each example's prompt shows: int64 [n], up to its position."""
        return self.fitted_starts(places, self._listed(places, candidates))

    def prompts(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> list[Ints]:
        """Token ids of each place's prompt: int32 [length] each, [n].

        Args:
            places: n places.
            shared: how much history is shown, see the class.
            candidates: the items that each prompt lists, int32 [n, c], -1 for none; read, and needed, if `candidates`
                of the template is not 0.

        Raises:
            RequestError: lists are needed and not given.
        """
        candidates = self._listed(places, candidates)
        starts = self.starts(places, shared=shared, candidates=candidates)
        return [
            self.prompt(places.sequences[user][start:position], None if candidates is None else candidates[row])
            for row, (user, start, position) in enumerate(
                zip(places.user.tolist(), starts.tolist(), places.position.tolist(), strict=True)
            )
        ]

    def prompt_texts(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> list[str]:
        """What `prompts` decode to, [n]."""
        return [self._decode(ids) for ids in self.prompts(places, shared=shared, candidates=candidates)]

    def groups(
        self, places: Places, *, shared: bool = False, candidates: Ints | None = None, kept: Longs | None = None
    ) -> list[PromptGroup]:
        """The prompts of `prompts`, those that begin alike laid out on one trunk.

        Args:
            places: n places.
            shared: how much history is shown, see the class.
            candidates: as in `prompts`.
            kept: the rows of `places` to lay out, int64 [m]; all if not given.
        """
        kept = np.arange(len(places)) if kept is None else kept
        some = None if candidates is None else candidates[kept]
        prompts = self.prompts(places.take(kept), shared=shared, candidates=some)
        return [
            PromptGroup(np.array([row]), prompt, np.array([len(prompt)]), np.array([False]))
            for row, prompt in zip(kept.tolist(), prompts, strict=True)
        ]

    def sft_sequences(self, sequences: Sequences, *, candidates: Ints | None = None) -> list[tuple[Ints, Bools]]:
        """What supervised fine-tuning trains on: token ids int32 [t] and which of them are responses, bool [t].

        Every item of `sft_examples` is a response once, after the prompt that `prompts` gives it.

        Args:
            sequences: the users' training items.
            candidates: as in `prompts`, for `sft_examples`.
        """
        examples = self.sft_examples(sequences)
        material = []
        for prompt, target in zip(
            self.prompts(examples, candidates=candidates), examples.target.tolist(), strict=True
        ):
            ids = np.concatenate([prompt, self.response_ids[target]])
            material.append((ids, np.arange(len(ids)) >= len(prompt)))
        return material

    def sft_examples(self, sequences: Sequences) -> Examples:
        """The examples of `sft_sequences`: every place of a user but the first."""
        users = np.repeat(np.arange(len(sequences), dtype=np.int32), sequences.lengths)
        places = (np.arange(len(users)) - np.repeat(sequences.offsets[:-1], sequences.lengths)).astype(np.int32)
        return Examples.of(sequences, users[places > 0], places[places > 0])

    def cut(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> CutCount:
        """What `max_length` takes from the histories of `examples`; items before a shared window do not count."""
        starts = self.fitted_starts(places, self._listed(places, candidates))
        lost = starts - np.maximum(places.position - self.history_length, 0)
        return CutCount(int((lost > 0).sum()), int(lost.sum()))

    def fitted_starts(self, places: Places, candidates: Ints | None) -> Longs:
        """Place of the first of the last `history_length` history items that fit into `max_length`: int64 [n]."""
        sequences = places.sequences
        tokens = np.concatenate([[0], np.cumsum(self.item_costs[sequences.items])])
        first = sequences.offsets[places.user]
        place = first + places.position
        fitting = np.searchsorted(tokens, tokens[place] - self.room(candidates))
        starts: Longs = np.minimum(np.maximum(np.maximum(place - self.history_length, first), fitting), place) - first
        return starts

    def room(self, candidates: Ints | None) -> Longs:
        """Tokens that a history may have, int64 [n] or [1]."""
        needed = self.fixed_cost(candidates) + self.response_lengths.max()
        if needed.max(initial=0) > self.options.max_length:
            raise RequestError(
                f"option 'prompt.max_length' = {self.options.max_length}: set it to {needed.max()} or more, what a "
                "prompt without history and the longest title take"
            )
        room: Longs = self.options.max_length - needed
        return room

    def _listed(self, places: Places, candidates: Ints | None) -> Ints | None:
        """The items that each prompt lists, int32 [n, c]; `None` where it lists none."""
        if not self.candidates:
            return None
        if candidates is None:
            raise RequestError("this run's prompts list candidates (prompt.candidates): give a list for each place")
        assert len(candidates) == len(places), f"{len(candidates)} lists of candidates for {len(places)} places"
        return candidates

    def encode(self, text: str) -> list[int]:
        """Token ids of a text of the template's own."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _decode(self, ids: Ints) -> str:
        text: str = self.tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
