"""The user's settings for how a table is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quoting = Literal["csv", "none"]


@dataclass(frozen=True)
class Dialect:
    """How a table is written. Settings that the user did not make are `None`.

    Attributes:
        separator: the text between cells; guessed if `None`.
        encoding: the encoding of files that are not UTF-8, by its name in Python.
        quoting: ``"csv"`` if quotes around a cell do not belong to it, ``"none"`` if a quote is a normal character.
        columns: names for the columns of a file whose first row is data.
        options: the names of these settings and of the path in error messages: keys "path", "separator", "encoding",
            "quoting", "columns".
    """

    separator: str | None
    encoding: str | None
    quoting: Quoting | None
    columns: tuple[str, ...] | None
    options: dict[str, str]
