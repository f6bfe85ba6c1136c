"""The first row of a text table: is it the names of the columns, or data?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import polars as pl

from rosepo_core.contracts.errors import RequestError
from rosepo_core.data.dialects import Dialect

_NUMBER = re.compile(r"[+-]?(\d+)([.,]\d+)?([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ].*)?$")


def require_distinct(names: Sequence[str], place: str) -> None:
    """
    Raises:
        RequestError: two columns have the same name.
    """
    for at, name in enumerate(names):
        if name in names[:at]:
            raise RequestError(
                f"{place}: columns {names.index(name) + 1} and {at + 1} are both called '{name}' (blanks around a "
                "name do not count): rename or remove one"
            )


def header_names(first: Sequence[str]) -> list[str]:
    """Names without blanks around them; a column without a name is named by its number."""
    return [cell.strip() or f"column {at}" for at, cell in enumerate(first, 1)]


def check_header(
    first: Sequence[str],
    frame: pl.DataFrame,
    row: int,
    place: str,
    dialect: Dialect,
    is_name: Callable[[str], bool],
) -> None:
    """
    Raises:
        RequestError: the first row looks like data.
    """
    repeats = frame.select(
        pl.all_horizontal(frame[name] == cell for name, cell in zip(frame.columns, first, strict=True))
    )
    if frame.height and any(first) and repeats.to_series().any():
        at = row + 1 + int(repeats.to_series().arg_max() or 0)
        raise RequestError(f"{place} row {at} repeats row {row}, the names of the columns: take it out")
    if any(map(is_name, first)):
        return
    numbered = [str(at) for at in range(len(first))]  # pandas names columns so that have no names
    if list(first) == numbered or list(first) == ["", *numbered[:-1]]:
        return
    again = (cell for cell, name in zip(first, frame.columns, strict=True) if cell and (frame[name] == cell).any())
    data = (cell for cell in map(str.strip, first) if _NUMBER.fullmatch(cell) or _DATE.match(cell))
    if next(data, None) is not None or next(again, None) is not None:
        cells = ", ".join(f"'{cell}'" for cell in first)
        option = dialect.options["columns"]
        raise RequestError(
            f"{place} row {row} looks like data, not like names of columns ({cells}): name its {len(first)} columns "
            f"in their order with {option}, e.g. {option}={_example(first, option)}"
        )


def _example(first: Sequence[str], option: str) -> str:
    """Names that may fit the cells of the first row; for a log, in both common orders."""
    in_catalogue = "catalogue" in option
    leading = ["item", "title"] if in_catalogue else ["user", "item"]
    names: list[str] = []
    for at, cell in enumerate(first, 1):
        number = _NUMBER.fullmatch(cell.strip())
        if not in_catalogue and (_DATE.match(cell.strip()) or (number and len(number[1]) > 8)):
            name = "timestamp"
        elif leading:
            name = leading.pop(0)
        else:
            name = ("genres" if "|" in cell else "") if in_catalogue else "rating" if number else "title"
        names.append(name if name and name not in names else f"other{at}")
    swapped = [{"user": "item", "item": "user"}.get(name, name) for name in names]
    return ",".join(names) if in_catalogue else f"{','.join(names)} or {','.join(swapped)}"


def check_columns(
    first: Sequence[str], row: int, place: str, dialect: Dialect, is_name: Callable[[str], bool]
) -> None:
    """
    Raises:
        RequestError: the names do not fit the first row, or it is a header.
    """
    option, columns = dialect.options["columns"], dialect.columns or ()
    if len(columns) != len(first):
        cells = ", ".join(f"'{cell}'" for cell in first)
        raise RequestError(
            f"{place} row {row} has {fields(len(first))} ({cells}), but {option} names {len(columns)} columns: "
            "name each one"
        )
    if list(first) == list(columns) or sum(map(is_name, first)) > 1:
        cells = ", ".join(f"'{cell}'" for cell in first)
        raise RequestError(
            f"{place} row {row} looks like names of columns ({cells}), and {option} says that there are none: leave "
            f"{option} unset"
        )


def fields(number: int) -> str:
    """For example ``"1 field"`` or ``"3 fields"``."""
    return f"{number} field{'' if number == 1 else 's'}"
