"""Tables that the calling program has in memory: frames of pandas, Polars and Arrow, and data sets of `datasets`.

Every frame becomes a Polars frame of a few types, whatever its library: whole numbers of 64 bits (also of unsigned
types, if they fit), floats of 64 bits with null for NaN, text (also of categories), times in UTC. Everything that
rosepo reads from a frame, it reads from this form. So two frames with the same sum give the same corpus.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np
import polars as pl
from pydantic_core import core_schema

from rosepo_core.contracts.errors import RequestError
from rosepo_core.data.headers import require_distinct
from rosepo_core.data.table_files import TableContent

if TYPE_CHECKING:
    import pandas as pd

_SUM = re.compile(r"sha256:[0-9a-f]{32}")
_KNOWN = "a frame of pandas or Polars, an Arrow table, or a Dataset of the package datasets"
_OTHERS = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)
_ROWS: Final = 1 << 20


@dataclass(frozen=True)
class FrameName:
    """What a frame is called, where a file has a path.

    Attributes:
        name: short, such as ``the log``.
        about: what it is, such as ``pandas DataFrame, rows from 0``.
    """

    name: str
    about: str

    def __str__(self) -> str:
        return f"{self.name} ({self.about})"


@dataclass(frozen=True)
class Frame:
    """A table that the calling program gave, for an option of a dataset. A configuration file has its sum.

    Attributes:
        sum: of the content, ``sha256:`` and 32 hexadecimal digits: the names of the columns and the values of all
            rows, in their order. It does not depend on the library, or on the width of numbers.
        content: the rows; `None` if only the sum is known, because it was read from a file.
    """

    sum: str
    content: TableContent | None = field(compare=False)

    @classmethod
    def of(cls, value: object, name: str) -> Self:
        """Take a frame.

        Args:
            value: a frame of pandas (2.2 or later) or Polars (also lazy), an Arrow table, or anything else with
                ``__arrow_c_stream__``; or a ``Dataset`` of the package ``datasets``.
            name: what messages call it, such as ``the log``.

        Raises:
            RequestError: it is no such thing, has no rows, or a column has no name of its own or values of different
                types; the message names the column and, if one is to blame, the row.
        """
        about = FrameName(name, _about(value))
        content = _content(_as_polars(value, about), about)
        return cls(f"sha256:{_sum(content.frame)}", content)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._from_option, serialization=core_schema.plain_serializer_function_ser_schema(lambda frame: frame.sum)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "format": "frame"}

    @classmethod
    def _from_option(cls, value: object, info: core_schema.ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and _SUM.fullmatch(value):
            return cls(value, None)
        return cls.of(value, f"the {info.field_name}")


def _about(value: object) -> str:
    """What a frame is, in messages."""
    about = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}, rows from 0"
    if _library(value) == "pandas":
        index: pd.Index[Any] = value.index  # type: ignore[attr-defined]
        if None in index.names and type(index).__name__ != "RangeIndex":
            return f"{about}, without its index, which has no name"
    return about


class _Streams(Protocol):
    """Anything that hands its rows over as Arrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


@dataclass(frozen=True)
class _Stream:
    """Only the stream of a frame, so that Polars does not ask the library of the frame in other ways."""

    frame: _Streams

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


def _as_polars(value: object, about: FrameName) -> pl.DataFrame:
    """The rows of any frame.

    Raises:
        RequestError: as `Frame.of`.
    """
    if isinstance(value, pl.LazyFrame):
        value = value.collect()
    if isinstance(value, pl.DataFrame):
        return value
    library = _library(value)
    if library == "datasets":
        if isinstance(value, Mapping):
            splits = ", ".join(f"['{split}']" for split in value)
            raise RequestError(f"{about} has several splits: give one of them, {splits}")
        if hasattr(value, "to_polars"):
            frame: pl.DataFrame = value.to_polars()
            return frame
    if library == "pandas" and hasattr(value, "columns"):
        return _from_pandas(value, about)
    if not hasattr(value, "__arrow_c_stream__"):
        raise RequestError(f"{about} is no frame: give {_KNOWN}")
    if (schema := getattr(value, "schema", None)) is not None and hasattr(schema, "names"):
        require_distinct(schema.names, str(about))
    return _streamed(value, about)


def _library(value: object) -> str | None:
    """Which of the libraries that need care a frame is from; also of a subclass."""
    tops = {each.__module__.partition(".")[0] for each in type(value).__mro__}
    return next((name for name in ("pandas", "datasets") if name in tops), None)


def _from_pandas(value: Any, about: FrameName) -> pl.DataFrame:
    frame: pd.DataFrame = value
    named = [name for name in frame.index.names if name is not None]
    require_distinct([str(name) for name in (*named, *frame.columns)], f"{about}, with its index")
    # An index without a name only numbers the rows.
    frame = (frame.reset_index(level=named) if named else frame).reset_index(drop=True)
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if not hasattr(frame, "__arrow_c_stream__"):
        raise RequestError(f"{about}: this version of pandas cannot hand over its rows: install pandas 2.2 or later")
    try:
        return _streamed(frame, about)
    except ImportError:
        raise RequestError(f"{about}: pandas needs the package pyarrow to hand over its rows: install it") from None
    except RequestError:
        raise
    except Exception as error:
        for column in frame.columns:
            try:
                _streamed(frame[[column]], about)
            except Exception as of_column:
                raise RequestError(_blame(frame[column], column, about, of_column)) from None
        raise RequestError(f"{about}: {_line(error)}") from None


def _blame(values: pd.Series, column: str, about: FrameName, error: Exception) -> str:
    """What is wrong with a column that Arrow cannot hold."""
    kinds = [type(value) for value in values.to_list() if value is not None and value == value]
    other = next((kind for kind in kinds if kind is not kinds[0]), None)
    if other is not None:
        row = next(row for row, value in enumerate(values.to_list()) if type(value) is other)
        return (
            f"{about} row {row}: column '{column}' holds {other.__name__} here and {kinds[0].__name__} before: make "
            f"it one type, such as frame['{column}'].astype(str)"
        )
    return f"{about}: column '{column}' cannot be read ({_line(error)}): make it text or numbers, or leave it out"


def _streamed(frame: Any, about: FrameName) -> pl.DataFrame:
    try:
        return pl.DataFrame(_Stream(frame))
    except (pl.exceptions.PolarsError, TypeError) as error:
        if isinstance(error, TypeError) and _library(frame) == "pandas":
            raise
        raise RequestError(f"{about} cannot be read: {_line(error)}: give {_KNOWN}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _content(frame: pl.DataFrame, about: FrameName) -> TableContent:
    """The frame as the readers of tables need it, in the form that the module's docstring describes."""
    names = [name.strip() for name in frame.columns]
    require_distinct(names, str(about))
    frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
    left_out = [name for name, dtype in frame.schema.items() if not _is_readable(dtype)]
    notes = [f"{about.name}: left out column '{name}', which holds {frame.schema[name]}" for name in left_out]
    frame = frame.select(_plain(frame[name]) for name in names if name not in left_out)
    rows = pl.int_range(frame.height, dtype=pl.UInt32, eager=True)
    if frame.width:
        filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
        frame, rows = frame.filter(filled), rows.filter(filled)
    if not frame.height:
        raise RequestError(f"{about} has no rows")
    notes.insert(0, f"{about.name}: {frame.height:,} rows of {frame.width} columns ({about.about.partition(',')[0]})")
    return TableContent(about, frame, rows, ((0, about),), tuple(left_out), frozenset(), tuple(notes))


def _is_readable(dtype: pl.DataType) -> bool:
    """Whether a type is among those that have a plain form and a sum."""
    if isinstance(dtype, pl.List | pl.Array):
        return _is_readable(dtype.inner)  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return all(_is_readable(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]
    return dtype.is_numeric() or dtype.is_temporal() or dtype in _OTHERS


def _plain(values: pl.Series) -> pl.Series:
    """A column in the form that the module's docstring describes."""
    dtype = values.dtype
    if dtype == pl.UInt64:
        # Ids that are hashes may not fit.
        signed = values.cast(pl.Int64, strict=False)
        return signed if signed.null_count() == values.null_count() else values
    if dtype.is_float():
        return values.cast(pl.Float64).fill_nan(None)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        exact = dtype.time_unit != "ns" or bool((values.to_physical() % 1000 == 0).all())
        return values.cast(pl.Datetime("us")) if exact else values
    return values.cast(_plain_type(dtype))


def _plain_type(dtype: pl.DataType) -> pl.DataType:
    if isinstance(dtype, pl.List | pl.Array):
        return pl.List(_plain_type(dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return pl.Struct([pl.Field(field.name, _plain_type(field.dtype)) for field in dtype.fields])  # type: ignore[arg-type]
    if dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
        return pl.Int64()
    if dtype.is_float():
        return pl.Float64()
    return pl.String() if dtype in (pl.Categorical, pl.Enum) else dtype


def _sum(frame: pl.DataFrame) -> str:
    """32 hexadecimal digits of the SHA-256 of a frame in its plain form."""
    digest = hashlib.sha256(f"{frame.height}".encode())
    for values in frame:
        digest.update(_length_first(values.name))
        for part in _bytes(values):
            digest.update(part)
    return digest.hexdigest()[:32]


def _bytes(values: pl.Series) -> Iterator[bytes]:
    """The type and the values of a column, so that different columns never give the same bytes."""
    dtype = values.dtype
    yield _length_first(str(dtype.base_type()) + str(getattr(dtype, "time_unit", "")))
    missing = values.is_null()
    yield np.packbits(missing.to_numpy()).tobytes() if missing.any() else b"all"
    if isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield _length_first(field.name)
            yield from _bytes(values.struct.field(field.name))
        return
    if isinstance(dtype, pl.List):
        lengths = values.list.len().fill_null(0)
        yield lengths.to_numpy().tobytes()
        yield from _bytes(values.filter(lengths > 0).explode())
        return
    if dtype.is_decimal():
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        for part in _blocks(values):
            yield part.str.len_bytes().fill_null(0).to_numpy().tobytes()
            yield part.drop_nulls().str.join("")[0].encode()
    elif dtype == pl.Boolean:
        yield np.packbits(values.fill_null(False).to_numpy()).tobytes()
    elif dtype != pl.Null:
        for part in _blocks(values.to_physical()):
            yield part.fill_null(0).to_numpy().tobytes()


def _blocks(values: pl.Series) -> Iterator[pl.Series]:
    """A long column in parts, so that its text is not in memory a second time."""
    return (values.slice(start, _ROWS) for start in range(0, len(values), _ROWS))


def _length_first(text: str) -> bytes:
    return f"{len(text.encode())}:{text}".encode()
