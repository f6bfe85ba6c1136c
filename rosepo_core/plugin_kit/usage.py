"""A command that uses a plugin, to copy."""

from __future__ import annotations

import inspect
import shlex

from rosepo_core.config_keys import keys_of
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import Options, parse_options
from rosepo_core.plugins.registry import Entry, Registry


def command_for(entry: Entry, model: type[Options], registry: Registry) -> str:
    """A command with the plugin, the options without which it cannot be made or, if there are none, one of its own
    options with the default.

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
    required = [key for key in keys if key.default == "required"]
    if not required and not _work_by_default(model):
        # One of several must be set; the first is the usual one. The options of base classes are more general.
        unset = {key.name: key for key in keys if key.default == "unset"}
        required = [unset[name] for each in model.__mro__ for name in inspect.get_annotations(each) if name in unset]
        required = required[:1]
    needed = [f"--{entry.kind}.{key.name} {key.name.upper()}" for key in required]
    free = [key for key in keys if key.name in own and key.default not in ("required", "unset", "[]", "{}")]
    shown = [f"--{entry.kind}.{key.name} {shlex.quote(key.default.strip(chr(34)))}" for key in free[:1]]
    return " ".join(["rosepo train", f"--{entry.kind} {name}", *(needed or shown)])


def _work_by_default(model: type[Options]) -> bool:
    """Whether no option need be set."""
    try:
        parse_options(model, {}, "options")
    except RequestError:
        return False
    return True


def _name(entry: Entry, registry: Registry) -> str:
    """The plain name, unless it is that of another plugin, of several, or of none, as for a plugin in a file."""
    try:
        return entry.name if registry.entry(entry.kind, entry.name) == entry else entry.qualified_name
    except RequestError:
        return entry.qualified_name
