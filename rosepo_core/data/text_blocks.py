"""Large tables of text, read block by block into columns that take little memory.

A log of 25 million rows has cells like `5952`, `4.5` and `1215462077`. As text they take 16 bytes each, and the whole
file stands beside them several times. Here a column of whole numbers becomes numbers, a column with few different
texts becomes categories, and only a block of the file is in memory as text. The text of every cell can still be
written exactly as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from rosepo_core.data.dialects import Dialect, Quoting
from rosepo_core.data.headers import check_columns, header_names, require_distinct
from rosepo_core.data.json_tables import stack
from rosepo_core.data.text_tables import Cells, separator_of

LARGE = 1 << 26
"""Bytes of the smallest file that is read in blocks."""

_BLOCK = 1 << 25
_SAMPLE = 1 << 20
_FEW = 256
"""Most different texts, in a block, of a column that becomes categories."""


def parse_large_table(
    file: Path,
    dialect: Dialect,
    usual_separator: str | None,
    usual_quoting: Quoting,
    is_name: Callable[[str], bool],
) -> Cells | None:
    """What `parse_text_table` gives for a file, with `compact` columns; `None` if the file is small, or if there is
    any doubt about a cell: quotes, blank rows at the start, a header that may be data, rows that do not fit, an
    encoding other than UTF-8.

    Raises:
        RequestError: as `parse_text_table`.
    """
    if file.stat().st_size < LARGE or dialect.encoding is not None:
        return None
    quoting = dialect.quoting or usual_quoting
    frames: list[pl.DataFrame] = []
    names: list[str] = []
    first_row, separator, guessed = 1, "", False
    types: list[pl.DataType] = []
    for block in _blocks(file):
        if not _is_plain(block, quoting):
            return None
        if not frames:
            sample = block[:_SAMPLE].decode("utf-8", "ignore")
            separator, guessed = separator_of(sample, str(file), dialect, usual_separator, quoting)
            if len(separator) > 1 and dialect.quoting == "csv":
                return None
            head, _, block = block.partition(b"\n")
            first = head.decode("utf-8").removesuffix("\r").split(separator)
            header = dialect.columns is None
            if not any(cell.strip() for cell in first) or (header and not any(map(is_name, first))):
                return None
            if header:
                names, first_row = header_names(first), 2
            else:
                check_columns(first, 1, str(file), dialect, is_name)
                names, block = list(dialect.columns or ()), head + b"\n" + block
            require_distinct(names, str(file))
            types = [pl.String()] * len(names)
        frame = _parsed(block, separator, types)
        if frame is None:
            return None
        types = frame.dtypes
        frame.columns = names
        if dialect.columns is None and _repeats(first, frame):
            return None
        frames.append(frame)
    if not frames:
        return None
    return Cells(stack(frames, str(file)), first_row, separator, guessed, ())


def _blocks(file: Path) -> Iterator[bytes]:
    """The content of a file in parts that end with a line."""
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            yield block + opened.readline()


def _is_plain(block: bytes, quoting: Quoting) -> bool:
    """Whether a block is UTF-8 whose lines are rows."""
    if (quoting == "csv" and b'"' in block) or b"\0" in block or block.startswith((b"\xef\xbb\xbf", b"\x1f\x8b")):
        return False
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        return False
    try:
        return block.isascii() or bool(block.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _parsed(block: bytes, separator: str, types: list[pl.DataType]) -> pl.DataFrame | None:
    """The rows of a block, with compact columns; `None` if a row does not fit.

    Args:
        block: lines.
        separator: the text between cells.
        types: the likely types of the columns.
    """
    if len(separator) > 1:
        between = next((each for each in (b"\x1f", b"\x1e", b"\x1d", b"\x01", b"\x02") if each not in block), b"")
        block = block.replace(separator.encode(), between) if between else b""
    else:
        between = separator.encode()
    if len(between) != 1:
        return None
    ends = block.count(b"\n")
    lines = ends + (not block.endswith(b"\n"))
    separators = block.count(between)
    in_cells = len(block) - separators - ends - block.count(b"\r")
    for guess in (types, [pl.String()] * len(types)):
        schema = {f"column_{at}": dtype for at, dtype in enumerate(guess, 1)}
        try:
            frame = pl.read_csv(block, separator=between.decode(), has_header=False, quote_char=None, schema=schema)
        except (pl.exceptions.PolarsError, TypeError, ValueError):
            continue
        # Polars refuses rows with too many cells, but fills rows with too few. Counting separators finds these.
        if frame.height != lines or separators != lines * (frame.width - 1):
            continue
        # Only text that is the usual writing of its number has the length of that writing: not 007, nor " 7".
        if sum(map(_length, frame.get_columns())) == in_cells:
            return frame.select(compact(each) for each in frame.get_columns())
    return None


def compact(cells: pl.Series) -> pl.Series:
    """A column of text as whole numbers if every cell is the usual writing of one, else as categories if it has few
    different texts; else, and if it is not text, as it is."""
    if cells.dtype != pl.String:
        return cells
    numbers = cells.cast(pl.Int64, strict=False)
    if numbers.null_count() == cells.null_count() and _length(numbers) == _length(cells):
        return numbers
    # A look at the first cells spares most columns the count of all.
    few = cells[: 1 << 14].n_unique() <= _FEW and cells.n_unique() <= _FEW
    return cells.cast(pl.Categorical) if few else cells


def _length(cells: pl.Series) -> int:
    """Bytes of the texts of all cells."""
    if cells.dtype == pl.String:
        return int(cells.str.len_bytes().sum() or 0)
    if cells.dtype == pl.Categorical:
        counts = cells.value_counts()
        return int((counts[cells.name].cast(pl.String).str.len_bytes() * counts["count"]).sum() or 0)
    numbers = cells.drop_nulls().to_numpy()
    if not len(numbers):
        return 0
    size, digits = np.abs(numbers), len(numbers) + int((numbers < 0).sum())
    for power in range(1, len(str(size.max()))):
        digits += int((size >= 10**power).sum())
    return digits


def _repeats(first: list[str], frame: pl.DataFrame) -> bool:
    """Whether a row has the names of the columns again."""
    if any(dtype == pl.Int64 and not cell.isdigit() for cell, dtype in zip(first, frame.dtypes, strict=True)):
        return False
    cells = zip(first, frame.get_columns(), strict=True)
    equal = pl.DataFrame([(each.cast(pl.String) == cell).alias(str(at)) for at, (cell, each) in enumerate(cells)])
    return bool(equal.select(pl.all_horizontal(pl.all()).any()).item())
