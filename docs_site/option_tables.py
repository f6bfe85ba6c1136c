"""Options models as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rosepo_core.config_keys import keys_of
from rosepo_core.contracts.options import Options


def option_table(model: type[Options], leave_out: frozenset[str] = frozenset()) -> str:
    """One row an option: name, type, default and what it does; a sentence if there are no options."""
    rows = [
        (f"`{key.name}`", key.type, _default(key.default), key.meaning)
        for key in keys_of(model)
        if key.name not in leave_out
    ]
    if not rows:
        return "It has no options."
    return table(("option", "type", "default", "meaning"), rows)


def _default(written: str) -> str:
    return written if written in ("required", "unset") else f"`{written}`"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
