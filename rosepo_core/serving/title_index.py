"""Finds items of a catalogue by what people write: a title, or the item's own id in the log."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Literal, NamedTuple

import numpy as np
from rapidfuzz import fuzz, process, utils

from rosepo_core.contracts.errors import RequestError, nearest

By = Literal["title", "id"]
"""What names an item: its title, or its own id in the log."""

SURE = 90.0
"""A title is meant without doubt if it is at least this similar and has the same numbers, and ..."""
AHEAD = 10.0
"""... it is more similar by this than every other title with these numbers."""
RIVALS = 20
"""How many of the closest titles are looked at for this."""
SUGGESTED = 60.0
"""The least similarity of a title that is suggested."""

_YEAR = re.compile(r" ?\(\d{4}\)$")


class CloseTitle(NamedTuple):
    """A title of the catalogue that is similar to what was written.

    Attributes:
        item: its index.
        title: the title.
        similarity: 0 to 100, see `TitleIndex.close`.
    """

    item: int
    title: str
    similarity: float


class TitleIndex:
    """Finds the item of a title, also if it is written a little differently.

    Attributes:
        titles: the titles of the catalogue, in index order.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        """`titles` are the titles of the catalogue, in index order, without duplicates."""
        self.titles: Sequence[str] = ()
        self._exact: dict[str, int] = {}
        self._folded: dict[str, tuple[int, ...]] = {}
        self._stems: dict[str, tuple[int, ...]] = {}
        self._put(titles, range(len(titles)))

    def changed(self, titles: Sequence[str]) -> TitleIndex:
        """The index after titles have changed; numbers from the number of titles on are new."""
        found = TitleIndex(())
        found._exact, found._folded, found._stems = self._exact.copy(), self._folded.copy(), self._stems.copy()
        pairs = enumerate(zip_longest(self.titles, titles))
        items = [item for item, (old, new) in pairs if old != new]
        for item in items[: bisect_left(items, len(self.titles))]:
            title = self.titles[item]
            del found._exact[title]
            for place, key in ((found._folded, _fold(title)), (found._stems, _stem(title))):
                place[key] = tuple(each for each in place[key] if each != item)
        found._put(titles, items)
        return found

    def _put(self, titles: Sequence[str], items: Iterable[int]) -> None:
        self.titles = titles
        for item in items:
            title = titles[item]
            self._exact[title] = item
            for place, key in ((self._folded, _fold(title)), (self._stems, _stem(title))):
                place[key] = (*place.get(key, ()), item)

    def matches(self, title: str) -> list[int]:
        """The items that a title may name.

        The title may differ from the catalogue in case and white space. It may have a year where the catalogue has
        none, or the other way round.
        """
        if title in self._exact:
            return [self._exact[title]]
        folded = _fold(title)
        # Two different years are two different films.
        stem = _YEAR.sub("", folded)
        return list(self._folded.get(folded) or (self._stems if stem == folded else self._folded).get(stem) or ())

    def find(self, title: str) -> int:
        """The one item that a title names, see `matches`.

        Raises:
            RequestError: no item matches, or several do; the message has the closest titles.
        """
        items = self.matches(title)
        if len(items) == 1:
            return items[0]
        if not title.strip():
            raise RequestError("a title is empty; leave it out")
        if items:
            meant = " or ".join(repr(self.titles[item]) for item in items)
            raise RequestError(f"title '{title}' may be {meant}; write one of them")
        close = " or ".join(repr(each.title) for each in self.close(title, 3))
        raise RequestError(f"title '{title}' is not in the run's catalogue" + (close and f"; did you mean {close}?"))

    def close(self, title: str, limit: int) -> list[CloseTitle]:
        """The titles that are most similar to what was written, the most similar first.

        Case, punctuation and the order of words do not count, and neither does the year if none was written. The
        similarity is the mean of rapidfuzz's ``token_sort_ratio``, over all words, and ``token_set_ratio``, over the
        words that only one of the two has.

        Args:
            title: the text.
            limit: the most titles. Those with a similarity below `SUGGESTED` are left out.
        """
        with_year = bool(_YEAR.search(_fold(title)))
        texts = self._plain if with_year else self._plain_stems
        plain = utils.default_process(_fold(title))
        if not plain:
            return []
        scorers = (fuzz.token_sort_ratio, fuzz.token_set_ratio)
        of_words, of_sets = (process.cdist([plain], texts, scorer=each, dtype=np.float32)[0] for each in scorers)
        similarity = (of_words + of_sets) / 2
        order = np.argsort(-similarity, kind="stable")[:limit].tolist()
        return [
            CloseTitle(item, self.titles[item], float(similarity[item]))
            for item in order
            if similarity[item] >= SUGGESTED
        ]

    def meant(self, title: str) -> CloseTitle | None:
        """The title that is meant without doubt, see `SURE`; `None` if there is doubt.

        A title with other numbers, such as the second part of a film, is never meant.
        """
        year = _YEAR.search(_fold(title))
        close = [
            each
            for each in self.close(title, RIVALS)
            if _numbers(each.title if year else _YEAR.sub("", each.title)) == _numbers(title)
        ]
        if not close or close[0].similarity < SURE:
            return None
        return close[0] if len(close) == 1 or close[0].similarity - close[1].similarity >= AHEAD else None

    @cached_property
    def _plain(self) -> list[str]:
        return [utils.default_process(_fold(title)) for title in self.titles]

    @cached_property
    def _plain_stems(self) -> list[str]:
        return [utils.default_process(_YEAR.sub("", _fold(title))) for title in self.titles]


class IdIndex:
    """Finds the item of an id of the log."""

    def __init__(self, ids: Sequence[str]) -> None:
        """`ids` are the ids of the catalogue's items, in index order."""
        self._items = {name: item for item, name in enumerate(ids)}

    def matches(self, name: str) -> list[int]:
        """The items that an id names: one, or none."""
        return [self._items[name]] if name in self._items else []

    def find(self, name: str) -> int:
        """The item of an id.

        Raises:
            RequestError: there is no such item.
        """
        item = self._items.get(name)
        if item is None:
            raise RequestError(f"item id '{name}' is not in the run's catalogue{nearest(name, self._items)}")
        return item


def _fold(title: str) -> str:
    return " ".join(unicodedata.normalize("NFC", title).casefold().split())


def _stem(title: str) -> str:
    return _YEAR.sub("", _fold(title))


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)
