"""Tables of the keys of the configuration, on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rosepo_core.console import SafeTable, Text, open_console

if TYPE_CHECKING:
    from rosepo_core.config_keys import Key


def show_sections(sections: Mapping[str, str], plain: Sequence[Key]) -> None:
    """One line for each section, after the keys that are outside all sections."""
    show_keys(plain)
    table = SafeTable()
    table.add_column("section")
    table.add_column("")
    for name, meaning in sections.items():
        table.add_row(Text(name), Text(meaning))
    console = open_console()
    console.print()
    console.print(table)
    console.print("\n`rosepo options SECTION` lists the keys of a section.")


def show_keys(keys: Sequence[Key]) -> None:
    """Each key with its type and default, and its meaning below."""
    console = open_console()
    for number, key in enumerate(keys):
        if number:
            console.print()
        console.print(Text.assemble((key.name, "bold"), f" = {key.default}  ", (f"({key.type})", "dim")))
        console.print(Text(key.meaning), soft_wrap=False)


def show_names(names: Sequence[str]) -> None:
    """The names of the plugins that a section can have."""
    console = open_console()
    console.print(f"\nnames: {', '.join(names)}")
    console.print("`rosepo plugins show NAME` lists the options of one.")
