"""RecBole's atomic files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from rosepo_core.api import Corpus, Reporter, RequestError, expanded
from rosepo_datasets.table import Table, TableOptions


class RecBoleOptions(TableOptions):
    """Options of `recbole`: those of `table`."""

    path: Path = Field(description="Folder with NAME.inter and NAME.item; or the file NAME.inter.")
    catalogue: Path | None = Field(None, description="The items; NAME.item beside NAME.inter if unset.")
    untimed: Literal["error", "drop"] = Field("drop", description="What to do with interactions without a time.")
    untitled: Literal["error", "drop"] = Field(
        "drop", description="What to do with interactions whose item has no title."
    )


class RecBole(Table):
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
        """The two files as a table and its catalogue.

        Raises:
            RequestError: one is not there, or there are several logs.
        """
        options: RecBoleOptions = self.options
        path = expanded(options.path)
        logs = sorted(path.glob("*.inter")) if path.is_dir() else [path]
        if len(logs) != 1:
            has = ", ".join(file.name for file in logs) or "no file that ends in .inter"
            raise RequestError(f"{path} (dataset.path) has {has}: name one file NAME.inter of RecBole")
        items = options.catalogue or logs[0].with_suffix(".item")
        if not expanded(items).is_file():
            raise RequestError(f"{items} does not exist: RecBole's items are in NAME.item, with a column of titles")
        return Table(options.model_copy(update={"path": logs[0], "catalogue": items}))
