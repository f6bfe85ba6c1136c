"""Values of attributes, cleaned: text, lists of text and prices, as columns of one type."""

from __future__ import annotations

import html
import re
from collections.abc import Container

import polars as pl

_PRICE = r"^(?:US)?\s*\$?\s*(\d+(?:,\d{3})*(?:\.\d+)?)$"
_FREE = r"(?i)^free\b.*$"
_ENTITY = re.compile(r"&(?:#\d+|#x[0-9a-fA-F]+|\w+);")


def text(values: pl.Series, unknown: Container[str] = ()) -> pl.Series:
    """Text on one line, with HTML's entities as the characters that they stand for; null where nothing is left, or
    the text is one of `unknown`. Cells that are no text or numbers become null."""
    if values.dtype.is_nested():
        return pl.Series(values.name, [None] * len(values), dtype=pl.String)
    cleaned = [None if value is None else clean(value) for value in values.cast(pl.String).to_list()]
    kept = [value if value and value not in unknown else None for value in cleaned]
    return pl.Series(values.name, kept, dtype=pl.String)


def clean(value: str) -> str:
    """Text on one line, without HTML's entities."""
    return " ".join((html.unescape(value) if _ENTITY.search(value) else value).split())


def lists(values: pl.Series, separator: str | None = None, unknown: Container[str] = ()) -> pl.Series:
    """Lists of texts, each once; from lists, or from text with a separator. An item may have none.

    Args:
        values: lists of text, or text.
        separator: what stands between the parts of a text.
        unknown: parts that mean nothing, which are left out.
    """
    if values.dtype == pl.String and separator is not None:
        values = values.str.split(separator)
    if values.dtype != pl.List(pl.String):
        return pl.Series(values.name, [[]] * len(values), dtype=pl.List(pl.String))
    parts = [[clean(part) for part in value or () if part] for value in values.to_list()]
    kept = [list(dict.fromkeys(part for part in each if part and part not in unknown)) for each in parts]
    return pl.Series(values.name, kept, dtype=pl.List(pl.String))


def prices(values: pl.Series) -> pl.Series:
    """Prices, float64, from numbers or text such as ``$1,299.00``; "Free to play" is 0. What is no single price, such
    as a range, is null."""
    if values.dtype.is_numeric():
        return values.cast(pl.Float64)
    if values.dtype != pl.String:
        return pl.Series(values.name, [None] * len(values), dtype=pl.Float64)
    cells = values.str.strip_chars()
    numbers = cells.str.extract(_PRICE).str.replace_all(",", "").cast(pl.Float64, strict=False)
    return numbers.set(cells.str.contains(_FREE).fill_null(False), 0.0)


def numbers(values: pl.Series) -> pl.Series:
    """Whole numbers, int64, such as years; null where there is none."""
    if values.dtype.is_nested():
        return pl.Series(values.name, [None] * len(values), dtype=pl.Int64)
    return values.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
