"""The file beside a model that holds what has changed in its catalogue since the training. Nothing that the training
made is touched: the run's artifacts, its evaluation and its report stay those of the trained catalogue."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import polars as pl

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue
from rosepo_core.data.catalogue_in_use import ITEM, CatalogueInUse, no_changes
from rosepo_core.data.table_files import TableContent
from rosepo_core.prompts.item_texts import UnusableTitleError
from rosepo_core.store.files import write_bytes

CHANGES_FILE = "catalogue_changes.parquet"


def load_in_use(folder: Path, trained: Catalogue) -> CatalogueInUse:
    """The catalogue of a model with the changes in its folder.

    Args:
        folder: the run, or the folder of the model.
        trained: the catalogue that it was trained with. If the run was trained again since the changes were made,
            they hold for the items with the same ids, and attributes that the catalogue no longer has are left out.

    Raises:
        RequestError: the file cannot be read.
    """
    path, empty = folder / CHANGES_FILE, no_changes(trained)
    try:
        found = pl.read_parquet(path, glob=False)
        known = found.select(name for name in empty.columns if name in found.columns)
        changes = pl.concat([empty, known.cast({name: empty.schema[name] for name in known.columns})], how="diagonal")
        return CatalogueInUse(trained, changes)
    except FileNotFoundError:
        return CatalogueInUse.of(trained)
    except (OSError, pl.exceptions.PolarsError) as error:
        cause = str(error).splitlines()[0]
        raise RequestError(
            f"{path} cannot be read ({cause}): remove it for the catalogue of the training, and update that again"
        ) from None


def write_changes(folder: Path, in_use: CatalogueInUse) -> None:
    """Write the changes completely or not at all."""
    buffer = BytesIO()
    in_use.changes.write_parquet(buffer)
    write_bytes(folder / CHANGES_FILE, buffer.getvalue())


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the catalogue in this folder, and keep others waiting."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def rows_named(table: TableContent) -> Iterator[None]:
    """Errors about titles say in which row of a table of items these are."""
    try:
        yield
    except UnusableTitleError as error:
        names = {"id": ITEM} if ITEM not in table.frame.columns else {}
        rows = (table.frame.rename(names)[ITEM].cast(pl.String).str.strip_chars() == error.item).arg_true()
        if not len(rows):
            raise
        raise RequestError(f"{table.place(int(rows[0]))}: {error}") from None
