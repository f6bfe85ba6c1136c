"""Times and numbers in cells."""

from __future__ import annotations

import datetime
from typing import Any

import polars as pl
import pytest

from rosepo_core.data.numbers import read_numbers
from rosepo_core.data.times import ASKED_FORMATS, KNOWN_FORMATS, formats_for, read_times


@pytest.mark.parametrize(
    ("cells", "values", "unit"),
    [
        (["7", " -3 ", ""], [7, -3, None], "as given"),
        (["1.475280001e18", "1475280002000000000"], [1475280001000000000, 1475280002000000000], "as given"),
        (["9223372036854775807"], [9223372036854775807], "as given"),
        (["1593898068.378", "1593898068"], [1593898068378000, 1593898068000000], "microseconds"),
        (["1970-01-02", "NaT", "1970-01-01T00:00:01Z"], [86400, None, 1], "seconds"),
        (["1970-01-01 00:00:00,5 UTC", "1970-01-01 00:00"], [500000, 0], "microseconds"),
        (["Thu Jan 01 01:00:00 +0100 1970", "Thu Jan 01 00:00:05 1970"], [0, 5], "seconds"),
        (["Thu, 1 Jan 1970 00:00:07 GMT", "Thu, 01 Jan 1970 00:00:08 +0000"], [7, 8], "seconds"),
        (["1970/01/01 00:01", "1970/1/2", "January 3, 1970", "4 Jan 1970"], [60, 86400, 172800, 259200], "seconds"),
        ([1.0, float("nan"), 3.0], [1, None, 3], "as given"),
        ([datetime.date(1970, 1, 2), None], [86400, None], "seconds"),
    ],
)
def test_times_that_need_no_format(cells: list[Any], values: list[int | None], unit: str) -> None:
    times = read_times(pl.Series(cells))

    assert (times.values.to_list(), times.unit) == (values, unit)
    assert not times.unreadable.any()


@pytest.mark.parametrize(
    "cells", [["noon", "1"], ["32.1.2000"], ["1e19"], ["1e13", "1.5"], ["inf"], ["2020-02-30", "2020-02-01"]]
)
def test_what_is_no_time_is_marked(cells: list[str]) -> None:
    times = read_times(pl.Series(cells))

    assert times.unreadable.to_list() == [True, *([False] * (len(cells) - 1))]


def test_the_order_of_close_times_is_kept() -> None:
    """As 32-bit floats these three would be one."""
    assert read_times(pl.Series(["880394518.0", "880394520", "880394519"])).values.arg_sort().to_list() == [0, 2, 1]
    assert read_times(pl.Series(["1593898068378.25", "1593898068378.5"])).values.is_sorted()


@pytest.mark.parametrize("format_", [*KNOWN_FORMATS, *ASKED_FORMATS])
def test_formats_are_those_of_strptime(format_: str) -> None:
    time = datetime.datetime(2016, 9, 3, 17, 8, 41)
    python = format_.replace("%.f", ".%f")
    cell = time.replace(tzinfo=datetime.UTC).strftime(python)
    expected = datetime.datetime.strptime(cell, python).replace(tzinfo=datetime.UTC)

    read = read_times(pl.Series([cell]), format_).values[0]

    assert read == int(expected.timestamp())
    if format_ in ASKED_FORMATS:
        assert format_ in formats_for(pl.Series([cell, None]))


@pytest.mark.parametrize(
    ("cells", "decimal", "numbers", "wrong"),
    [
        (["4,5", "-3", " 1e2 ", "NA"], ",", [4.5, -3.0, 100.0, None], []),
        (["4.5", "1.234,5", "1,234,5"], ",", [None, None, None], [0, 1, 2]),
        (["4.5", "4,5", "1,234.5", "inf"], ".", [4.5, None, None, None], [1, 2, 3]),
        ([4, 5], ",", [4.0, 5.0], []),
        ([float("nan"), float("inf")], ".", [None, None], [1]),
    ],
)
def test_numbers(cells: list[Any], decimal: Any, numbers: list[float | None], wrong: list[int]) -> None:
    read, unreadable = read_numbers(pl.Series(cells), decimal)

    assert read.to_list() == numbers
    assert unreadable.arg_true().to_list() == wrong
