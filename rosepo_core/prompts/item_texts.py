"""What stands for each item in a prompt: its title on one line, with or without its year."""

from __future__ import annotations

import re
from collections import Counter

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue

_YEAR = re.compile(r"\s*\(\d{4}\)$")


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
