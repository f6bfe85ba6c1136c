"""Tables as JSON: one object on each line, or one list of objects; also in the notation of Python dictionaries."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import polars as pl

from rosepo_core.contracts.errors import RequestError, beyond_python

_CHUNK = 50_000
_HALF = re.compile(r"\\[uU](?:0000)?[dD][89a-fA-F]")
"""The escape sequence of a half of a pair of surrogates; such pairs have it, too."""


@dataclass(frozen=True)
class Records:
    """The rows of a JSON file.

    Attributes:
        frame: one column for each key, null where a row does not have it. Columns are numbers, booleans, text or
            lists of text; text if the types of rows differ.
        rows: uint32, the number of each row in the file: the line, or the position in the list, from 1.
        nested: keys that are not in the frame, because their values are objects or other lists.
        notation: how the file was written, for notes.
    """

    frame: pl.DataFrame
    rows: pl.Series
    nested: tuple[str, ...]
    notation: str


def parse_json_table(
    text: str, place: str, progress: Callable[[int, int], None], keys: Sequence[str] | None = None
) -> Records:
    """Read objects, one for each row.

    Python's notation (single or double quotes, ``True``, ``None``) is parsed by `ast.literal_eval`: nothing in the
    file is executed.

    Args:
        text: the whole file.
        place: the name of the file in error messages.
        progress: called with the number of rows done and of all rows.
        keys: if given, only these keys become columns. A point leads into objects and lists: ``details.Brand`` is the
            key "Brand" of the object "details", and ``authors.0.name`` the name of the first of the authors.

    Raises:
        RequestError: a row is no object; the message has its number.
    """
    as_list = text.lstrip()[:1] == "["
    parser = _Parser(place)
    numbered = parser.elements(text) if as_list else parser.lines(text)
    total = text.count("\n") + 1
    frames: list[pl.DataFrame] = []
    numbers: list[int] = []
    nested: dict[str, None] = {}
    while chunk := list(islice(numbered, _CHUNK)):
        objects = [row for _, row in chunk]
        if keys is not None:
            objects = [{key: value for key in keys if (value := _inside(row, key)) is not None} for row in objects]
        frames.append(_frame(objects, nested))
        numbers += [number for number, _ in chunk]
        if len(chunk) == _CHUNK:
            progress(len(numbers), total)
    frame = stack(frames, place) if frames else pl.DataFrame()
    notation = "Python literals" if parser.literals else "a JSON list" if as_list else "JSON lines"
    rows = pl.Series(numbers, dtype=pl.UInt32)
    if nested and not set(frame.columns) - {"", *nested}:
        keys = ", ".join(f"'{key}'" for key in nested)
        raise RequestError(f"{place}: all of its keys hold objects or lists ({keys}): write an object for each row")
    return Records(frame.drop(list(nested), strict=False), rows, tuple(nested), notation)


def _inside(value: Any, key: str) -> Any:
    """What an object has under a key with points; `None` if there is nothing."""
    if isinstance(value, dict) and key in value:
        return value[key]
    for step in key.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit():
            value = next(islice(value, int(step), None), None)
        else:
            return None
    return value


class _Parser:
    """Parses values, and remembers whether one of them was in Python's notation."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.literals = False

    def lines(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(io.StringIO(text), 1):
            if line and not line.isspace():
                yield number, self._object(self._value(line, f"row {number}"), number)

    def elements(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, value in enumerate(self._value(text, ""), 1):
            yield number, self._object(value, number)

    def _value(self, text: str, row: str) -> Any:
        try:
            return _whole(json.loads(text), text)
        except (ValueError, RecursionError) as error:
            fault = error
        try:
            value = _whole(ast.literal_eval(text.strip()), text)
            # Python reads longer hexadecimal numbers, but cannot write them with decimal digits.
            str(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            where = row or f"line {getattr(fault, 'lineno', 1)}"
            raise RequestError(
                f"{self._place} {where}: {beyond_python(fault)} (column {getattr(fault, 'colno', 1)}): "
                "neither JSON nor a Python literal; mend it or take it out"
            ) from None
        self.literals = True
        return value

    def _object(self, value: Any, number: int) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise RequestError(f"{self._place} row {number}: not a JSON object; mend it or take it out")
        return value


def _frame(rows: Sequence[dict[Any, Any]], nested: dict[str, None]) -> pl.DataFrame:
    keys: dict[Any, None] = {}
    for row in rows:
        if not row.keys() <= keys.keys():
            keys.update(dict.fromkeys(row))
    columns = []
    for key in keys:
        column = _column(str(key), [row.get(key) for row in rows])
        if column is None:
            nested[str(key)] = None
        else:
            columns.append(column)
    return pl.DataFrame(columns) if columns else pl.DataFrame({"": [None] * len(rows)})


def _column(name: str, values: list[Any]) -> pl.Series | None:
    """The values as a column; `None` if they are nested."""
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    if kinds <= {int, float} and float in kinds:
        try:
            return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
        except OverflowError:  # an integer that is larger than all floating-point numbers
            pass
    if kinds <= {str, int, float, bool}:
        return pl.Series(name, [value if value is None else str(value) for value in values], dtype=pl.String)
    if kinds <= {list, str}:
        lists = [([value] if value else None) if isinstance(value, str) else value for value in values]
        if all(isinstance(each, str) for value in lists if value for each in value):
            return pl.Series(name, lists, dtype=pl.List(pl.String))
    return None


def _whole(value: Any, text: str) -> Any:
    """The value that `text` says, with ``?`` for each half of a pair of surrogates, which JSON and Python can write
    and Unicode does not know."""
    return _without_halves(value) if _HALF.search(text) else value


def _without_halves(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8")
        case list():
            return [_without_halves(each) for each in value]
        case dict():
            return {_without_halves(key): _without_halves(each) for key, each in value.items()}
    return value


def stack(frames: Sequence[pl.DataFrame], place: str) -> pl.DataFrame:
    """Concatenate frames vertically. A column that a frame does not have is null there. Numbers of different types
    become the widest type; columns of other different types become text.

    Raises:
        RequestError: a column is nested in one frame and not in another.
    """
    if len(frames) == 1:
        return frames[0]
    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    text = []
    for name in names:
        types = {frame.schema[name] for frame in frames if name in frame.columns} - {pl.Null()}
        if len(types) > 1 and not all(dtype.is_numeric() for dtype in types):
            if any(dtype.is_nested() for dtype in types):
                raise RequestError(
                    f"{place}: column '{name}' holds lists in some rows only: make it one or the other"
                )
            text.append(name)
    as_text = [
        frame.with_columns(pl.col(name).cast(pl.String) for name in text if name in frame.columns) for frame in frames
    ]
    return pl.concat(as_text, how="diagonal_relaxed")
