"""Presets: named parts of a configuration, such as the settings of a published method. Each is a TOML file that comes
with rosepo. Its table ``[about]`` says where it is from, and all other tables are those of a configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from rosepo_core.contracts.errors import RequestError, nearest


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes:
        name: its name.
        method: what it is, in one line.
        source: where the method was published, and what was read.
        published: what of the settings is from there.
        own: what is rosepo's own choice.
        tables: its part of a configuration, as in a file.
    """

    name: str
    method: str
    source: str
    published: str
    own: str
    tables: Mapping[str, Any]


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name, in alphabetical order."""
    found = {}
    for file in sorted(files("rosepo_core").joinpath("preset_files").iterdir(), key=lambda file: file.name):
        name, dot, ending = file.name.rpartition(".")
        if dot and ending == "toml":
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
            found[name] = Preset(name, **tables.pop("about"), tables=tables)
    return found


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        RequestError: there is none.
    """
    known = presets()
    if name not in known:
        raise RequestError(f"unknown preset '{name}' (`rosepo presets list` shows all){nearest(name, known)}")
    return known[name]
