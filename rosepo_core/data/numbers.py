"""Numbers in the cells of a table."""

from __future__ import annotations

from typing import Literal

import polars as pl

from rosepo_core.data.ids import names_of

Decimal = Literal[".", ","]

MISSING = ("", "nan", "nat", "na", "n/a", "null", "none", r"\n")
"""Texts that mean a missing number or time, in upper or lower case."""


def read_numbers(cells: pl.Series, decimal: Decimal = ".") -> tuple[pl.Series, pl.Series]:
    """Read numbers.

    Args:
        cells: text, categories or numbers.
        decimal: the decimal separator. If it is a comma, a cell with a point is no number. Neither sign is ever read
            as a separator of thousands, so ``4,5`` cannot become 45.

    Returns:
        float64 numbers, null where a cell is missing or is no finite number; and a bool series, true where a cell is
        filled but is no number.
    """
    if cells.dtype == pl.Categorical:
        numbers, wrong = read_numbers(names_of(cells), decimal)
        place = cells.to_physical()
        return numbers.gather(place), wrong.gather(place).fill_null(False)
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
    """Text without blanks at its ends; null where a cell is empty or has one of `MISSING`."""
    text = cells.str.strip_chars()
    return text.set(text.str.to_lowercase().is_in(MISSING), None)
