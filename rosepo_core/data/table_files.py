"""Tables in files and folders: the reader for each format, and the file and row that each row came from."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import polars as pl

from rosepo_core.contracts.errors import RequestError
from rosepo_core.data.dialects import Dialect, Quoting
from rosepo_core.data.encodings import read_text
from rosepo_core.data.headers import require_distinct
from rosepo_core.data.json_tables import parse_json_table, stack
from rosepo_core.data.text_blocks import parse_large_table
from rosepo_core.data.text_tables import parse_text_table

Kind = Literal["text", "json", "parquet", "arrow"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys((".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".item", ".user"), "text"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
_UNQUOTED = (".inter", ".item", ".user")
_ABOUT_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_SUFFIXES = ".csv, .tsv, .txt, .dat, .inter, .item, .user, .json, .jsonl, .parquet or .arrow, with or without .gz"


class TableName(Protocol):
    """The path of a table, or what stands for it. As text, it says to the user which table is meant."""

    @property
    def name(self) -> str:
        """The short name, for notes."""


@dataclass(frozen=True)
class TableContent:
    """A table, from one file, from several with the same columns, or from the calling program.

    Attributes:
        path: the file or folder that the user named, or the name of a frame.
        frame: the rows that are not empty. All columns of text tables are text, or compact (`data.text_blocks`).
        rows: uint32, the number of each row in its file, from 1; in a text table the header counts. Those of a frame
            are from 0.
        files: the files, each with the index of its first row in the frame.
        nested: columns that were left out, because they contain objects or lists of objects.
        separators: the separators of text tables.
        notes: messages for the user, one line each.
    """

    path: TableName
    frame: pl.DataFrame
    rows: pl.Series
    files: tuple[tuple[int, TableName], ...]
    nested: tuple[str, ...]
    separators: frozenset[str]
    notes: tuple[str, ...]

    def place(self, index: int) -> str:
        """File and row of the frame's row `index`, for messages."""
        return f"{self._file(index)} row {self.rows[index]}"

    def places(self, first: int, second: int) -> str:
        """File and row of two rows, for messages."""
        if self._file(first) == self._file(second):
            return f"{self._file(first)} rows {self.rows[first]} and {self.rows[second]}"
        return f"{self.place(first)} and {self.place(second)}"

    def _file(self, index: int) -> TableName:
        return self.files[bisect_right([first for first, _ in self.files], index) - 1][1]


@dataclass(frozen=True)
class _Part:
    file: Path
    kind: Kind
    frame: pl.DataFrame
    rows: pl.Series
    notation: str
    nested: tuple[str, ...] = ()
    separator: str | None = None
    notes: tuple[str, ...] = ()
    encoding: str | None = None


def table_files(path: Path, dialect: Dialect) -> list[Path]:
    """The files of a table: the file itself; the shards in a folder, at any depth and in the order of their numbers;
    or the data files of a folder that ``save_to_disk`` of the package ``datasets`` wrote.

    Raises:
        RequestError: the file does not exist, its name does not tell the format, or a folder has tables of several
            formats.
    """
    if path.is_dir():
        return _shards(path, dialect)
    if _kind(path, dialect) is None:
        raise RequestError(
            f"{path} ({dialect.options['path']}): the name must end in {_SUFFIXES}; for another table of text set "
            f"{dialect.options['separator']} (e.g. ';')"
        )
    if not path.is_file():
        raise RequestError(f"{path} ({dialect.options['path']}) does not exist: name a file or a folder")
    return [path]


def read_table(
    path: Path,
    dialect: Dialect,
    is_name: Callable[[str], bool],
    progress: Callable[[int, int], None],
    *,
    compact: bool = False,
    keys: Sequence[str] | None = None,
) -> TableContent:
    """Read a file, or a folder of files, as one table.

    Args:
        path: see `table_files`.
        dialect: the user's settings.
        is_name: whether a cell is certainly the name of a column, and not data.
        progress: called with the number of rows done and of all rows, if reading takes long.
        compact: whether columns of large text files may be numbers and categories instead of text.
        keys: the keys of JSON objects that become columns, see `parse_json_table`; by default all.

    Raises:
        RequestError: something cannot be read or does not fit; the message has file and row.
    """
    parts = [_read(file, dialect, is_name, progress, compact, keys) for file in table_files(path, dialect)]
    parts = [part for part in parts if part.frame.height] or parts[:1]
    if not parts[0].frame.height:
        read_as = f" (read as {parts[0].encoding})" if parts[0].encoding else ""
        raise RequestError(f"{path} ({dialect.options['path']}) has no rows{read_as}")
    if parts[0].kind != "json":  # where a key that has no value may be left out
        _require_same_columns(parts)
    frame = stack([part.frame for part in parts], str(path))
    firsts, height = [], 0
    for part in parts:
        firsts.append((height, part.file))
        height += part.frame.height
    first = parts[0]
    ends = [part.file.relative_to(path).as_posix() for part in (first, parts[-1])] if len(parts) > 1 else []
    source = f" from {len(parts)} files, {' to '.join(ends)}" if ends else ""
    read = f"{path.name}: read {frame.height:,} rows of {frame.width} columns{source} ({first.notation})"
    return TableContent(
        path,
        frame,
        pl.concat([part.rows for part in parts]),
        tuple(firsts),
        tuple(dict.fromkeys(name for part in parts for name in part.nested)),
        frozenset(part.separator for part in parts if part.separator is not None),
        (read, *(f"{part.file.name}: {note}" for part in parts for note in part.notes)),
    )


def _kind(path: Path, dialect: Dialect) -> Kind | None:
    kind = _KINDS.get(_suffix(path))
    return "text" if kind is None and dialect.separator is not None else kind


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return f".{name.rpartition('.')[2]}" if "." in name else ""


def _shards(folder: Path, dialect: Dialect) -> list[Path]:
    for about in ("state.json", "dataset_dict.json"):
        if (folder / about).is_file():
            return _saved(folder, folder / about, dialect)
    files = [
        file
        for file in folder.rglob("*")
        if file.is_file()
        and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
        and file.name not in _ABOUT_DATA
        and _suffix(file) != ".md"
        and _kind(file, dialect) is not None
    ]
    kinds = sorted({_suffix(file) for file in files})
    if len(kinds) != 1:
        if kinds:
            found, remedy = f"holds {' and '.join(kinds)} files", "name one file, or a folder of one format"
        else:
            found = f"holds no file whose name ends in {_SUFFIXES}"
            remedy = f"name a file or another folder; for other tables of text set {dialect.options['separator']}"
        raise RequestError(f"{folder} ({dialect.options['path']}) {found}: {remedy}")
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[tuple[str, int]]:
    """A key that sorts numbers in names by size: part-10 comes after part-9."""
    pieces = re.split(r"(\d+)", str(file))
    return [(text, int(number or 0)) for text, number in zip(pieces[::2], [*pieces[1::2], ""], strict=True)]


def _saved(folder: Path, about: Path, dialect: Dialect) -> list[Path]:
    """The Arrow files of a saved dataset, with all its splits."""
    try:
        content = json.loads(about.read_text(encoding="utf-8"))
        if about.name == "dataset_dict.json":
            return [file for split in content["splits"] for file in _shards(folder / split, dialect)]
        files = [folder / each["filename"] for each in content["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{about}: not as the package datasets writes it ({error!r}): save the data again"
        ) from None
    for file in files:
        if not file.is_file():
            raise RequestError(f"{file} does not exist, and {about.name} beside it names it: save the data again")
    return files


def _read(
    file: Path,
    dialect: Dialect,
    is_name: Callable[[str], bool],
    progress: Callable[[int, int], None],
    compact: bool,
    keys: Sequence[str] | None,
) -> _Part:
    kind = _kind(file, dialect)
    assert kind is not None  # as `table_files` found
    if kind == "text":
        return _read_text_table(file, dialect, is_name, compact)
    for name, value in (("columns", dialect.columns), ("quoting", dialect.quoting)):
        if value is not None:
            raise RequestError(
                f"{file}: {dialect.options[name]} is for tables of text alone, such as .csv: leave it unset"
            )
    if kind == "json":
        text, encoding = read_text(file, dialect.encoding, dialect.options["encoding"])
        records = parse_json_table(text, str(file), progress, keys)
        notation = ", ".join([records.notation, *([encoding] if encoding != "UTF-8" else [])])
        frame = _stripped(records.frame, file)
        return _Part(file, kind, frame, records.rows, notation, records.nested, encoding=encoding)
    frame = _stripped(_read_columnar(file, kind), file)
    return _without_blank(_Part(file, kind, frame, _numbers(1, frame.height), kind.title()))


def _read_text_table(file: Path, dialect: Dialect, is_name: Callable[[str], bool], compact: bool) -> _Part:
    suffix, encoding = _suffix(file), "UTF-8"
    quoting: Quoting = "none" if suffix in _UNQUOTED else "csv"
    cells = parse_large_table(file, dialect, _SEPARATORS.get(suffix), quoting, is_name) if compact else None
    if cells is None:
        text, encoding = read_text(file, dialect.encoding, dialect.options["encoding"])
        cells = parse_text_table(text, str(file), dialect, _SEPARATORS.get(suffix), quoting, is_name)
    rows = _numbers(cells.first_row, cells.frame.height)
    notation = [f"separator {cells.separator!r}{' guessed' if cells.guessed else ''}"]
    notation += [encoding] * (encoding != "UTF-8") + ["no header"] * (dialect.columns is not None)
    part = _Part(file, "text", cells.frame, rows, ", ".join(notation), (), cells.separator, cells.notes, encoding)
    return _without_blank(part)


def _numbers(first: int, count: int) -> pl.Series:
    return pl.int_range(first, first + count, dtype=pl.UInt32, eager=True)


def _read_columnar(file: Path, kind: Kind) -> pl.DataFrame:
    try:
        if kind == "parquet":
            return pl.read_parquet(file, glob=False)
        with file.open("rb") as opened:
            is_file_format = opened.read(6) == b"ARROW1"
        return pl.read_ipc(file) if is_file_format else pl.read_ipc_stream(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{file}: {reason}; mend it or save it again as .{kind}") from error


def _stripped(frame: pl.DataFrame, file: Path) -> pl.DataFrame:
    names = [name.strip() for name in frame.columns]
    require_distinct(names, str(file))
    return frame.rename(dict(zip(frame.columns, names, strict=True)))


def _without_blank(part: _Part) -> _Part:
    if not part.frame.width:
        return part
    filled = part.frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    return part if filled.all() else replace(part, frame=part.frame.filter(filled), rows=part.rows.filter(filled))


def _require_same_columns(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if set(part.frame.columns) != set(first.frame.columns):
            has, wanted = (", ".join(f"'{name}'" for name in each.frame.columns) for each in (part, first))
            raise RequestError(
                f"{part.file} has the columns {has}, but {first.file.name} has {wanted}: name one file, or a folder "
                "whose files have the same columns"
            )
