"""What a user says about how a table is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quoting = Literal["csv", "none"]


@dataclass(frozen=True)
class Dialect:
    """How a table is written, as far as somebody said so.

    Attributes:
        separator: what stands between the cells; guessed if `None`.
        encoding: of files that are not UTF-8, as Python calls it.
        quoting: ``"csv"`` where quotes around a cell are no part of it, ``"none"`` where they are text as any other.
        columns: names for a file whose first row is data.
        options: what errors call the settings above, and the path: keys "path", "separator", "encoding", "quoting",
            "columns".
    """

    separator: str | None
    encoding: str | None
    quoting: Quoting | None
    columns: tuple[str, ...] | None
    options: dict[str, str]
