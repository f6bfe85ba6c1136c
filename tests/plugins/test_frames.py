"""A log and its items as frames: every library gives the same corpus and the same sum, and errors name row and
column."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from rosepo_core.config import load_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.data.frames import Frame
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import DatasetContract
from rosepo_core.testing.toys import SilentReporter

LOG = {
    "user_id": ["ann", "ann", "bob", "bob"],
    "item_id": [10, 11, 10, 12],
    "timestamp": [1000, 2000, 1500, 2500],
    "rating": [5.0, 4.5, 3.0, 1.0],
}
ITEMS = {"item_id": [10, 11, 12], "title": ["Moby-Dick", "Emma", "Dune"], "genres": [["Sea"], ["Love"], ["Sand"]]}
OF_LIBRARIES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "polars, lazy": pl.LazyFrame,
    "arrow": pa.table,
    "arrow, batch": lambda columns: pa.RecordBatch.from_pydict(columns),
    "arrow, reader": lambda columns: pa.table(columns).to_reader(),
    "datasets": datasets.Dataset.from_dict,
    "datasets, streamed": lambda columns: datasets.Dataset.from_dict(columns).to_iterable_dataset(),
    "datasets, formatted": lambda columns: datasets.Dataset.from_dict(columns).with_format("numpy"),
}


def load(log, items=None, **options):
    frames = {"log": log} if items is None else {"log": log, "items": items}
    return load_plugins().create("dataset", "frames", {**frames, **options}).load(SilentReporter())


def sum_of(frame) -> str:
    return Frame.of(frame, "the log").sum


def refused(frame, *, items=None, **options) -> str:
    with pytest.raises(RequestError) as caught:
        load(frame, items, **options)
    return str(caught.value)


class TestFrames(DatasetContract):
    name = "rosepo/frames"

    @pytest.fixture
    def options(self):
        return {"log": pd.DataFrame(LOG), "items": pl.DataFrame(ITEMS)}


@pytest.mark.parametrize("library", OF_LIBRARIES)
def test_every_library_gives_one_corpus_and_one_sum(library):
    make = OF_LIBRARIES[library]
    corpus = load(make(LOG), make(ITEMS))
    assert corpus.interactions.cast({pl.Enum: pl.String}).rows() == [
        ("ann", "10", 1000, 5.0),
        ("ann", "11", 2000, 4.5),
        ("bob", "10", 1500, 3.0),
        ("bob", "12", 2500, 1.0),
    ]
    assert corpus.catalogue.rows() == [
        ("10", "Moby-Dick", ["Sea"]),
        ("11", "Emma", ["Love"]),
        ("12", "Dune", ["Sand"]),
    ]
    assert sum_of(make(LOG)) == sum_of(pl.DataFrame(LOG))
    assert sum_of(make(ITEMS)) == sum_of(pl.DataFrame(ITEMS))


def test_frames_are_read_as_the_same_table_in_a_file(tmp_path):
    log = pd.DataFrame(LOG).assign(when=pd.to_datetime(LOG["timestamp"], unit="s")).drop(columns="timestamp")
    log.to_parquet(tmp_path / "log.parquet")
    pd.DataFrame(ITEMS).to_parquet(tmp_path / "items.parquet")
    options = {"timestamp": "when", "rating": "rating"}
    files = {"path": tmp_path / "log.parquet", "catalogue": tmp_path / "items.parquet"}
    of_files = load_plugins().create("dataset", "table", {**files, **options}).load(SilentReporter())
    of_frames = load(log, pd.DataFrame(ITEMS), **options)
    assert of_frames.interactions.equals(of_files.interactions)
    assert of_frames.catalogue.equals(of_files.catalogue)


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        (pd.Series([7, 7, 8, 8], dtype="uint16"), ["7", "7", "8", "8"]),
        (pd.Series([7, 7, 8, 8], dtype="Int64"), ["7", "7", "8", "8"]),
        (pd.Series([7.0, 7.0, 8.0, 8.0]), ["7", "7", "8", "8"]),
        (pd.Series(["b", "b", "a", "a"], dtype="category"), ["b", "b", "a", "a"]),
        (pd.Series(["b", "b", "a", "a"], dtype="object"), ["b", "b", "a", "a"]),
        (pd.Series(["b", "b", "a", "a"], dtype="string"), ["b", "b", "a", "a"]),
        (pd.Series([2**64 - 1, 2**64 - 1, 1, 1], dtype="uint64"), ["18446744073709551615"] * 2 + ["1", "1"]),
        (pl.Series(["b", "b", "a", "a"], dtype=pl.Enum(["a", "b"])), ["b", "b", "a", "a"]),
        (pl.Series([b"b", b"b", b"a", b"a"]).cast(pl.String), ["b", "b", "a", "a"]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_ids_of_every_type(users, expected):
    others = {"item": [1, 2, 1, 2], "title": ["A", "B", "A", "B"]}
    frame = (pd.DataFrame if isinstance(users, pd.Series) else pl.DataFrame)({"user": users, **others})
    assert load(frame).interactions["user"].cast(pl.String).to_list() == expected


@pytest.mark.parametrize(
    "times",
    [
        pd.to_datetime(["2026-07-01 14:00", "2026-07-02 14:00"]).tz_localize("Europe/Berlin"),
        pd.to_datetime(["2026-07-01 12:00", "2026-07-02 12:00"]),
        pd.array(["2026-07-01T12:00", "2026-07-02T12:00"], dtype="datetime64[ns]"),
        ["2026-07-01T14:00:00+02:00", "2026-07-02T14:00:00+02:00"],
        [datetime(2026, 7, 1, 12, tzinfo=UTC), datetime(2026, 7, 2, 12, tzinfo=UTC)],
    ],
    ids=["zone", "no zone", "nanoseconds", "text", "objects"],
)
def test_times_are_seconds_in_utc(times):
    frame = pd.DataFrame({"user": [1, 1], "item": [1, 2], "title": ["A", "B"], "time": times})
    assert load(frame).interactions["timestamp"].to_list() == [1782907200, 1782993600]


def test_the_only_column_of_times_is_the_time_whatever_its_name():
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "title": ["A", "B"], "bought": [datetime(2026, 7, 1)] * 2})
    assert load(frame).interactions["timestamp"].to_list() == [1782864000] * 2
    two = frame.with_columns(paid=pl.col("bought"))
    assert load(two).interactions["timestamp"].to_list() == [0, 1]
    assert load(two, timestamp="paid").interactions["timestamp"].to_list() == [1782864000] * 2


def test_days_and_rows_as_times():
    frame = pl.DataFrame({"user": [1, 1], "item": [1, 2], "title": ["A", "B"], "date": [date(2026, 7, 1)] * 2})
    assert load(frame).interactions["timestamp"].to_list() == [1782864000] * 2
    assert load(frame.drop("date")).interactions["timestamp"].to_list() == [0, 1]


def test_missing_ratings_are_null_and_rows_without_anything_are_left_out():
    frame = pd.DataFrame({"user": ["a", None, "b"], "item": ["x", None, "x"], "title": ["X", None, "X"]})
    frame["rating"] = [4.0, np.nan, np.nan]
    assert load(frame).interactions.select("user", "rating").cast({"user": pl.String}).rows() == [
        ("a", 4.0),
        ("b", None),
    ]


def test_an_index_with_a_name_is_a_column_and_one_without_is_not():
    plain = pd.DataFrame({"user": [2, 5, 2], "item": [1, 2, 2], "title": ["A", "B", "B"]})
    assert load(plain.set_index("user")).interactions["user"].cast(pl.String).to_list() == ["2", "5", "2"]
    assert load(plain.set_index(["user", "item"])).interactions.height == 3
    assert sum_of(plain[plain.user > 1]) == sum_of(plain.set_axis([7, 8, 9])) == sum_of(plain)
    assert "has no column 'who'" in refused(plain, user="who")
    unnamed = plain.set_index("user").rename_axis(None)
    assert refused(unnamed).startswith(
        "the log (pandas DataFrame, rows from 0, without its index, which has no name): none of its columns 'item', "
        "'title' is called like a user"
    )


def test_the_sum_is_of_names_values_and_order():
    frame = pl.DataFrame(LOG)
    assert sum_of(frame.cast({"item_id": pl.Int8, "timestamp": pl.UInt32, "user_id": pl.Categorical})) == sum_of(
        frame
    )
    assert sum_of(frame.vstack(frame[:0]).slice(0, 4)) == sum_of(frame)
    changed = [
        frame.reverse(),
        frame[:3],
        frame.rename({"rating": "stars"}),
        frame.with_columns(rating=pl.Series([5.0, 4.5, 3.0, None])),
        frame.with_columns(rating=pl.Series([5.0, 4.5, 3.0, 2.0])),
        frame.with_columns(user_id=pl.Series(["ann", "an", "nbob", "bob"])),
        frame.with_columns(user_id=pl.Series(["ann", "ann", "bob", ""])),
        frame.with_columns(item_id=pl.Series(["10", "11", "10", "12"])),
    ]
    assert len({sum_of(each) for each in [frame, *changed]}) == 9
    lists = [[["a"], ["b", "c"]], [["a", "b"], ["c"]], [["a", "b", "c"], []], [["a", "b", "c"], None]]
    assert len({sum_of(pl.DataFrame({"genres": each})) for each in lists}) == 4


def test_it_is_stored_as_its_sum():
    frame = Frame.of(pl.DataFrame(LOG), "the log")
    config = load_config(
        None, [("dataset", "frames"), ("dataset.log", frame), ("dataset.items", pd.DataFrame(ITEMS))]
    )
    stored = config.resolved()["dataset"]
    assert stored["log"] == frame.sum == sum_of(pd.DataFrame(LOG))
    assert stored["items"] == sum_of(pd.DataFrame(ITEMS))
    assert "sha256:" in config.to_toml()
    # The sum of a fixed frame stays the same in later versions, so that runs are found again.
    assert frame.sum == "sha256:9c57062d5b2556d0ee6c9e09d2923056"
    message = refused(frame.sum)
    assert message == (
        f"the log of this run ({frame.sum}) was a frame of a Python program, and no file has it: call "
        "rosepo_core.align with it again, or name a file, --dataset table --dataset.path FILE"
    )


def test_errors_name_row_and_column():
    frame = pd.DataFrame({"user": ["a", "b", None], "item": [1, 2, 1], "title": ["A", "B", "A"]})
    where = "the log (pandas DataFrame, rows from 0)"
    assert refused(frame).startswith(f"{where} row 2: 'user' is empty: fill it in")
    mixed = frame.assign(user=[1, "b", 3])
    assert refused(mixed) == (
        f"{where} row 1: column 'user' holds str here and int before: make it one type, such as "
        "frame['user'].astype(str)"
    )
    assert "column 'user' cannot be read" in refused(frame.assign(user=[1j, 2j, 3j]))
    twice = pd.DataFrame([[1, 2, 3]], columns=["user", "item", "user"])
    assert "columns 1 and 3 are both called 'user'" in refused(twice)
    assert "columns 1 and 2 are both called 'user'" in refused(frame.set_index("user", drop=False))
    arrow = pa.table([[1], [2]], names=["user", "user"])
    assert refused(arrow).startswith("the log (pyarrow Table, rows from 0): columns 1 and 2 are both called 'user'")
    assert refused(frame[:0]) == f"{where} has no rows"
    lone = pl.DataFrame({"user": [1], "item": [1]})
    assert refused(lone) == (
        "the log (polars DataFrame, rows from 0): none of its columns 'user', 'item' is called like a title: name "
        "one with dataset.title, or give a second frame that has the items' titles"
    )
    items = pl.DataFrame({"item": [2], "title": ["B"]})
    assert "has a title in the items (its first is '2')" in refused(lone, items=items)
    untimed = frame.assign(user=1, time=["2026-07-01", "yesterday", "2026-07-02"])
    assert refused(untimed).startswith(f"{where} row 1: timestamp 'yesterday' is not a number or an ISO 8601")
    binary = pl.DataFrame({"user": [b"a"], "item": [1], "title": ["A"]})
    assert "column 'user' (dataset.user) holds lists or objects" in refused(binary, user="user")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "the log (builtins list, rows from 0) is no frame: give a frame of pandas or Polars"),
        ("log.csv", "the log (builtins str, rows from 0) is no frame"),
        (pd.Series([1, 2]), "the log (pandas Series, rows from 0) cannot be read"),
        (pa.array([1, 2]), "the log (pyarrow Int64Array, rows from 0) is no frame"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict(LOG)}), "give one of them, ['train']"),
    ],
    ids=["list", "str", "Series", "Array", "DatasetDict"],
)
def test_what_is_no_frame(value, said):
    assert said in refused(value)


def test_a_large_log_is_read_in_seconds():
    # Two million rows; without the sum of numbers by blocks this would take minutes.
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": rng.integers(0, 50_000, 2_000_000), "item": rng.integers(0, 5_000, 2_000_000)})
    items = pl.DataFrame({"item": range(5_000), "title": [f"Title {item}" for item in range(5_000)]})
    assert load(frame, items).interactions.height == 2_000_000


def test_nothing_imports_pandas_for_a_frame_of_polars():
    code = (
        "import sys, polars as pl\n"
        "from rosepo_core.plugins.registry import load_plugins\n"
        "from rosepo_core.testing.toys import SilentReporter\n"
        "log = pl.DataFrame({'user': [1], 'item': [2], 'title': ['A']})\n"
        "load_plugins().create('dataset', 'frames', {'log': log}).load(SilentReporter())\n"
        "print(sorted({'pandas', 'pyarrow', 'datasets', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
