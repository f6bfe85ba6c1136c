"""Reads scores of any recommender: a table of user, item and score, by the ids of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import Doubles, Longs
from rosepo_core.data.numbers import read_numbers

SEPARATORS = {".csv": ",", ".tsv": "\t"}

Role = Literal["user", "item", "score"]

COLUMNS: Mapping[Role, str] = {"user": "user", "item": "item", "score": "score"}


@dataclass(frozen=True)
class ScoreTable:
    """The rows of a table of scores.

    Attributes:
        file: the file.
        user: the number of each row's user, int64 [rows], -1 for one that is not known.
        item: the number of each row's item, int64 [rows], -1 for one that is not known.
        score: float64 [rows], finite.
        user_ids: the ids as they are in the file.
        item_ids: the same.
    """

    file: Path
    user: Longs
    item: Longs
    score: Doubles
    user_ids: pl.Series
    item_ids: pl.Series

    def number(self, row: int) -> int:
        """The number of a row in the file, see `row_number`."""
        return row_number(self.file, row)

    def pairs(self, items: int) -> tuple[Longs, Longs]:
        """The known pairs of user and item, in order.

        Args:
            items: number of items in the catalogue.

        Returns:
            ``user * items + item``, int64 [pairs], ascending, and the row of each.

        Raises:
            RequestError: a pair is there twice.
        """
        rows = np.flatnonzero((self.user >= 0) & (self.item >= 0))
        keys = self.user[rows] * items + self.item[rows]
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            first, second = (int(rows[twice[0] + step]) for step in (0, 1))
            raise RequestError(
                f"{self.file} rows {self.number(first)} and {self.number(second)} both have the user "
                f"'{self.user_ids[first]}' and the item '{self.item_ids[first]}': keep one"
            )
        return keys, rows


def read_scores(
    file: Path,
    users: Sequence[str],
    items: Sequence[str],
    *,
    columns: Mapping[Role, str] = COLUMNS,
    options: str | None = None,
) -> ScoreTable:
    """Read a table of scores: .parquet, or .csv or .tsv in UTF-8 with a header, perhaps with .gz.

    Args:
        file: the file.
        users: the ids of the log's users, by number.
        items: the ids of the log's items, by number.
        columns: the name of each column.
        options: the section of the configuration that names file and columns, for errors, such as ``"oracle"``.

    Raises:
        RequestError: the file cannot be read, lacks a column, or a cell is empty or no finite number. The message
            names file, row and column.
    """
    reading = _Reading(file, columns, options)
    table = reading.table()
    user, user_ids = reading.numbered(table, "user", users)
    item, item_ids = reading.numbered(table, "item", items)
    return ScoreTable(file, user, item, reading.numbers(table), user_ids, item_ids)


def row_number(file: Path, row: int) -> int:
    """The number of a row in its file, from 1; in a text table the header counts."""
    return row + (1 if file.name.lower().endswith(".parquet") else 2)


@dataclass(frozen=True)
class _Reading:
    file: Path
    columns: Mapping[Role, str]
    options: str | None

    @property
    def named(self) -> str:
        return f"{self.file} ({self.options}.path)" if self.options else str(self.file)

    def remedy(self, role: Role) -> str:
        return f"name another, {self.options}.{role}" if self.options else "correct it"

    def table(self) -> pl.DataFrame:
        """The table; cells of text tables are text."""
        suffix = Path(self.file.name.lower().removesuffix(".gz")).suffix
        if suffix not in (".parquet", *SEPARATORS):
            raise RequestError(f"{self.named}: the name must end in .parquet, .csv or .tsv")
        if not self.file.is_file():
            raise RequestError(f"{self.named} does not exist: name a file")
        try:
            if suffix == ".parquet":
                table = pl.read_parquet(self.file, glob=False)
            else:
                table = pl.read_csv(self.file, separator=SEPARATORS[suffix], infer_schema=False, glob=False)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise RequestError(f"{self.file}: {str(error).splitlines()[0]}; correct it or save it again") from error
        if not table.height:
            raise RequestError(f"{self.named} has no rows")
        return table

    def numbered(self, table: pl.DataFrame, role: Role, known: Sequence[str]) -> tuple[Longs, pl.Series]:
        """The number of each row's id in `known`, int64 [rows], -1 for others; and the ids as text."""
        column = self._column(table, role)
        values = table[column]
        if values.dtype.is_float() and (values == values.floor()).all():
            values = values.cast(pl.Int64)  # ids that went through a table with empty cells
        if not (values.dtype == pl.String or values.dtype.is_integer()):
            raise RequestError(f"{self.file}: column '{column}' holds {values.dtype}, not ids: {self.remedy(role)}")
        ids = values.cast(pl.String).str.strip_chars()
        ids = ids.set(ids == "", None)
        if ids.null_count():
            row = row_number(self.file, int(np.flatnonzero(ids.is_null())[0]))
            raise RequestError(f"{self.file} row {row}: '{column}' is empty: fill it in, or take the row out")
        numbers = pl.DataFrame({"id": known, "number": np.arange(len(known))}, schema_overrides={"id": pl.String})
        joined = pl.DataFrame({"id": ids}).join(numbers, on="id", how="left", maintain_order="left")
        return joined["number"].fill_null(-1).to_numpy(), ids

    def numbers(self, table: pl.DataFrame) -> Doubles:
        """The scores, float64 [rows]."""
        column = self._column(table, "score")
        if not (table[column].dtype == pl.String or table[column].dtype.is_numeric()):
            raise RequestError(
                f"{self.file}: column '{column}' holds {table[column].dtype}, not numbers: {self.remedy('score')}"
            )
        numbers, _ = read_numbers(table[column])
        if numbers.null_count():
            row = int(np.flatnonzero(numbers.is_null())[0])
            raise RequestError(
                f"{self.file} row {row_number(self.file, row)}: '{column}' is {table[column][row]!r}, not a finite "
                "number: correct it, or take the row out"
            )
        scores: Doubles = numbers.to_numpy()
        return scores

    def _column(self, table: pl.DataFrame, role: Role) -> str:
        name = self.columns[role]
        if name not in table.columns:
            listed = ", ".join(f"'{column}'" for column in table.columns)
            remedy = f"name one with {self.options}.{role}" if self.options else "rename one"
            raise RequestError(
                f"{self.file}: no column is called '{name}'{nearest(name, table.columns)}; it has {listed}: {remedy}"
            )
        return name
