"""Times in the cells of a table, as whole numbers that keep their order."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import product
from typing import Literal

import polars as pl

from rosepo_core.data.numbers import Decimal, filled, read_numbers

Unit = Literal["as given", "seconds", "microseconds"]

KNOWN_FORMATS = (
    *("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT"),
    *("%Y/%m/%d %H:%M:%S%.f", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%B %d, %Y", "%d %B %Y"),
)
"""Formats that are recognized in addition to ISO 8601, because they can be read in one way only."""

_DATES = (
    *("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y", "%m %d, %Y", "%d %m, %Y", "%d %B, %Y"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y"),
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", ", %H:%M:%S")
ASKED_FORMATS = tuple(date + clock for date, clock in product(_DATES, _CLOCKS))
"""Formats that the user must ask for, because day and month could be exchanged. Errors offer those that fit."""

YEAR_1 = tuple(-62135596800 * unit for unit in (1, 10**3, 10**6))
"""0001-01-01 in seconds, milliseconds and microseconds, which some systems write for "no time"."""

_MOST_WHOLE, _MOST_SECONDS = 9.2e18, 9.2e12


@dataclass(frozen=True)
class Times:
    """Times that were read.

    Attributes:
        values: int64, null where there is no time.
        unreadable: bool, true where a cell is filled but is no time.
        unit: ``"as given"`` for whole numbers, which may count anything; ``"seconds"`` or ``"microseconds"`` since
            1970 (UTC) for dates and for numbers with fractions.
    """

    values: pl.Series
    unreadable: pl.Series
    unit: Unit


def read_times(cells: pl.Series, time_format: str | None = None, decimal: Decimal = ".") -> Times:
    """Read a column of times: numbers, ISO 8601, or one of `KNOWN_FORMATS`; times without a zone are UTC.

    Whole numbers stay as they are. Where one cell has a fraction of a second, the whole column becomes microseconds.

    Args:
        cells: text, numbers, dates or times.
        time_format: the format of the text, in the codes of `strptime`; if given, no other format is tried.
        decimal: the decimal separator of numbers.

    Raises:
        TypeError: a column of this type cannot hold times.
    """
    if cells.dtype in (pl.Categorical, pl.Enum):
        cells = cells.cast(pl.String)
    if cells.dtype == pl.String:
        text = filled(cells)
        read = _formatted(text, time_format) if time_format else _best(text, decimal)
        return _times(read, text.is_not_null())
    if cells.dtype.is_integer():
        return _times(cells.cast(pl.Int64, strict=False), cells.is_not_null())
    if cells.dtype.is_numeric():
        numbers, unreadable = read_numbers(cells)
        return _times(numbers, numbers.is_not_null() | unreadable)
    if cells.dtype in (pl.Datetime, pl.Date):
        return _times(cells.cast(pl.Datetime("us")), cells.is_not_null())
    if cells.dtype == pl.Null:
        return _times(cells.cast(pl.Int64), cells.is_not_null())
    raise TypeError(str(cells.dtype))


def formats_for(cells: pl.Series) -> list[str]:
    """Which of `ASKED_FORMATS` read every cell of a column of text."""
    text = filled(cells).drop_nulls()
    if text.is_empty():
        return []
    first = text.head(100)
    likely = (each for each in ASKED_FORMATS if _formatted(first, each).null_count() == 0)
    return [each for each in likely if _formatted(text, each).null_count() == 0]


def _best(text: pl.Series, decimal: Decimal) -> pl.Series:
    """The reading that understands the most cells; the first one if several are equal."""
    best: pl.Series | None = None
    for reading in (_whole, lambda each: read_numbers(each, decimal)[0], _dates):
        read = reading(text)
        if best is None or read.null_count() < best.null_count():
            best = read
        if best.null_count() == text.null_count():
            break
    assert best is not None
    return best


def _whole(text: pl.Series) -> pl.Series:
    return text.cast(pl.Int64, strict=False)


def _dates(text: pl.Series) -> pl.Series:
    read = _iso(text)
    for each in KNOWN_FORMATS:
        if read.null_count() == text.null_count():
            break
        rest = _formatted(text.set(read.is_not_null(), None), each)
        read = pl.select(pl.coalesce(read, rest)).to_series()
    return read


def _iso(text: pl.Series) -> pl.Series:
    """ISO 8601 dates and times as Datetime in UTC; null where a cell is neither a date nor a time."""
    normal = (
        text.str.replace(r"^(\d{4}-\d{2}-\d{2})\s+", "${1}T")
        .str.replace(r"^(\S{10}T\d{2}:\d{2})($|[+\-zZ])", "${1}:00$2")
        .str.replace(r"(:\d{2}),(\d+)", "$1.$2")
        .str.replace(r"\s*(UTC|z)$", "Z")
    )
    frame = pl.DataFrame({"text": normal})
    zoned = pl.col("text").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", time_unit="us", strict=False)
    plain = pl.col("text").str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    date = pl.col("text").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    return frame.select(pl.coalesce(zoned.dt.replace_time_zone(None), plain, date)).to_series()


def _formatted(text: pl.Series, time_format: str) -> pl.Series:
    # Python reads ".%f" as a fraction of any length; Polars writes that "%.f" and would take "%f" for nanoseconds.
    code = time_format.replace(".%f", "%.f")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = text.str.to_datetime(code, time_unit="us", strict=False)
        except pl.exceptions.PolarsError:
            return pl.Series([None] * len(text), dtype=pl.Datetime("us"))
    return read.dt.replace_time_zone(None)


def _times(read: pl.Series, present: pl.Series) -> Times:
    if read.dtype == pl.Datetime:
        micros = read.dt.epoch("us")
        whole = (micros % 1_000_000 == 0).all()
        values, unit = (micros // 1_000_000, "seconds") if whole else (micros, "microseconds")
        return Times(values, values.is_null() & present, "seconds" if unit == "seconds" else "microseconds")
    if read.dtype == pl.Int64:
        return Times(read, read.is_null() & present, "as given")
    whole = (read.drop_nulls() == read.drop_nulls().floor()).all()
    read = read.set(read.abs() >= (_MOST_WHOLE if whole else _MOST_SECONDS), None)
    values = read.cast(pl.Int64) if whole else (read * 1e6).round().cast(pl.Int64)
    return Times(values, values.is_null() & present, "as given" if whole else "microseconds")
