"""The candidates of evaluation: what is drawn, how, and what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Candidates, Corpus, Split
from rosepo_core.contracts.sections import Negatives, SplitOptions
from rosepo_core.data.splitting import split_corpus
from rosepo_core.evaluation.candidates import (
    draw_candidates,
    load_candidates,
    protocol_name,
    save_candidates,
    shuffled,
)

LEAVE_ONE_OUT = SplitOptions(strategy="leave-one-out")


def corpus_of(rows: list[tuple[str, str, int]], items: str) -> Corpus:
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
    catalogue = pl.DataFrame({"item": list(items), "title": [f"Title {item}" for item in items]})
    return Corpus("invented", pl.DataFrame(rows, schema=schema, orient="row"), catalogue)


def as_ids(split: Split, items: np.ndarray) -> str:
    return "".join(split.catalogue.ids[item] for item in items)


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


def test_all_unseen_items_are_drawn_where_no_others_are_left() -> None:
    """u has seen a, b, c and d of abcdefg and w has seen a, c and d: with four candidates u's are d, e, f and g, and
    w's are d and three of b, e, f and g."""
    split = split_corpus(corpus_of(SMALL_LOG, "abcdefg"), LEAVE_ONE_OUT)

    candidates = draw_candidates(split, split.test, 4, seed=3)

    w, u = (as_ids(split, row) for row in candidates.items)
    assert sorted(u) == ["d", "e", "f", "g"]
    assert "d" in w
    assert set(w) <= set("dbefg")
    assert [w[candidates.target_column[0]], u[candidates.target_column[1]]] == ["d", "d"]
    assert candidates.items.dtype == candidates.target_column.dtype == np.int32


def test_too_small_a_catalogue_names_the_user_and_the_most_that_is_possible() -> None:
    split = split_corpus(corpus_of(SMALL_LOG, "abcdefg"), LEAVE_ONE_OUT)

    with pytest.raises(RequestError) as raised:
        draw_candidates(split, split.test, 5, seed=0)

    assert str(raised.value) == (
        "user 'u' has 3 unseen items of 7, too few for 5 candidates: set evaluation.candidates to at most 4"
    )


def uniform_split(users: int, items: int) -> Split:
    """Every user has seen items 0, 1 and 2."""
    rows = [(f"u{user}", str(item), item) for user in range(users) for item in range(3)]
    names = [str(item) for item in range(items)]
    catalogue = pl.DataFrame({"item": names, "title": names})
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
    return split_corpus(Corpus("uniform", pl.DataFrame(rows, schema=schema, orient="row"), catalogue), LEAVE_ONE_OUT)


def test_candidates_and_the_targets_column_are_uniform() -> None:
    """5,000 users, 5 of the 9 unseen items each. An item's count is binomial, mean 5,000 * 5 / 9 = 2777.8 and
    standard deviation 35.1; a column's mean is 5,000 / 6 = 833.3 and its deviation 26.4. Five deviations."""
    split = uniform_split(5000, 12)

    candidates = draw_candidates(split, split.test, 6, seed=11)

    counts = np.bincount(candidates.items.ravel(), minlength=12)
    assert counts[:3].tolist() == [0, 0, 5000]
    assert np.abs(counts[3:] - 2777.8).max() < 5 * 35.1
    assert np.abs(np.bincount(candidates.target_column, minlength=6) - 833.3).max() < 5 * 26.4


def test_the_seed_decides_the_candidates() -> None:
    split = uniform_split(50, 40)

    first, again, other = (draw_candidates(split, split.test, 20, seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(first.items, again.items)
    assert np.array_equal(first.target_column, again.target_column)
    assert not np.array_equal(first.items, other.items)


def test_saved_candidates_come_back_and_can_be_read(tmp_path: Path) -> None:
    split = split_corpus(corpus_of(SMALL_LOG, "abcdefg"), LEAVE_ONE_OUT)
    candidates = draw_candidates(split, split.test, 4, seed=3)

    save_candidates(candidates, split, split.test, tmp_path)
    loaded = load_candidates(tmp_path)

    assert np.array_equal(loaded.items, candidates.items)
    assert np.array_equal(loaded.target_column, candidates.target_column)
    assert loaded.items.dtype == loaded.target_column.dtype == np.int32
    table = pl.read_parquet(tmp_path / "candidates.parquet")
    assert table.select("user", "target", "target_title").rows() == [("w", "d", "Title d"), ("u", "d", "Title d")]
    assert table["candidates"].to_list() == [list(as_ids(split, row)) for row in candidates.items]


@settings(deadline=None)
@given(st.data())
def test_candidates_hold_the_target_once_and_nothing_else_that_was_seen(data: st.DataObject) -> None:
    items = data.draw(st.integers(4, 30))
    users = data.draw(st.lists(st.lists(st.integers(0, items - 1), min_size=3, max_size=40), min_size=1, max_size=6))
    rows = [(str(user), str(item), time) for user, log in enumerate(users) for time, item in enumerate(log)]
    names = [str(item) for item in range(items)]
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
    corpus = Corpus(
        "drawn", pl.DataFrame(rows, schema=schema, orient="row"), pl.DataFrame({"item": names, "title": names})
    )
    split = split_corpus(corpus, LEAVE_ONE_OUT)
    most = items - max(len(set(log)) for log in users) + 1
    count = data.draw(st.integers(1, most))
    # Any subset of the examples, in any order and with repetitions.
    some = split.test.take(np.array(data.draw(st.lists(st.integers(0, len(users) - 1), min_size=1, max_size=9))))

    candidates = draw_candidates(split, some, count, seed=data.draw(st.integers(0, 2**32)))

    assert candidates.items.shape == (len(some), count)
    for row, column, target, user in zip(
        candidates.items, candidates.target_column, some.target, some.user, strict=True
    ):
        assert row[column] == target
        others = set(row.tolist()) - {int(target)}
        assert len(others) == count - 1
        assert not others & set(users[user])
        assert all(0 <= item < items for item in others)


def test_popular_candidates_are_drawn_in_proportion_to_popularity() -> None:
    """Items 0 to 2 are everyone's; of the others 3, 4 and 5 have 1, 2 and 5 training interactions and 6 has none.
    With one negative, 3, 4 and 5 come with 1/8, 2/8 and 5/8. With two, {3, 4} comes with 1/8 * 2/7 + 2/8 * 1/6,
    {3, 5} with 1/8 * 5/7 + 5/8 * 1/3, {4, 5} with the rest."""
    split = popular_split(4000)

    one = draw_candidates(split, split.test, 2, seed=5, negatives="popularity")
    two = draw_candidates(split, split.test, 3, seed=5, negatives="popularity")

    first = negatives(one)[:, 0]
    shares = np.bincount(first, minlength=7)[3:] / 4000
    # Five standard deviations of a share are at most 5 * sqrt(1/4 / 4000) = 0.04.
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8, 0], abs=0.04)
    assert (shares[3], shares[0] > 0) == (0, True)
    pairs = {(3, 4): 1 / 8 * 2 / 7 + 2 / 8 / 6, (3, 5): 1 / 8 * 5 / 7 + 5 / 8 / 3}
    pairs[4, 5] = 1 - sum(pairs.values())
    drawn = np.sort(negatives(two), axis=1).tolist()
    assert {pair: drawn.count(list(pair)) / 4000 for pair in pairs} == pytest.approx(pairs, abs=0.04)
    again = draw_candidates(split, split.test, 3, seed=5, negatives="popularity")
    assert np.array_equal(again.items, two.items)


def test_what_nobody_chose_is_no_popular_candidate() -> None:
    split = popular_split(2)
    assert sorted(negatives(draw_candidates(split, split.test, 4, 0, "popularity"))[0].tolist()) == [3, 4, 5]
    with pytest.raises(RequestError) as raised:
        draw_candidates(split, split.test, 5, 0, "popularity")
    assert str(raised.value) == (
        "user 't0' has 3 unseen items with training interactions, too few for 5 candidates: "
        "set evaluation.candidates to at most 4"
    )


def popular_split(users: int) -> Split:
    """Test users t0, t1, ... have seen items 0, 1 and 2, the last of which is the target; others, who give no test
    example, have chosen item 3 once, 4 twice and 5 five times; 6 nobody."""
    rows = [(f"t{user}", str(item), item) for user in range(users) for item in range(3)]
    rows += [(f"o{number}", item, 0) for number, item in enumerate("34455555")]
    catalogue = pl.DataFrame({"item": list("0123456"), "title": list("0123456")})
    schema = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
    return split_corpus(Corpus("popular", pl.DataFrame(rows, schema=schema, orient="row"), catalogue), LEAVE_ONE_OUT)


def negatives(candidates: Candidates) -> np.ndarray:
    """All but the target, [n, c - 1]."""
    rows = np.arange(candidates.items.shape[1]) != candidates.target_column[:, None]
    return candidates.items[rows].reshape(len(candidates.items), -1)


def test_semantic_candidates_are_the_nearest_unseen_titles() -> None:
    """On a circle, titles a to g stand at 0, 10, 20, ... 60 degrees. The target is d, at 30. w has seen a, c and d:
    nearest are e (10 away), b and f (both 20). u has seen a, b, c and d: nearest are e, f and g."""
    split = split_corpus(corpus_of(SMALL_LOG, "abcdefg"), LEAVE_ONE_OUT)
    angles = np.deg2rad(np.arange(7) * 10)
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    two, four = (draw_candidates(split, split.test, count, 1, "semantic", embeddings) for count in (2, 4))

    assert [as_ids(split, row) for row in negatives(two)] == ["e", "e"]
    assert ["".join(sorted(as_ids(split, row))) for row in four.items] == ["bdef", "defg"]
    assert four.items[[0, 1], four.target_column].tolist() == [3, 3]
    with pytest.raises(RequestError, match=r"^user 'u' has 3 unseen items of another title, of 7, too few for 5"):
        draw_candidates(split, split.test, 5, 1, "semantic", embeddings)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("uniform", "candidates-4"), ("popularity", "candidates-4-popularity"), ("semantic", "candidates-4-semantic")],
)
def test_the_protocol_is_named_after_number_and_kind(kind: Negatives, name: str) -> None:
    split = split_corpus(corpus_of(SMALL_LOG, "abcdefg"), LEAVE_ONE_OUT)
    candidates = draw_candidates(split, split.test, 4, seed=3)
    assert protocol_name(candidates, kind) == name


def test_what_reads_as_the_target_is_no_semantic_candidate() -> None:
    """The target is d; e is called the same in other letters and stands at no angle to it."""
    corpus = corpus_of(SMALL_LOG, "abcdefg")
    titles = ["a", "b", "c", "The Sting", "THE  STING", "f", "g"]
    corpus = replace(corpus, catalogue=corpus.catalogue.with_columns(title=pl.Series(titles)))
    split = split_corpus(corpus, LEAVE_ONE_OUT)
    angles = np.deg2rad([0, 10, 20, 30, 30, 50, 60])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    drawn = draw_candidates(split, split.test, 2, 1, "semantic", embeddings)

    # w has seen a and c, so b and f are both 20 away; u has seen a, b and c.
    assert negatives(drawn).ravel().tolist() in ([1, 5], [5, 5])


def test_given_candidates_stand_in_random_order_with_the_target_anywhere() -> None:
    """400 rows with the target first, of four items in all and of three in every other row."""
    items = np.tile(np.array([5, 6, 7, 8], dtype=np.int32), (400, 1))
    items[::2, 3] = -1

    candidates = shuffled(Candidates(items, np.zeros(400, dtype=np.int32)), np.random.default_rng(0))

    rows, columns = candidates.items.tolist(), candidates.target_column.tolist()
    assert {tuple(sorted(row)) for row in rows[::2]} == {(-1, 5, 6, 7)}
    assert {tuple(sorted(row)) for row in rows[1::2]} == {(5, 6, 7, 8)}
    assert all(row[3] == -1 for row in rows[::2])
    assert all(row[column] == 5 for row, column in zip(rows, columns, strict=True))
    # A third and a quarter of 200 rows each, within five standard deviations.
    assert all(33 <= columns[::2].count(column) <= 101 for column in range(3))
    assert all(19 <= columns[1::2].count(column) <= 81 for column in range(4))
    assert (candidates.items.dtype, candidates.target_column.dtype) == (np.int32, np.int32)
