"""Your own log: a table of interactions, with the titles in it or in a second table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from rosepo_core.api import Corpus, Dialect, Reporter, RequestError, TableContent, expanded, read_table, table_files
from rosepo_datasets.columns import is_usual_name
from rosepo_datasets.interactions import ColumnOptions, ColumnsDataset


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


class TableOptions(ColumnOptions):
    """Options of `table`."""

    path: Path = Field(
        description="Interactions, one in each row: a text file with separators, JSON, Parquet or Arrow; or a folder "
        "of such files."
    )
    catalogue: Path | None = Field(
        None,
        description="Items, in any of these formats: item, title and more columns. If unset, titles are in 'path'.",
    )
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


class Table(ColumnsDataset):
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
        files = table_files(expanded(options.path), self._dialect(""))
        if options.catalogue:
            files += table_files(expanded(options.catalogue), self._dialect("catalogue_"))
        return files

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        options: TableOptions = self.options
        log = self._read(options.path, "", reporter)
        items = self._read(options.catalogue, "catalogue_", reporter) if options.catalogue else None
        self._require_separator(log, items)
        path = expanded(options.path)
        name = path.name if path.is_dir() else path.name.removesuffix(".gz").rpartition(".")[0]
        return self.corpus(name or path.name, log, items)

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
        return read_table(expanded(path), self._dialect(prefix), is_usual_name, progress, compact=not prefix)

    def _require_separator(self, log: TableContent, items: TableContent | None) -> None:
        asked = self.options.separator
        if asked is not None and asked not in log.separators | (items.separators if items else set()):
            both = f"{log.path}{f' or {items.path}' if items else ''}"
            raise RequestError(f"dataset.separator={asked!r} does not part the cells of {both}: leave it unset")
