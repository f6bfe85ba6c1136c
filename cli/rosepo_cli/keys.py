"""Commands that take keys of the configuration: their help lists the keys, and shells complete them."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from rosepo_core.contracts.errors import RosepoError
from rosepo_core.plugins.registry import KINDS


class WithKeys(TyperCommand):
    """A command with ``--SECTION.KEY VALUE`` for each key of the configuration."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the options, then all keys of the core with type and default."""
        from rosepo_core.config_keys import keys_of_section, plain_keys, sections

        super().format_options(ctx, formatter)
        with formatter.section("Keys of the configuration (`rosepo options SECTION` explains them)"):
            for key in [*plain_keys(), *(key for name in sections() for key in keys_of_section(name))]:
                formatter.write_text(f"--{key.name} ({key.type}) = {key.default}")

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete options, and keys of the core and of the plugins that the command line names."""
        found: list[Any] = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("--"):
            return found
        made = type(super().shell_complete(ctx, "--help")[0])
        return found + [made(f"--{key}") for key in _keys(ctx) if f"--{key}".startswith(incomplete)]


def _keys(ctx: typer.Context) -> list[str]:
    from rosepo_core.config import DEFAULTS
    from rosepo_core.config_keys import keys_of, keys_of_section, sections
    from rosepo_core.plugins.registry import load_plugins

    registry = load_plugins()
    found = [key.name for section in sections() for key in keys_of_section(section)]
    for kind, defaults in DEFAULTS.items():
        named = ctx.params.get(kind) or defaults
        for name in [named] if isinstance(named, str) else named:
            try:
                found += [key.name for key in keys_of(registry.get(kind, _without_weight(name)).Options, kind)]
            except RosepoError:
                # The name is not written to its end yet.
                continue
    return list(dict.fromkeys(found))


def _without_weight(name: str) -> str:
    before, equals, _ = name.rpartition("=")
    return before if equals else name


def names_of(kind: str) -> Any:
    """Completes the names of plugins of a kind."""
    assert kind in KINDS

    def complete(incomplete: str) -> list[tuple[str, str]]:
        from rosepo_core.plugins.registry import load_plugins

        entries = load_plugins().entries(kind)
        return [(entry.name, entry.summary) for entry in entries if entry.name.startswith(incomplete)]

    return complete
