"""The text of each item in a prompt: its title on one line, with or without its year."""

from __future__ import annotations

import re
from collections import Counter

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue

_YEAR = re.compile(r"\s*\(\d{4}\)$")


def item_texts(catalogue: Catalogue, *, short: bool) -> list[str]:
    """The titles, each on one line, [items].

    With `short`, a title loses the year at its end if then no other title is the same, with or without its own year.

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
