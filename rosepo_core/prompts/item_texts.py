"""What prompts say of each item: its title on one line, perhaps short or cut, and its attributes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import Catalogue
from rosepo_core.contracts.untrusted_text import is_blank, one_line

if TYPE_CHECKING:
    from rosepo_core.prompts.template import PromptOptions, PromptTemplate

_YEAR = re.compile(r"\s*\(\d{4}\)$")


def bind_to_catalogue(
    template: PromptTemplate, tokenizer: Any, catalogue: Catalogue, history_length: int
) -> PromptTemplate:
    """Bind a template to a catalogue, with titles and attributes as its options say.

    Raises:
        RequestError: as `item_texts`, `item_details` and `PromptTemplate.bind`.
    """
    options = template.options
    texts = item_texts(catalogue, short=options.titles == "short")
    if options.title_tokens is not None:
        texts = cut_texts(texts, options.title_tokens, tokenizer)
    return template.bind(tokenizer, texts, history_length, details=item_details(catalogue, options.attributes))


def item_texts(catalogue: Catalogue, *, short: bool) -> list[str]:
    """The titles, each on one line, [items].

    With `short`, a title loses the year at its end if then no other title is the same, with or without its own year.

    Raises:
        RequestError: a title is blank.
    """
    titles = [one_line(title) for title in catalogue.titles]
    for item, title in zip(catalogue.ids, titles, strict=True):
        if is_blank(title):
            raise RequestError(f"item '{item}' has a blank title; give it one in the catalogue or leave it out")
    if not short:
        return titles
    stems = [_YEAR.sub("", title) or title for title in titles]
    count = Counter(stems)
    count.update(title for title, stem in zip(titles, stems, strict=True) if title != stem)
    return [stem if count[stem] == 1 else title for title, stem in zip(titles, stems, strict=True)]


def later_texts(
    known: Sequence[str], catalogue: Catalogue, items: Iterable[int], options: PromptOptions, tokenizer: Any
) -> dict[int, str]:
    """The texts of items that join or change a catalogue after training. All others keep their texts, because these
    are what the model has learned; so a text is short or cut only where it stays different from theirs.

    Args:
        known: the text of each item that the model was trained with, [items].
        catalogue: all items, those of the training first.
        items: the numbers of all new and renamed items.
        options: the options of the template.
        tokenizer: of transformers.

    Raises:
        UnusableTitleError: two texts are the same after Unicode NFKC and case folding.
    """
    whole = {item: one_line(catalogue.titles[item]) for item in items}
    held = {_folded(text): item for item, text in enumerate(known) if item not in whole}
    found = dict(whole)
    if options.titles == "short":
        stems = {item: _YEAR.sub("", title) or title for item, title in whole.items()}
        count = Counter(_folded(stem) for stem in stems.values())
        count.update(_folded(title) for item, title in whole.items() if title != stems[item])
        found = {
            item: stem if count[_folded(stem)] == 1 and _folded(stem) not in held else whole[item]
            for item, stem in stems.items()
        }
    if options.title_tokens is not None:
        cut = cut_texts(list(found.values()), options.title_tokens, tokenizer, held)
        found = dict(zip(found, cut, strict=True))
    for item, text in found.items():
        if is_blank(text):
            raise UnusableTitleError(
                catalogue.ids[item], f"item '{catalogue.ids[item]}' has a blank title; give it one"
            )
        other = held.setdefault(_folded(text), item)
        if other != item:
            raise UnusableTitleError(
                catalogue.ids[item],
                f"the title {catalogue.titles[item]!r} of item '{catalogue.ids[item]}' is {text!r} in the prompts, "
                f"and so is {catalogue.titles[other]!r} of item '{catalogue.ids[other]}'; give it another one",
            )
    return found


class UnusableTitleError(RequestError):
    """Prompts cannot have a title.

    Attributes:
        item: the id of its item.
    """

    def __init__(self, item: str, reason: str) -> None:
        super().__init__(reason)
        self.item = item


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def cut_texts(texts: Sequence[str], most: int, tokenizer: Any, held: Container[str] = ()) -> list[str]:
    """Titles of at most `most` tokens, which stay different from each other: [items].

    A longer title keeps its first words, as many as fit; if not even the first word fits, it keeps the first letters.
    While two titles are then equal, those of them that were cut get their next word back, until all are different.
    So a title may be longer than `most`. Titles are equal here if they are after Unicode NFKC and case folding.

    Args:
        texts: the titles, each on one line.
        most: most tokens of a title, at least 1.
        tokenizer: of transformers.
        held: texts of other items, after NFKC and case folding, from which the titles must differ, too.
    """
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    kept = [
        len(text) if len(title) <= most else _fitting(text, most, tokenizer)
        for text, title in zip(texts, ids, strict=True)
    ]
    while True:
        alike: dict[str, list[int]] = defaultdict(list)
        for item, text in enumerate(texts):
            alike[_folded(text[: kept[item]])].append(item)
        extended = [
            item
            for text, same in alike.items()
            if len(same) > 1 or text in held
            for item in same
            if kept[item] < len(texts[item])
        ]
        if not extended:
            return [text[:end] for text, end in zip(texts, kept, strict=True)]
        for item in extended:
            blank = texts[item].find(" ", kept[item] + 1)
            kept[item] = blank if blank >= 0 else len(texts[item])


def _fitting(text: str, most: int, tokenizer: Any) -> int:
    """How many characters of a text to keep, so that it has at most `most` tokens."""

    def fits(end: int) -> bool:
        ids = tokenizer(text[:end], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return len(ids) <= most

    # Each part is longer than the one before it and has at least as many tokens.
    ends = [match.start() for match in re.finditer(" ", text)]
    if not ends or not fits(ends[0]):
        ends = list(range(1, ends[0] if ends else len(text)))
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(ends[middle]) else (low, middle)
    return ends[max(low - 1, 0)] if ends else len(text)


def item_details(catalogue: Catalogue, names: Sequence[str]) -> list[str]:
    """The attributes of each item on one line, such as ``category: Games, PC; brand: Oak``: [items]. Attributes
    without a value are left out; an item without any has an empty text.

    Args:
        catalogue: the items.
        names: the attributes, in the order in which they are written.

    Raises:
        RequestError: the catalogue has no such attribute.
    """
    known = catalogue.attributes.columns
    for name in names:
        if name not in known:
            has = f"the data set has {', '.join(known)}" if known else "the data set has none"
            raise RequestError(f"option 'prompt.attributes': no attribute '{name}'{nearest(name, known)}; {has}")
    columns = [[_value(value) for value in catalogue.attributes[name].to_list()] for name in names]
    return [
        "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True) if value)
        for values in (zip(*columns, strict=True) if columns else [()] * len(catalogue))
    ]


def _value(value: Any) -> str:
    """The value of an attribute as text on one line; empty if there is none."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_value, value)))
    if value is None or value != value:  # NaN is not equal to itself
        return ""
    if isinstance(value, float):
        return f"{value:.15g}"
    return one_line(str(value))
