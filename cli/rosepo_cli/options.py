"""`rosepo options`: the keys of the configuration."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from rosepo_cli.arguments import Json
from rosepo_cli.key_tables import show_keys, show_names, show_sections
from rosepo_core.console import print_json


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(options)


def options(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[SECTION]", help="A section, such as sft, or a key, such as sft.steps."),
    ] = None,
    json_: Json = False,
) -> None:
    """Show the keys of the configuration: type, default and meaning.

    A key is --SECTION.KEY VALUE on the command line, and KEY in the table [SECTION] of a file. Without SECTION, this
    lists the sections. `rosepo plugins show NAME` lists the options of a plugin.
    """
    from rosepo_core.config_keys import keys_of_section, plain_keys, sections
    from rosepo_core.contracts.errors import RequestError, nearest
    from rosepo_core.plugins.registry import KINDS, load_plugins

    what = (what or "").replace("-", "_")
    plain = plain_keys()
    if not what:
        every = [*plain, *(key for name in sections() for key in keys_of_section(name))]
        if json_:
            print_json([asdict(key) for key in every])
        else:
            show_sections(sections(), plain)
        return
    section, dot, _ = what.partition(".")
    keys = plain if what in [key.name for key in plain] else keys_of_section(section)
    shown = [key for key in keys if key.name == what] if dot or keys is plain else keys
    if not shown:
        hint = "; `rosepo plugins show NAME` lists the options of a plugin" if section in KINDS else ""
        raise RequestError(f"unknown key '{what}'{hint or nearest(what, [key.name for key in keys])}")
    if json_:
        print_json([asdict(key) for key in shown])
        return
    show_keys(shown)
    if section in KINDS and not dot:
        names = [entry.name for entry in load_plugins().entries(section)]
        show_names(names)
