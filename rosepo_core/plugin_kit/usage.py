"""A command that uses a plugin, to copy."""

from __future__ import annotations

import inspect
import shlex

from rosepo_core.config_keys import keys_of
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import Options
from rosepo_core.registry import Entry, Registry


def command_for(entry: Entry, model: type[Options], registry: Registry) -> str:
    """A command with the plugin, its required options or, if it has none, one of its own options with the default.

    Args:
        entry: the plugin.
        model: its options.
        registry: the plugins, for the name by which this one is found.
    """
    name = shlex.quote(_name(entry, registry))
    if entry.kind == "metric":
        return f"rosepo evaluate RUN --metric {name}"
    keys = keys_of(model)
    own = inspect.get_annotations(model)
    required = [f"--{entry.kind}.{key.name} {key.name.upper()}" for key in keys if key.default == "required"]
    free = [key for key in keys if key.name in own and key.default not in ("required", "unset", "[]", "{}")]
    shown = [f"--{entry.kind}.{key.name} {shlex.quote(key.default.strip(chr(34)))}" for key in free[:1]]
    return " ".join(["rosepo train", f"--{entry.kind} {name}", *(required or shown)])


def _name(entry: Entry, registry: Registry) -> str:
    """The plain name, unless it is that of another plugin, of several, or of none, as for a plugin in a file."""
    try:
        return entry.name if registry.entry(entry.kind, entry.name) == entry else entry.qualified_name
    except RequestError:
        return entry.qualified_name
