"""Logs in their publishers' own files. A data set says which files, columns and attributes there are, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
from pydantic import BeforeValidator, Field, model_validator

from rosepo_core.api import (
    YEAR_1,
    Corpus,
    Dataset,
    Dialect,
    LogOptions,
    Reporter,
    RequestError,
    TableContent,
    coded,
    downloaded,
    expanded,
    read_numbers,
    read_table,
    read_times,
)
from rosepo_datasets.catalogues import as_text, counted, first_true
from rosepo_datasets.columns import is_usual_name


@dataclass(frozen=True)
class PublishedTable:
    """A table as its publisher writes it.

    Attributes:
        names: names of its file, the usual one first; ``*`` stands for any text, and ``.gz`` may follow. In the
            items' table, ``*`` stands for what it stood for in the log's name.
        columns: the publisher's columns under the names that they get: "user", "item", "timestamp" and "rating" in a
            log, "item" and "title" among the items. All must be there.
        others: the same for columns that may be missing, such as attributes, which are null then. In JSON a point
            leads into an object (``details.Brand``). `None` means all other columns, under their own names.
        header: the names of all columns, in their order, if the file does not begin with them.
        separator: the text between the cells, unless the file's name tells it.
        encoding: the encoding of a file that is not UTF-8.
        quoting: whether quotes enclose cells, unless the file's name tells it.
        time_format: how times are written, in the codes of `strptime`, where they could be read in two ways.
    """

    names: tuple[str, ...]
    columns: Mapping[str, str]
    others: Mapping[str, str] | None = field(default_factory=dict)
    header: tuple[str, ...] | None = None
    separator: str | None = None
    encoding: str | None = None
    quoting: Literal["csv", "none"] | None = None
    time_format: str | None = None


@dataclass
class Reading:
    """A table that is being read.

    Attributes:
        table: its rows, with columns as `PublishedTable` names them.
        notes: messages for the user, one line each.
    """

    table: TableContent
    notes: list[str]

    def keep(self, mask: pl.Series, what: str) -> None:
        """Leave out the rows that are not in a mask, and note how many and why."""
        lost = int((~mask).sum())
        if lost:
            first = self.table.rows[first_true(~mask)]
            rows = counted(lost, "row")
            self.notes.append(f"{self.table.path.name}: left out {rows} {what}, the first of them row {first}")
            self.table = replace(self.table, frame=self.table.frame.filter(mask), rows=self.table.rows.filter(mask))

    def change(self, *columns: pl.Expr | pl.Series) -> None:
        """Add or replace columns."""
        self.table = replace(self.table, frame=self.table.frame.with_columns(*columns))


def _several(value: Any) -> Any:
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_several)]


class PublishedOptions(LogOptions):
    """Options of a data set in its publisher's files."""

    path: Path | None = Field(
        None, description="Folder with the publisher's files, unpacked; or the file of the interactions."
    )
    url: Texts = Field(
        (),
        description="Instead of 'path': addresses of the publisher's files or archives, separated by commas. They "
        "are fetched once and kept in the cache.",
    )
    sha256: Texts = Field((), description="The SHA-256 sum of each file of 'url', in this order.")

    @model_validator(mode="after")
    def _one_source(self) -> PublishedOptions:
        if (self.path is None) == (not self.url):
            raise ValueError("set path to the publisher's files, or url and sha256 to fetch them")
        return self


class PublishedLog(Dataset):
    """A log and its items in the publisher's own files.

    Rows that lack a user, an item or a time, and items without a title, are left out and counted: publishers' files
    have them. A time or rating that cannot be read is an error, because then the file is not the publisher's. Of
    several rows about one item the first counts.

    Attributes:
        name: the data set's name, for tables and reports.
        publisher: who publishes the data, and where.
        log: the table of interactions.
        items: the table of items.
    """

    Options = PublishedOptions
    _folder: Path | None = None
    name: ClassVar[str]
    publisher: ClassVar[str]
    log: ClassVar[PublishedTable]
    items: ClassVar[PublishedTable]

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """The attributes of the items, [rows] each, by default all columns as they are. If there is one called
        ``title``, it replaces the titles.

        Args:
            items: the rows of the items' table, with columns as `items` names them.
        """
        return [items[name] for name in items.columns if name not in ("item", "title")]

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        if self.options.url:
            self._folder = downloaded(self.options.url, self.options.sha256, reporter)
        log, items = self.read_log(reporter), self.read_items(reporter)
        catalogue = self._catalogue(items)
        interactions = self._interactions(log, catalogue)
        return self.corpus(interactions, catalogue, [*log.notes, *items.notes])

    def corpus(self, interactions: pl.DataFrame, catalogue: pl.DataFrame, notes: Sequence[str]) -> Corpus:
        """The corpus of a log whose items all have titles."""
        return Corpus(self.name, interactions, catalogue, tuple(notes))

    def read_log(self, reporter: Reporter) -> Reading:
        """The rows of the log, with columns as `log` names them."""
        return self.read(self.log, self.tables()[0], reporter, compact=True)

    def read_items(self, reporter: Reporter) -> Reading:
        """The rows about items, with columns as `items` names them."""
        return self.read(self.items, self.tables()[1], reporter)

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`. The sums of files to fetch are options, so these files need not be there yet."""
        return [] if self.options.url else self.tables()

    def tables(self) -> Sequence[Path]:
        """The file of the log, the file of the items, and others that are read.

        Raises:
            RequestError: one is not there, or several logs are.
        """
        path = self.place
        if not path.exists():
            raise RequestError(f"{path} (dataset.path) does not exist; {self.shipped}")
        log = self.beside(path, self.log, but=self.items) if path.is_dir() else path
        stem = next((found for name in self.log.names if (found := _stem(log.name, name)) is not None), "*")
        return [log, self.beside(log.parent, self.items, stem)]

    @property
    def place(self) -> Path:
        """The file or folder that is read."""
        return self._folder or expanded(self.options.path)

    def beside(self, folder: Path, table: PublishedTable, stem: str = "*", but: PublishedTable | None = None) -> Path:
        """The file of a table in a folder.

        Args:
            folder: the folder.
            table: the table.
            stem: what ``*`` stands for in its names.
            but: another table, whose files are not meant.

        Raises:
            RequestError: there is none, or there are several.
        """
        names = [name.replace("*", stem) for name in table.names]
        others = but.names if but else ()
        files = [
            file
            for file in sorted(folder.iterdir())
            if file.is_file() and not any(_stem(file.name, other) is not None for other in others)
        ]
        for name in names:
            found = [file for file in files if _stem(file.name, name) is not None]
            if len(found) > 1:
                listed = ", ".join(file.name for file in found)
                raise RequestError(f"{folder} (dataset.path) has {listed}: name one of them with dataset.path")
            if found:
                return found[0]
        raise RequestError(f"{folder} (dataset.path) has no file {' or '.join(names)}; {self.shipped}")

    @property
    def shipped(self) -> str:
        """What the publisher ships, for messages."""
        files = " and ".join(" or ".join(table.names) for table in (self.log, self.items))
        return f"'{self.name}' reads {files} as {self.publisher} ships them"

    def read(self, table: PublishedTable, file: Path, reporter: Reporter, *, compact: bool = False) -> Reading:
        """Read a table of the publisher.

        Args:
            table: how it is written.
            file: its file.
            reporter: shows the progress.
            compact: see `read_table`.

        Raises:
            RequestError: it cannot be read, or lacks a column; the message says what the publisher ships.
        """

        def progress(done: int, total: int) -> None:
            reporter.progress(done, total, f"rows of {file.name}")

        named = {**(table.others or {}), **table.columns}
        keys = None if table.others is None else list(dict.fromkeys(named.values()))
        options = {each: f"dataset.{each} of 'table'" for each in ("separator", "encoding", "quoting")}
        options |= {"path": "dataset.path", "columns": "the publisher"}
        dialect = Dialect(table.separator, table.encoding, table.quoting, table.header, options)
        try:
            content = read_table(file, dialect, is_usual_name, progress, compact=compact, keys=keys)
        except RequestError as error:
            raise RequestError(f"{error}; {self.shipped}") from None
        has = content.frame.columns
        for column in table.columns.values():
            if column in content.nested:
                raise RequestError(
                    f"{file}: column '{column}' holds lists or objects, not text or numbers; {self.shipped}"
                )
            if column not in has:
                listed = ", ".join(f"'{each}'" for each in has)
                raise RequestError(f"{file} has no column '{column}'; it has {listed}; {self.shipped}")
        if table.others is None:
            named |= {column: column for column in has if column not in named.values() and column not in named}
        frame = content.frame.select(
            pl.col(column).alias(name) if column in has else pl.lit(None, pl.String).alias(name)
            for name, column in named.items()
        )
        return Reading(replace(content, frame=frame), list(content.notes))

    def read_times(self, log: Reading) -> None:
        """Read the column ``timestamp``, if it is there, as int64, and leave out the rows without a time.

        Raises:
            RequestError: a cell is no time.
        """
        if "timestamp" not in log.table.frame.columns:
            return
        cells = log.table.frame["timestamp"]
        try:
            times = read_times(cells, None if cells.dtype.is_numeric() else self.log.time_format)
        except TypeError as error:
            raise RequestError(f"{log.table.path}: its times are {error}; {self.shipped}") from None
        if times.unreadable.any():
            at = first_true(times.unreadable)
            raise RequestError(f"{log.table.place(at)}: {cells[at]!r} is not a time; {self.shipped}")
        values = times.values.set(times.values.is_in(YEAR_1).fill_null(False), None)
        log.change(values.alias("timestamp"))
        log.keep(values.is_not_null(), "without a time")
        if times.unit == "microseconds":
            log.notes.append(
                f"{log.table.path.name}: times are in microseconds, because some have fractions of seconds"
            )

    def _interactions(self, log: Reading, catalogue: pl.DataFrame) -> pl.DataFrame:
        """Columns ``user``, ``item``, ``timestamp`` and perhaps ``rating``, of items with titles.

        Raises:
            RequestError: a time or a rating cannot be read, or nothing is left.
        """
        for role in ("user", "item"):
            log.keep(_ids(log.table, role).is_not_null(), f"without {'an item' if role == 'item' else 'a user'}")
        self.read_times(log)
        item = coded(_ids(log.table, "item"))
        titled = item.dtype.categories.is_in(catalogue["item"].implode()).gather(item.to_physical())
        log.keep(titled, "about items without a title")
        frame = log.table.frame
        if frame.is_empty():
            raise RequestError(
                f"{log.table.path}: no interaction is left, none has a user, a time and an item with a title; "
                f"{self.shipped}"
            )
        made = {role: coded(_ids(log.table, role)) for role in ("user", "item")}
        if "timestamp" in frame.columns:
            made["timestamp"] = frame["timestamp"]
        else:
            log.notes.append(f"{log.table.path.name}: no times: the order of rows is the order of time")
            made["timestamp"] = pl.int_range(frame.height, dtype=pl.Int64, eager=True)
        if "rating" in frame.columns:
            made["rating"], wrong = read_numbers(frame["rating"])
            if wrong.any():
                at = first_true(wrong)
                raise RequestError(
                    f"{log.table.place(at)}: rating {frame['rating'][at]!r} is not a number; {self.shipped}"
                )
        return pl.DataFrame(made)

    def _catalogue(self, items: Reading) -> pl.DataFrame:
        """Columns ``item``, ``title`` and the attributes.

        Raises:
            RequestError: no item has a title.
        """
        made = {series.name: series for series in self.attributes(items.table.frame)}
        titles = made.pop("title", None)
        titles = as_text(items.table, "title") if titles is None else titles
        named = [as_text(items.table, "item").alias("item"), titles.alias("title")]
        catalogue = pl.DataFrame([*named, *made.values()])
        name = items.table.path.name
        for column, what in (("item", "an id"), ("title", "a title")):
            kept = catalogue.filter(pl.col(column).is_not_null())
            if lost := catalogue.height - kept.height:
                items.notes.append(f"{name}: left out {counted(lost, 'item')} without {what}")
            catalogue = kept
        first = catalogue.unique("item", keep="first", maintain_order=True)
        if again := catalogue.height - first.height:
            items.notes.append(f"{name}: left out {counted(again, 'row')} about items that have an earlier row")
        if first.is_empty():
            raise RequestError(f"{items.table.path}: no item has a title; {self.shipped}")
        return first


def _ids(table: TableContent, column: str) -> pl.Series:
    values = table.frame[column]
    return values if values.dtype.is_integer() else as_text(table, column)


def _stem(name: str, pattern: str) -> str | None:
    """What ``*`` stands for in a name; `None` if the pattern does not fit."""
    name = name.removesuffix(".gz")
    before, _, after = pattern.partition("*")
    return name[len(before) : len(name) - len(after)] if fnmatchcase(name, pattern) else None
