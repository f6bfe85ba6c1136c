"""RecBole's atomic files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from rosepo_core.api import Corpus, Dataset, LogOptions, Reporter, RequestError
from rosepo_datasets.table import Table, TableOptions


class RecBoleOptions(LogOptions):
    """Options of `recbole`."""

    path: Path = Field(description="Folder with NAME.inter and NAME.item; or the file NAME.inter.")
    user: str | None = Field(None, description="Column of the user, e.g. 'user_id:token'; guessed if unset.")
    item: str | None = Field(None, description="Column of the item in both files; guessed if unset.")
    timestamp: str | None = Field(None, description="Column of the time; guessed if unset.")
    rating: str | None = Field(None, description="Column of the rating; guessed if unset. There may be none.")
    title: str | None = Field(None, description="Column of the title in NAME.item; guessed by its name if unset.")


class RecBole(Dataset):
    """Atomic files of RecBole (Zhao et al., CIKM 2021): ``NAME.inter`` with the interactions, and ``NAME.item`` with
    a title for each item.

    Columns are found by their names, as `table` finds them, with RecBole's types (``:token``) or without. Rows
    without a time and items without a title are left out and counted. All other columns of NAME.item are attributes,
    without the types in their names.
    """

    Options = RecBoleOptions

    def load(self, reporter: Reporter) -> Corpus:
        """See `Dataset.load`."""
        return self._table().load(reporter)

    def files(self) -> Sequence[Path]:
        """See `Dataset.files`."""
        return self._table().files()

    def _table(self) -> Table:
        options: RecBoleOptions = self.options
        path = options.path.expanduser()
        logs = sorted(path.glob("*.inter")) if path.is_dir() else [path]
        if len(logs) != 1:
            has = ", ".join(file.name for file in logs) or "no file that ends in .inter"
            raise RequestError(f"{path} (dataset.path) has {has}: name one file NAME.inter of RecBole")
        items = logs[0].with_suffix(".item")
        if not items.is_file():
            raise RequestError(f"{items} does not exist: RecBole's items are in NAME.item, with a column of titles")
        columns = {name: getattr(options, name) for name in ("user", "item", "timestamp", "rating", "title")}
        columns["catalogue_item"] = options.item
        return Table(TableOptions(path=logs[0], catalogue=items, untimed="drop", untitled="drop", **columns))
