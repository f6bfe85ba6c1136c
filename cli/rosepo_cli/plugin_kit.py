"""`rosepo plugins check` and `rosepo plugins new`: help for authors of plugins."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rosepo_cli.arguments import DOTTED, Json, overrides
from rosepo_core.console import print_json, say
from rosepo_core.contracts.errors import RequestError
from rosepo_core.plugins.registry import KINDS

KindOption = Annotated[str | None, typer.Option("--kind", help=f"One of {', '.join(KINDS)}.", show_default=False)]


def add(plugins: typer.Typer) -> None:
    """Add the commands to `rosepo plugins`."""
    plugins.command("check", context_settings=DOTTED)(check)
    plugins.command("new")(new)


def check(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The plugin's name, DISTRIBUTION/NAME, or FILE.py:CLASS.")],
    kind: KindOption = None,
    json_: Json = False,
) -> None:
    """Test whether a plugin keeps the promises of its kind. Options of the plugin are --KIND.KEY VALUE, such as
    --loss.beta 2."""
    from rosepo_core.plugin_kit.checking import check_plugin, plugin_of
    from rosepo_core.plugins.registry import load_plugins

    entry = plugin_of(load_plugins(), name, kind)
    options: dict[str, Any] = {}
    for key, value in overrides([], context):
        section, _, option = key.partition(".")
        if section != entry.kind:
            raise RequestError(f"unknown option '--{key}'; options of this plugin are --{entry.kind}.KEY VALUE")
        options[option] = value
    promises = check_plugin(entry, options)
    broken = [promise for promise in promises if promise.broken is not None]
    if json_:
        document = {
            "plugin": asdict(entry),
            "kept": not broken,
            "promises": [{**asdict(promise), "kept": promise.broken is None} for promise in promises],
        }
        print_json(document)
    else:
        from rosepo_cli.tables.plugins import show_promises

        show_promises(entry, promises)
    if broken:
        raise typer.Exit(1)


def new(
    name: Annotated[str, typer.Argument(help="The plugin's name in kebab-case, such as my-loss.")],
    kind: Annotated[str, typer.Option("--kind", help=f"One of {', '.join(KINDS)}.")],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The folder in which the new folder rosepo-NAME is made.")
    ] = Path(),
) -> None:
    """Write a plugin that works, with its tests, as a distribution of its own, for you to change."""
    from rosepo_core.plugin_kit.creating import new_plugin
    from rosepo_core.plugins.registry import load_plugins

    folder = new_plugin(name, kind, to, load_plugins())
    path = " --dataset.path example.csv" if kind == "dataset" else ""
    say(f"{folder} holds the {kind} '{name}'. Change src/{folder.name.replace('-', '_')}/{kind}.py, and then:")
    for command in (f"cd {folder}", "pip install -e '.[test]'", f"rosepo plugins check {name}{path}"):
        say(f"  {command}")
