"""Reads the interactions of a log from the columns of a table, wherever the table is from."""

from __future__ import annotations

from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from rosepo_core.api import (
    YEAR_1,
    Corpus,
    Dataset,
    LogOptions,
    Options,
    RequestError,
    TableContent,
    formats_for,
    read_numbers,
    read_times,
    repeated_pairs,
)
from rosepo_datasets.catalogues import ROW, as_ids, counted, first_true, read_catalogue, titles_in_log
from rosepo_datasets.columns import find_column, find_optional_column, like_times, note_guessed

_TIMES = "a number or an ISO 8601 date or time"


class ColumnOptions(LogOptions):
    """Options of a dataset that finds the columns of a table."""

    user: str | None = Field(None, description="Column of the user; guessed by its name if unset.")
    item: str | None = Field(None, description="Column of the item; guessed by its name if unset.")
    catalogue_item: str | None = Field(
        None, description="Column of the item in the catalogue; if unset, the same name as in the log, or guessed."
    )
    timestamp: str | None = Field(
        None,
        description="Column of the time; guessed by its name or type if unset. Without one, the order of rows is the "
        "order of time.",
    )
    rating: str | None = Field(None, description="Column of the rating; guessed if unset. There may be none.")
    title: str | None = Field(None, description="Column of the title; guessed by its name if unset.")
    decimal: Literal[".", ","] = Field(".", description="Decimal separator of ratings and times.")
    time_format: str | None = Field(
        None, description="How times are written, in the codes of strptime, e.g. '%d.%m.%Y %H:%M'."
    )
    untimed: Literal["error", "drop"] = Field("error", description="What to do with interactions without a time.")
    untitled: Literal["error", "drop"] = Field(
        "error", description="What to do with interactions whose item has no title."
    )


class ColumnsDataset(Dataset):
    """A log in a table, and its catalogue in the same table or in a second one.

    Attributes:
        titles_from: what to do if the log has no titles, for messages.
    """

    Options: ClassVar[type[Options]] = ColumnOptions
    titles_from: ClassVar[str] = "name a file that has the items' titles with dataset.catalogue"

    def corpus(self, name: str, log: TableContent, items: TableContent | None) -> Corpus:
        """The corpus of a log and its items.

        Args:
            name: of the data set.
            log: interactions, one in each row.
            items: the items; if `None`, the titles are in `log`.

        Raises:
            RequestError: a column is not there, or a cell cannot be read; the message names the table, the row and
                the option that helps.
        """
        options: ColumnOptions = self.options
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
            remedy = f", or {self.titles_from}"
            title = find_column("title", options.title, log, guessed, remedy)
        note_guessed(notes, log, guessed)
        if items is None:
            assert title is not None
            catalogue = titles_in_log(interactions, log, title, "title" in guessed, self.titles_from, notes)
        else:
            catalogue = read_catalogue(items, options.catalogue_item, item, options.title, notes)
        source = items or log
        interactions = self._titled(interactions, catalogue, log, source, notes)
        if timestamp is not None:
            _note_repeats(interactions, log, notes)
        return Corpus(name, interactions.drop(ROW), catalogue, tuple(notes))

    def _times(self, log: TableContent, column: str, notes: list[str]) -> pl.Series | None:
        """Int64 times, null for interactions to leave out; `None` if the column was guessed and is empty.

        Raises:
            RequestError: a cell is empty or no time; the message has its row.
        """
        options: ColumnOptions = self.options
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
        options: ColumnOptions = self.options
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
