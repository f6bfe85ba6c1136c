"""Prepares the corpus of a dataset for a recommender that knows items by their titles: clean titles, filters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from rosepo_core.contracts.components import DatasetOptions, LogOptions
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.contracts.records import Bools, Corpus
from rosepo_core.data.ids import coded, names_of, numbered, repeated_pairs
from rosepo_core.data.supplied_examples import check_examples, leaks, merge_candidates

if TYPE_CHECKING:
    pass

_ROW = "__row"


def filter_corpus(corpus: Corpus, options: DatasetOptions) -> Corpus:
    """Prepare the corpus of a dataset for a recommender that knows items by their titles.

    In this order:

    1. Titles become one line each: Unicode NFC, runs of white space to one space.
    2. ``min_rating`` drops interactions rated lower, and those without a rating. What is rated lower is kept as
       `Corpus.disliked`.
    3. Items with the same title become one item, with the id and attributes of the first in the catalogue, because a
       model that reads and writes titles cannot tell them apart.
    4. ``duplicates`` keeps a user's first or last interaction with an item (by time, then by row), or all.
    5. ``k_core`` drops users and items with fewer interactions, repeatedly, until all have enough. Unless it is 0,
       items without any interaction leave the catalogue, too.

    The order of rows in both tables does not change. The ids in a log become `polars.Enum`. Notes say how much was
    merged or dropped.

    For given examples, only steps 1 and 3 apply: examples stay as the source has them, and the catalogue stays
    complete. Notes say how many examples leak between the parts.

    Raises:
        PluginError: the corpus is not as `Corpus` describes, or the dataset has filter options that do not apply.
        RequestError: an item has no title, ``min_rating`` is set and there are no ratings, or a filter leaves
            nothing.
    """
    check_contract(corpus)
    is_log = corpus.examples is None
    if isinstance(options, LogOptions) != is_log:
        raise PluginError(
            f"dataset '{corpus.name}' yields {'a log' if is_log else 'given examples'}, so its Options must "
            f"{'extend LogOptions' if is_log else 'extend DatasetOptions, not LogOptions'}"
        )
    notes = list(corpus.notes)
    interactions = corpus.interactions
    if interactions.is_empty():
        raise RequestError(f"dataset '{corpus.name}' has no interactions")
    catalogue = corpus.catalogue.with_columns(one_line(pl.col("title")).alias("title"))
    check_titles(corpus.name, interactions, catalogue)
    if is_log:
        interactions = interactions.with_columns(coded(interactions["user"]), coded(interactions["item"]))

    disliked = corpus.disliked
    if isinstance(options, LogOptions) and options.min_rating is not None:
        before = interactions
        if "rating" not in before.columns:
            raise RequestError(f"dataset.min_rating: dataset '{corpus.name}' has no ratings; leave it unset")
        interactions = before.filter(pl.col("rating").fill_nan(None) >= options.min_rating)
        _note_dropped(notes, f"min_rating={options.min_rating:g}", before, interactions)
        low = before.filter(pl.col("rating").fill_nan(None) < options.min_rating).select("user", "item", "timestamp")
        disliked = low if disliked is None else pl.concat([_as_text(low), _as_text(disliked)])

    examples = corpus.examples
    first = catalogue.select("item", pl.col("item").first().over("title").alias("kept"), "title")
    merged = first.filter(pl.col("item") != pl.col("kept"))
    if not merged.is_empty():
        kept, title = merged.row(0)[1:]
        ids = ", ".join(first.filter(pl.col("kept") == kept)["item"])
        notes.append(f"merged {merged.height} items into others of the same title, e.g. '{title}': items {ids}")
        interactions = interactions.with_columns(_replaced(interactions["item"], merged["item"], merged["kept"]))
        catalogue = catalogue.filter(~pl.col("item").is_in(merged["item"].implode()))
        examples = merge_candidates(corpus, merged)
    corpus = replace(corpus, interactions=interactions, catalogue=catalogue, examples=examples)
    if not isinstance(options, LogOptions):
        return replace(corpus, notes=(*notes, *leaks(corpus)))

    if options.duplicates != "keep":
        before = interactions
        repeated = repeated_pairs(before)
        if repeated.any():
            kept_rows = (
                before.select("user", "item", "timestamp", pl.int_range(pl.len()).alias(_ROW))
                .filter(repeated)
                .sort("timestamp", maintain_order=True)
                .unique(["user", "item"], keep=options.duplicates)[_ROW]
            )
            interactions = before.filter((~repeated).scatter(kept_rows, True))
        _note_dropped(notes, f"duplicates='{options.duplicates}'", before, interactions)

    before = interactions
    interactions = _k_core(interactions, options.k_core)
    _note_dropped(notes, f"k_core={options.k_core}", before, interactions)
    if options.k_core > 0:
        every_item = catalogue
        catalogue = every_item.filter(pl.col("item").is_in(_different(interactions["item"]).implode()))
        if catalogue.height < every_item.height:
            dropped = every_item.height - catalogue.height
            too_few = (
                "without interactions" if options.k_core == 1 else f"with fewer than {options.k_core} interactions"
            )
            notes.append(f"dropped {dropped} of {every_item.height} items {too_few}")
    if disliked is not None:
        disliked = disliked.with_columns(_replaced(disliked["item"], merged["item"], merged["kept"]))
        kept = _among(disliked["user"], _different(interactions["user"])) & _among(
            disliked["item"], catalogue["item"]
        )
        disliked = disliked.filter(pl.Series(kept))
    return replace(corpus, interactions=interactions, catalogue=catalogue, notes=tuple(notes), disliked=disliked)


def one_line(title: pl.Expr) -> pl.Expr:
    """Unicode NFC, runs of white space to one space, none at the ends."""
    return title.str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars(" ")


def check_contract(corpus: Corpus) -> None:
    """
    Raises:
        PluginError: tables or columns are not as `Corpus` describes.
    """
    wanted: list[tuple[str, pl.DataFrame, dict[str, pl.DataType]]] = [
        ("interactions", corpus.interactions, {"user": pl.String(), "item": pl.String(), "timestamp": pl.Int64()}),
        ("catalogue", corpus.catalogue, {"item": pl.String(), "title": pl.String()}),
    ]
    for table, frame, columns in wanted:
        for column, dtype in columns.items():
            found = frame.schema.get(column)
            where = f"dataset '{corpus.name}': column '{column}' of its {table}"
            is_id = frame is corpus.interactions and corpus.examples is None and dtype == pl.String
            if found is None:
                raise PluginError(f"{where} is missing")
            if found != dtype and not (is_id and isinstance(found, pl.Enum)):
                raise PluginError(f"{where} is of type {found}, not {dtype}")
            if column != "title" and frame[column].null_count():
                raise PluginError(f"{where} has {frame[column].null_count()} nulls")
    repeated = corpus.catalogue.filter(pl.col("item").is_duplicated())
    if not repeated.is_empty():
        raise PluginError(f"dataset '{corpus.name}': item '{repeated['item'][0]}' is in its catalogue twice")
    check_examples(corpus)


def check_titles(name: str, interactions: pl.DataFrame, catalogue: pl.DataFrame) -> None:
    """
    Raises:
        RequestError: an item has a blank title, or an interaction is of an item that is not in the catalogue.
    """
    blank = catalogue.filter(pl.col("title").is_null() | (pl.col("title") == ""))
    item = interactions["item"]
    unlisted = pl.DataFrame({"item": _different(item)}).join(catalogue, on="item", how="anti")["item"]
    unknown = (
        interactions.filter(item.is_in(unlisted.cast(item.dtype).implode())) if len(unlisted) else unlisted.to_frame()
    )
    for items, why in ((blank, "has an empty title"), (unknown, "is not in the catalogue")):
        if not items.is_empty():
            raise RequestError(
                f"dataset '{name}': item '{items['item'][0]}' {why} ({items['item'].n_unique()} such items): "
                "give it a title or leave its interactions out"
            )


def _k_core(interactions: pl.DataFrame, k: int) -> pl.DataFrame:
    if k <= 1:
        return interactions
    (users, user_names), (items, item_names) = (numbered(interactions[each]) for each in ("user", "item"))
    rows = np.arange(len(users), dtype=np.int32 if len(users) < 2**31 else np.int64)
    while True:
        enough = (np.bincount(users, minlength=user_names.len()) >= k)[users]
        enough &= (np.bincount(items, minlength=item_names.len()) >= k)[items]
        if enough.all():
            return interactions if len(rows) == interactions.height else interactions[rows]
        users, items, rows = users[enough], items[enough], rows[enough]


def _different(ids: pl.Series) -> pl.Series:
    """Each different id once, as text."""
    numbers, names = numbered(ids)
    return names.filter(np.bincount(numbers, minlength=names.len()) > 0)


def _among(ids: pl.Series, known: pl.Series) -> Bools:
    """Whether each id is one of `known`, which is text: bool [n]."""
    numbers, names = numbered(ids)
    found: Bools = names.is_in(known.implode()).to_numpy()[numbers]
    return found


def _as_text(disliked: pl.DataFrame) -> pl.DataFrame:
    return disliked.select(pl.col("user", "item").cast(pl.String), "timestamp")


def _replaced(ids: pl.Series, old: pl.Series, new: pl.Series) -> pl.Series:
    """Ids with new ones in the place of old ones."""
    if not isinstance(ids.dtype, pl.Enum):
        return ids.replace(old, new)
    return coded(names_of(ids).replace(old, new)).gather(ids.to_physical()).alias(ids.name)


def _note_dropped(notes: list[str], what: str, before: pl.DataFrame, after: pl.DataFrame) -> None:
    if after.is_empty():
        raise RequestError(f"dataset.{what} left none of {before.height} interactions: loosen it")
    if after.height < before.height:
        notes.append(f"{what} dropped {before.height - after.height} of {before.height} interactions")
