"""The help of all commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from docs_site.option_tables import table


def command_pages() -> str:
    """A section for each command: what it does, its usage, its arguments and options."""
    from rosepo_cli.app import app

    return "\n\n".join(_sections(get_command(app), ("rosepo",)))


def _sections(command: Any, words: tuple[str, ...]) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _sections(inner, (*words, name))
        return
    context = command.make_context(words[-1], [], resilient_parsing=True)
    usage = " ".join([" ".join(words), *command.collect_usage_pieces(context)])
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        is_option = parameter.param_type_name == "option"
        names = parameter.opts if is_option else [parameter.metavar or parameter.name.upper()]
        rows.append((", ".join(f"`{name}`" for name in names), getattr(parameter, "help", "") or ""))
    yield f"## {' '.join(words)}\n\n{command.help or ''}\n\n    {usage}\n\n" + table(("argument", "meaning"), rows)
