"""The base class of prompt templates, which write histories and items as token ids.

A prompt is joined from the token ids of its parts: the fixed text and the titles. So the ids of a title never depend
on the text around it, and a response is appended to its prompt as ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field

from rosepo_core.contracts.components import Component
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import Options
from rosepo_core.contracts.records import Bools, Examples, Ints, Longs, Places, Sequences
from rosepo_core.prompts.token_ids import Ragged, plain_ids


def _names(value: Any) -> Any:
    if isinstance(value, str):
        value = value.split(",")
    return tuple(name.strip() for name in value) if isinstance(value, list | tuple) else value


class PromptOptions(Options):
    """Options of every prompt template."""

    titles: Literal["short", "full"] = Field(
        "full",
        description="'short' drops a year at the end, such as ' (1995)', if the title stays unique without it.",
    )
    title_tokens: int | None = Field(
        None,
        ge=1,
        description="Cut titles to their first words, at most this many tokens, or more where titles would become "
        "equal. Results show whole titles. If unset, no title is cut.",
    )
    attributes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_names)] = Field(
        (),
        description="Attributes of items to write beside the titles of a history, e.g. 'category,brand'. They are no "
        "part of a response.",
    )
    max_length: int = Field(
        1024,
        ge=16,
        description="Most tokens of a prompt and its response together. A longer history loses its oldest items.",
    )


@dataclass(frozen=True)
class Truncation:
    """How much of the histories `max_length` cut off.

    Attributes:
        examples: number of examples whose history lost items.
        items: number of items lost in total.
    """

    examples: int
    items: int


@dataclass(frozen=True)
class PromptGroup:
    """Places whose prompts begin with the same tokens and share one trunk of a token tree.

    Attributes:
        rows: the places of the group, int64 [k].
        tokens: ids of the longest prompt, int32 [t].
        visible: how many of these tokens belong to the prompt of each place, int64 [k].
        continued: whether the trunk goes on, directly after the prompt of a place, with the item that the user chose
            next; bool [k].
    """

    rows: Longs
    tokens: Ints
    visible: Longs
    continued: Bools


class PromptTemplate(Component, ABC):
    """Writes histories as prompts, and items as responses to them.

    A run makes a template with its options and then binds it to a tokenizer and a catalogue, see `bind`. After that,
    items are numbers, and prompts are arrays of token ids.

    To write a template of text around a list of titles, extend `rosepo_core.prompts.list_template.ListTemplate`,
    which needs one method. For any other template, extend this class and implement

    - `prepare`: tokenize, once, the text that is the same in all prompts;
    - `prompt`: the token ids of one prompt, in which the `details` of an item stand behind its text;
    - `fixed_cost` and `item_costs`: the number of tokens of a prompt, without writing it;
    - `terminator`, if a response does not end with the tokenizer's end-of-sequence token.

    Everything else has defaults: the part of a history that is shown, the items that are cut off, and the sequences
    of supervised fine-tuning. By default each example has its own prompt. A template whose prompts begin with the
    same tokens can share them, see `groups` and `starts`.

    The argument `shared` decides how much of the history a prompt shows:

    - not shared: the last `history_length` items before the target. Recommendation and evaluation use this.
    - shared: the items before the target in its window, see `rosepo_prompts.timeline.Timeline`. Training uses this,
      because all examples of a window together cost about as much as one. For a template that shares nothing, both
      are the same.

    In both cases a prompt loses its oldest items if, together with the longest response of the catalogue, it would
    have more than ``options.max_length`` tokens. The prompt of an example depends on the sequence of its user only,
    and not on other examples.

    Attributes:
        tokenizer: a tokenizer of transformers.
        texts: the text of each item, [items].
        details: the attributes of each item as text on one line, which stands beside its text in a history; empty if
            it has none, [items].
        history_length: the most items of a history.
        changed_items: if another template became this one by `with_items`: the items with other texts, ascending.
    """

    Options: ClassVar[type[Options]] = PromptOptions
    tokenizer: Any
    texts: tuple[str, ...]
    details: tuple[str, ...]
    history_length: int
    changed_items: Longs = np.zeros(0, dtype=np.int64)
    _earlier: Self | None = None
    _title_ids: dict[str, Ragged]
    _responses: Ragged

    def bind(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        history_length: int,
        responses: Sequence[Ints] | None = None,
        details: Sequence[str] = (),
    ) -> Self:
        """Prepare this template for a tokenizer and the items of a catalogue.

        Args:
            tokenizer: the language model's tokenizer, of transformers.
            texts: the text of each item, one line each, none empty. Parts that look like control tokens are treated
                as plain text.
            history_length: the most items of a history.
            responses: token ids of each item as a response, if they are known. Then the texts need not be tokenized.
            details: the attributes of each item, one line each, empty for an item without any; by default no item has
                any.

        Returns:
            this template.

        Raises:
            RequestError: the template cannot use the tokenizer, `max_length` leaves no room for the longest title, or
                a prompt should list more candidates than there are items.
        """
        self.tokenizer = tokenizer
        self.texts = tuple(texts)
        self.details = tuple(details) or ("",) * len(self.texts)
        assert len(self.details) == len(self.texts), f"{len(self.details)} details of {len(self.texts)} items"
        self.history_length = history_length
        if self.candidates > len(self.texts):
            raise RequestError(
                f"option 'prompt.candidates' = {self.candidates}: the catalogue has {len(self.texts)} items; "
                "set it lower"
            )
        self._title_ids = {}
        self.prepare()
        if self._earlier is not None:
            titles = plain_ids(tokenizer, [self.texts[item] for item in self.changed_items.tolist()])
            self._responses = self._earlier._responses.replaced(
                self.changed_items, [[*title, self.terminator] for title in titles]
            )
        else:
            titles = plain_ids(tokenizer, self.texts) if responses is None else []
            self._responses = Ragged(responses or [[*title, self.terminator] for title in titles])
        self._check_responses()
        self.room(None)
        return self

    def _check_responses(self) -> None:
        """
        Raises:
            RequestError: the tokenizer makes no token of a title, or the token that ends it. Then nothing would show
                where a title ends.
        """
        flat, lengths = self._responses.flat, self._responses.lengths
        ends = np.zeros(len(flat) + 1, dtype=np.int64)
        ends[1:] = np.cumsum(flat == self.terminator)
        starts = self._responses.starts
        wrong = np.flatnonzero((lengths < 2) | (ends[starts + lengths] - ends[starts] != 1))
        if len(wrong):
            raise RequestError(
                f"title {self.texts[wrong[0]]!r}: the model's tokenizer makes no token of it, or the token that ends "
                "a title; change it in the catalogue"
            )

    def with_items(self, texts: Sequence[str], details: Sequence[str]) -> Self:
        """A template for a changed catalogue, in which items keep their numbers and new ones come behind them. Only
        texts that have changed are tokenized.

        Args:
            texts: the text of each item, as for `bind`; at least as many as before.
            details: the attributes of each item, as for `bind`.

        Raises:
            RequestError: as `bind`.
        """
        found = type(self)(self.options)
        found.origin, found.summary = self.origin, self.summary
        pairs = zip_longest(self.texts, texts)
        found.changed_items = np.array([item for item, (old, new) in enumerate(pairs) if old != new], dtype=np.int64)
        found._earlier = self
        found.bind(self.tokenizer, texts, self.history_length, details=details)
        # Otherwise all earlier catalogues would stay in memory.
        found._earlier = None
        return found

    @property
    def responses(self) -> Ragged:
        """Token ids of each item as a response, its terminator included, in one array."""
        return self._responses

    def title_ids(self, before: str = "") -> Ragged:
        """Token ids of each item's text as plain text (`plain_ids`), with some text before each. Templates that need
        them in `prepare` take them from here, so that an item which joins the catalogue later is tokenized alone.

        Args:
            before: the text before each item's text.
        """
        known = None if self._earlier is None else self._earlier._title_ids.get(before)
        if known is None:
            found = Ragged(plain_ids(self.tokenizer, [f"{before}{text}" for text in self.texts]))
        else:
            changed = [f"{before}{self.texts[item]}" for item in self.changed_items.tolist()]
            found = known.replaced(self.changed_items, plain_ids(self.tokenizer, changed))
        self._title_ids[before] = found
        return found

    @property
    def candidates(self) -> int:
        """How many candidates a prompt lists, with the next title among them; 0 means no list."""
        return 0

    def prepare(self) -> None:
        """Tokenize the text that is the same in all prompts.

        `tokenizer`, `texts`, `details` and `history_length` are already set when this is called, and nothing else.

        Raises:
            RequestError: the template cannot use the tokenizer.
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
        """Number of tokens of prompts without any history: int64 [n], or [1] if it is the same for all.

        Args:
            candidates: the items that each prompt lists, int32 [n, c], -1 for an empty slot; `None` for no list.
                `bind` always passes `None`.
        """

    @abstractmethod
    def prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        """Token ids of one prompt, int32. Their number is the ``fixed_cost`` plus the ``item_costs`` of the history.

        Args:
            history: the items of the history, oldest first, int32 [h]; may be empty.
            candidates: the items that the prompt lists, int32 [c], -1 for an empty slot; `None` for no list.
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
        """The text of each item's `response_ids`, [items]."""
        return [self._decode(ids) for ids in self.response_ids]

    def read(self, ids: Sequence[int]) -> str:
        """The text of a response that a model wrote, from its token ids without the terminator."""
        return self._decode(np.array(ids, dtype=np.int32))

    def starts(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> Longs:
        """Position of the first history item in each prompt: int64 [n], at most the place's position."""
        return self.fitted_starts(places, self._listed(places, candidates))

    def prompts(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> list[Ints]:
        """Token ids of each place's prompt: int32 [length] each, [n].

        Args:
            places: n places.
            shared: how much history is shown, see the class.
            candidates: the items that each prompt lists, int32 [n, c], -1 for an empty slot. Required if the
                template's property `candidates` is not 0, and ignored otherwise.

        Raises:
            RequestError: lists are required and not given.
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
        """The texts of `prompts`, [n]."""
        return [self._decode(ids) for ids in self.prompts(places, shared=shared, candidates=candidates)]

    def groups(
        self, places: Places, *, shared: bool = False, candidates: Ints | None = None, kept: Longs | None = None
    ) -> list[PromptGroup]:
        """The prompts of `prompts`, in groups whose prompts share one trunk.

        Args:
            places: n places.
            shared: how much history is shown, see the class.
            candidates: as in `prompts`.
            kept: the rows of `places` to include, int64 [m]; by default all.
        """
        kept = np.arange(len(places)) if kept is None else kept
        some = None if candidates is None else candidates[kept]
        prompts = self.prompts(places.take(kept), shared=shared, candidates=some)
        return [
            PromptGroup(np.array([row]), prompt, np.array([len(prompt)]), np.array([False]))
            for row, prompt in zip(kept.tolist(), prompts, strict=True)
        ]

    def sft_sequences(self, sequences: Sequences, *, candidates: Ints | None = None) -> list[tuple[Ints, Bools]]:
        """The sequences of supervised fine-tuning: token ids int32 [t], and which of them belong to responses, bool
        [t].

        Every target of `sft_examples` is a response exactly once, after its prompt from `prompts`.

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
        """The examples of `sft_sequences`: every place of a user except the first."""
        users = np.repeat(np.arange(len(sequences), dtype=np.int32), sequences.lengths)
        places = (np.arange(len(users)) - np.repeat(sequences.offsets[:-1], sequences.lengths)).astype(np.int32)
        return Examples.of(sequences, users[places > 0], places[places > 0])

    def truncation(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> Truncation:
        """How much `max_length` cuts off the histories; items before a shared window do not count."""
        starts = self.fitted_starts(places, self._listed(places, candidates))
        lost = starts - np.maximum(places.position - self.history_length, 0)
        return Truncation(int((lost > 0).sum()), int(lost.sum()))

    def fitted_starts(self, places: Places, candidates: Ints | None) -> Longs:
        """Position of the first item of each history, limited by `history_length` and `max_length`: int64 [n]."""
        sequences = places.sequences
        tokens = np.concatenate([[0], np.cumsum(self.item_costs[sequences.items])])
        first = sequences.offsets[places.user]
        place = first + places.position
        fitting = np.searchsorted(tokens, tokens[place] - self.room(candidates))
        starts: Longs = np.minimum(np.maximum(np.maximum(place - self.history_length, first), fitting), place) - first
        return starts

    def room(self, candidates: Ints | None) -> Longs:
        """How many tokens a history may have, int64 [n] or [1]."""
        needed = self.fixed_cost(candidates) + self.response_lengths.max()
        if needed.max(initial=0) > self.options.max_length:
            raise RequestError(
                f"option 'prompt.max_length' = {self.options.max_length}: set it to {needed.max()} or more, what a "
                "prompt without history and the longest title take"
            )
        room: Longs = self.options.max_length - needed
        return room

    def _listed(self, places: Places, candidates: Ints | None) -> Ints | None:
        """The items that each prompt lists, int32 [n, c]; `None` if the template lists none."""
        if not self.candidates:
            return None
        if candidates is None:
            raise RequestError("this run's prompts list candidates (prompt.candidates): give a list for each place")
        assert len(candidates) == len(places), f"{len(candidates)} lists of candidates for {len(places)} places"
        return candidates

    def encode(self, text: str) -> list[int]:
        """Token ids of fixed text of the template."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _decode(self, ids: Ints) -> str:
        text: str = self.tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
