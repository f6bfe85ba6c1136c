"""Leave-one-out and temporal splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus, Examples, Sequences, Split
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.splitting import split_corpus
from rosepo_core.stages.split import load_split, save_split

LEAVE_ONE_OUT = SplitOptions(strategy="leave-one-out")


def corpus_of(rows: list[tuple[str, str, int]], items: str) -> Corpus:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
    catalogue = pl.DataFrame({"item": list(items), "title": [f"Title {item}" for item in items]})
    return Corpus("invented", pl.DataFrame(rows, schema=schema, orient="row"), catalogue)


def temporal(validation: float, test: float) -> SplitOptions:
    return SplitOptions(strategy="temporal", validation_fraction=validation, test_fraction=test)


def as_ids(split: Split, items: np.ndarray) -> str:
    return "".join(split.catalogue.ids[item] for item in items)


def trained(split: Split) -> dict[str, str]:
    return {user: as_ids(split, split.train[number]) for number, user in enumerate(split.users)}


def held_out(split: Split, examples: Examples) -> dict[str, tuple[str, str]]:
    """User: (history, target)."""
    found = {}
    for user, position in zip(examples.user, examples.position, strict=True):
        sequence = examples.sequences[user]
        assert len(sequence) == position + 1, "nothing stands behind a target"
        found[split.users[user]] = as_ids(split, sequence[:position]), as_ids(split, sequence[position:])
    return found


SMALL_LOG = [
    ("w", "d", 9),
    ("u", "c", 30),
    ("u", "a", 10),
    ("v", "b", 5),
    ("u", "d", 40),
    ("v", "a", 6),
    ("u", "b", 20),
    ("w", "a", 8),
    ("w", "c", 7),
]


def test_leave_one_out_holds_out_the_last_two_of_each_user() -> None:
    split = split_corpus(corpus_of(SMALL_LOG, "abcde"), LEAVE_ONE_OUT)

    assert split.users == ("w", "u", "v"), "in order of appearance"
    assert split.catalogue.ids == ("a", "b", "c", "d", "e")
    assert split.catalogue.titles[1] == "Title b"
    assert trained(split) == {"w": "c", "u": "ab", "v": "ba"}
    assert held_out(split, split.validation) == {"w": ("c", "a"), "u": ("ab", "c")}
    assert held_out(split, split.test) == {"w": ("ca", "d"), "u": ("abc", "d")}
    assert split.catalogue.popularity.tolist() == [2, 2, 1, 0, 0], "training only"
    assert split.seen.of_user(0).tolist() == [0, 2, 3]


def test_ties_in_time_keep_the_order_of_rows() -> None:
    rows = [("u", item, 7) for item in "dbca"] + [("u", "e", 3)]

    split = split_corpus(corpus_of(rows, "abcde"), LEAVE_ONE_OUT)

    assert held_out(split, split.test) == {"u": ("edbc", "a")}


def test_leave_one_out_needs_a_user_with_three_interactions() -> None:
    rows = [("u", "a", 1), ("u", "b", 2), ("v", "a", 1)]

    with pytest.raises(
        RequestError, match=r"^each of the 2 users of dataset 'invented' has fewer than 3 interactions"
    ):
        split_corpus(corpus_of(rows, "ab"), LEAVE_ONE_OUT)


TIMELINE = [
    ("u", "a", 1),
    ("v", "a", 2),
    ("u", "b", 3),
    ("v", "b", 4),
    ("w", "c", 5),
    ("u", "c", 6),
    ("x", "a", 7),
    ("v", "c", 8),
    ("x", "b", 9),
    ("u", "d", 10),
]


def test_temporal_cuts_everyone_at_the_same_times() -> None:
    """Ten interactions, fractions 0.3 and 0.3: training is times 1 to 4, validation 5 to 7, test 8 to 10. w and x
    have no history in validation; in test x has its interaction at 7; u's history holds the one at 6."""
    split = split_corpus(corpus_of(TIMELINE, "abcd"), temporal(0.3, 0.3))

    assert trained(split) == {"u": "ab", "v": "ab", "w": "", "x": ""}
    assert held_out(split, split.validation) == {"u": ("ab", "c")}
    assert held_out(split, split.test) == {"u": ("abc", "d"), "v": ("ab", "c"), "x": ("a", "b")}
    assert split.catalogue.popularity.tolist() == [2, 2, 0, 0]


def test_equal_timestamps_never_straddle_a_cut() -> None:
    """The cut at 40% falls among three interactions at time 4: all of them go to validation."""
    rows = [("u", "a", 1), ("v", "a", 2), ("w", "a", 3), ("u", "b", 4), ("v", "b", 4), ("w", "b", 4)]
    rows += [("u", "c", 8), ("v", "c", 9), ("w", "c", 9), ("w", "d", 9)]

    split = split_corpus(corpus_of(rows, "abcd"), temporal(0.2, 0.4))

    assert trained(split) == {"u": "a", "v": "a", "w": "a"}
    assert held_out(split, split.validation) == dict.fromkeys("uvw", ("a", "b"))
    assert held_out(split, split.test) == dict.fromkeys("uvw", ("ab", "c")), "only the first of w's two"


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (TIMELINE, temporal(0.5, 0.5), "split.validation_fraction=0.5 and split.test_fraction=0.5 leave nothing"),
        ([("u", "a", 1), ("u", "b", 1), ("u", "c", 1)], temporal(0.3, 0.3), "nothing is left for training"),
        ([("u", "a", 1)] + [("u", "b", 2)] * 9, temporal(0.1, 0.1), "nothing is left for validation"),
        (TIMELINE, temporal(0.1, 0.1), "no user with an interaction in the validation window and one before it"),
    ],
)
def test_a_log_that_cannot_be_cut_in_time_says_why(
    rows: list[tuple[str, str, int]], options: SplitOptions, message: str
) -> None:
    if message.startswith("no user"):
        rows = [row if row[2] != 9 else ("y", "b", 9) for row in rows]
    with pytest.raises(RequestError, match=message):
        split_corpus(corpus_of(rows, "abcd"), options)


def test_a_saved_split_comes_back(tmp_path: Path) -> None:
    corpus = corpus_of(SMALL_LOG, "abcde")
    catalogue = corpus.catalogue.with_columns(year=pl.Series([1, 2, 3, 4, None]), genres=pl.Series([["x"]] * 5))
    split = split_corpus(Corpus("invented", corpus.interactions, catalogue), LEAVE_ONE_OUT)

    save_split(split, tmp_path)
    loaded = load_split(tmp_path)

    assert (loaded.users, loaded.catalogue.ids, loaded.catalogue.titles) == (
        split.users,
        split.catalogue.ids,
        split.catalogue.titles,
    )
    assert_frame_equal(loaded.catalogue.attributes, catalogue.select("year", "genres"))
    assert loaded.catalogue.popularity.tolist() == [2, 2, 1, 0, 0]
    assert trained(loaded) == trained(split)
    assert held_out(loaded, loaded.validation) == held_out(split, split.validation)
    assert held_out(loaded, loaded.test) == held_out(split, split.test)
    assert loaded.seen.keys.tolist() == split.seen.keys.tolist()
    for array in (loaded.train.items, loaded.test.user, loaded.test.position):
        assert array.dtype == np.int32
    assert loaded.train.offsets.dtype == loaded.catalogue.popularity.dtype == np.int64


def test_a_split_without_attributes_comes_back(tmp_path: Path) -> None:
    split = split_corpus(corpus_of(SMALL_LOG, "abcde"), LEAVE_ONE_OUT)

    save_split(split, tmp_path)

    assert load_split(tmp_path).catalogue.attributes.columns == []


def logs(users: str, min_size: int) -> st.SearchStrategy[list[tuple[str, str, int]]]:
    row = st.tuples(st.sampled_from(users), st.sampled_from("abcdefgh"), st.integers(0, 30))
    return st.lists(row, min_size=min_size, max_size=60)


patiently = settings(deadline=None)


def reference_order(rows: list[tuple[str, str, int]], user: str) -> list[tuple[int, str]]:
    """Python's sort is stable: by time, ties by row."""
    return [(time, item) for _, item, time in sorted((row for row in rows if row[0] == user), key=lambda row: row[2])]


@patiently
@given(logs("stuvw", 6))
def test_leave_one_out_equals_a_plain_reading(rows: list[tuple[str, str, int]]) -> None:
    orders = {user: reference_order(rows, user) for user in dict.fromkeys(user for user, _, _ in rows)}
    assume(any(len(order) >= 3 for order in orders.values()))

    split = split_corpus(corpus_of(rows, "abcdefgh"), LEAVE_ONE_OUT)

    sequences = {user: "".join(item for _, item in order) for user, order in orders.items()}
    enough = {user: items for user, items in sequences.items() if len(items) >= 3}
    assert split.users == tuple(orders)
    assert trained(split) == {user: items[:-2] if user in enough else items for user, items in sequences.items()}
    assert held_out(split, split.validation) == {user: (items[:-2], items[-2]) for user, items in enough.items()}
    assert held_out(split, split.test) == {user: (items[:-1], items[-1]) for user, items in enough.items()}
    assert_bookkeeping(split, sequences)


@patiently
@given(logs("stu", 20), st.floats(0.15, 0.4), st.floats(0.15, 0.4))
def test_temporal_never_trains_on_what_comes_later(
    rows: list[tuple[str, str, int]], validation: float, test: float
) -> None:
    try:
        split = split_corpus(corpus_of(rows, "abcdefgh"), temporal(validation, test))
    except RequestError:
        assume(False)

    orders = {user: reference_order(rows, user) for user in split.users}
    sequences = {user: "".join(item for _, item in order) for user, order in orders.items()}
    train_times = [
        time for number, user in enumerate(split.users) for time, _ in orders[user][: len(split.train[number])]
    ]
    validation_times = target_times(split, split.validation, orders)
    test_times = target_times(split, split.test, orders)
    assert max(train_times) < min(validation_times) <= max(validation_times) < min(test_times)
    for name, examples in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        parts = trained(split) if name == "train" else {u: h + t for u, (h, t) in held_out(split, examples).items()}
        assert all(sequences[user].startswith(part) for user, part in parts.items())
    assert all(
        history for examples in (split.validation, split.test) for history, _ in held_out(split, examples).values()
    )
    # A target is the first of its user in the window.
    for user, position in zip(split.validation.user, split.validation.position, strict=True):
        assert position == len(split.train[user])
    for user, position in zip(split.test.user, split.test.position, strict=True):
        assert orders[split.users[user]][position - 1][0] < min(test_times)
    assert_bookkeeping(split, sequences)


def target_times(split: Split, examples: Examples, orders: dict[str, list[tuple[int, str]]]) -> list[int]:
    return [
        orders[split.users[user]][position][0]
        for user, position in zip(examples.user, examples.position, strict=True)
    ]


def assert_bookkeeping(split: Split, sequences: dict[str, str]) -> None:
    for number, user in enumerate(split.users):
        assert as_ids(split, split.seen.of_user(number)) == "".join(sorted(set(sequences[user])))
    joined = "".join(trained(split).values())
    assert split.catalogue.popularity.tolist() == [joined.count(item) for item in split.catalogue.ids]


def test_sequences_of_held_out_examples_end_with_their_targets() -> None:
    split = split_corpus(corpus_of(SMALL_LOG, "abcde"), LEAVE_ONE_OUT)

    assert isinstance(split.validation.sequences, Sequences)
    assert split.validation.sequences.lengths.tolist() == [2, 3, 2]
    assert split.test.sequences.lengths.tolist() == [3, 4, 2]
