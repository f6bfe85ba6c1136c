"""Token ids of single texts: titles without control tokens, line breaks, and the tokens that begin every text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Ints, Longs


class Ragged:
    """Many arrays of token ids in one flat array, so that many can be read at once."""

    def __init__(self, arrays: Sequence[Sequence[int]] | Sequence[Ints]) -> None:
        self.lengths: Longs = np.array([len(array) for array in arrays], dtype=np.int64)
        self.flat: Ints = np.fromiter((token for array in arrays for token in array), dtype=np.int32)

    @cached_property
    def starts(self) -> Longs:
        """Where each array begins in `flat`: int64."""
        starts: Longs = np.cumsum(self.lengths) - self.lengths
        return starts

    def take(self, indices: NDArray[np.integer]) -> Ints:
        """The arrays at `indices`, one after another."""
        taken: Ints = self.flat[self._places(indices)]
        return taken

    def split(self) -> list[Ints]:
        """The arrays, as views."""
        return np.split(self.flat, self.starts[1:])

    def framed(self, before: Sequence[int], behind: Sequence[int]) -> Ragged:
        """The arrays, each with the same tokens before and behind it."""
        found = _of_lengths(self.lengths + len(before) + len(behind))
        inner = np.repeat(found.starts + len(before) - self.starts, self.lengths)
        found.flat[inner + np.arange(len(self.flat))] = self.flat
        for offset, token in enumerate(before):
            found.flat[found.starts + offset] = token
        for offset, token in enumerate(behind):
            found.flat[found.starts + len(before) + self.lengths + offset] = token
        return found

    def replaced(self, indices: Longs, arrays: Sequence[Sequence[int]]) -> Ragged:
        """The arrays with others at `indices`, which are ascending; those from the number of arrays on are new."""
        others, count = Ragged(arrays), len(self.lengths)
        lengths = np.zeros(max(count, int(indices.max(initial=-1)) + 1), dtype=np.int64)
        lengths[:count] = self.lengths
        lengths[indices] = others.lengths
        found = _of_lengths(lengths)
        kept = np.ones(count, dtype=np.bool_)
        kept[indices[indices < count]] = False
        same = np.flatnonzero(kept)
        found.flat[found._places(same)] = self.take(same)
        found.flat[found._places(indices)] = others.flat
        return found

    def _places(self, indices: NDArray[np.integer]) -> Longs:
        lengths = self.lengths[indices]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places: Longs = np.repeat(self.starts[indices], lengths) + within
        return places


def _of_lengths(lengths: Longs) -> Ragged:
    """Arrays of these lengths, with any content."""
    found = Ragged([])
    found.lengths, found.flat = lengths, np.empty(int(lengths.sum()), dtype=np.int32)
    return found


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, without any special or added token, even if a text contains the name of one.

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
    """Token ids of a text that is cut after the first character of each part that looks like an added token."""
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


def newline_id(tokenizer: Any) -> int:
    """The token of a line break.

    Raises:
        RequestError: the tokenizer has none.
    """
    ids = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.decode(ids[-1:]) != "\n":
        raise RequestError("the model's tokenizer has no token for a line break; use another model")
    return int(ids[-1])


def leading_ids(tokenizer: Any) -> list[int]:
    """Token ids that the tokenizer puts before every text, such as a begin-of-sequence token."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    places = [place for place in range(len(full)) if full[place : place + len(bare)] == bare]
    return full[: places[0]] if places else []
