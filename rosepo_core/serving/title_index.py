"""Finds items of a catalogue by what people write: a title, or the item's own id in the log."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from rosepo_core.contracts.errors import RequestError, nearest

By = Literal["title", "id"]
"""What names an item: its title, or its own id in the log."""

_YEAR = re.compile(r" ?\(\d{4}\)$")


class TitleIndex:
    """Finds the item of a title, also if it is written a little differently."""

    def __init__(self, titles: Sequence[str]) -> None:
        """`titles` are the titles of the catalogue, in index order, without duplicates."""
        self._titles = titles
        self._exact = {title: item for item, title in enumerate(titles)}
        self._folded: dict[str, list[int]] = defaultdict(list)
        self._stems: dict[str, list[int]] = defaultdict(list)
        for item, title in enumerate(titles):
            self._folded[_fold(title)].append(item)
            self._stems[_YEAR.sub("", _fold(title))].append(item)

    def find(self, title: str) -> int:
        """The item of a title.

        The title may differ from the catalogue in case and white space. It may have a year where the catalogue has
        none, or the other way round. Exactly one item must match.

        Raises:
            RequestError: no item matches, or several do; the message has the nearest titles.
        """
        if title in self._exact:
            return self._exact[title]
        folded = _fold(title)
        if not folded:
            raise RequestError("a title is empty; leave it out")
        # Two different years are two different films.
        stem = _YEAR.sub("", folded)
        for items in (self._folded.get(folded), (self._stems if stem == folded else self._folded).get(stem)):
            if items and len(items) == 1:
                return items[0]
            if items:
                meant = " or ".join(repr(self._titles[item]) for item in items)
                raise RequestError(f"title '{title}' may be {meant}; write one of them")
        raise RequestError(f"title '{title}' is not in the run's catalogue{nearest(title, self._titles)}")


class IdIndex:
    """Finds the item of an id of the log."""

    def __init__(self, ids: Sequence[str]) -> None:
        """`ids` are the ids of the catalogue's items, in index order."""
        self._items = {name: item for item, name in enumerate(ids)}

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
