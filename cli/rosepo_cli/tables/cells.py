"""What the tables of several commands have in common: their columns, headings and numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rosepo_core.console import Console, SafeTable

if TYPE_CHECKING:
    from rosepo_core.evaluation.measurement import Column
    from rosepo_core.evaluation.results import Evaluation

SIGNS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "neither": ""}


def plain_table(*columns: str) -> SafeTable:
    """A table without lines: the first column on the left, the others on the right."""
    table = SafeTable()
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def heading(console: Console, text: str) -> None:
    """Over a table, whose own title would be broken to the table's width."""
    console.print(f"\n{text}", style="bold")


def value_of(evaluation: Evaluation, name: str, value: float) -> str:
    """A value of the column of this name."""
    return number_of(evaluation.columns[name], value)


def number_of(column: Column, value: float) -> str:
    """A value with the decimals of its column."""
    return f"{value:.{column.about.decimals}f}" if math.isfinite(value) else "-"
