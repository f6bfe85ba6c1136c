"""The catalogue of a model, and what has changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rosepo_core.console import open_console
from rosepo_core.contracts.untrusted_text import visible_line

if TYPE_CHECKING:
    from rosepo_core.data.catalogue_in_use import CatalogueInUse, Difference

SHOWN_CHANGES = 10
"""Items that are shown of each kind of change of a catalogue."""


def show_catalogue(in_use: CatalogueInUse, difference: Difference, rows: int = SHOWN_CHANGES) -> None:
    """The size of a catalogue, and how it differs from an earlier state: a few lines for each kind of change."""
    console, items = open_console(), in_use.items
    retired = int(in_use.retired.sum())
    console.print(
        f"{len(items) - retired:,} items can be recommended: {len(in_use.trained):,} of the training, "
        f"{len(items) - len(in_use.trained):,} added, {retired:,} retired"
    )
    titles = dict(zip(items.ids, map(visible_line, items.titles), strict=True))
    kinds: dict[str, Sequence[tuple[str, str]]] = {
        "added": [(item, titles[item]) for item in difference.added],
        "renamed": [
            (item, f"{visible_line(old)}  ->  {visible_line(new)}") for item, (old, new) in difference.renamed.items()
        ],
        "described anew": [(item, titles[item]) for item in difference.described],
        "retired": [(item, titles[item]) for item in difference.retired],
        "restored": [(item, titles[item]) for item in difference.restored],
    }
    for kind, changed in kinds.items():
        if not changed:
            continue
        console.print(f"\n{kind} {len(changed):,}")
        for item, text in changed[:rows]:
            console.print(f"  {visible_line(item)}  {text}")
        if len(changed) > rows:
            console.print(f"  and {len(changed) - rows:,} more (--json lists all)")
