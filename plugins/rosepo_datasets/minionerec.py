"""The files of MiniOneRec: rows of histories and next items, and the items' semantic ids."""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from rosepo_core.api import Corpus, Dataset, Dialect, Reporter, RequestError, expanded, read_table
from rosepo_datasets.supplied import Example, GivenOptions, Row, find_files, require_titles, table_of

COLUMNS = ("history_item_title", "item_title", "history_item_id", "item_id")
INFO = ("semantic_id", "title", "item")
LONGEST_LIST = 1_000_000
"""The most characters of a list. Histories of the published files have at most ten items."""


class MiniOneRecOptions(GivenOptions):
    """Options of `minionerec`."""

    info: Path | None = Field(
        None,
        description="The items: semantic id, title and item id. If unset, the one file that ends in .txt beside "
        "'path', in a folder info beside it, or in one beside its folder; or else all titles in the rows.",
    )


class MiniOneRec(Dataset):
    """Examples in the format of MiniOneRec's repository (Kong et al., "MiniOneRec: An Open-Source Framework for
    Scaling Generative Recommendation", 2025).

    Rows are CSV with the columns ``user_id``, ``history_item_title``, ``item_title``, ``history_item_id``,
    ``item_id``, ``history_item_sid`` and ``item_sid``. The histories are lists in Python's notation, oldest first;
    they are parsed and never run. Files of items have no header: semantic id, title and item id, with tabs between.
    Both may be gzipped. Attribute: ``semantic_id``, if there is a file of items; it has the title that counts.
    """

    Options = MiniOneRecOptions

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        options: MiniOneRecOptions = self.options
        files, info = find_files(options, ".csv"), self._info()
        notes: list[str] = []
        catalogue = _read_items(info) if info else None
        titles: dict[str, str] = {} if catalogue is None else dict(catalogue.select("item", "title").iter_rows())
        others = 0
        examples = []
        for part, file in files.items():
            for row in _read_rows(file):
                history, named = _list(row, "history_item_id"), _list(row, "history_item_title")
                if len(history) != len(named) or not history:
                    raise RequestError(
                        f"{row}: 'history_item_id' has {len(history)} items and 'history_item_title' {len(named)}: "
                        "there must be as many, and at least one; mend the row or take it out"
                    )
                pairs = [*zip(history, named, strict=True), (row.text("item_id"), row.text("item_title"))]
                require_titles(row, [part for pair in pairs for part in pair])
                for item, title in pairs:
                    if info and item not in titles:
                        raise RequestError(f"{row}: item '{item}' is not in {info.name}: add it or take the row out")
                    others += titles.setdefault(item, title) != title
                examples.append(Example(row, part, history, row.text("item_id")))
        if info is None:
            notes.append("no file of items: the catalogue is all items of the rows, without semantic ids")
        if others:
            notes.append(f"{others:,} titles in the rows differ from the item's first title, which is taken")
        table = table_of(examples, options, notes, files)
        if catalogue is None:
            catalogue = pl.DataFrame({"item": list(titles), "title": list(titles.values())})
        return Corpus.of_examples("minionerec", table, catalogue, tuple(notes))

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`."""
        info = self._info()
        return [*find_files(self.options, ".csv").values(), *([info] if info else [])]

    def _info(self) -> Path | None:
        """The file of items, if there is one.

        Raises:
            RequestError: the option names a file that does not exist, or there are several.
        """
        options: MiniOneRecOptions = self.options
        if options.info:
            if not expanded(options.info).is_file():
                raise RequestError(f"{options.info} (dataset.info) does not exist: name a file")
            return expanded(options.info)
        path = expanded(options.path)
        folder = path if path.is_dir() else path.parent
        for place in (folder, folder / "info", folder.parent / "info"):
            found = sorted(file for end in ("*.txt", "*.txt.gz") for file in place.glob(end))
            if len(found) > 1:
                listed = ", ".join(file.name for file in found)
                raise RequestError(f"{place} has {listed}: name the file of items with dataset.info")
            if found:
                return found[0]
        return None


def _dialect(separator: str, columns: Sequence[str] | None) -> Dialect:
    names = dict.fromkeys(("separator", "encoding", "quoting"), "another file: dataset.path")
    names |= {"path": "dataset.path", "columns": "MiniOneRec"}
    return Dialect(separator, None, None if columns is None else "none", columns and tuple(columns), names)


def _read_items(file: Path) -> pl.DataFrame:
    """Columns ``item``, ``title`` and ``semantic_id``."""
    table = read_table(file, _dialect("\t", INFO), lambda _: False, lambda done, total: None)
    frame = table.frame.select(pl.col(name).cast(pl.String).str.strip_chars() for name in ("item", "title", INFO[0]))
    for wrong, why in (
        (frame.select(pl.any_horizontal(pl.all().is_null() | (pl.all() == ""))).to_series(), "an empty cell"),
        (~frame["item"].is_first_distinct(), "an item that an earlier row has"),
    ):
        if wrong.any():
            raise RequestError(f"{table.place(int(wrong.arg_max() or 0))} has {why}: mend it or take it out")
    return frame


def _read_rows(file: Path) -> list[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LIST))
    table = read_table(file, _dialect(",", None), lambda cell: cell in COLUMNS, lambda done, total: None)
    for column in COLUMNS:
        if column not in table.frame.columns:
            has = ", ".join(f"'{name}'" for name in table.frame.columns)
            raise RequestError(f"{file} has no column '{column}'; it has {has}: name a file of MiniOneRec's rows")
    rows = table.frame.select(pl.col(COLUMNS).cast(pl.String)).iter_rows(named=True)
    return [Row(file, int(number), _filled(values)) for number, values in zip(table.rows, rows, strict=True)]


def _filled(values: Mapping[str, str | None]) -> dict[str, Any]:
    return {name: value or "" for name, value in values.items()}


def _list(row: Row, column: str) -> list[str]:
    """A list in Python's notation, as texts. It is parsed and never run."""
    text = row.text(column)
    try:
        values = ast.literal_eval(text) if len(text) <= LONGEST_LIST else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, list) or not all(type(value) in (str, int) for value in values):
        raise RequestError(f"{row}: '{column}' is no list of texts or numbers in Python's notation: mend the row")
    return [str(value) for value in values]
