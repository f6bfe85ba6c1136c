"""`rosepo plugins`, `rosepo presets`, `rosepo data` and `rosepo doctor`: show plugins and presets, check data and the
machine."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rosepo_cli import plugin_kit
from rosepo_cli.arguments import DOTTED, Json, overrides
from rosepo_core.console import print_json
from rosepo_core.plugins.registry import KINDS


def add(app: typer.Typer) -> None:
    """Add the commands."""
    plugins = typer.Typer(no_args_is_help=True, help="List, describe, check and begin plugins.")
    plugins.command("list")(list_plugins)
    plugins.command("show")(show_plugin)
    plugin_kit.add(plugins)
    presets = typer.Typer(no_args_is_help=True, help="List and describe presets, for `rosepo train --preset`.")
    presets.command("list")(list_presets)
    presets.command("show")(show_preset)
    data = typer.Typer(no_args_is_help=True, help="Check data before training.")
    data.command("check", context_settings=DOTTED)(check_data)
    app.add_typer(plugins, name="plugins")
    app.add_typer(presets, name="presets")
    app.add_typer(data, name="data")
    app.command()(doctor)


def list_plugins(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}; by default all.")] = None,
    json_: Json = False,
) -> None:
    """List plugins and the distributions that contain them."""
    from rosepo_core.contracts.errors import RequestError, nearest
    from rosepo_core.plugins.registry import load_plugins

    if kind is not None and kind not in KINDS:
        raise RequestError(f"unknown kind of plugin '{kind}'{nearest(kind, KINDS)}")
    registry = load_plugins()
    entries = registry.entries(kind)
    if json_:
        print_json({"plugins": [dataclasses.asdict(entry) for entry in entries], "problems": registry.problems})
        return
    from rosepo_cli.tables.plugins import show_plugins

    show_plugins(entries)


def show_plugin(
    name: Annotated[str, typer.Argument(help="The plugin's name, DISTRIBUTION/NAME, or FILE.py:CLASS.")],
    json_: Json = False,
) -> None:
    """Describe a plugin and its options, with a command to copy."""
    from rosepo_core.contracts.errors import RequestError, nearest
    from rosepo_core.plugin_kit.checking import source_file
    from rosepo_core.plugin_kit.usage import command_for
    from rosepo_core.plugins.one_file import is_file_name
    from rosepo_core.plugins.registry import load_plugins

    registry = load_plugins()
    entries = [entry for entry in registry.entries() if name in (entry.name, entry.qualified_name, *entry.aliases)]
    if is_file_name(name):
        entries = [registry.entry(kind, name) for kind in registry.kinds(name)]
    if not entries:
        known = [name for entry in registry.entries() for name in (entry.name, *entry.aliases)]
        raise RequestError(f"unknown plugin '{name}'{nearest(name, known)}")
    if broken := [entry for entry in entries if entry.kind not in KINDS]:
        raise RequestError(f"{broken[0]}: {broken[0].error}")
    described: list[dict[str, Any]] = []
    components = [registry.get(entry.kind, entry.qualified_name) for entry in entries]
    for entry, component in zip(entries, components, strict=True):
        described.append(
            {
                **dataclasses.asdict(entry),
                "description": inspect.cleandoc(component.__doc__ or ""),
                "options": component.Options.model_json_schema().get("properties", {}),
                "source": str(source_file(entry) or ""),
                "command": command_for(entry, component.Options, registry),
            }
        )
    if json_:
        print_json(json.loads(json.dumps(described, default=str)))
        return
    from rosepo_cli.tables.plugins import show_plugin_details
    from rosepo_core.config_keys import keys_of

    show_plugin_details(described, [keys_of(component.Options) for component in components])


def list_presets(json_: Json = False) -> None:
    """List presets."""
    from rosepo_core.presets import presets

    if json_:
        print_json({name: each.method for name, each in presets().items()})
        return
    from rosepo_cli.tables.plugins import show_presets

    show_presets(list(presets().values()))


def show_preset(name: Annotated[str, typer.Argument(help="The preset's name.")], json_: Json = False) -> None:
    """Describe a preset: what of it was published and where, what is rosepo's own choice, and its settings."""
    from rosepo_core.presets import preset

    found = preset(name)
    if json_:
        print_json(dataclasses.asdict(found))
        return
    from rosepo_cli.tables.plugins import show_preset_details

    show_preset_details(found)


def check_data(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="The file or folder to read, e.g. a log as CSV or Parquet. Leave it out with --dataset.url.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[str, typer.Option(help="The dataset plugin that reads it.")] = "table",
    json_: Json = False,
) -> None:
    """Read data exactly as training does, and show a summary. Options of the dataset are --dataset.KEY VALUE."""
    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.data.corpus_summary import check_corpus
    from rosepo_core.data.filters import filter_corpus
    from rosepo_core.plugins.registry import load_plugins, running

    options: dict[str, Any] = {} if file is None else {"path": str(file)}
    for key, value in overrides([], context):
        section, _, option = key.partition(".")
        if section != "dataset":
            raise RequestError(f"unknown option '--{key}'; options of the dataset are --dataset.KEY VALUE")
        options[option] = value
    component = load_plugins().create("dataset", dataset, options)
    reporter = ConsoleReporter()
    with reporter.live(), running(component):
        corpus = component.load(reporter)
    summary = check_corpus(filter_corpus(corpus, component.options))
    if json_:
        print_json(dataclasses.asdict(summary))
        return
    from rosepo_cli.tables.inspections import show_corpus

    show_corpus(summary)


def doctor(json_: Json = False) -> None:
    """Check this machine and the installed packages."""
    from rosepo_core.diagnostics import diagnose

    checks = diagnose()
    if json_:
        print_json([dataclasses.asdict(check) for check in checks])
    else:
        from rosepo_cli.tables.inspections import show_checks

        show_checks(checks)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)
