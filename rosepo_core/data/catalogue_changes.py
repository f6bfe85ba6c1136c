"""Reads changes to a catalogue from a table: a row for each item that is new, renamed, described anew or retired."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import plain_title
from rosepo_core.data.catalogue_in_use import ITEM, RETIRED, TITLE, CatalogueInUse, no_changes
from rosepo_core.data.dialects import Dialect
from rosepo_core.data.frames import Frame
from rosepo_core.data.table_files import TableContent, read_table

_WORDS = {
    **dict.fromkeys(("true", "yes", "1"), True),
    **dict.fromkeys(("false", "no", "0"), False),
}


def items_table(items: object) -> TableContent:
    """The table of items.

    Args:
        items: the path of a CSV, JSON, Parquet or Arrow file, or a frame of pandas, Polars or Arrow.

    Raises:
        RequestError: it cannot be read.
    """
    if not isinstance(items, str | Path):
        content = Frame.of(items, "the items").content
        assert content is not None
        return content
    path = Path(items)
    names = {key: f"the {key} of {path.name}" for key in ("path", "separator", "encoding", "quoting", "columns")}
    dialect = Dialect(None, None, None, None, names)
    return read_table(path, dialect, lambda cell: cell in (ITEM, "id", TITLE, RETIRED), lambda *_: None)


def read_changes(table: TableContent, use: CatalogueInUse, *, whole: bool = False) -> pl.DataFrame:
    """The changes that a table of items makes to a catalogue.

    Args:
        table: has a column ``item`` or ``id``, and perhaps ``title``, ``retired`` (true or false) and attributes of
            the catalogue. An empty cell, or a column that is not there, leaves things as they are.
        use: the catalogue to be changed.
        whole: the table names all items: others are retired, and those that it names are not, unless it says so.

    Returns:
        one row for each item, for `CatalogueInUse.updated`.

    Raises:
        RequestError: a column or cell cannot be read, an item is there twice, a new item has no title, or a title is
            that of another item after Unicode NFKC, case folding and collapsing of white space; the message names the
            row.
    """
    empty = no_changes(use.trained)
    frame = _named(table, empty)
    rows = pl.DataFrame(
        {name: _cells(table, frame[name], empty.schema[name]) for name in empty.columns if name in frame.columns}
    )
    if rows[ITEM].null_count():
        raise RequestError(f"{table.place(_first(rows[ITEM].is_null()))}: the item has no id; give it one")
    if rows[ITEM].is_duplicated().any():
        twice = rows[ITEM].is_duplicated()
        one, other, *_ = (rows[ITEM] == rows[ITEM][_first(twice)]).arg_true().to_list()
        raise RequestError(f"{table.places(one, other)}: item '{rows[ITEM][one]}' is there twice; give it one row")
    found = pl.concat([empty, rows], how="diagonal")
    if whole:
        found = found.with_columns(pl.col(RETIRED).fill_null(False))
    _check_titles(table, found, use)
    if whole:
        others = [item for item in use.items.ids if item not in set(found[ITEM])]
        gone = pl.DataFrame(
            {ITEM: others, RETIRED: [True] * len(others)}, schema={ITEM: pl.String, RETIRED: pl.Boolean}
        )
        found = pl.concat([found, gone], how="diagonal")
    return found


def _named(table: TableContent, empty: pl.DataFrame) -> pl.DataFrame:
    """The frame with the names of `empty`."""
    frame = table.frame
    if ITEM not in frame.columns and "id" in frame.columns and "id" not in empty.columns:
        frame = frame.rename({"id": ITEM})
    if ITEM not in frame.columns:
        raise RequestError(f"{table.path} has the columns {', '.join(frame.columns)}: name the one with ids 'item'")
    for name in frame.columns:
        if name not in empty.columns:
            attributes = ", ".join(empty.columns[3:])
            has = f"its attributes are {attributes}" if attributes else "it has no attributes"
            raise RequestError(
                f"{table.path}: the catalogue has no attribute '{name}'{nearest(name, empty.columns)}; {has}: rename "
                "the column or leave it out"
            )
    return frame


def _cells(table: TableContent, cells: pl.Series, wanted: pl.DataType) -> pl.Series:
    """The cells of a column in the wanted type. Blank text is an empty cell."""
    name = cells.name
    if cells.dtype == pl.Categorical:
        cells = cells.cast(pl.String)
    if cells.dtype == pl.String:
        cells = cells.str.strip_chars()
        cells = cells.set(cells == "", None)
    if cells.dtype in (wanted, pl.Null):
        return cells.cast(wanted)
    if name == ITEM and not (cells.dtype.is_integer() or cells.dtype == pl.String):
        raise RequestError(
            f"{table.path}: column '{name}' holds {cells.dtype}, not ids: make it text or whole numbers"
        )
    if wanted == pl.Boolean:
        words = cells.cast(pl.String).str.to_lowercase()
        found = words.replace_strict(_WORDS, default=None, return_dtype=pl.Boolean)
    elif isinstance(wanted, pl.List) and cells.dtype == pl.String:
        found = cells.str.split("|").cast(wanted, strict=False)
    else:
        try:
            found = cells.cast(wanted, strict=False)
        except pl.exceptions.PolarsError:
            raise RequestError(f"{table.path}: column '{name}' holds {cells.dtype}, not {wanted}") from None
    wrong = cells.is_not_null() & found.is_null()
    if wrong.any():
        row = _first(wrong)
        meant = "true or false" if wanted == pl.Boolean else str(wanted)
        raise RequestError(f"{table.place(row)}: {name} {cells[row]!r} is not {meant}; mend it or leave it empty")
    return found


def _check_titles(table: TableContent, rows: pl.DataFrame, use: CatalogueInUse) -> None:
    """Check that new items have titles, and that no title is another item's."""
    catalogue = use.items
    numbers = {item: number for number, item in enumerate(catalogue.ids)}
    row_of: dict[str, int] = {}
    changed: dict[int, int] = {}
    for row, (item, title) in enumerate(zip(rows[ITEM], rows[TITLE], strict=True)):
        number = numbers.get(item)
        if title is None:
            if number is None:
                raise RequestError(
                    f"{table.place(row)}: item '{item}' is not in the catalogue and has no title; give it one, or "
                    f"mend its id{nearest(item, numbers)}"
                )
            continue
        if number is not None and catalogue.titles[number] == title:
            continue
        if number is not None:
            changed[number] = row
        plain = plain_title(title)
        if plain in row_of:
            raise RequestError(
                f"{table.places(row_of[plain], row)}: both items have the title {title!r}; give each its own, for "
                "example with the year"
            )
        row_of[plain] = row
    for plain, row in row_of.items():
        other = use.plain_titles.get(plain)
        if other is not None and other not in changed and catalogue.ids[other] != rows[ITEM][row]:
            owner = f"'{catalogue.ids[other]}'{', which is retired' if use.retired[other] else ''}"
            raise RequestError(
                f"{table.place(row)}: the title {rows[TITLE][row]!r} is that of item {owner}; "
                f"give item '{rows[ITEM][row]}' a title of its own, for example with the year"
            )


def _first(marks: pl.Series) -> int:
    return int(marks.arg_true()[0])
