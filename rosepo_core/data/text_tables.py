"""Tables as text with a separator between the cells, such as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import polars as pl

from rosepo_core.contracts.errors import RequestError
from rosepo_core.data.dialects import Dialect, Quoting
from rosepo_core.data.headers import check_columns, check_header, fields, header_names, require_distinct

SEPARATORS = ("::", "\t", ";", "|", ",")
"""The separators that are tried if the user names none."""

_SAMPLE = 100
_CHUNK = 100_000


@dataclass(frozen=True)
class Cells:
    """The rows of a text table.

    Attributes:
        frame: all columns are text, null where a cell is empty, or compact (`data.text_blocks`); blank rows are
            included.
        first_row: the number of the frame's first row in the file, counted from 1.
        separator: the separator that was used.
        guessed: whether the separator is neither the user's nor the usual one of the format.
        notes: messages for the user, one line each, without the file's name.
    """

    frame: pl.DataFrame
    first_row: int
    separator: str
    guessed: bool
    notes: tuple[str, ...]


def parse_text_table(
    text: str,
    place: str,
    dialect: Dialect,
    usual_separator: str | None,
    usual_quoting: Quoting,
    is_name: Callable[[str], bool],
) -> Cells:
    """Cut a text into cells.

    With quoting, the text must follow RFC 4180 strictly: a cell that begins with a quote ends with one, and a quote
    inside it is doubled. Every row has as many cells as there are columns. Blank lines are no rows, but they count
    for the row numbers in messages.

    Args:
        text: the whole file.
        place: the name of the file in error messages.
        dialect: the user's settings.
        usual_separator: the usual separator of the format; `None` if there is none.
        usual_quoting: the usual quoting of the format.
        is_name: whether a cell is certainly the name of a column.

    Raises:
        RequestError: a row does not fit, the first row is no header, or two columns have the same name; the message
            has row or column.
    """
    quoting = dialect.quoting or usual_quoting
    separator, guessed = separator_of(text, place, dialect, usual_separator, quoting)
    if len(separator) > 1:
        if dialect.quoting == "csv":
            raise RequestError(
                f"{place}: quotes around cells need a separator of one character, not {separator!r}: leave "
                f"{dialect.options['quoting']} unset"
            )
        quoting = "none"
    try:
        frame, blank = _fast(text, separator, quoting) or _careful(text, separator, quoting)
    except _MisfitError as misfit:
        advice = _advice(text, separator, quoting, dialect)
        raise RequestError(f"{place} row {misfit.row}: {misfit.reason}; {advice}") from None
    if frame.is_empty():
        return Cells(frame, 1, separator, guessed, ())
    first = [cell or "" for cell in frame.row(0)]
    if dialect.columns is not None:
        names, first_row = list(dialect.columns), blank + 1
        check_columns(first, blank + 1, place, dialect, is_name)
    else:
        names, first_row = header_names(first), blank + 2
        frame = frame[1:]
        check_header(first, frame, blank + 1, place, dialect, is_name)
    require_distinct(names, place)
    frame.columns = names
    notes = _swallowed(text, frame, first_row, separator, dialect) if quoting == "csv" and '"' in text else ()
    return Cells(frame, first_row, separator, guessed, notes)


class _MisfitError(Exception):
    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason


def separator_of(text: str, place: str, dialect: Dialect, usual: str | None, quoting: Quoting) -> tuple[str, bool]:
    """The separator, and whether it was guessed.

    It is the first of these: the user's, or the usual one, if it is in the first row; the one that gives the most
    cells, with the same number in each of the first rows; the one that is most often in the first row (an error then
    names the rows that do not fit).
    """
    # A whole file may be one line, and a line at the end of the sample may be cut.
    sample = "\n".join(islice((line for line in _lines(text[: 2**20]) if line.strip()), _SAMPLE))
    first = sample.partition("\n")[0]
    for expected in (dialect.separator, usual):
        if expected is not None and expected in first:
            return expected, False
    widths = {each: _width(sample, each, quoting) for each in SEPARATORS}
    best = max(SEPARATORS, key=lambda each: widths[each])
    if widths[best] > 1:
        return best, True
    likely = max(SEPARATORS, key=first.count)
    if first.count(likely):
        return likely, True
    if usual is None and dialect.separator is None and sample:
        raise RequestError(
            f"{place}: cannot tell what stands between the cells: set {dialect.options['separator']} (e.g. ';')"
        )
    return usual or dialect.separator or ",", False


def _width(text: str, separator: str, quoting: Quoting) -> int:
    """Number of cells in each row; 0 if rows differ, or cannot be parsed."""
    try:
        widths = {len(record) for record in _records(text, separator, quoting, True) if _is_filled(record)}
    except csv.Error:
        return 0
    return widths.pop() if len(widths) == 1 else 0


def _lines(text: str) -> Iterator[str]:
    for line in io.StringIO(text, newline=None):
        yield line.removesuffix("\n")


def _records(text: str, separator: str, quoting: Quoting, strict: bool) -> Iterator[list[str]]:
    if len(separator) > 1:
        return (line.split(separator) for line in _lines(text))
    if quoting == "none":
        return csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=csv.QUOTE_NONE)
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict)


def _is_filled(record: Sequence[str]) -> bool:
    return any(record) and any(cell.strip() for cell in record)


def _fast(text: str, separator: str, quoting: Quoting) -> tuple[pl.DataFrame, int] | None:
    """The result of `_careful`, made by Polars, if there is no doubt about the cells; otherwise `None`."""
    if (quoting == "csv" and '"' in text) or text.count("\r") != text.count("\r\n"):
        return None
    character = separator
    if len(separator) > 1:
        character = next((each for each in "\x1f\x1e\x1d\x01\x02" if each not in text), "")
        text = text.replace(separator, character)
    if not (character and character.isascii()):
        return None
    try:
        frame = pl.read_csv(
            io.BytesIO(text.encode()), separator=character, has_header=False, quote_char=None, infer_schema=False
        )
    except pl.exceptions.PolarsError:
        return None
    if frame.is_empty() or frame.head(1).select(pl.all_horizontal(pl.all().is_null())).item():
        return None
    # Polars refuses rows with too many cells, but fills rows with too few. Counting separators finds these.
    rows = frame.height - frame.select(pl.all_horizontal(pl.all().is_null()).sum()).item()
    if text.count(character) != rows * (frame.width - 1):
        return None
    return frame, 0


def _careful(text: str, separator: str, quoting: Quoting) -> tuple[pl.DataFrame, int]:
    """All rows from the first filled one, and the number of blank rows before it.

    Raises:
        _MisfitError: a row does not fit.
    """
    records = _records(text, separator, quoting, True)
    frames: list[pl.DataFrame] = []
    row, width, blank = 0, 0, 0
    chunk: list[list[str]] = []

    def keep() -> None:
        cells = zip(*chunk, strict=True)
        frames.append(pl.DataFrame([pl.Series(f"column_{at}", cell) for at, cell in enumerate(cells, 1)]))
        chunk.clear()

    try:
        for row, record in enumerate(records, 1):
            if _is_filled(record):
                width = width or len(record)
            elif width:
                record = [""] * width
            else:
                blank += 1
                continue
            if len(record) != width:
                raise _MisfitError(row, f"{fields(len(record))}, but {width} columns")
            chunk.append(record)
            if len(chunk) == _CHUNK:
                keep()
    except csv.Error as error:
        raise _MisfitError(row + 1, _reason(str(error), separator)) from None
    if chunk:
        keep()
    if not frames:
        return pl.DataFrame(), blank
    frame = pl.concat(frames)
    return frame.select(pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in frame.columns), blank


def _reason(error: str, separator: str) -> str:
    if "expected after" in error:
        return f"a cell in quotes goes on after its closing quote, where {separator!r} should follow"
    if "unexpected end" in error:
        return "a quote is opened and never closed"
    if "field larger" in error:
        return f"a cell has more than {csv.field_size_limit():,} characters; its quote may not be closed"
    return error


def _advice(text: str, separator: str, quoting: Quoting, dialect: Dialect) -> str:
    """How to read a file that did not fit. Only settings that were tried and work are offered."""
    other: Quoting = "none" if quoting == "csv" else "csv"
    # Without quoting, names in quotes would keep them and not be found.
    header = text.lstrip().partition("\n")[0]
    quoted_names = other == "none" and '"' in header and _width(header, separator, "csv") > 0
    if len(separator) == 1 and not quoted_names and _width(text, separator, other) > 1:
        return f"{dialect.options['quoting']}='{other}' reads the whole file"
    for each in SEPARATORS:
        if each != separator and _width(text, each, "none" if len(each) > 1 else quoting) > 1:
            return f"{dialect.options['separator']}={each!r} reads the whole file"
    return "mend it or take it out"


def _swallowed(text: str, frame: pl.DataFrame, first_row: int, separator: str, dialect: Dialect) -> tuple[str, ...]:
    """A note on cells that contain several lines, and whether these look like rows of their own."""
    lines = frame.select(pl.all().str.count_matches(r"\r\n|\n|\r"))
    count = lines.select(pl.sum_horizontal((pl.all() > 0).sum())).item()
    if not count:
        return ()
    name = next(name for name in lines.columns if lines[name].max())
    at = int((lines[name] > 0).arg_max() or 0)
    found = (
        f"{count} cell{'s hold' if count > 1 else ' holds'} several lines, e.g. '{name}' in row {first_row + at} "
        f"holds {lines[name][at] + 1}"
    )
    if _width(text, separator, "none") == frame.width:
        rows = sum(1 for record in _records(text, separator, "none", True) if _is_filled(record))
        rows -= dialect.columns is None
        return (
            f"{found}: they look like rows of their own; {dialect.options['quoting']}='none' takes quotes for "
            f"text and reads {rows} rows",
        )
    return (found,)
