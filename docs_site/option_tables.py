"""Options models as tables."""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def option_table(model: type[BaseModel], leave_out: frozenset[str] = frozenset()) -> str:
    """One row an option: name, type, default and what it does; a sentence if there are no options."""
    rows = []
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        limits = ", ".join(filter(None, (_limit(each) for each in field.metadata)))
        kind = _type(field.annotation) + (f", {limits}" if limits else "")
        rows.append((f"`{name}`", kind, default, field.description or ""))
    if not rows:
        return "It has no options."
    return table(("option", "type", "default", "meaning"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _value(value: Any) -> str:
    if value is PydanticUndefined or value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (Path, enum.Enum)):
        value = str(value)
    if isinstance(value, (tuple, frozenset)):
        value = list(value)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def _limit(rule: Any) -> str:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return ", ".join(
        f"{word} {getattr(rule, sign)}" for sign, word in signs.items() if getattr(rule, sign, None) is not None
    )


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = ", ".join(filter(None, (_limit(each) for each in inner[1:])))
        return _type(inner[0]) + (f" {limits}" if limits else "")
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(each) for each in inner if each is not type(None))
    if origin in (tuple, list, frozenset):
        return "list of " + _type(inner[0])
    if origin is dict:
        return "table"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
