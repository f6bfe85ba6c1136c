"""Your own log: a file of interactions, with the titles in it or in a second file."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from rosepo_core.api import Corpus, Dataset, LogOptions, Reporter, RequestError, nearest

ROW = "__row"
"""Column that `read_table` adds: the row's number in the file; a header is row 1."""

_ITEM_NAMES = (
    "itemid item iid movieid movie productid product parentasin asin bookid isbn articleid newsid trackid songid "
    "artistid gameid appid businessid gmapid"
)
USUAL_NAMES = {
    "user": "userid user uid username reviewerid customerid customer visitorid memberid",
    "item": _ITEM_NAMES,
    "catalogue_item": f"{_ITEM_NAMES} id",
    "timestamp": "timestamp time datetime date ts unixtime unixreviewtime createdat eventtime",
    "rating": "rating ratings stars score overall",
    "title": "title itemtitle movietitle producttitle booktitle itemname productname name",
}
"""Names that a column is guessed by, the surest first; case, `_`, `-`, blanks and RecBole's ``:type`` don't count."""

_NUMBER_FORMATS = "a number or an ISO 8601 date or time"


class TableOptions(LogOptions):
    """Options of `table`."""

    path: Path = Field(description="Interactions: a .csv, .tsv, .parquet or .jsonl file, one row each.")
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
        None, description="Column of the time: numbers or ISO 8601; guessed, else the order of rows is the time."
    )
    rating: str | None = Field(None, description="Column of the rating; guessed, else there are no ratings.")
    title: str | None = Field(None, description="Column of the title; guessed by its name if unset.")
    untitled: Literal["error", "drop"] = Field(
        "error", description="What to do with interactions whose item has no title."
    )


class Table(Dataset):
    """A log and its catalogue in files.

    Timestamps: whole numbers are taken as they are, whatever their unit; fractions of seconds and of ISO 8601 times
    make the whole column microseconds; times without a zone are UTC. Errors count rows from 1, the header included.
    """

    Options = TableOptions

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        options: TableOptions = self.options
        notes: list[str] = []
        path = options.path.expanduser()
        log = read_table(path, "dataset.path")
        guessed: dict[str, str] = {}
        user = find_column("user", options.user, log, path, guessed)
        item = find_column("item", options.item, log, path, guessed)
        timestamp = find_optional_column("timestamp", options.timestamp, log, path, guessed)
        rating = find_optional_column("rating", options.rating, log, path, guessed)

        columns = {"user": as_text(log, user, path), "item": as_text(log, item, path)}
        for name, column in (("user", user), ("item", item)):
            require_filled(columns[name], log, column, path)
        if timestamp is None:
            notes.append(f"{path.name}: no timestamp column: the order of rows is the order of time")
            columns["timestamp"] = pl.Series(range(log.height), dtype=pl.Int64)
        else:
            columns["timestamp"], in_microseconds = as_timestamps(log, timestamp, path)
            if in_microseconds:
                notes.append(f"{path.name}: '{timestamp}' has fractions of seconds: timestamps are in microseconds")
        if rating is not None:
            columns["rating"] = as_ratings(log, rating, path)
        interactions = pl.DataFrame(columns | {ROW: log[ROW]})

        if options.catalogue:
            source = options.catalogue.expanduser()
            catalogue = read_catalogue(source, options, notes)
        else:
            source = path
            title = find_column("title", options.title, log, path, guessed)
            catalogue = titles_in_log(interactions, as_text(log, title, path), path, notes)
        note_guessed(notes, path, guessed)
        interactions = self._titled(interactions, catalogue, path, source, notes)
        return Corpus(path.stem, interactions.drop(ROW), catalogue, tuple(notes))

    def _titled(
        self, interactions: pl.DataFrame, catalogue: pl.DataFrame, path: Path, source: Path, notes: list[str]
    ) -> pl.DataFrame:
        untitled = interactions.join(catalogue, on="item", how="anti", maintain_order="left")
        if untitled.is_empty():
            return interactions
        first = untitled.row(0, named=True)
        if self.options.untitled == "error":
            raise RequestError(
                f"{path} row {first[ROW]}: item '{first['item']}' has no title in {source.name}: add one, or set "
                f"dataset.untitled='drop' to leave out {untitled.height} interactions with such items"
            )
        notes.append(
            f"{path.name}: dropped {untitled.height} interactions with {untitled['item'].n_unique()} items without a "
            f"title, e.g. '{first['item']}'"
        )
        return interactions.join(catalogue, on="item", how="semi", maintain_order="left")


def read_table(path: Path, option: str) -> pl.DataFrame:
    """A file as a table with the rows' numbers in `ROW`; CSV and TSV cells are all text, blank lines left out.

    Raises:
        RequestError: it is absent, of another kind, damaged, or has no rows.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson"):
        raise RequestError(f"{path} ({option}): the name must end in .csv, .tsv, .parquet or .jsonl")
    if not path.is_file():
        raise RequestError(f"{path} ({option}) {'is a folder' if path.is_dir() else 'does not exist'}: name a file")
    separator = "\t" if suffix == ".tsv" else ","
    try:
        if suffix in (".csv", ".tsv"):
            frame = pl.read_csv(path, separator=separator, infer_schema=False)
        elif suffix == ".parquet":
            frame = pl.read_parquet(path)
        elif path.stat().st_size:
            frame = pl.read_ndjson(path, infer_schema_length=None)
        else:
            frame = pl.DataFrame()
    except pl.exceptions.NoDataError:
        frame = pl.DataFrame()
    except (pl.exceptions.PolarsError, OSError) as error:
        where = _first_bad_row(path, separator) if suffix != ".parquet" else ""
        reason = where or f": {str(error).splitlines()[0]}"
        raise RequestError(f"{path}{reason}; mend it or save it again as {suffix}") from error
    first = 2 if suffix in (".csv", ".tsv") else 1
    frame = frame.rename({name: name.strip() for name in frame.columns if name != name.strip()})
    data = [pl.col(name).is_not_null() for name in frame.columns]
    frame = frame.with_row_index(ROW, offset=first).filter(pl.any_horizontal(data)) if data else frame
    if frame.is_empty():
        raise RequestError(f"{path} ({option}) has no rows")
    return frame


def _first_bad_row(path: Path, separator: str) -> str:
    """What the parser does not say: where it stumbled."""
    number = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix.lower() in (".csv", ".tsv"):
                rows = csv.reader(file, delimiter=separator)
                width = len(next(rows))
                number = 1
                for row in rows:
                    number += 1
                    if len(row) > width:
                        return f" row {number}: {len(row)} fields, but {width} columns"
            else:
                for line in file:
                    number += 1
                    if line.strip() and not isinstance(json.loads(line), dict):
                        return f" row {number}: not a JSON object"
    except UnicodeDecodeError:
        return ": not UTF-8 text"
    except (ValueError, csv.Error) as error:
        return f" row {number}: {error}"
    return ""


def find_column(role: str, asked: str | None, frame: pl.DataFrame, path: Path, guessed: dict[str, str]) -> str:
    """As `find_optional_column`, but there must be one.

    Raises:
        RequestError: there is none.
    """
    column = find_optional_column(role, asked, frame, path, guessed)
    if column is None:
        listed = ", ".join(f"'{column}'" for column in _columns(frame))
        raise RequestError(
            f"{path}: none of its columns {listed} is called like a {role}: name one with dataset.{role}"
        )
    return column


def find_optional_column(
    role: str, asked: str | None, frame: pl.DataFrame, path: Path, guessed: dict[str, str]
) -> str | None:
    """The column that plays a role: the one asked for, else the one with the surest of the usual names, if any.

    Args:
        role: a key of `USUAL_NAMES`.
        asked: the option's value.
        frame: the table.
        path: its file, for errors.
        guessed: gets the column if it was guessed.

    Raises:
        RequestError: the column asked for does not exist.
    """
    columns = _columns(frame)
    if asked is not None:
        if asked in columns:
            return asked
        raise RequestError(f"{path} has no column '{asked}' (dataset.{role}){nearest(asked, columns)}")
    normal = {re.sub(r"[^a-z0-9]", "", re.sub(r":\w+$", "", column.lower())): column for column in reversed(columns)}
    for name in USUAL_NAMES[role].split():
        if name in normal:
            guessed[role] = normal[name]
            return normal[name]
    return None


def _columns(frame: pl.DataFrame) -> list[str]:
    return [column for column in frame.columns if column != ROW]


def note_guessed(notes: list[str], path: Path, guessed: dict[str, str]) -> None:
    """Show what was guessed."""
    if guessed:
        notes.append(f"{path.name}: guessed " + ", ".join(f"{role}='{column}'" for role, column in guessed.items()))


def as_text(frame: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """A column of ids or titles as text without blanks at the ends; empty cells are null."""
    values = frame[column]
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise RequestError(f"{path}: column '{column}' holds {values.dtype}, not text or numbers")
    if values.dtype.is_float() and (values.drop_nulls() == values.drop_nulls().floor()).all():
        values = values.cast(pl.Int64, strict=False)
    text = values.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def require_filled(values: pl.Series, frame: pl.DataFrame, column: str, path: Path) -> None:
    """
    Raises:
        RequestError: a cell is empty.
    """
    if values.null_count():
        row = frame[ROW][_first(values.is_null())]
        raise RequestError(f"{path} row {row}: '{column}' is empty: fill it in or take the row out")


def as_timestamps(frame: pl.DataFrame, column: str, path: Path) -> tuple[pl.Series, bool]:
    """Int64 timestamps, and whether they had to become microseconds for the sake of fractions.

    Raises:
        RequestError: a cell is empty or no time; the message has its row.
    """
    values = frame[column]
    dtype = values.dtype
    if dtype == pl.String:
        text = values.str.strip_chars()
        values = text.set(text == "", None)
        readings = [values.cast(pl.Int64, strict=False), _finite(values.cast(pl.Float64, strict=False)), _iso(values)]
        # The fewest cells that make no sense; the first one wins where several do as well.
        read = min(readings, key=pl.Series.null_count)
    elif dtype.is_integer():
        read = values.cast(pl.Int64, strict=False)
    elif dtype.is_float():
        read = _finite(values.cast(pl.Float64))
    elif dtype in (pl.Datetime, pl.Date):
        read = values.cast(pl.Datetime("us"))
    else:
        raise RequestError(f"{path}: column '{column}' holds {dtype}, not {_NUMBER_FORMATS}")
    if read.null_count():
        row = _first(read.is_null())
        cell = frame[column][row]
        found = "is empty" if cell is None or cell == "" else f"{cell!r} is not {_NUMBER_FORMATS}"
        raise RequestError(f"{path} row {frame[ROW][row]}: timestamp {found}: mend it or take the row out")
    if read.dtype == pl.Int64:
        return read, False
    if read.dtype == pl.Float64:
        if (read == read.floor()).all():
            return read.cast(pl.Int64), False
        return (read * 1e6).round().cast(pl.Int64), True
    microseconds = read.dt.epoch("us")
    if (microseconds % 1_000_000 == 0).all():
        return microseconds // 1_000_000, False
    return microseconds, True


def _finite(numbers: pl.Series) -> pl.Series:
    """What int64 cannot hold becomes null, microseconds included."""
    return numbers.set(~(numbers.abs() < 9e12), None)


def _iso(text: pl.Series) -> pl.Series:
    """ISO 8601 dates and times as Datetime in UTC; null where a cell is neither."""
    normal = text.str.replace(r"^(\d{4}-\d{2}-\d{2})\s+", "${1}T").str.replace(
        r"^(\S{10}T\d{2}:\d{2})($|[+\-zZ])", "${1}:00$2"
    )
    frame = pl.DataFrame({"text": normal})
    zoned = pl.col("text").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False)
    plain = pl.col("text").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    date = pl.col("text").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return frame.select(pl.coalesce(zoned.dt.replace_time_zone(None), plain, date)).to_series()


def as_ratings(frame: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """Float64 ratings; empty cells stay null.

    Raises:
        RequestError: a cell is no number.
    """
    values = frame[column]
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        values = text.set(text == "", None)
    elif not values.dtype.is_numeric():
        raise RequestError(f"{path}: column '{column}' holds {values.dtype}, not numbers")
    ratings = _finite(values.cast(pl.Float64, strict=False))
    wrong = ratings.is_null() & values.is_not_null()
    if wrong.any():
        row = _first(wrong)
        raise RequestError(f"{path} row {frame[ROW][row]}: rating {frame[column][row]!r} is not a number")
    return ratings


def titles_in_log(interactions: pl.DataFrame, titles: pl.Series, path: Path, notes: list[str]) -> pl.DataFrame:
    """The catalogue of a log that has the titles in it: each item's first title, in order of appearance."""
    named = interactions.select("item", titles.alias("title")).filter(pl.col("title").is_not_null())
    distinct = named.unique(maintain_order=True)
    catalogue = distinct.unique("item", keep="first", maintain_order=True)
    if distinct.height > catalogue.height:
        item = distinct.filter(pl.col("item").is_duplicated())["item"][0]
        several = "', '".join(distinct.filter(pl.col("item") == item)["title"])
        notes.append(
            f"{path.name}: {distinct.filter(pl.col('item').is_duplicated())['item'].n_unique()} items have several "
            f"titles; the first is taken, e.g. for item '{item}' of '{several}'"
        )
    return catalogue


def read_catalogue(path: Path, options: TableOptions, notes: list[str]) -> pl.DataFrame:
    """Columns ``item``, ``title`` and what else the file has.

    Raises:
        RequestError: as for `read_table` and `find_column`; an item with two titles.
    """
    frame = read_table(path, "dataset.catalogue")
    guessed: dict[str, str] = {}
    as_in_log = options.item if options.item in frame.columns else None
    item = find_column("catalogue_item", options.catalogue_item or as_in_log, frame, path, guessed)
    title = find_column("title", options.title, frame, path, guessed)
    note_guessed(notes, path, guessed)
    items = as_text(frame, item, path)
    require_filled(items, frame, item, path)
    others = [name for name in frame.columns if name not in (item, title, "item", "title", ROW)]
    catalogue = pl.DataFrame([items.alias("item"), as_text(frame, title, path).alias("title"), frame[ROW]])
    catalogue = catalogue.hstack(frame.select(others))
    titled = catalogue.filter(pl.col("title").is_not_null())
    if titled.height < catalogue.height:
        notes.append(f"{path.name}: left out {catalogue.height - titled.height} items without a title")
    contradictory = titled.filter(pl.col("title").n_unique().over("item") > 1)
    if not contradictory.is_empty():
        same = titled.filter(pl.col("item") == contradictory["item"][0]).unique("title", maintain_order=True)
        (first, first_row), (second, second_row) = same.select("title", ROW).rows()[:2]
        raise RequestError(
            f"{path} rows {first_row} and {second_row}: item '{same['item'][0]}' has the titles '{first}' and "
            f"'{second}': keep one"
        )
    return titled.unique("item", keep="first", maintain_order=True).drop(ROW)


def _first(mask: pl.Series) -> int:
    return int(mask.arg_max() or 0)
