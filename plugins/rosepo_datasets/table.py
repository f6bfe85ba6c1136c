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
    repeated_pairs,
    table_files,
)
from rosepo_datasets.catalogues import (
    ROW,
    as_ids,
    counted,
    first_true,
    read_catalogue,
    titles_in_log,
)
from rosepo_datasets.columns import find_column, find_optional_column, is_usual_name, like_times, note_guessed

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
        description="Interactions, one in each row: a text file with separators, JSON, Parquet or Arrow; or a folder "
        "of such files."
    )
    catalogue: Path | None = Field(
        None,
        description="Items, in any of these formats: item, title and more columns. If unset, titles are in 'path'.",
    )
    user: str | None = Field(None, description="Column of the user; guessed by its name if unset.")
    item: str | None = Field(None, description="Column of the item; guessed by its name if unset.")
    catalogue_item: str | None = Field(
        None, description="Column of the item in the catalogue; if unset, the same name as in 'path', or guessed."
    )
    timestamp: str | None = Field(
        None, description="Column of the time; guessed if unset. Without one, the order of rows is the order of time."
    )
    rating: str | None = Field(None, description="Column of the rating; guessed if unset. There may be none.")
    title: str | None = Field(None, description="Column of the title; guessed by its name if unset.")
    separator: Separator | None = Field(
        None, description="The text between the cells of 'path' and 'catalogue'; guessed if unset or not in a file."
    )
    encoding: Encoding | None = Field(
        None, description="Encoding of files that are neither UTF-8 nor UTF-16, e.g. latin-1."
    )
    columns: Names | None = Field(
        None, description="Names of the columns of 'path', separated by commas, if its first row is data."
    )
    catalogue_columns: Names | None = Field(None, description="The same for 'catalogue'.")
    quoting: Literal["csv", "none"] | None = Field(
        None,
        description="'none': quotes in 'path' are text. 'csv': they enclose cells. If unset, the format decides.",
    )
    catalogue_quoting: Literal["csv", "none"] | None = Field(None, description="The same for 'catalogue'.")
    decimal: Literal[".", ","] = Field(".", description="Decimal separator of ratings and times.")
    time_format: str | None = Field(
        None, description="How times are written, in the codes of strptime, e.g. '%d.%m.%Y %H:%M'."
    )
    untimed: Literal["error", "drop"] = Field("error", description="What to do with interactions without a time.")
    untitled: Literal["error", "drop"] = Field(
        "error", description="What to do with interactions whose item has no title."
    )


class Table(Dataset):
    """A log and its catalogue in files.

    It reads text (.csv, .tsv, .txt, .dat; RecBole's .inter, .item and .user), JSON (one object on each line, or a
    list of objects; also in Python's notation), Parquet and Arrow, folders of such files, and saved Hugging Face
    datasets. Text and JSON may be gzipped. docs/data-formats.md lists the formats of publishers.

    Times: whole numbers stay unchanged, whatever their unit. If one time has a fraction of a second, the whole column
    becomes microseconds. Times without a zone are UTC. Row numbers in errors start at 1 and include the header.
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
        columns = {"user": as_ids(log, user, "user"), "item": as_ids(log, item, "item")}
        times = None if timestamp is None else self._times(log, timestamp, notes)
        if times is None:
            guessed.pop("timestamp", None)
            notes.append(_untimed_note(log, timestamp))
            times = pl.int_range(log.frame.height, dtype=pl.Int64, eager=True)
        columns["timestamp"] = times
        if rating is not None:
            columns["rating"] = self._ratings(log, rating)
        interactions = pl.DataFrame(columns).with_row_index(ROW)
        if times.null_count():
            interactions = interactions.filter(pl.col("timestamp").is_not_null())

        title = None
        if items is None:
            remedy = ", or a file that has titles with dataset.catalogue"
            title = find_column("title", options.title, log, guessed, remedy)
        note_guessed(notes, log, guessed)
        if items is None:
            assert title is not None
            catalogue = titles_in_log(interactions, log, title, "title" in guessed, notes)
        else:
            catalogue = read_catalogue(items, options.catalogue_item, item, options.title, notes)
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

        # The attributes of a catalogue stay text, whatever its size.
        return read_table(path.expanduser(), self._dialect(prefix), is_usual_name, progress, compact=not prefix)

    def _require_separator(self, log: TableContent, items: TableContent | None) -> None:
        asked = self.options.separator
        if asked is not None and asked not in log.separators | (items.separators if items else set()):
            both = f"{log.path}{f' or {items.path}' if items else ''}"
            raise RequestError(f"dataset.separator={asked!r} does not part the cells of {both}: leave it unset")

    def _times(self, log: TableContent, column: str, notes: list[str]) -> pl.Series | None:
        """Int64 times, null for interactions to leave out; `None` if the column was guessed and is empty.

        Raises:
            RequestError: a cell is empty or no time; the message has its row.
        """
        options: TableOptions = self.options
        cells = log.frame[column]
        if options.time_format and cells.dtype.is_integer() and log.separators:
            cells = cells.cast(pl.String)  # Such as 20261128.
        try:
            times = read_times(cells, options.time_format, options.decimal)
        except TypeError as error:
            raise RequestError(f"{log.path}: column '{column}' holds {error}, not {_TIMES}: name another") from None
        if times.unreadable.any():
            row = first_true(times.unreadable)
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
                f"{log.place(first_true(values.is_null()))}: timestamp is empty: fill it in, or set "
                f"dataset.untimed='drop' to leave out {counted(values.null_count(), 'interaction')} without a time"
            )
        from_year_1 = values.is_in(YEAR_1).fill_null(False)
        if from_year_1.any() and options.untimed == "drop":
            values = values.set(from_year_1, None)
        elif from_year_1.any():
            notes.append(
                f"{name}: {counted(int(from_year_1.sum()), 'time')} of the year 1, which often stands for no time, "
                f"e.g. in row {log.rows[first_true(from_year_1)]}: dataset.untimed='drop' leaves them out"
            )
        if values.null_count():
            notes.append(f"{name}: dropped {counted(values.null_count(), 'interaction')} without a time")
        return values

    def _reading(self, cells: pl.Series) -> str:
        """The reason why a column of times cannot be read, and the option that reads it, if there is one."""
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
        if not (cells.dtype in (pl.String, pl.Categorical, pl.Null) or cells.dtype.is_numeric()):
            raise RequestError(f"{log.path}: column '{column}' holds {cells.dtype}, not numbers")
        decimal = self.options.decimal
        ratings, wrong = read_numbers(cells, decimal)
        if wrong.any():
            row = first_true(wrong)
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
        item = interactions["item"]
        has_title = item.dtype.categories.is_in(catalogue["item"].implode()).gather(item.to_physical())
        if has_title.all():
            return interactions
        untitled = interactions.filter(~has_title)
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
                f"set dataset.untitled='drop' to leave out {counted(untitled.height, 'interaction')} with such items"
            )
        notes.append(
            f"{log.path.name}: dropped {counted(untitled.height, 'interaction')} with "
            f"{counted(untitled['item'].n_unique(), 'item')} without a title, e.g. '{first['item']}'"
        )
        return interactions.filter(has_title)


def _untimed_note(log: TableContent, empty: str | None) -> str:
    likely = [name for name in like_times(log) if name != empty]
    hint = f"; dataset.timestamp='{likely[0]}' may be one" if likely else ""
    return f"{log.path.name}: no timestamp column: the order of rows is the order of time{hint}"


def _note_repeats(interactions: pl.DataFrame, log: TableContent, notes: list[str]) -> None:
    alike = interactions.drop(ROW).filter(repeated_pairs(interactions))
    repeats = alike.height - alike.n_unique()
    if repeats:
        notes.append(
            f"{log.path.name}: {counted(repeats, 'interaction')} equal to an earlier one ({', '.join(alike.columns)})"
        )
