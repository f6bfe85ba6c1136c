"""Titles and attributes of the items of a log: from the log itself, or from a table of items."""

from __future__ import annotations

import polars as pl

from rosepo_core.api import RequestError, TableContent, coded
from rosepo_datasets.columns import TYPED_NAME, find_column, normal, note_guessed, review_column

ROW = "__row"
"""Column with the index of each row in the table."""

NO_GENRE = "(no genres listed)"
"""MovieLens writes this for an item without genres."""


def as_ids(table: TableContent, column: str, role: str) -> pl.Series:
    """A column of ids, as `polars.Enum`.

    Raises:
        RequestError: a cell is empty.
    """
    values = table.frame[column]
    if not values.dtype.is_integer():
        values = as_text(table, column)
    require_filled(values, table, column, role)
    return coded(values)


def as_text(table: TableContent, column: str) -> pl.Series:
    """A column of ids or titles, as text without blanks at the ends; empty cells are null."""
    values = table.frame[column]
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise RequestError(f"{table.path}: column '{column}' holds {values.dtype}, not text or numbers: name another")
    if values.dtype.is_float():
        values = values.fill_nan(None)
        if (values.drop_nulls() == values.drop_nulls().floor()).all():
            values = values.cast(pl.Int64, strict=False)
    text = values.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def require_filled(values: pl.Series, table: TableContent, column: str, role: str) -> None:
    """
    Raises:
        RequestError: a cell is empty.
    """
    if values.null_count():
        place = table.place(first_true(values.is_null()))
        raise RequestError(
            f"{place}: '{column}' is empty: fill it in, take the row out, or name another column with dataset.{role}"
        )


def titles_in_log(
    interactions: pl.DataFrame, log: TableContent, column: str, guessed: bool, elsewhere: str, notes: list[str]
) -> pl.DataFrame:
    """The catalogue of a log that contains the titles: the first title of each item, in order of appearance.

    Args:
        interactions: columns ``item`` and `ROW`.
        log: the log.
        column: the column of the titles.
        guessed: whether the column was guessed.
        elsewhere: how to take the titles from another table, for messages.
        notes: receives a note on items with several titles.

    Raises:
        RequestError: the column was guessed, and looks like headlines of reviews: the log also has the text of
            reviews, or most items have several titles.
    """
    advice = f"{elsewhere}, or set dataset.title={column!r} if these are the titles after all"
    review = review_column(log)
    if guessed and review is not None:
        raise RequestError(
            f"{log.path}: '{column}' stands beside '{review}', so it is likely the headline of a review, not the "
            f"title of an item: {advice}"
        )
    titles = as_text(log, column)
    named = interactions.select("item", title=titles.gather(interactions[ROW])).filter(pl.col("title").is_not_null())
    distinct = named.unique(maintain_order=True).with_columns(pl.col("item").cast(pl.String))
    ambiguous = distinct.filter(pl.col("item").is_duplicated())
    if ambiguous.is_empty():
        return distinct
    count = ambiguous["item"].n_unique()
    example = "', '".join(ambiguous.filter(pl.col("item") == ambiguous["item"][0])["title"].head(3))
    if guessed and count * 2 > named.filter(pl.col("item").is_duplicated())["item"].n_unique():
        raise RequestError(
            f"{log.path}: most items have several values in '{column}', e.g. item '{ambiguous['item'][0]}' has "
            f"'{example}', so it is likely no title of an item: {advice}"
        )
    notes.append(
        f"{log.path.name}: {counted(count, 'item')} with several titles; the first is taken, e.g. for item "
        f"'{ambiguous['item'][0]}' of '{example}'"
    )
    return distinct.unique("item", keep="first", maintain_order=True)


def read_catalogue(
    table: TableContent, item_asked: str | None, item_in_log: str, title_asked: str | None, notes: list[str]
) -> pl.DataFrame:
    """Columns ``item``, ``title`` and the other columns of the table.

    Args:
        table: the table of items.
        item_asked: the column of the item, if an option names it.
        item_in_log: the name of that column in the log, which is tried first if no option names one.
        title_asked: the column of the title, if an option names it.
        notes: receives notes on guesses and on rows that were left out.

    Raises:
        RequestError: as for `find_column`, or an item has two titles.
    """
    notes += table.notes
    path, frame = table.path, table.frame
    guessed: dict[str, str] = {}
    if item_asked is None and item_in_log in frame.columns:
        item = guessed["catalogue_item"] = item_in_log
    else:
        item = find_column("catalogue_item", item_asked, table, guessed)
    title = find_column("title", title_asked, table, guessed)
    note_guessed(notes, table, guessed)
    items = as_text(table, item)
    require_filled(items, table, item, "catalogue_item")
    catalogue = pl.DataFrame([items.alias("item"), as_text(table, title).alias("title")]).with_row_index(ROW)
    catalogue = catalogue.hstack(_attributes(frame, (item, title)))
    titled = catalogue.filter(pl.col("title").is_not_null())
    if titled.height < catalogue.height:
        notes.append(f"{path.name}: left out {counted(catalogue.height - titled.height, 'item')} without a title")
    contradictory = titled.filter(pl.col("title").n_unique().over("item") > 1)
    if not contradictory.is_empty():
        same = titled.filter(pl.col("item") == contradictory["item"][0]).unique("title", maintain_order=True)
        (first, first_row), (second, second_row) = same.select("title", ROW).rows()[:2]
        raise RequestError(
            f"{table.places(first_row, second_row)}: item '{same['item'][0]}' has the titles "
            f"'{first}' and '{second}': keep one"
        )
    return titled.unique("item", keep="first", maintain_order=True).drop(ROW)


def _attributes(frame: pl.DataFrame, used: tuple[str, ...]) -> list[pl.Series]:
    """The other columns, without RecBole's types in their names; genres as lists of text."""
    attributes: dict[str, pl.Series] = {}
    for column in frame.columns:
        typed = TYPED_NAME.fullmatch(column)
        name = typed[1] if typed else column
        if column in used or name in ("item", "title", ROW, *attributes):
            continue
        values = frame[column]
        if normal(column) in ("genres", "genre"):
            name = "genres"
            values = as_genres(values, " " if typed and typed[2] == "token_seq" else "|")
        attributes[name] = values.alias(name)
    return list(attributes.values())


def as_genres(values: pl.Series, separator: str) -> pl.Series:
    """Lists of genres, from lists or from text with a separator; an item may have none."""
    if values.dtype == pl.String:
        values = values.str.split(separator)
    if values.dtype != pl.List(pl.String):
        return values
    genre = pl.element().str.strip_chars()
    lists = values.to_frame().select(pl.all().list.eval(genre.filter((genre != "") & (genre != NO_GENRE))))
    return lists.to_series().fill_null(pl.Series([[]], dtype=pl.List(pl.String)))


def counted(number: int, what: str) -> str:
    """For example ``3 items``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def first_true(mask: pl.Series) -> int:
    """The index of the first true value; 0 if there is none."""
    return int(mask.arg_max() or 0)
