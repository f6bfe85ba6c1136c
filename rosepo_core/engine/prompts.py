"""Prompts and responses as token ids: the one piece of code behind training, scoring and generation.

A prompt is put together from ids of its parts, the fixed text and the titles, so the ids of a title never depend on
what stands beside it, and a response follows its prompt as ids.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import parse_options
from rosepo_core.contracts.records import Bools, Catalogue, Examples, Ints, Longs, Sequences
from rosepo_core.contracts.sections import PromptOptions
from rosepo_core.engine.title_trie import TitleTrie
from rosepo_core.engine.trees import TokenTree

TEMPLATE_FILE = "prompt_template.json"
TRIE_FILE = "title_trie.safetensors"
_YEAR = re.compile(r"\s*\(\d{4}\)$")
_SLOTS = ("\ue000history\ue001", "\ue000candidates\ue001")


@dataclass(frozen=True)
class CutCount:
    """What `max_length` took from histories.

    Attributes:
        examples: whose history lost items.
        items: lost, in all.
    """

    examples: int
    items: int


class _Ragged:
    """Arrays of token ids one after another, to gather many at once."""

    def __init__(self, arrays: Sequence[Sequence[int]] | Sequence[Ints]) -> None:
        self.lengths: Longs = np.array([len(array) for array in arrays], dtype=np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._flat: Ints = np.fromiter((token for array in arrays for token in array), dtype=np.int32)

    def take(self, indices: NDArray[np.integer]) -> Ints:
        """The arrays at `indices`, one after another."""
        lengths = self.lengths[indices]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        taken: Ints = self._flat[np.repeat(self._starts[indices], lengths) + within]
        return taken

    def split(self) -> list[Ints]:
        """One view an array."""
        return np.split(self._flat, self._starts[1:])


class PromptTemplate(ABC):
    """Writes histories as prompts, and items as responses to them.

    How much of its history an example's prompt shows depends on `shared`:

    - not shared: the last `history_length` items before the target, what recommending and evaluation want;
    - shared: what stands before it in its window, see `TimelineTemplate`; what training wants, where all the
      examples in a window cost about as much as one. Chat prompts share nothing, and the two are the same.

    Either way a prompt that would exceed ``options.max_length`` tokens together with the catalogue's longest response
    loses its oldest items, and what an example shows depends on its user's sequence alone, not on the other
    examples.

    Attributes:
        options: the section ``[prompt]``.
        history_length: at most this many items make a history.
        texts: what stands for each item, [items].
    """

    options: PromptOptions
    history_length: int
    texts: tuple[str, ...]

    def __init__(
        self,
        options: PromptOptions,
        tokenizer: Any,
        texts: Sequence[str],
        history_length: int,
        trie: TitleTrie | None = None,
    ) -> None:
        """`texts` are plain: one line each, none empty, and whatever they hold stays text. See `make_template`.

        A `trie` of their responses spares tokenizing them.
        """
        self.options = options
        self.history_length = history_length
        self.texts = tuple(texts)
        self._tokenizer = tokenizer
        if trie is None:
            self._responses = _Ragged([[*title, self.terminator] for title in plain_ids(tokenizer, self.texts)])
        else:
            self._responses = _Ragged(trie.responses())
            self.trie = trie

    @property
    @abstractmethod
    def terminator(self) -> int:
        """Id of the token that ends every response."""

    @property
    @abstractmethod
    def _item_costs(self) -> Longs:
        """Tokens that each item adds to a history, int64 [items]."""

    @abstractmethod
    def _fixed_cost(self, candidates: Ints | None) -> Longs:
        """Tokens of prompts without any history, int64 [n], or [1] where all are the same."""

    @abstractmethod
    def _prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        """Token ids of one prompt."""

    @cached_property
    def response_ids(self) -> list[Ints]:
        """Token ids of each item as a response, its terminator included: int32 [length] each, [items]."""
        return self._responses.split()

    @property
    def response_lengths(self) -> Longs:
        """Tokens of each item's response, its terminator included: int64 [items]."""
        return self._responses.lengths

    @cached_property
    def trie(self) -> TitleTrie:
        """The responses of all items as a trie."""
        return TitleTrie.of(self.response_ids, self.texts)

    @cached_property
    def response_texts(self) -> list[str]:
        """What `response_ids` decode to, [items]."""
        return [self._decode(ids) for ids in self.response_ids]

    def read(self, ids: Sequence[int]) -> str:
        """What a model wrote as a response, given the token ids before its end."""
        return self._decode(np.array(ids, dtype=np.int32))

    def starts(self, examples: Examples, *, shared: bool = False, candidates: Ints | None = None) -> Longs:
        """Place of the first history item that each example's prompt shows: int64 [n], up to its position."""
        return self._fitted_starts(examples, self._candidates(examples, candidates))

    def prompts(self, examples: Examples, *, shared: bool = False, candidates: Ints | None = None) -> list[Ints]:
        """Token ids of each example's prompt: int32 [length] each, [n].

        Args:
            examples: n examples; their targets are not shown, unless a list of candidates holds them.
            shared: how much history is shown, see the class.
            candidates: int32 [n, c], the items of each prompt's list of candidates, read if ``options.candidates``
                asks for one. Without it a list of ``options.candidates`` is drawn for each example: its target and
                items that the user's sequence does not hold, always the same for one user and position.
        """
        candidates = self._candidates(examples, candidates)
        starts = self.starts(examples, shared=shared, candidates=candidates)
        return [
            self._prompt(examples.sequences[user][start:position], None if candidates is None else candidates[row])
            for row, (user, start, position) in enumerate(
                zip(examples.user.tolist(), starts.tolist(), examples.position.tolist(), strict=True)
            )
        ]

    def prompt_texts(self, examples: Examples, *, shared: bool = False, candidates: Ints | None = None) -> list[str]:
        """What `prompts` decode to, [n]."""
        return [self._decode(ids) for ids in self.prompts(examples, shared=shared, candidates=candidates)]

    def trees(
        self, examples: Examples, items: Ints, *, shared: bool = False, candidates: Ints | None = None
    ) -> list[TokenTree]:
        """Prompts and responses as token trees.

        Args:
            examples: n examples.
            items: the responses to each, int32 [n, m]; -1 is none. A tree's responses name them by row and column.
            shared: how much history is shown, see the class.
            candidates: as in `prompts`.

        Returns:
            Trees that hold every response once; examples with no response at all are left out. For a timeline the
            examples whose histories begin at the same place are one tree, and a target that a later one of them has
            in its history is a span of the trunk.
        """
        candidates = self._candidates(examples, candidates)
        kept = np.flatnonzero((items >= 0).any(axis=1))
        trees = []
        for rows, history, visible, continued in self._groups(examples, kept, shared, candidates):
            member, column = np.nonzero(items[rows] >= 0)
            response = items[rows[member], column]
            trees.append(
                TokenTree.grow(
                    self._prompt(history, None if candidates is None else candidates[rows[0]]),
                    rows=rows[member],
                    columns=column,
                    visible=visible[member],
                    lengths=self.response_lengths[response],
                    targets=self._responses.take(response),
                    in_trunk=(response == examples.target[rows[member]]) & continued[member],
                )
            )
        return trees

    def trunks(
        self, examples: Examples, *, shared: bool = False, candidates: Ints | None = None
    ) -> tuple[list[Ints], Ints, Ints]:
        """The prompts of `prompts`, those that begin alike written once: ``tokens[trunk[i]][:length[i]]`` is that of
        example i.

        Returns:
            tokens: int32 ids of each trunk.
            trunk: int32 [n].
            length: int32 [n].
        """
        candidates = self._candidates(examples, candidates)
        tokens: list[Ints] = []
        trunk, length = np.zeros((2, len(examples)), dtype=np.int32)
        for rows, history, visible, _ in self._groups(examples, np.arange(len(examples)), shared, candidates):
            trunk[rows], length[rows] = len(tokens), visible
            tokens.append(self._prompt(history, None if candidates is None else candidates[rows[0]]))
        return tokens, trunk, length

    @abstractmethod
    def _groups(
        self, examples: Examples, kept: Longs, shared: bool, candidates: Ints | None
    ) -> list[tuple[Longs, Ints, Longs, Bools]]:
        """The trees to make of the examples at `kept`: for each the rows in it [k], its trunk's history, how many
        trunk tokens come before each row's target [k], and whether that target comes next in the trunk [k]."""

    @abstractmethod
    def sft_sequences(self, sequences: Sequences, *, candidates: Ints | None = None) -> list[tuple[Ints, Bools]]:
        """What supervised fine-tuning trains on: token ids int32 [t] and which of them are responses, bool [t].

        Every item is a response once, in the context that `trees` with `shared` gives it; a chat has none for the
        first item of a user.

        Args:
            sequences: the users' training items.
            candidates: as in `prompts`, for `sft_examples`.
        """

    def cut(self, examples: Examples, *, shared: bool = False, candidates: Ints | None = None) -> CutCount:
        """What `max_length` takes from the histories of `examples`; items before a shared window do not count."""
        starts = self._fitted_starts(examples, self._candidates(examples, candidates))
        lost = starts - np.maximum(examples.position - self.history_length, 0)
        return CutCount(int((lost > 0).sum()), int(lost.sum()))

    def save(self, folder: Path) -> None:
        """Write `prompt_template.json` and `title_trie.safetensors`, which with the tokenizer are all that
        `load_template` needs."""
        content = {
            "schema": 1,
            "prompt": self.options.model_dump(mode="json"),
            "history_length": self.history_length,
            "texts": self.texts,
        }
        (folder / TEMPLATE_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        self.trie.save(folder / TRIE_FILE)

    def _fitted_starts(self, examples: Examples, candidates: Ints | None) -> Longs:
        sequences = examples.sequences
        tokens = np.concatenate([[0], np.cumsum(self._item_costs[sequences.items])])
        first = sequences.offsets[examples.user]
        place = first + examples.position
        fitting = np.searchsorted(tokens, tokens[place] - self._room(candidates))
        starts: Longs = np.minimum(np.maximum(np.maximum(place - self.history_length, first), fitting), place) - first
        return starts

    def _room(self, candidates: Ints | None) -> Longs:
        """Tokens that a history may have, int64 [n] or [1]."""
        needed = self._fixed_cost(candidates) + self.response_lengths.max()
        if needed.max() > self.options.max_length:
            raise RequestError(
                f"option 'prompt.max_length' = {self.options.max_length}: set it to {needed.max()} or more, what a "
                "prompt without history and the longest title take"
            )
        room: Longs = self.options.max_length - needed
        return room

    def _candidates(self, examples: Examples, candidates: Ints | None) -> Ints | None:
        return None

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _decode(self, ids: Ints) -> str:
        text: str = self._tokenizer.decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


class TimelineTemplate(PromptTemplate):
    """The history as one growing text, a title a line, in which every title is a response to what stands before it.

    A user's sequence falls into windows of ``history_length + 1`` items (fewer where `max_length` asks for it), from
    its end backward. Each begins with the item that the one before ends with: there it is a response, here it only
    gives the next one a history. So every item but the user's first follows at least one.
    """

    def __init__(
        self,
        options: PromptOptions,
        tokenizer: Any,
        texts: Sequence[str],
        history_length: int,
        trie: TitleTrie | None = None,
    ) -> None:
        # Known before the titles are read, which each get the terminator.
        self._newline = _newline(tokenizer)
        super().__init__(options, tokenizer, texts, history_length, trie)
        self._header = np.array([*_leading_ids(tokenizer), *self._encode(options.header)], dtype=np.int32)
        if not len(self._header):
            raise RequestError("option 'prompt.header' is empty and the model has no token to begin with; set it")

    @property
    def terminator(self) -> int:
        """The newline."""
        return self._newline

    def read(self, ids: Sequence[int]) -> str:
        """The first line of it: other tokens than the terminator may hold a line break, too."""
        return super().read(ids).partition("\n")[0]

    @property
    def _item_costs(self) -> Longs:
        return self.response_lengths

    def _fixed_cost(self, candidates: Ints | None) -> Longs:
        return np.array([len(self._header)])

    def _prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        return np.concatenate([self._header, self._responses.take(history)])

    def starts(self, examples: Examples, *, shared: bool = False, candidates: Ints | None = None) -> Longs:
        """Place of the first history item that each example's prompt shows: int64 [n], up to its position."""
        if not shared:
            return self._fitted_starts(examples, None)
        starts = np.zeros(len(examples), dtype=np.int64)
        order = np.argsort(examples.user, kind="stable")
        users, first = np.unique(examples.user[order], return_index=True)
        for user, rows in zip(users.tolist(), np.split(order, first[1:]), strict=True):
            windows = np.array(self._windows(examples.sequences[user]))[::-1]
            window = np.searchsorted(windows[:, 1], examples.position[rows])
            starts[rows] = windows[window, 0]
        return starts

    def _windows(self, items: Ints) -> list[tuple[int, int]]:
        """First and last place of each window of one user's items, latest first."""
        tokens = np.concatenate([[0], np.cumsum(self.response_lengths[items])])
        room = int(self._room(None)[0])
        windows = []
        last = len(items) - 1
        while last >= 0:
            fitting = int(np.searchsorted(tokens, tokens[last] - room))
            first = min(max(last - self.history_length, 0, fitting), last)
            windows.append((first, last))
            if first == 0:
                break
            # Where not even one item fits before a response, the response has a window to itself.
            last = first if first < last else last - 1
        return windows

    def _groups(
        self, examples: Examples, kept: Longs, shared: bool, candidates: Ints | None
    ) -> list[tuple[Longs, Ints, Longs, Bools]]:
        starts = self.starts(examples, shared=shared)
        order = kept[np.lexsort((examples.position[kept], starts[kept], examples.user[kept]))]
        new_group = (np.diff(examples.user[order]) != 0) | (np.diff(starts[order]) != 0)
        groups = []
        for rows in np.split(order, np.flatnonzero(new_group) + 1) if len(order) else []:
            start, positions = starts[rows[0]], examples.position[rows].astype(np.int64)
            history = examples.sequences[examples.user[rows[0]]][start : positions[-1]]
            tokens = np.concatenate([[0], np.cumsum(self.response_lengths[history])])
            visible = len(self._header) + tokens[positions - start]
            groups.append((rows, history, visible, positions < positions[-1]))
        return groups

    def sft_sequences(self, sequences: Sequences, *, candidates: Ints | None = None) -> list[tuple[Ints, Bools]]:
        """One sequence a window; see `PromptTemplate.sft_sequences`."""
        material = []
        for user in np.flatnonzero(sequences.lengths).tolist():
            items = sequences[user]
            for first, last in reversed(self._windows(items)):
                ids = self._prompt(items[first : last + 1], None)
                is_context = 0 < first < last
                masked = len(self._header) + (int(self.response_lengths[items[first]]) if is_context else 0)
                material.append((ids, np.arange(len(ids)) >= masked))
        return material


class ChatTemplate(PromptTemplate):
    """The model's own chat format: an instruction, the history and perhaps candidates as lists, a question."""

    def __init__(
        self,
        options: PromptOptions,
        tokenizer: Any,
        texts: Sequence[str],
        history_length: int,
        trie: TitleTrie | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise RequestError(
                "option 'prompt.template' = 'chat': the model's tokenizer has no chat template; use 'timeline'"
            )
        if tokenizer.eos_token_id is None:
            raise RequestError(
                "option 'prompt.template' = 'chat': the tokenizer has no end-of-sequence token; use 'timeline'"
            )
        super().__init__(options, tokenizer, texts, history_length, trie)
        if options.candidates > len(self.texts):
            raise RequestError(
                f"option 'prompt.candidates' = {options.candidates}: the catalogue has {len(self.texts)} items; "
                "set it lower"
            )
        before, between, after = self._fixed_texts()
        self._before, self._between, self._after = (
            np.array(self._encode(text), dtype=np.int32) for text in (before, between, after)
        )
        bullet, newline = self._encode("-"), _newline(tokenizer)
        spaced = plain_ids(tokenizer, [f" {text}" for text in self.texts])
        self._lines = _Ragged([[*bullet, *title, newline] for title in spaced])

    def _fixed_texts(self) -> tuple[str, str, str]:
        """The chat format around the history and the candidates."""
        listed = f"Candidates:\n{_SLOTS[1]}\n" if self.options.candidates else ""
        user = f"Chosen so far, oldest first:\n{_SLOTS[0]}\n{listed}{self.options.question}"
        system = {"role": "system", "content": self.options.instruction}
        try:
            rendered = self._render([system, {"role": "user", "content": user}])
        except Exception:  # a chat template raises what it likes when it has no system role
            rendered = self._render([{"role": "user", "content": f"{self.options.instruction}\n\n{user}"}])
        # The newline after a slot is the last line's own.
        before, _, rest = rendered.partition(f"{_SLOTS[0]}\n")
        between, _, after = rest.partition(f"{_SLOTS[1]}\n") if listed else ("", "", rest)
        if not after:
            raise RequestError("the model's chat template does not show the user's message; use 'timeline'")
        return before, between, after

    def _render(self, messages: list[dict[str, str]]) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    @property
    def terminator(self) -> int:
        """The tokenizer's end of sequence."""
        token: int = self._tokenizer.eos_token_id
        return token

    @property
    def _item_costs(self) -> Longs:
        return self._lines.lengths

    def _fixed_cost(self, candidates: Ints | None) -> Longs:
        fixed = np.array([len(self._before) + len(self._between) + len(self._after)])
        return fixed if candidates is None else fixed + self._lines.lengths[candidates].sum(axis=1)

    def _prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        listed = () if candidates is None else (self._lines.take(candidates),)
        return np.concatenate([self._before, self._lines.take(history), self._between, *listed, self._after])

    def _candidates(self, examples: Examples, candidates: Ints | None) -> Ints | None:
        if not self.options.candidates:
            return None
        if candidates is not None:
            return candidates
        drawn = np.empty((len(examples), self.options.candidates), dtype=np.int32)
        catalogue = np.arange(len(self.texts), dtype=np.int32)
        for row, (user, position) in enumerate(zip(examples.user.tolist(), examples.position.tolist(), strict=True)):
            rng = np.random.default_rng([user, position])
            others = np.setdiff1d(catalogue, examples.sequences[user])
            if len(others) < self.options.candidates - 1:
                raise RequestError(
                    f"option 'prompt.candidates' = {self.options.candidates}: set it lower, "
                    f"only {len(others)} items are new to user {user}"
                )
            drawn[row] = rng.permutation(
                [examples.target[row], *rng.choice(others, self.options.candidates - 1, replace=False)]
            )
        return drawn

    def _groups(
        self, examples: Examples, kept: Longs, shared: bool, candidates: Ints | None
    ) -> list[tuple[Longs, Ints, Longs, Bools]]:
        starts = self.starts(examples, candidates=candidates)
        fixed = np.broadcast_to(self._fixed_cost(candidates), len(examples))
        groups = []
        for row in kept.tolist():
            history = examples.sequences[examples.user[row]][starts[row] : examples.position[row]]
            length = fixed[row] + self._lines.lengths[history].sum()
            groups.append((np.array([row]), history, np.array([length]), np.array([False])))
        return groups

    def sft_examples(self, sequences: Sequences) -> Examples:
        """The examples of `sft_sequences`: every place of a user but the first."""
        users = np.repeat(np.arange(len(sequences), dtype=np.int32), sequences.lengths)
        places = (np.arange(len(users)) - np.repeat(sequences.offsets[:-1], sequences.lengths)).astype(np.int32)
        return Examples(sequences, users[places > 0], places[places > 0])

    def sft_sequences(self, sequences: Sequences, *, candidates: Ints | None = None) -> list[tuple[Ints, Bools]]:
        """One sequence an example; see `PromptTemplate.sft_sequences`."""
        examples = self.sft_examples(sequences)
        material = []
        for prompt, target in zip(
            self.prompts(examples, candidates=candidates), examples.target.tolist(), strict=True
        ):
            ids = np.concatenate([prompt, self.response_ids[target]])
            material.append((ids, np.arange(len(ids)) >= len(prompt)))
        return material


_TEMPLATES: dict[str, type[PromptTemplate]] = {"timeline": TimelineTemplate, "chat": ChatTemplate}


def make_template(
    options: PromptOptions, tokenizer: Any, catalogue: Catalogue, history_length: int
) -> PromptTemplate:
    """The template that `options` name, over a catalogue.

    Args:
        options: the section ``[prompt]``.
        tokenizer: the language model's.
        catalogue: whose titles stand for the items.
        history_length: at most this many items make a history.

    Raises:
        RequestError: a title has nothing to write; the tokenizer does not do for the template; `max_length` leaves no
            room for the longest title.
    """
    texts = item_texts(catalogue, short=options.titles == "short")
    template = _TEMPLATES[options.template](options, tokenizer, texts, history_length)
    template._room(None)
    return template


def load_template(folder: Path, tokenizer: Any) -> PromptTemplate:
    """The template that `PromptTemplate.save` wrote, titles and their trie included.

    Raises:
        RequestError: the folder holds none, or one that cannot be read.
    """
    path = folder / TEMPLATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{folder} holds no {TEMPLATE_FILE}; name a run's folder 'sft' or 'aligned'") from None
    except ValueError as error:
        raise RequestError(f"{path} is no JSON ({error}); make the run's stage anew") from None
    if not isinstance(content, dict) or content.get("schema") != 1:
        raise RequestError(f"{path} is of another version of rosepo; make the run's stage anew")
    options = parse_options(PromptOptions, content["prompt"], str(path))
    trie = TitleTrie.load(folder / TRIE_FILE)
    if len(trie) != len(content["texts"]):
        raise RequestError(f"{folder / TRIE_FILE} is not of the titles in {TEMPLATE_FILE}; make the run's stage anew")
    return _TEMPLATES[options.template](options, tokenizer, content["texts"], content["history_length"], trie)


def item_texts(catalogue: Catalogue, *, short: bool) -> list[str]:
    """The titles on one line each, [items]; `short` without a trailing year where no other item's title, with or
    without its year, reads the same.

    Raises:
        RequestError: a title is blank.
    """
    titles = [" ".join(title.split()) for title in catalogue.titles]
    for item, title in zip(catalogue.ids, titles, strict=True):
        if not title:
            raise RequestError(f"item '{item}' has a blank title; give it one in the catalogue or leave it out")
    if not short:
        return titles
    stems = [_YEAR.sub("", title) or title for title in titles]
    count = Counter(stems)
    count.update(title for title, stem in zip(titles, stems, strict=True) if title != stem)
    return [stem if count[stem] == 1 else title for title, stem in zip(titles, stems, strict=True)]


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts in which nothing is a special or added token, whatever they say.

    Raises:
        RequestError: a text cannot be written without such a token.
    """
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    control = {token: added.content for token, added in tokenizer.added_tokens_decoder.items()}
    for index, title in enumerate(ids):
        if not control.keys().isdisjoint(title):
            ids[index] = _broken_ids(tokenizer, texts[index], control)
    return ids


def _broken_ids(tokenizer: Any, text: str, control: dict[int, str]) -> list[int]:
    """Ids of the pieces of a text that is broken after the first character of whatever looks like an added token."""
    looks_added = "|".join(re.escape(content) for content in sorted(control.values(), key=len, reverse=True))
    borders = [match.start() + 1 for match in re.finditer(f"(?=(?:{looks_added}))", text)]
    pieces = [text[start:end] for start, end in zip([0, *borders], [*borders, None], strict=True)]
    ids = [
        token
        for piece in pieces
        if piece
        for token in tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ]
    if not control.keys().isdisjoint(ids):
        raise RequestError(f"title {text!r} holds a control token of the model; change it in the catalogue")
    return ids


def _newline(tokenizer: Any) -> int:
    ids = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.decode(ids[-1:]) != "\n":
        raise RequestError("the model's tokenizer has no token for a line break; use another model")
    return int(ids[-1])


def _leading_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text of its own accord, such as a begin-of-sequence token."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    places = [place for place in range(len(full)) if full[place : place + len(bare)] == bare]
    return full[: places[0]] if places else []
