"""The settings in which runs differ."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any


def differing(configs: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
    """The settings of each run that are not the same in all runs. Some keys exist in some runs only, such as the
    options of a plugin; these are shown if their values differ, or if at most half of the runs have them.

    Args:
        configs: the resolved configuration as TOML, by the run's label; empty ones are left out.

    Returns:
        by label: dotted key -> value as text. All samplers are one text, and so are all metrics. Keys that a run does
        not have are left out.
    """
    flat = {label: dict(_flat("", tomllib.loads(text))) for label, text in configs.items() if text}
    keys = dict.fromkeys(key for settings in flat.values() for key in settings)
    held = {key: [settings[key] for settings in flat.values() if key in settings] for key in keys}
    own = [key for key, values in held.items() if len(set(values)) > 1 or 2 * len(values) <= len(flat)]
    return {label: {key: settings[key] for key in own if key in settings} for label, settings in flat.items()}


def _flat(where: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            yield from _flat(name, value)
        elif isinstance(value, list):
            yield name, ", ".join(_named(each) if isinstance(each, Mapping) else str(each) for each in value)
        else:
            yield name, str(value)


def _named(table: Mapping[str, Any]) -> str:
    """For example ``self-hard (pool = 3)``."""
    options = ", ".join(f"{key} = {value}" for key, value in table.items() if key != "name")
    return f"{table.get('name', '')} ({options})" if options else str(table.get("name", ""))
