"""The keys of the configuration with type, default and meaning, generated from the options models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rosepo_core.config import DEFAULTS, LIST_SECTIONS, PLAIN_KEYS, PLUGIN_SECTIONS, SECTIONS, RunConfig
from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.options import Options


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: the whole key, such as ``sft.steps``.
        type: its type and limits in a few words, such as ``integer, at least 1``, or its possible values.
        default: its default in the notation of TOML; ``"unset"`` if it has none and may be left out, and
            ``"required"`` if it must be given.
        meaning: what it does.
    """

    name: str
    type: str
    default: str
    meaning: str


def sections() -> dict[str, str]:
    """The sections of the configuration in their order, each with its meaning."""
    return {name: field.description or "" for name, field in RunConfig.model_fields.items() if name not in PLAIN_KEYS}


def plain_keys() -> list[Key]:
    """The keys outside all sections."""
    return [key for key in keys_of(RunConfig, "") if key.name in PLAIN_KEYS]


def keys_of_section(section: str) -> list[Key]:
    """The keys of a section that belong to the core. For a section that names plugins, these are ``name`` and perhaps
    ``weight``; the plugins have their own (`rosepo plugins show NAME`).

    Raises:
        RequestError: there is no such section.
    """
    if section in SECTIONS:
        return keys_of(SECTIONS[section], section)
    if section in LIST_SECTIONS or section in PLUGIN_SECTIONS:
        model = LIST_SECTIONS.get(section, RunConfig.model_fields[section].annotation)
        assert isinstance(model, type)
        assert issubclass(model, Options)
        found = [key for key in keys_of(model, section) if key.name != f"{section}.options"]
        default = json.dumps(DEFAULTS[section][0] if len(DEFAULTS[section]) == 1 else list(DEFAULTS[section]))
        return [
            Key(key.name, key.type, default, key.meaning) if key.name == f"{section}.name" else key for key in found
        ]
    raise RequestError(f"unknown section '{section}'{nearest(section, sections())}")


def keys_of(model: type[Options], section: str = "") -> list[Key]:
    """The keys of an options model.

    Args:
        model: the model.
        section: what stands before each key; nothing if empty.
    """
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        Key(
            f"{section}.{name}" if section else name,
            _type(each, schema.get("$defs", {})),
            "required" if name in required else _default(each.get("default")),
            each.get("description", ""),
        )
        for name, each in schema.get("properties", {}).items()
    ]


def _type(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """A type in words, with its limits."""
    if "$ref" in schema:
        return _type(known[schema["$ref"].rpartition("/")[2]], known)
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(each, known) for each in schema["anyOf"] if each.get("type") != "null"))
    if schema.get("type") == "array":
        inner = schema.get("items") or {}
        return f"list of {_type(inner, known)}" if inner else "list"
    if schema.get("format") == "path":
        return "path"
    names = {"string": "text", "object": "table", "boolean": "true | false"}
    written = str(schema.get("type", "any"))
    limits = (f"{words} {schema[limit]}" for limit, words in _LIMITS.items() if limit in schema)
    return ", ".join([names.get(written, written), *limits])


_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def _default(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
