"""`rosepo clean`: what the cache holds, and its removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rosepo_cli.arguments import Json
from rosepo_core.console import Console, SafeTable, Text, open_console, print_json

if TYPE_CHECKING:
    from rosepo_core.cache import CacheEntry


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(clean)


def clean(
    remove: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|all",
            help="Remove this, or all that rosepo can make again. You can repeat this.",
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Show what the cache holds, or remove some of it.

    It holds packages that were fetched and models that were converted. The cache is
    ~/.cache/rosepo, or $ROSEPO_CACHE. What rosepo made there is made again when it is needed. What others put there,
    such as a plugin, goes only by its own name. Remove nothing while another rosepo is running.
    """
    from rosepo_core import cache
    from rosepo_core.packages import cache_folder

    every = cache.entries()
    gone = cache.chosen(every, remove or [])
    freed = cache.remove(gone)
    left = [entry for entry in every if entry not in gone]
    if json_:
        document = {
            "folder": str(cache_folder()),
            "entries": [entry.document() for entry in left],
            "removed": [entry.document() for entry in gone],
            "freed_bytes": freed,
        }
        print_json(document)
        return
    console = open_console()
    for entry in gone:
        console.print(f"removed {entry.kind}/{entry.name}", soft_wrap=True)
    if remove:
        console.print(f"freed {freed:,} bytes ({_size(freed)})")
    _show(console, left)
    if not left:
        console.print(f"{cache_folder()} is empty", soft_wrap=True)
        return
    can_go = sum(entry.bytes for entry in left if entry.again)
    total = sum(entry.bytes for entry in left)
    console.print(f"\n{cache_folder()}: {_size(total)}", soft_wrap=True)
    if can_go:
        console.print(f"`rosepo clean --remove all` frees {_size(can_go)}")


def _show(console: Console, entries: list[CacheEntry]) -> None:
    if not entries:
        return
    table = SafeTable()
    table.add_column("kind", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("last used", no_wrap=True)
    table.add_column("if it goes", no_wrap=True)
    for entry in entries:
        used = f"{entry.last_used.astimezone():%Y-%m-%d}"
        about = "incomplete" if entry.incomplete else entry.again or "not by rosepo"
        table.add_row(entry.kind, Text(entry.name), _size(entry.bytes), used, about)
    console.print(table)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
