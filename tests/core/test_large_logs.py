"""Large logs are read in blocks and prepared by counting. Both must give what the plain ways give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from rosepo_core.api import Corpus, RequestError
from rosepo_core.contracts.components import LogOptions
from rosepo_core.contracts.records import SeenItems, Sequences
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data import text_blocks
from rosepo_core.data.dialects import Dialect
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.ids import coded, names_of, numbered, repeated_pairs
from rosepo_core.data.splitting import split_corpus
from rosepo_core.data.table_files import read_table
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.dataset import load_corpus, save_corpus
from rosepo_core.testing.toys import SilentReporter

Row = tuple[str, str, int]


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of any size are read in blocks of a few rows."""
    monkeypatch.setattr(text_blocks, "LARGE", 1)
    monkeypatch.setattr(text_blocks, "_BLOCK", 64)


def random_log(seed: int, rows: int = 3000, users: int = 120, items: int = 90) -> list[Row]:
    """Users and items of Zipf's law, repeated pairs, few different times, in no order."""
    draw = np.random.default_rng(seed)
    user = draw.zipf(1.4, rows) % users
    item = draw.zipf(1.3, rows) % items
    return [(f"u{a}", f"{b}", int(t)) for a, b, t in zip(user, item, draw.integers(0, 400, rows), strict=True)]


def corpus_of(log: list[Row]) -> Corpus:
    rows = pl.DataFrame(log, schema=["user", "item", "timestamp"], orient="row")
    items = sorted({item for _, item, _ in log})
    # Every seventh item has the title of the one before it.
    titles = [f"title {at - (at % 7 == 6)}" for at in range(len(items))]
    return Corpus("random", rows, pl.DataFrame({"item": items, "title": titles}))


def slowly_filtered(log: list[Row], corpus: Corpus, k: int) -> list[Row]:
    """The filters, as their documentation describes them, one row at a time."""
    first_of: dict[str, str] = {}
    for item, title in corpus.catalogue.rows():
        first_of.setdefault(title, item)
    merged = {item: first_of[title] for item, title in corpus.catalogue.rows()}
    log = [(user, merged[item], time) for user, item, time in log]
    latest: dict[tuple[str, str], int] = {}
    for row in sorted(range(len(log)), key=lambda row: log[row][2]):
        latest[log[row][:2]] = row
    log = [log[row] for row in sorted(latest.values())]
    while True:
        users, items = (Counter(row[column] for row in log) for column in (0, 1))
        kept = [row for row in log if users[row[0]] >= k and items[row[1]] >= k]
        if len(kept) == len(log):
            return log
        log = kept


def sequences(log: list[Row]) -> dict[str, list[str]]:
    """The items of each user in order of time, users in order of appearance."""
    ordered = sorted(log, key=lambda row: row[2])
    return {user: [item for who, item, _ in ordered if who == user] for user in dict.fromkeys(row[0] for row in log)}


@pytest.mark.parametrize("seed", range(3))
def test_a_random_log_is_prepared_as_one_would_by_hand(seed: int, tmp_path: Path) -> None:
    log = random_log(seed)
    corpus = corpus_of(log)
    expected = slowly_filtered(log, corpus, 4)

    filtered = filter_corpus(corpus, LogOptions(k_core=4))
    save_corpus(filtered, tmp_path)
    split = split_corpus(load_corpus(tmp_path), SplitOptions())

    assert filtered.interactions.rows() == expected
    assert [*filtered.catalogue["item"]] == sorted({item for _, item, _ in expected})
    by_user = sequences(expected)
    ids = np.array(split.catalogue.ids)
    assert [*split.users] == [*by_user]
    for user, items in enumerate(by_user.values()):
        assert ids[split.train[user]].tolist() == items[:-2]
        assert ids[split.test.sequences[user]].tolist() == items
    assert ids[split.test.target].tolist() == [items[-1] for items in by_user.values()]
    assert ids[split.validation.target].tolist() == [items[-2] for items in by_user.values()]
    trained = Counter(item for items in by_user.values() for item in items[:-2])
    assert split.catalogue.popularity.tolist() == [trained[item] for item in split.catalogue.ids]


def test_a_log_by_user_and_one_by_time_give_the_same_sequences() -> None:
    log = [(user, item, 7 * place) for place, (user, item, _) in enumerate(random_log(5, 400))]
    by_user = [
        row for _, rows in groupby(sorted(log, key=lambda row: row[0]), key=lambda row: row[0]) for row in rows
    ]

    found = []
    for rows in (log, by_user, by_user[::-1]):
        split = split_corpus(filter_corpus(corpus_of(rows), LogOptions()), SplitOptions())
        ids = np.array(split.catalogue.ids)
        found.append({user: ids[split.test.sequences[at]].tolist() for at, user in enumerate(split.users)})

    assert found[0] == found[1] == found[2]


def test_times_that_span_all_of_int64_are_ordered() -> None:
    low, high = -(2**63), 2**63 - 1
    log = [("u", "a", high), ("v", "a", 0), ("u", "b", low), ("v", "b", low), ("u", "c", 0), ("v", "c", high)]

    split = split_corpus(filter_corpus(corpus_of(log), LogOptions()), SplitOptions())

    ids = np.array(split.catalogue.ids)
    assert [ids[split.test.sequences[user]].tolist() for user in (0, 1)] == [["b", "c", "a"], ["b", "a", "c"]]


def test_ids_of_every_type_are_their_text() -> None:
    for values in (
        pl.Series(["b", "a", "b"]),
        pl.Series(["b", "a", "b"], dtype=pl.Categorical),
        pl.Series([7, -3, 7]),
        pl.Series([10**17, -(10**17), 10**17]),
        pl.Series([3, 4, 3], dtype=pl.UInt8),
    ):
        numbers, names = numbered(values)
        assert names.gather(numbers).to_list() == values.cast(pl.String).to_list()
        assert coded(values).to_list() == values.cast(pl.String).to_list()
        assert names_of(coded(values)).n_unique() == 2
    assert numbered(pl.Series([], dtype=pl.String))[1].is_empty()


def test_repeated_pairs_are_all_rows_of_a_pair() -> None:
    frame = pl.DataFrame({"user": ["u", "u", "v", "u"], "item": ["a", "b", "a", "a"]})
    assert repeated_pairs(frame).to_list() == [True, False, False, True]
    assert repeated_pairs(frame[:3]).to_list() == [False, False, False]


def test_seen_items_are_sorted_and_once() -> None:
    sequences = Sequences(np.array([2, 1, 2, 0], np.int32), np.array([0, 3, 4]))
    assert SeenItems.of(sequences, 3).keys.tolist() == [1, 2, 3]
    assert SeenItems.of(Sequences(np.zeros(0, np.int32), np.zeros(1, np.int64)), 3).keys.tolist() == []


def tables() -> Iterator[tuple[str, str]]:
    """Names and texts of logs that are unlike one another."""
    rows = [(number * 7919 % 13, number % 5, f"{number % 4}.5", 10**9 + number) for number in range(60)]
    plain = ["user,item,rating,timestamp", *(",".join(map(str, row)) for row in rows)]
    yield "numbers.csv", "\n".join(plain)
    yield "windows.csv", "\r\n".join(plain) + "\r\n"
    yield "tabs.tsv", "\n".join(plain).replace(",", "\t") + "\n"
    yield "colons.dat", "\n".join(plain).replace(",", "::")
    yield "zeros.csv", "\n".join([*plain, "007,1,2.5,7", "7,1,2.5,8", " 7,1,+2.5,9"])
    yield "words.csv", "\n".join([*plain, "Zoë,1,2.5,7", "-0,-1,,8"])
    yield "dates.csv", "\n".join([plain[0], *(f"u{at % 3},{at % 5},{at % 2},2020-01-{at:02}" for at in range(1, 30))])
    yield "quotes.csv", "\n".join([*plain, '"7",1,2.5,7'])
    yield "blank.csv", "\n".join([*plain, "", "7,1,2.5,7", ""])
    yield "gaps.csv", "\n".join([*plain, "7,1,NA,7", "7,2,nan,9"])


@pytest.mark.parametrize(("name", "text"), [*tables()], ids=[name for name, _ in tables()])
@pytest.mark.usefixtures("blocks")
def test_blocks_give_the_corpus_of_the_whole_text(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, films = tmp_path / name, tmp_path / "items.csv"
    log.write_text(text, encoding="utf-8", newline="")
    films.write_text("item,title,year\n" + "\n".join(f"{at},Title {at},{1990 + at}" for at in range(-1, 6)))
    dataset = load_plugins().create("dataset", "table", {"path": log, "catalogue": films})
    in_blocks = dataset.load(SilentReporter())
    monkeypatch.setattr(text_blocks, "LARGE", 1 << 40)
    whole = dataset.load(SilentReporter())

    assert_frame_equal(*(each.interactions.cast({pl.Enum: pl.String}) for each in (in_blocks, whole)))
    assert_frame_equal(in_blocks.catalogue, whole.catalogue)
    assert in_blocks.notes == whole.notes


@pytest.mark.usefixtures("blocks")
def test_columns_are_compact_while_their_text_is_what_it_was(tmp_path: Path) -> None:
    cells = dict(tables())["numbers.csv"].splitlines()
    file = tmp_path / "log.csv"
    file.write_text("\n".join(cells))
    dialect = Dialect(
        None, None, None, None, dict.fromkeys(("path", "separator", "encoding", "quoting", "columns"), "")
    )
    frame = read_table(file, dialect, lambda cell: cell == "user", lambda *_: None, compact=True).frame

    assert frame.dtypes == [pl.Int64, pl.Int64, pl.Categorical, pl.Int64]
    for at, column in enumerate(frame.get_columns()):
        expected = pl.Series(column.name, [row.split(",")[at] for row in cells[1:]])
        assert_series_equal(column.cast(pl.String), expected)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("1,2,3.5", "row 62: 3 fields, but 4 columns"),
        ("1,2,3.5,4,5", "row 62: 5 fields, but 4 columns"),
        ("user,item,rating,timestamp", "row 62 repeats row 1"),
        ("1,2,x,4", "row 62: rating 'x' is not a number"),
        ("1,2,3.5,", "row 62: timestamp is empty"),
        (",2,3.5,4", "row 62: 'user' is empty"),
    ],
)
@pytest.mark.usefixtures("blocks")
def test_errors_name_the_row_of_the_file(last: str, message: str, tmp_path: Path) -> None:
    log, films = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text(dict(tables())["numbers.csv"] + f"\n{last}")
    films.write_text("item,title\n" + "\n".join(f"{at},Title {at}" for at in range(5)))

    with pytest.raises(RequestError, match=message):
        load_plugins().create("dataset", "table", {"path": log, "catalogue": films}).load(SilentReporter())


@pytest.mark.usefixtures("blocks")
def test_whole_numbers_may_be_dates(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item,title,time\n" + "\n".join(f"u,{day},t{day},202001{day:02}" for day in range(1, 20)))

    options = {"path": log, "time_format": "%Y%m%d"}
    corpus = load_plugins().create("dataset", "table", options).load(SilentReporter())

    assert corpus.interactions["timestamp"][:2].to_list() == [1577836800, 1577923200]
