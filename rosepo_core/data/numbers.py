"""Numbers in the cells of a table."""

from __future__ import annotations

from typing import Literal

import polars as pl

Decimal = Literal[".", ","]

MISSING = ("", "nan", "nat", "na", "n/a", "null", "none", r"\n")
"""What stands for a missing number or time, in any case of its letters."""


def read_numbers(cells: pl.Series, decimal: Decimal = ".") -> tuple[pl.Series, pl.Series]:
    """Float64 numbers, null where a cell is missing or no finite number; and bool, where it is no number.

    Args:
        cells: text or numbers.
        decimal: the sign before the fraction. With a comma, a cell with a point is no number: neither sign is ever
            taken to group digits, so that ``4,5`` cannot become 45.
    """
    if cells.dtype == pl.String:
        cells = filled(cells)
        text = cells
        if decimal == ",":
            text = text.set(text.str.contains(".", literal=True), None).str.replace(",", ".", literal=True)
        numbers = text.cast(pl.Float64, strict=False)
    else:
        numbers = cells.cast(pl.Float64, strict=False).fill_nan(None)
        cells = numbers
    numbers = numbers.set(~numbers.is_finite(), None)
    return numbers, numbers.is_null() & cells.is_not_null()


def filled(cells: pl.Series) -> pl.Series:
    """Text without blanks at its ends; null where nothing but a mark of a missing value stands."""
    text = cells.str.strip_chars()
    return text.set(text.str.to_lowercase().is_in(MISSING), None)
