"""What is written is read: arbitrary cells through text tables and JSON, by every way that a reader may take."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rosepo_core.data.dialects import Dialect
from rosepo_core.data.json_tables import parse_json_table
from rosepo_core.data.text_tables import Cells, parse_text_table

OPTIONS = {name: f"dataset.{name}" for name in ("path", "separator", "encoding", "quoting", "columns")}
NAMES = ("user", "item", "title")

# Any Unicode but halves of surrogate pairs; often what tables are made of.
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(list(";,\t|:\"'\n\r \\")), max_size=12)
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def parse(text: str, separator: str, quoting: Any = "csv") -> Cells:
    dialect = Dialect(separator, None, quoting, None, OPTIONS)
    return parse_text_table(text, "log", dialect, ",", "csv", lambda cell: cell in NAMES)


def rows_of(cells: Cells) -> list[tuple[str | None, ...]]:
    return cells.frame.rows()


@quick
@given(
    st.lists(st.tuples(TEXT.map("u{}".format), TEXT), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t", "|", "^"]),
    # The module csv does not quote a return where lines end without one.
    st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n")]),
)
def test_any_title_comes_through_csv(rows: list[tuple[str, str]], separator: str, written: tuple[Any, str]) -> None:
    quoting, line_end = written
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=line_end)
    writer.writerows([NAMES, *(("v", item, title) for item, title in rows)])

    cells = parse(file.getvalue(), separator)

    assert rows_of(cells) == [("v", item, title or None) for item, title in rows]
    assert cells.first_row == 2


@quick
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t", "|", "::", "||"]),
)
def test_unquoted_cells_come_through_as_they_are(rows: list[tuple[str, str]], separator: str) -> None:
    """And the same by Polars and by the module csv: a line end in the middle of which a return stands decides which
    of them reads."""
    remove = {ord(character): None for character in f"\n\r{separator}"}
    kept = [(f"u{item.translate(remove)}", title.translate(remove)) for item, title in rows]
    lines = [separator.join(row) for row in (NAMES, *(("v", *row) for row in kept))]
    wanted = [("v", item, title or None) for item, title in kept]

    assert rows_of(parse("\n".join(lines), separator, "none" if len(separator) == 1 else None)) == wanted
    assert rows_of(parse("\r".join(lines), separator, "none" if len(separator) == 1 else None)) == wanted


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXT


@quick
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), SCALARS, min_size=1), min_size=1, max_size=5))
def test_json_and_python_notation_say_the_same(rows: list[dict[str, Any]]) -> None:
    def finite(value: Any) -> Any:
        return 0.5 if isinstance(value, float) and not math.isfinite(value) else value

    rows = [{key: finite(value) for key, value in row.items()} for row in rows]
    texts = [
        "".join(json.dumps(row) + "\n" for row in rows),
        json.dumps(rows, ensure_ascii=False, indent=1),
        "".join(f"{row!r}\n" for row in rows),
        repr(rows),
    ]

    read = [parse_json_table(text, "log", lambda done, total: None) for text in texts]

    assert all(each.frame.equals(read[0].frame) for each in read)
    assert read[0].rows.to_list() == list(range(1, len(rows) + 1))
    for key in ("a", "b"):
        column = [row.get(key) for row in rows]
        if all(value is None or isinstance(value, str) for value in column) and key in read[0].frame.columns:
            assert read[0].frame[key].to_list() == column


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([1, 2.5], [1.0, 2.5]),
        (["0001", 1], ["0001", "1"]),
        ([True, None], [True, None]),
        ([["x"], [], None], [["x"], [], None]),
        ([["x"], "y", ""], [["x"], ["y"], None]),
        ([2**64, 1], [str(2**64), "1"]),
    ],
)
def test_values_of_a_json_column(values: list[Any], read: list[Any]) -> None:
    text = "".join(json.dumps({"a": value}) + "\n" for value in values)

    assert parse_json_table(text, "log", lambda done, total: None).frame["a"].to_list() == read


def test_keys_and_types_may_change_behind_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rosepo_core.data.json_tables._CHUNK", 2)
    lines = ['{"a": 1, "c": [1]}\n'] * 3 + ['{"a": "x", "b": 2, "c": null}\n'] * 2
    told: list[tuple[int, int]] = []

    records = parse_json_table("".join(lines), "log", lambda done, total: told.append((done, total)))

    assert records.frame["a"].to_list() == ["1", "1", "1", "x", "x"]
    assert records.frame["b"].to_list() == [None, None, None, 2, 2]
    assert (records.nested, records.rows.to_list()) == (("c",), [1, 2, 3, 4, 5])
    assert told == [(2, 6), (4, 6)]


def test_rows_of_a_text_table_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rosepo_core.data.text_tables._CHUNK", 2)

    cells = parse('\nuser,title\n"a",A\n\nb,B\nc,C\n', ",")

    assert rows_of(cells) == [("a", "A"), (None, None), ("b", "B"), ("c", "C")]
    assert cells.first_row == 3
