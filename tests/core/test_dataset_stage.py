"""Filters, title merging, the summary and the files of the dataset stage."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rosepo_core.contracts.components import LogOptions
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.contracts.records import Corpus
from rosepo_core.data.corpus_summary import check_corpus
from rosepo_core.data.filters import filter_corpus
from rosepo_core.stages.dataset import load_corpus, save_corpus

Row = tuple[str, str, int] | tuple[str, str, int, float | None]


def corpus_of(rows: list[Row], titles: dict[str, str], **attributes: list[object]) -> Corpus:
    columns = {"user": pl.String, "item": pl.String, "timestamp": pl.Int64, "rating": pl.Float64}
    width = len(rows[0]) if rows else 3
    schema = dict(list(columns.items())[:width])
    catalogue = pl.DataFrame({"item": list(titles), "title": list(titles.values()), **attributes})
    return Corpus("invented", pl.DataFrame(rows, schema=schema, orient="row"), catalogue)


def rows_of(corpus: Corpus) -> list[tuple[object, ...]]:
    return corpus.interactions.rows()


ABC = {"a": "Ash", "b": "Birch", "c": "Cedar"}


def test_defaults_change_nothing_in_a_clean_corpus() -> None:
    corpus = corpus_of([("u", "a", 1), ("u", "b", 2), ("v", "c", 1)], ABC)

    filtered = filter_corpus(corpus, LogOptions())

    assert_frame_equal(filtered.interactions, corpus.interactions, check_dtypes=False, categorical_as_str=True)
    assert_frame_equal(filtered.catalogue, corpus.catalogue)
    assert filtered.notes == ()


def test_min_rating_drops_lower_and_missing_ratings() -> None:
    corpus = corpus_of(
        [("u", "a", 1, 4.0), ("u", "b", 2, 3.5), ("u", "c", 3, None), ("v", "a", 1, float("nan"))], ABC
    )

    filtered = filter_corpus(corpus, LogOptions(min_rating=4))

    assert rows_of(filtered) == [("u", "a", 1, 4.0)]
    assert filtered.catalogue["item"].to_list() == ["a"]
    assert filtered.notes == ("min_rating=4 dropped 3 of 4 interactions", "dropped 2 of 3 items without interactions")


def test_min_rating_without_ratings_is_a_wrong_request() -> None:
    with pytest.raises(
        RequestError, match=r"^dataset\.min_rating: dataset 'invented' has no ratings; leave it unset$"
    ):
        filter_corpus(corpus_of([("u", "a", 1)], ABC), LogOptions(min_rating=4))


def test_items_of_the_same_title_become_the_first_of_them() -> None:
    titles = {"a": "Ash", "b": "Birch", "c": "  Ash\n", "d": "ash", "e": "Ash"}
    corpus = corpus_of(
        [("u", "c", 1), ("u", "b", 2), ("v", "a", 1), ("v", "e", 2), ("v", "d", 3)],
        titles,
        year=[1, 2, 3, 4, 5],
    )

    filtered = filter_corpus(corpus, LogOptions(duplicates="keep"))

    assert rows_of(filtered) == [("u", "a", 1), ("u", "b", 2), ("v", "a", 1), ("v", "a", 2), ("v", "d", 3)]
    assert filtered.catalogue.rows() == [("a", "Ash", 1), ("b", "Birch", 2), ("d", "ash", 4)]
    assert filtered.notes == ("merged 2 items into others of the same title, e.g. 'Ash': items a, c, e",)


def test_composed_and_decomposed_accents_are_one_title() -> None:
    corpus = corpus_of([("u", "a", 1), ("v", "b", 1)], {"a": "Cafe\u0301", "b": "Caf\u00e9"})

    assert filter_corpus(corpus, LogOptions()).catalogue.rows() == [("a", "Caf\u00e9")]


@pytest.mark.parametrize(
    ("duplicates", "kept"),
    [("keep", [7, 5, 6, 1]), ("first", [5, 6, 1]), ("last", [7, 6, 1])],
)
def test_duplicates_are_told_by_time_whatever_the_order_of_rows(duplicates: str, kept: list[int]) -> None:
    log: list[Row] = [("u", "a", 7), ("u", "a", 5), ("u", "b", 6), ("v", "a", 1)]

    filtered = filter_corpus(corpus_of(log, ABC), LogOptions(duplicates=duplicates))

    assert filtered.interactions["timestamp"].to_list() == kept


def test_the_last_of_duplicates_at_the_same_time_is_the_later_row() -> None:
    log: list[Row] = [("u", "a", 7, 1.0), ("u", "b", 7, 2.0), ("u", "a", 7, 3.0)]

    filtered = filter_corpus(corpus_of(log, ABC), LogOptions(duplicates="last"))

    assert filtered.interactions["rating"].to_list() == [2.0, 3.0]


def test_merged_titles_become_duplicates_of_one_another() -> None:
    corpus = corpus_of([("u", "a", 1), ("u", "b", 2)], {"a": "Ash", "b": "Ash"})

    filtered = filter_corpus(corpus, LogOptions())

    assert rows_of(filtered) == [("u", "a", 2)]
    assert filtered.notes[1] == "duplicates='last' dropped 1 of 2 interactions"


def test_k_core_goes_on_until_nothing_is_left_to_drop() -> None:
    """c has one interaction; without it w has one; without that b has one; without it v has one: only u-a, x-a,
    u-d and x-d stay."""
    log: list[Row] = [("u", "a", 1), ("u", "d", 2), ("x", "a", 1), ("x", "d", 2)]
    chain: list[Row] = [("v", "d", 1), ("v", "b", 2), ("w", "b", 1), ("w", "c", 2)]

    filtered = filter_corpus(corpus_of(log + chain, {**ABC, "d": "Dogwood"}), LogOptions(k_core=2))

    assert rows_of(filtered) == log
    assert filtered.catalogue["item"].to_list() == ["a", "d"]
    assert filtered.notes == (
        "k_core=2 dropped 4 of 8 interactions",
        "dropped 2 of 4 items with fewer than 2 interactions",
    )


@pytest.mark.parametrize(("k_core", "items"), [(0, ["a", "b", "c"]), (1, ["a"])])
def test_items_that_nobody_interacted_with_stay_only_if_k_core_is_0(k_core: int, items: list[str]) -> None:
    filtered = filter_corpus(corpus_of([("u", "a", 1)], ABC), LogOptions(k_core=k_core))

    assert filtered.catalogue["item"].to_list() == items


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LogOptions(min_rating=6), "dataset.min_rating=6 left none of 3 interactions: loosen it"),
        (LogOptions(min_rating=4, k_core=3), "dataset.k_core=3 left none of 2 interactions: loosen it"),
    ],
)
def test_the_filter_that_leaves_nothing_is_named(options: LogOptions, message: str) -> None:
    corpus = corpus_of([("u", "a", 1, 5.0), ("u", "b", 2, 5.0), ("v", "a", 3, 1.0)], ABC)

    with pytest.raises(RequestError) as raised:
        filter_corpus(corpus, options)

    assert str(raised.value) == message


def test_an_empty_log_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match=r"^dataset 'invented' has no interactions$"):
        filter_corpus(corpus_of([], ABC), LogOptions())


@pytest.mark.parametrize(
    ("titles", "why"),
    [({"a": "Ash"}, "item 'b' is not in the catalogue"), ({"a": "Ash", "b": " \n"}, "item 'b' has an empty title")],
)
def test_an_item_without_a_title_is_a_wrong_request(titles: dict[str, str], why: str) -> None:
    corpus = corpus_of([("u", "a", 1), ("u", "b", 2)], titles)

    for look in (lambda: filter_corpus(corpus, LogOptions()), lambda: check_corpus(corpus)):
        with pytest.raises(RequestError) as raised:
            look()
        assert str(raised.value) == (
            f"dataset 'invented': {why} (1 such items): give it a title or leave its interactions out"
        )


@pytest.mark.parametrize(
    ("interactions", "catalogue", "message"),
    [
        (
            {"user": ["u"], "item": ["a"]},
            {"item": ["a"], "title": ["Ash"]},
            "'timestamp' of its interactions is missing",
        ),
        (
            {"user": [1], "item": ["a"], "timestamp": [1]},
            {"item": ["a"], "title": ["Ash"]},
            "'user' of its interactions is of type Int64, not String",
        ),
        (
            {"user": ["u", None], "item": ["a", "a"], "timestamp": [1, 2]},
            {"item": ["a"], "title": ["Ash"]},
            "'user' of its interactions has 1 nulls",
        ),
        (
            {"user": ["u"], "item": ["a"], "timestamp": [1]},
            {"item": ["a", "a"], "title": ["Ash", "Ash"]},
            "item 'a' is in its catalogue twice",
        ),
    ],
)
def test_a_dataset_that_breaks_its_contract_is_named(
    interactions: dict[str, list[object]], catalogue: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(PluginError, match="dataset 'broken'.*" + message):
        filter_corpus(Corpus("broken", pl.DataFrame(interactions), pl.DataFrame(catalogue)), LogOptions())


def test_a_saved_corpus_comes_back(tmp_path: Path) -> None:
    corpus = corpus_of([("ü", "a", 1, 2.0), ("u", "b", 2, None)], ABC, genres=[["x", "y"], [], None])
    corpus = Corpus(corpus.name, corpus.interactions, corpus.catalogue, ("guessed user='Ü'",))

    save_corpus(corpus, tmp_path)
    loaded = load_corpus(tmp_path)

    assert (loaded.name, loaded.notes) == ("invented", ("guessed user='Ü'",))
    assert_frame_equal(loaded.interactions, corpus.interactions)
    assert_frame_equal(loaded.catalogue, corpus.catalogue)


def test_the_summary_of_a_small_log() -> None:
    """Four pairs of user and item occur, one of them twice, of 2 x 4 possible: density 1/2."""
    log: list[Row] = [
        ("u", "a", 1_000_000_000, 5.0),
        ("u", "b", 1_000_000_060, 3.0),
        ("u", "a", 1_000_000_120, 5.0),
        ("v", "c", 1_000_000_000, 3.0),
        ("v", "b", 1_000_000_000, None),
    ]
    summary = check_corpus(corpus_of(log, {"a": "Ash", "b": "Birch", "c": "Ash", "d": "Dogwood"}))

    assert (summary.users, summary.items, summary.interactions, summary.density) == (2, 4, 5, 0.5)
    assert summary.interactions_per_user == {"min": 2, "25%": 2, "50%": 2, "75%": 2, "max": 3}
    assert summary.interactions_per_item == {"min": 0, "25%": 0, "50%": 1, "75%": 2, "max": 2}
    assert summary.duplicate_titles == {"Ash": ("a", "c")}
    assert (summary.first, summary.last) == ("2001-09-09T01:46:40Z", "2001-09-09T01:48:40Z")
    assert summary.ratings == {3.0: 2, 5.0: 2}
    assert summary.warnings == (
        "1 of 2 users have fewer than 3 interactions: leave-one-out only trains on them",
        "the last two interactions of 1 of 2 users have the same timestamp: "
        "the order of their rows decides what is held out",
        "1 interactions repeat an item of the same user: dataset.duplicates says which stay",
        "1 titles belong to more than one item: such items are merged, e.g. 'Ash': items a, c",
        "1 of 4 items have no interaction: they are dropped unless dataset.k_core is 0",
    )


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        (1_000_000_000, "2001-09-09T01:46:40Z"),
        (1_000_000_000_000, "2001-09-09T01:46:40Z"),
        (1_000_000_000_000_000, "2001-09-09T01:46:40Z"),
        (17, "17"),
        (-1_000_000_000, "-1000000000"),
    ],
)
def test_times_are_shown_as_times_where_they_look_like_it(timestamp: int, shown: str) -> None:
    assert check_corpus(corpus_of([("u", "a", timestamp)], ABC)).first == shown
