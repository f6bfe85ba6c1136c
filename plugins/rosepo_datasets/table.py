"""Your own log: a table of interactions, with the titles in it or in a second table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import AfterValidator, BeforeValidator, Field

from rosepo_core.api import (
    YEAR_1,
    Corpus,
    Dataset,
    Dialect,
    LogOptions,
    Reporter,
    RequestError,
    TableContent,
    formats_for,
    read_numbers,
    read_table,
    read_times,
    table_files,
)
from rosepo_datasets.columns import (
    TYPED_NAME,
    find_column,
    find_optional_column,
    is_usual_name,
    like_times,
    normal,
    note_guessed,
    review_column,
)

ROW = "__row"
"""Column with each interaction's place in the table that was read."""

NO_GENRE = "(no genres listed)"
"""What MovieLens writes for an item without one."""

_TIMES = "a number or an ISO 8601 date or time"


def _separator(value: str) -> str:
    value = value.replace("\\t", "\t")
    if not value or set(value) & set('"\r\n'):
        raise ValueError("write the characters between two cells, such as ';' or '::' or \\t")
    return value


def _encoding(value: str) -> str:
    try:
        b"text".decode(value)
    except UnicodeError:
        pass
    except LookupError:
        raise ValueError("not an encoding that Python knows; write e.g. latin-1, cp1252 or gbk") from None
    return value


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


Separator = Annotated[str, AfterValidator(_separator)]
Encoding = Annotated[str, AfterValidator(_encoding)]
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_names), Field(min_length=1)]


class TableOptions(LogOptions):
    """Options of `table`."""

    path: Path = Field(
        description="Interactions, one a row: a file of text with separators, JSON, Parquet or Arrow; or a folder of "
        "such files."
    )
    catalogue: Path | None = Field(
        None,
        description="Items, in any of the same formats: item, title and further columns. Unset: titles in 'path'.",
    )
    user: str | None = Field(None, description="Column of the user; guessed by its name if unset.")
    item: str | None = Field(None, description="Column of the item; guessed by its name if unset.")
    catalogue_item: str | None = Field(
        None, description="Column of the item in the catalogue; called as in 'path', or guessed, if unset."
    )
    timestamp: str | None = Field(
        None, description="Column of the time; guessed, else the order of rows is the order of time."
    )
    rating: str | None = Field(None, description="Column of the rating; guessed, else there are no ratings.")
    title: str | None = Field(None, description="Column of the title; guessed by its name if unset.")
    separator: Separator | None = Field(
        None, description="What stands between cells of 'path' and of 'catalogue'; guessed where unset or absent."
    )
    encoding: Encoding | None = Field(
        None, description="Encoding of files that are neither UTF-8 nor UTF-16, e.g. latin-1."
    )
    columns: Names | None = Field(
        None, description="Names of the columns of 'path', with commas between, where its first row is data."
    )
    catalogue_columns: Names | None = Field(None, description="The same for 'catalogue'.")
    quoting: Literal["csv", "none"] | None = Field(
        None, description="With 'none', quotes in 'path' are text; with 'csv' they enclose cells. By format if unset."
    )
    catalogue_quoting: Literal["csv", "none"] | None = Field(None, description="The same for 'catalogue'.")
    decimal: Literal[".", ","] = Field(".", description="The sign before the fraction of ratings and times.")
    time_format: str | None = Field(
        None, description="How times are written, in the codes of strptime, e.g. '%d.%m.%Y %H:%M'."
    )
    untimed: Literal["error", "drop"] = Field("error", description="What to do with interactions without a time.")
    untitled: Literal["error", "drop"] = Field(
        "error", description="What to do with interactions whose item has no title."
    )


class Table(Dataset):
    """A log and its catalogue in files.

    It reads text (.csv, .tsv, .txt, .dat; RecBole's .inter, .item and .user), JSON (an object a line, or a list of
    objects; also in Python's notation), Parquet and Arrow, folders of such files, and saved Hugging Face datasets.
    Text and JSON may be gzipped. docs/data-formats.md lists what publishers use.

    Times: whole numbers are taken as they are, whatever their unit; fractions of seconds make the whole column
    microseconds; times without a zone are UTC. Errors count rows from 1, the header included.
    """

    Options = TableOptions

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`."""
        options: TableOptions = self.options
        files = table_files(options.path.expanduser(), self._dialect(""))
        if options.catalogue:
            files += table_files(options.catalogue.expanduser(), self._dialect("catalogue_"))
        return files

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        options: TableOptions = self.options
        log = self._read(options.path, "", reporter)
        items = self._read(options.catalogue, "catalogue_", reporter) if options.catalogue else None
        self._require_separator(log, items)
        notes = [*log.notes]
        guessed: dict[str, str] = {}
        user = find_column("user", options.user, log, guessed)
        item = find_column("item", options.item, log, guessed)
        timestamp = find_optional_column("timestamp", options.timestamp, log, guessed)
        rating = find_optional_column("rating", options.rating, log, guessed)
        columns = {"user": as_text(log, user), "item": as_text(log, item)}
        require_filled(columns["user"], log, user, "user")
        require_filled(columns["item"], log, item, "item")
        times = None if timestamp is None else self._times(log, timestamp, notes)
        if times is None:
            guessed.pop("timestamp", None)
            notes.append(_untimed_note(log, timestamp))
            times = pl.int_range(log.frame.height, dtype=pl.Int64, eager=True)
        columns["timestamp"] = times
        if rating is not None:
            columns["rating"] = self._ratings(log, rating)
        interactions = pl.DataFrame(columns).with_row_index(ROW).filter(pl.col("timestamp").is_not_null())

        title = None
        if items is None:
            remedy = ", or a file that has titles with dataset.catalogue"
            title = find_column("title", options.title, log, guessed, remedy)
        note_guessed(notes, log, guessed)
        if items is None:
            assert title is not None
            catalogue = titles_in_log(interactions, log, title, "title" in guessed, notes)
        else:
            catalogue = read_catalogue(items, options, item, notes)
        source = items or log
        interactions = self._titled(interactions, catalogue, log, source, notes)
        if timestamp is not None:
            _note_repeats(interactions, log, notes)
        name = log.path.name if log.path.is_dir() else log.path.name.removesuffix(".gz").rpartition(".")[0]
        return Corpus(name or log.path.name, interactions.drop(ROW), catalogue, tuple(notes))

    def _dialect(self, prefix: str) -> Dialect:
        options: TableOptions = self.options
        return Dialect(
            options.separator,
            options.encoding,
            getattr(options, f"{prefix}quoting"),
            getattr(options, f"{prefix}columns"),
            {
                "path": "dataset.catalogue" if prefix else "dataset.path",
                "separator": "dataset.separator",
                "encoding": "dataset.encoding",
                "quoting": f"dataset.{prefix}quoting",
                "columns": f"dataset.{prefix}columns",
            },
        )

    def _read(self, path: Path, prefix: str, reporter: Reporter) -> TableContent:
        def progress(done: int, total: int) -> None:
            reporter.progress(done, total, f"rows of {path.name}")

        return read_table(path.expanduser(), self._dialect(prefix), is_usual_name, progress)

    def _require_separator(self, log: TableContent, items: TableContent | None) -> None:
        asked = self.options.separator
        if asked is not None and asked not in log.separators | (items.separators if items else set()):
            both = f"{log.path}{f' or {items.path}' if items else ''}"
            raise RequestError(f"dataset.separator={asked!r} does not part the cells of {both}: leave it unset")

    def _times(self, log: TableContent, column: str, notes: list[str]) -> pl.Series | None:
        """Int64 times, null where an interaction is to be left out; `None` if the guessed column is all empty.

        Raises:
            RequestError: a cell is empty or no time; the message has its row.
        """
        options: TableOptions = self.options
        cells = log.frame[column]
        try:
            times = read_times(cells, options.time_format, options.decimal)
        except TypeError as error:
            raise RequestError(f"{log.path}: column '{column}' holds {error}, not {_TIMES}: name another") from None
        if times.unreadable.any():
            row = _first(times.unreadable)
            raise RequestError(f"{log.place(row)}: timestamp {cells[row]!r} {self._reading(cells)}")
        values, name = times.values, log.path.name
        if times.unit == "microseconds":
            notes.append(f"{name}: '{column}' has fractions of seconds: timestamps are in microseconds")
        if values.null_count() == len(values):
            if options.timestamp is None:
                notes.append(f"{name}: '{column}' is empty throughout")
                return None
            raise RequestError(f"{log.path}: column '{column}' (dataset.timestamp) is empty throughout: name another")
        if values.null_count() and options.untimed == "error":
            raise RequestError(
                f"{log.place(_first(values.is_null()))}: timestamp is empty: fill it in, or set "
                f"dataset.untimed='drop' to leave out {_count(values.null_count(), 'interaction')} without a time"
            )
        from_year_1 = values.is_in(YEAR_1).fill_null(False)
        if from_year_1.any() and options.untimed == "drop":
            values = values.set(from_year_1, None)
        elif from_year_1.any():
            notes.append(
                f"{name}: {_count(int(from_year_1.sum()), 'time')} of the year 1, which often stands for no time, "
                f"e.g. in row {log.rows[_first(from_year_1)]}: dataset.untimed='drop' leaves them out"
            )
        if values.null_count():
            notes.append(f"{name}: dropped {_count(values.null_count(), 'interaction')} without a time")
        return values

    def _reading(self, cells: pl.Series) -> str:
        """Why a column of times could not be read, and the option that reads it if there is one."""
        options: TableOptions = self.options
        asked, text = options.time_format, cells.dtype == pl.String
        reason = f"is not written as dataset.time_format='{asked}' says" if asked else f"is not {_TIMES}"
        if formats := formats_for(cells) if text else []:
            ways = " or ".join(f"dataset.time_format='{each}'" for each in formats[:3])
            return f"{reason}: {ways} reads the whole column"
        if asked and not read_times(cells, None, options.decimal).unreadable.any():
            return f"{reason}: leave it unset"
        other: Literal[".", ","] = "," if options.decimal == "." else "."
        if text and not asked and not read_times(cells, None, other).unreadable.any():
            return f"{reason}: dataset.decimal='{other}' reads the whole column"
        return f"{reason}: mend it or take the row out"

    def _ratings(self, log: TableContent, column: str) -> pl.Series:
        """Float64 ratings; empty cells stay null.

        Raises:
            RequestError: a cell is no number.
        """
        cells = log.frame[column]
        if not (cells.dtype in (pl.String, pl.Null) or cells.dtype.is_numeric()):
            raise RequestError(f"{log.path}: column '{column}' holds {cells.dtype}, not numbers")
        decimal = self.options.decimal
        ratings, wrong = read_numbers(cells, decimal)
        if wrong.any():
            row = _first(wrong)
            other: Literal[".", ","] = "," if decimal == "." else "."
            reads = not read_numbers(cells, other)[1].any()
            advice = f"dataset.decimal='{other}' reads the whole column" if reads else "mend it or take the row out"
            raise RequestError(f"{log.place(row)}: rating {cells[row]!r} is not a number: {advice}")
        return ratings

    def _titled(
        self,
        interactions: pl.DataFrame,
        catalogue: pl.DataFrame,
        log: TableContent,
        source: TableContent,
        notes: list[str],
    ) -> pl.DataFrame:
        untitled = interactions.join(catalogue, on="item", how="anti", maintain_order="left")
        if untitled.is_empty():
            return interactions
        first = untitled.row(0, named=True)
        if untitled.height == interactions.height:
            listed = f" (its first is '{catalogue['item'][0]}')" if catalogue.height else ""
            raise RequestError(
                f"{log.path}: none of its items (the first is '{first['item']}') has a title in {source.path.name}"
                f"{listed}: are these the same ids? dataset.item and dataset.catalogue_item name the columns"
            )
        if self.options.untitled == "error":
            raise RequestError(
                f"{log.place(first[ROW])}: item '{first['item']}' has no title in {source.path.name}: add one, or "
                f"set dataset.untitled='drop' to leave out {_count(untitled.height, 'interaction')} with such items"
            )
        notes.append(
            f"{log.path.name}: dropped {_count(untitled.height, 'interaction')} with "
            f"{_count(untitled['item'].n_unique(), 'item')} without a title, e.g. '{first['item']}'"
        )
        return interactions.join(catalogue, on="item", how="semi", maintain_order="left")


def as_text(table: TableContent, column: str) -> pl.Series:
    """A column of ids or titles as text without blanks at the ends; empty cells are null."""
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
        place = table.place(_first(values.is_null()))
        raise RequestError(
            f"{place}: '{column}' is empty: fill it in, take the row out, or name another column with dataset.{role}"
        )


def titles_in_log(
    interactions: pl.DataFrame, log: TableContent, column: str, guessed: bool, notes: list[str]
) -> pl.DataFrame:
    """The catalogue of a log that has the titles in it: each item's first title, in order of appearance.

    Raises:
        RequestError: the column was guessed, and looks like headlines of reviews: it stands beside the text of one,
            or most items have several titles.
    """
    advice = (
        "name a file that has the items' titles with dataset.catalogue, or set "
        f"dataset.title={column!r} if these are the titles after all"
    )
    review = review_column(log)
    if guessed and review is not None:
        raise RequestError(
            f"{log.path}: '{column}' stands beside '{review}', so it is likely the headline of a review, not the "
            f"title of an item: {advice}"
        )
    titles = as_text(log, column)
    named = interactions.select("item", title=titles.gather(interactions[ROW])).filter(pl.col("title").is_not_null())
    distinct = named.unique(maintain_order=True)
    several = distinct.filter(pl.col("item").is_duplicated())
    if several.is_empty():
        return distinct
    count = several["item"].n_unique()
    example = "', '".join(several.filter(pl.col("item") == several["item"][0])["title"].head(3))
    if guessed and count * 2 > named.filter(pl.col("item").is_duplicated())["item"].n_unique():
        raise RequestError(
            f"{log.path}: most items have several values in '{column}', e.g. item '{several['item'][0]}' has "
            f"'{example}', so it is likely no title of an item: {advice}"
        )
    notes.append(
        f"{log.path.name}: {_count(count, 'item')} with several titles; the first is taken, e.g. for item "
        f"'{several['item'][0]}' of '{example}'"
    )
    return distinct.unique("item", keep="first", maintain_order=True)


def read_catalogue(table: TableContent, options: TableOptions, item_in_log: str, notes: list[str]) -> pl.DataFrame:
    """Columns ``item``, ``title`` and what else the table has.

    Raises:
        RequestError: as for `find_column`; an item has two titles.
    """
    notes += table.notes
    path, frame = table.path, table.frame
    guessed: dict[str, str] = {}
    if options.catalogue_item is None and item_in_log in frame.columns:
        item = guessed["catalogue_item"] = item_in_log
    else:
        item = find_column("catalogue_item", options.catalogue_item, table, guessed)
    title = find_column("title", options.title, table, guessed)
    note_guessed(notes, table, guessed)
    items = as_text(table, item)
    require_filled(items, table, item, "catalogue_item")
    catalogue = pl.DataFrame([items.alias("item"), as_text(table, title).alias("title")]).with_row_index(ROW)
    catalogue = catalogue.hstack(_attributes(frame, (item, title)))
    titled = catalogue.filter(pl.col("title").is_not_null())
    if titled.height < catalogue.height:
        notes.append(f"{path.name}: left out {_count(catalogue.height - titled.height, 'item')} without a title")
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
    """Lists of genres, from lists or from text with a separator between; an item may have none."""
    if values.dtype == pl.String:
        values = values.str.split(separator)
    if values.dtype != pl.List(pl.String):
        return values
    genre = pl.element().str.strip_chars()
    lists = values.to_frame().select(pl.all().list.eval(genre.filter((genre != "") & (genre != NO_GENRE))))
    return lists.to_series().fill_null(pl.Series([[]], dtype=pl.List(pl.String)))


def _untimed_note(log: TableContent, empty: str | None) -> str:
    likely = [name for name in like_times(log) if name != empty]
    hint = f"; dataset.timestamp='{likely[0]}' may be one" if likely else ""
    return f"{log.path.name}: no timestamp column: the order of rows is the order of time{hint}"


def _note_repeats(interactions: pl.DataFrame, log: TableContent, notes: list[str]) -> None:
    repeats = interactions.height - interactions.drop(ROW).n_unique()
    if repeats:
        equal = ", ".join(interactions.drop(ROW).columns)
        notes.append(f"{log.path.name}: {_count(repeats, 'interaction')} equal to an earlier one ({equal})")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _first(mask: pl.Series) -> int:
    return int(mask.arg_max() or 0)
