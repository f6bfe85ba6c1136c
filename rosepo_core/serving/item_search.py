"""Finds items of a catalogue while a person types."""

from __future__ import annotations

import unicodedata

import numpy as np

from rosepo_core.contracts.records import Catalogue


class ItemSearch:
    """Looks titles up by parts of them."""

    def __init__(self, catalogue: Catalogue) -> None:
        """`catalogue` are the items."""
        order = np.argsort(-catalogue.popularity, kind="stable").tolist()
        self._titles = [(_plain(catalogue.titles[item]), item) for item in order]

    def find(self, query: str, limit: int) -> list[int]:
        """The items whose titles contain each word of `query`, in any case and with or without accents. Titles that
        begin with the query come first, then those with a word that does; among equals, the most popular first. An
        empty query finds the most popular items."""
        words = _plain(query).split()
        whole = " ".join(words)
        begins: list[int] = []
        starts_word: list[int] = []
        contains: list[int] = []
        for title, item in self._titles:
            if title.startswith(whole):
                begins.append(item)
                if len(begins) == limit:
                    break
            elif all(word in title for word in words):
                (starts_word if f" {whole}" in title else contains).append(item)
        return [*begins, *starts_word, *contains][:limit]


def _plain(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text)
    return " ".join("".join(part for part in parts if not unicodedata.combining(part)).casefold().split())
