"""Plugins, what they keep of their promises, and presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tomli_w

from rosepo_cli.tables.cells import plain_table
from rosepo_core.console import SafeTable, Text, open_console

if TYPE_CHECKING:
    from rosepo_core.config_keys import Key
    from rosepo_core.plugin_kit.checking import Promise
    from rosepo_core.plugins.registry import Entry
    from rosepo_core.presets import Preset


def show_plugins(entries: Sequence[Entry]) -> None:
    """One line for each plugin, by kind; what is wrong with a plugin is red."""
    table = plain_table("kind", "name", "from", "summary")
    for column in table.columns:
        column.justify = "left"
    for entry in entries:
        summary = Text(entry.error, style="red") if entry.error else Text(entry.summary)
        if entry.aliases:
            summary.append(f" Also: {', '.join(entry.aliases)}.")
        table.add_row(entry.kind, Text(entry.name), Text(f"{entry.distribution} {entry.version}"), summary)
    open_console().print(table)


def show_plugin_details(described: Sequence[Mapping[str, Any]], options: Sequence[Sequence[Key]]) -> None:
    """The description of each plugin, its source, its options with their defaults, and a command to copy."""
    console = open_console()
    for plugin, keys in zip(described, options, strict=True):
        console.print(f"{plugin['kind']} {plugin['name']}", style="bold")
        console.print(f"{plugin['distribution']} {plugin['version']}, {plugin['target']}")
        if plugin["source"]:
            console.print(plugin["source"], soft_wrap=True)
        if plugin["aliases"]:
            console.print(f"also: {', '.join(plugin['aliases'])}")
        console.print()
        console.print(_reflowed(plugin["description"]))
        if keys:
            table = plain_table("option", "type", "default", "meaning")
            for column in table.columns:
                column.justify = "left"
            for key in keys:
                table.add_row(key.name, Text(key.type), Text(key.default), Text(key.meaning))
            console.print()
            console.print(table)
        console.print(f"\n  {plugin['command']}", soft_wrap=True)


def show_promises(entry: Entry, promises: Sequence[Promise]) -> None:
    """Each promise of a contract, whether it is kept, and if not, why."""
    console = open_console()
    console.print(f"{entry}\n", style="bold")
    table = SafeTable(header=False)
    for promise in promises:
        if promise.broken is None:
            table.add_row(Text("kept", style="green"), Text(promise.text))
        else:
            table.add_row(Text("broken", style="red"), Text(promise.text))
            table.add_row("", Text(promise.broken, style="red"))
    console.print(table)
    broken = sum(promise.broken is not None for promise in promises)
    console.print(f"\n{len(promises) - broken} promises kept, {broken} broken")


def show_presets(presets: Sequence[Preset]) -> None:
    """One line for each preset."""
    table = plain_table("preset", "method")
    table.columns[1].justify = "left"
    for each in presets:
        table.add_row(Text(each.name), Text(each.method))
    open_console().print(table)


def show_preset_details(preset: Preset) -> None:
    """The description of a preset, and its settings as in a file."""
    console = open_console()
    console.print(f"preset {preset.name}", style="bold")
    told = {
        "": preset.method,
        "Source: ": preset.source,
        "Published: ": preset.published,
        "rosepo's own choice: ": preset.own,
    }
    for start, text in told.items():
        console.print(f"{start}{text}\n")
    console.print(tomli_w.dumps(preset.tables).rstrip())


def _reflowed(docstring: str) -> str:
    """The docstring with each paragraph on one line, which the terminal breaks; lists and formulas stay unchanged."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join(
        part if any(line[:1] in " -*" for line in part.splitlines()) else " ".join(part.splitlines())
        for part in paragraphs
    )
