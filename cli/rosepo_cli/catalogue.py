"""`rosepo catalogue`: the items that a model recommends, which may change without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rosepo_cli.arguments import Json
from rosepo_core.console import print_json, say

if TYPE_CHECKING:
    from rosepo_core.data.catalogue_in_use import CatalogueInUse, Difference

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a folder of `rosepo export`.")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Show and change the items that a model recommends.")
    group.command("update")(update)
    group.command("show")(show)
    app.add_typer(group, name="catalogue")


def update(
    run: Run,
    items: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ITEMS]",
            help="A CSV, JSON, Parquet or Arrow file with a row for each item that changes: item (its id), and "
            "title, retired (true or false) or attributes. An empty cell leaves things as they are.",
            show_default=False,
        ),
    ] = None,
    retire: Annotated[
        list[str] | None,
        typer.Option("--retire", metavar="ID", help="Never recommend this item again. Repeat this for each."),
    ] = None,
    all_items: Annotated[
        bool, typer.Option("--all-items", help="ITEMS names all items: retire the others, and restore these.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and show what would change.")] = False,
    json_: Json = False,
) -> None:
    """Add, rename, describe and retire items, without training.

    New items are scored by their titles. Retired ones stay in histories. `recommend`, `serve` and `export` use the
    changed catalogue; the evaluation and the report of a run stay those of the catalogue that it was trained with.
    """

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.serving.catalogue_update import update_catalogue

    if items is None and (all_items or not retire):
        raise RequestError("name a file of items, or items to retire (--retire ID)")
    done = update_catalogue(run, items, ConsoleReporter(), retire=retire or (), whole=all_items, dry_run=dry_run)
    if json_:
        about = {"folder": str(done.folder), "dry_run": dry_run, "unchanged": done.unchanged}
        print_json(about | _document(done.in_use, done.difference))
        return
    from rosepo_cli.tables.catalogues import show_catalogue

    show_catalogue(done.in_use, done.difference)
    if done.unchanged:
        say(f"\nunchanged {done.unchanged:,}")
    if dry_run:
        say("nothing was written: leave --dry-run out to change the catalogue", stderr=True)


def show(run: Run, json_: Json = False) -> None:
    """Show how the items that a model recommends differ from those that it was trained with."""

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core.data.catalogue_in_use import CatalogueInUse
    from rosepo_core.serving.sources import open_source

    in_use = open_source(run, ConsoleReporter()).in_use
    difference = in_use.difference(CatalogueInUse.of(in_use.trained))
    if json_:
        print_json(_document(in_use, difference))
        return
    from rosepo_cli.tables.catalogues import show_catalogue

    show_catalogue(in_use, difference)


def _document(in_use: CatalogueInUse, difference: Difference) -> dict[str, Any]:
    """The catalogue and what has changed, by ids."""
    titles = dict(zip(in_use.items.ids, in_use.items.titles, strict=True))
    return {
        "items": len(titles) - int(in_use.retired.sum()),
        "trained": len(in_use.trained),
        "added": {item: titles[item] for item in difference.added},
        "renamed": {item: {"from": old, "to": new} for item, (old, new) in difference.renamed.items()},
        "described": list(difference.described),
        "retired": list(difference.retired),
        "restored": list(difference.restored),
    }
