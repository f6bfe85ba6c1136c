"""Changes the catalogue of a model on the disk: what `rosepo catalogue update` does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.data.catalogue_changes import items_table, read_changes
from rosepo_core.data.catalogue_in_use import ITEM, RETIRED, CatalogueInUse, Difference, no_changes
from rosepo_core.engine.saved_template import load_template
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.serving.changed_catalogue import one_at_a_time, rows_named, write_changes
from rosepo_core.serving.sources import open_source
from rosepo_core.store.marker import is_run


@dataclass(frozen=True)
class Update:
    """What an update of a catalogue changes.

    Attributes:
        folder: where the changes are kept.
        difference: what changes.
        unchanged: how many rows of the table change nothing.
        in_use: the catalogue afterwards.
    """

    folder: Path
    difference: Difference
    unchanged: int
    in_use: CatalogueInUse


def update_catalogue(
    folder: Path,
    items: Path | None,
    reporter: Reporter,
    *,
    retire: Sequence[str] = (),
    whole: bool = False,
    dry_run: bool = False,
) -> Update:
    """Add, rename, retire and describe items of a model's catalogue.

    Args:
        folder: a run, or a folder of `rosepo export`.
        items: a table with a row for each item that changes, see `read_changes`; `None` for no table.
        reporter: receives notes.
        retire: ids of items to retire.
        whole: the table names all items, see `read_changes`.
        dry_run: check everything, and write nothing.

    Raises:
        RequestError: something cannot be used; then nothing is written.
    """
    source = open_source(folder, reporter)
    if is_run(source.folder.resolve().parent):
        raise RequestError(f"{folder} is a part of a run, which stays as it was made: name {source.folder.parent}")
    with one_at_a_time(source.folder):
        # Another process may have changed it since.
        source = open_source(source.folder, reporter)
        before = source.in_use
        table = None if items is None else items_table(items)
        changes = no_changes(before.trained) if table is None else read_changes(table, before, whole=whole)
        in_use = before.updated(changes)
        in_use = in_use.updated(_retired(in_use, retire))
        if in_use.retired.all():
            raise RequestError("all items would be retired, and nothing could be recommended; leave some")
        difference = in_use.difference(before)
        if difference:
            stored = source.stored(source.models[0])
            template = load_template(stored.folder, stored.slot(reporter).tokenizer)
            with rows_named(table) if table is not None else nullcontext():
                TitleModel(None, template, reporter, seed=0).with_items(in_use.items, in_use.retitled)
            if not dry_run:
                write_changes(source.folder, in_use)
    named = {*changes[ITEM], *retire}
    return Update(source.folder, difference, len(named - difference.items), in_use)


def _retired(in_use: CatalogueInUse, items: Sequence[str]) -> pl.DataFrame:
    """The changes that retire items."""
    known = set(in_use.items.ids)
    for item in items:
        if item not in known:
            raise RequestError(f"item '{item}' is not in the catalogue{nearest(item, known)}")
    rows = pl.DataFrame({ITEM: items, RETIRED: [True] * len(items)}, schema={ITEM: pl.String, RETIRED: pl.Boolean})
    return pl.concat([no_changes(in_use.trained), rows.unique()], how="diagonal")
