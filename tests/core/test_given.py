"""Examples that come split already: as a corpus, as a split, and what leaks between their parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rosepo_core.contracts.components import DatasetOptions, LogOptions
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.contracts.records import Corpus, Examples, Split
from rosepo_core.contracts.sections import PreferenceOptions, SplitOptions
from rosepo_core.data.corpus_summary import check_corpus
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.evaluation.candidates import load_candidates, save_candidates
from rosepo_core.stages.dataset import load_corpus, save_corpus
from rosepo_core.stages.sampling import choose_examples
from rosepo_core.stages.sft import training_users
from rosepo_core.stages.split import load_split, save_split

Given = tuple[str, str, str, str] | tuple[str, str, str, str, str | None]
"""User, part, history and target, and perhaps candidates; an item is one letter."""


def corpus_of(*rows: Given, titles: dict[str, str] | None = None, items: str = "abcdefgh") -> Corpus:
    columns = ("user", "part", "history", "target", "candidates")[: len(rows[0])]
    frame = pl.DataFrame(
        [dict(zip(columns, row, strict=True)) for row in rows], schema=dict.fromkeys(columns, pl.String)
    ).with_columns(pl.col(name).str.split("") for name in columns if name in ("history", "candidates"))
    titles = titles or {item: f"Title {item}" for item in items}
    return Corpus.of_examples("invented", frame, pl.DataFrame({"item": list(titles), "title": list(titles.values())}))


ROWS: tuple[Given, ...] = (
    ("r1", "test", "abca", "d", "hdc"),
    ("r2", "train", "ab", "c", None),
    ("r3", "validation", "d", "e", None),
    ("r4", "train", "c", "f", None),
    ("r5", "test", "f", "a", "acgh"),
)


def as_ids(split: Split, items: np.ndarray) -> str:
    return "".join(split.catalogue.ids[item] if item >= 0 else "-" for item in items)


def held_out(split: Split, examples: Examples) -> dict[str, tuple[str, str]]:
    return {
        split.users[user]: (as_ids(split, examples.sequences[user][:-1]), split.catalogue.ids[target])
        for user, target in zip(examples.user, examples.target, strict=True)
    }


def test_each_example_is_a_user_whose_latest_item_is_the_target() -> None:
    corpus = corpus_of(*ROWS)

    assert corpus.interactions.filter(user="r1").rows() == [("r1", item, at) for at, item in enumerate("abcad")]
    assert corpus.interactions["user"].unique(maintain_order=True).to_list() == ["r1", "r2", "r3", "r4", "r5"]
    assert corpus.examples is not None
    assert corpus.examples.columns == ["user", "part", "candidates"]


def test_parts_stay_as_they_are() -> None:
    split = split_corpus(corpus_of(*ROWS), SplitOptions())

    assert split.users == ("r1", "r2", "r3", "r4", "r5")
    assert [as_ids(split, split.train[user]) for user in range(5)] == ["", "abc", "", "cf", ""]
    assert held_out(split, split.validation) == {"r3": ("d", "e")}
    assert held_out(split, split.test) == {"r1": ("abca", "d"), "r5": ("f", "a")}
    assert split.strategy == "given"


def test_popularity_counts_the_training_part_alone() -> None:
    split = split_corpus(corpus_of(*ROWS), SplitOptions())

    counts = dict(zip(split.catalogue.ids, split.catalogue.popularity.tolist(), strict=True))
    assert counts == {"a": 1, "b": 1, "c": 2, "d": 0, "e": 0, "f": 1, "g": 0, "h": 0}


def test_a_row_has_seen_its_own_titles_and_no_other_row_s() -> None:
    split = split_corpus(corpus_of(*ROWS), SplitOptions())

    assert [as_ids(split, split.seen.of_user(user)) for user in range(5)] == ["abcd", "abc", "de", "cf", "af"]
    # What training may know: of a validation row its history, of a test row nothing.
    assert [as_ids(split, split.train_seen.of_user(user)) for user in range(5)] == ["", "abc", "d", "cf", ""]


def test_neither_sft_nor_pairs_come_near_what_is_held_out() -> None:
    split = split_corpus(corpus_of(*ROWS), SplitOptions())

    trained = training_users(split, None, np.random.default_rng(0))
    assert as_ids(split, trained.items) == "abccf"
    pairs = choose_examples(split, PreferenceOptions(), np.random.default_rng(0))
    assert [split.users[user] for user in pairs.user] == ["r2", "r2", "r4"]
    assert as_ids(split, pairs.target) == "bcf"


def test_given_candidates_follow_the_test_examples() -> None:
    given = split_corpus(corpus_of(*ROWS), SplitOptions()).supplied_candidates

    assert given is not None
    # A row that has fewer is filled up; item 3 is d, and item 0 is a.
    assert given.items.tolist() == [[7, 3, 2, -1], [0, 2, 6, 7]]
    assert given.items.dtype == np.int32
    assert given.target_column.tolist() == [1, 0]
    assert given.take(np.array([1])).items.tolist() == [[0, 2, 6, 7]]


def test_without_candidates_there_are_none() -> None:
    assert split_corpus(corpus_of(*(row[:4] for row in ROWS)), SplitOptions()).supplied_candidates is None


@pytest.mark.parametrize("rows", [ROWS, tuple(row[:4] for row in ROWS)], ids=["candidates", "no candidates"])
def test_corpus_and_split_come_back_from_their_files(tmp_path: Path, rows: tuple[Given, ...]) -> None:
    corpus = corpus_of(*rows)
    save_corpus(corpus, tmp_path)
    again = load_corpus(tmp_path)
    assert again.examples is not None
    assert corpus.examples is not None
    assert_frame_equal(again.examples, corpus.examples)

    split = split_corpus(again, SplitOptions())
    save_split(split, tmp_path)
    loaded = load_split(tmp_path)
    assert loaded.strategy == "given"
    assert held_out(loaded, loaded.test) == held_out(split, split.test)
    if split.supplied_candidates is None:
        assert loaded.supplied_candidates is None
    else:
        assert loaded.supplied_candidates is not None
        assert loaded.supplied_candidates.items.tolist() == split.supplied_candidates.items.tolist()
        assert loaded.supplied_candidates.target_column.tolist() == [1, 0]


def test_rows_with_fewer_candidates_are_saved_without_what_fills_them(tmp_path: Path) -> None:
    split = split_corpus(corpus_of(*ROWS), SplitOptions())
    assert split.supplied_candidates is not None

    save_candidates(split.supplied_candidates, split, split.test, tmp_path)

    table = pl.read_parquet(tmp_path / "candidates.parquet")
    assert table["candidates"].to_list() == [["h", "d", "c"], ["a", "c", "g", "h"]]
    assert load_candidates(tmp_path).items.tolist() == split.supplied_candidates.items.tolist()


def test_a_log_is_cut_as_before() -> None:
    log = corpus_of(("u", "train", "ab", "c")).interactions
    catalogue = pl.DataFrame({"item": ["a", "b", "c"], "title": ["A", "B", "C"]})

    split = split_corpus(Corpus("log", log, catalogue), SplitOptions())

    assert (split.strategy, split.supplied_candidates) == ("leave-one-out", None)
    assert held_out(split, split.test) == {"u": ("ab", "c")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "temporal"}, "split.strategy='temporal': dataset 'invented' comes split already"),
        ({"strategy": "leave-one-out"}, "split.strategy='leave-one-out': dataset 'invented' comes split already"),
        (
            {"test_fraction": 0.3},
            "split.test_fraction=0.3: dataset 'invented' comes split already, so leave it at 0.1",
        ),
    ],
)
def test_a_split_of_another_kind_is_a_contradiction(options: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError) as error:
        split_corpus(corpus_of(*ROWS), SplitOptions(**options))
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("part", ["train", "test"])
def test_training_and_test_need_an_example_each(part: str) -> None:
    rows = [row for row in ROWS if row[1] != part]

    with pytest.raises(RequestError, match=f"^dataset 'invented' gives no example of the part '{part}'"):
        split_corpus(corpus_of(*rows), SplitOptions())


def test_validation_may_be_empty() -> None:
    split = split_corpus(corpus_of(*(row for row in ROWS if row[1] != "validation")), SplitOptions())

    assert len(split.validation) == 0
    assert [as_ids(split, split.train_seen.of_user(user)) for user in range(4)] == ["", "abc", "cf", ""]


def test_titles_are_made_one_line_and_merged_in_candidates_too_and_nothing_else_changes() -> None:
    titles = {"a": "Ash", "b": "Birch  tree", "c": "Cedar", "d": "Birch tree", "e": "Elm"}
    corpus = corpus_of(
        ("r1", "train", "aad", "c", None),
        ("r2", "test", "c", "d", "abcd"),
        ("r3", "test", "a", "c", "bdc"),
        titles=titles,
    )

    filtered = filter_corpus(corpus, DatasetOptions())

    assert filtered.catalogue.rows() == [("a", "Ash"), ("b", "Birch tree"), ("c", "Cedar"), ("e", "Elm")]
    assert filtered.interactions.filter(user="r1")["item"].to_list() == ["a", "a", "b", "c"], "repeats stay"
    assert filtered.examples is not None
    # r2 has its target once, under the id that was kept.
    assert filtered.examples["candidates"].to_list() == [None, ["a", "b", "c"], ["b", "c"]]
    assert filtered.notes == ("merged 1 items into others of the same title, e.g. 'Birch tree': items b, d",)


def test_filters_are_not_offered_where_they_do_not_apply() -> None:
    with pytest.raises(
        PluginError, match=r"yields given examples, so its Options must extend DatasetOptions, not Log"
    ):
        filter_corpus(corpus_of(*ROWS), LogOptions())
    log = Corpus("log", corpus_of(*ROWS).interactions, corpus_of(*ROWS).catalogue)
    with pytest.raises(PluginError, match=r"^dataset 'log' yields a log, so its Options must extend LogOptions$"):
        filter_corpus(log, DatasetOptions())


LONG = "abcdefgh"
LEAKING: dict[str, tuple[tuple[Given, ...], tuple[str, ...]]] = {
    "the same list": (
        (("r1", "train", "ab", "c"), ("r2", "test", "ab", "c")),
        ("1 of 1 test examples", "of train or validation"),
    ),
    "the next window": (
        (("r1", "train", "bcdefg", "h"), ("r2", "test", "abcdef", "g")),
        ("1 of 1 test examples", "of train or validation"),
    ),
    "a window further on": (
        (("r1", "train", "cdefg", "h"), ("r2", "validation", "abcdef", "g"), ("r3", "test", "h", "a")),
        ("1 of 1 validation examples", "of train"),
    ),
    "validation": (
        (
            ("r1", "train", "h", "g"),
            ("r2", "validation", "ab", "c"),
            ("r3", "test", "ab", "c"),
            ("r4", "test", "b", "c"),
        ),
        ("1 of 2 test examples", "of train or validation"),
    ),
}


@pytest.mark.parametrize("name", LEAKING)
def test_what_leaks_between_parts_is_counted(name: str) -> None:
    rows, said = LEAKING[name]

    notes = filter_corpus(corpus_of(*rows), DatasetOptions()).notes

    assert len(notes) == 1
    assert notes[0].startswith(f"leakage: {said[0]} have their last 5 titles, or all if fewer, in the same order ")
    assert notes[0].endswith(said[1])


@pytest.mark.parametrize(
    "rows",
    [
        # Four titles in a row are not enough, the same titles in another order are not the same, and what follows the
        # target elsewhere is nobody's secret.
        (("r1", "train", "defg", "h"), ("r2", "test", "acdef", "g")),
        (("r1", "train", "ba", "c"), ("r2", "test", "ab", "c")),
        (("r1", "train", "xab", "c"), ("r2", "test", "ab", "c")),
        (("r1", "train", "abcde", "f"), ("r2", "test", "abcde", "g")),
    ],
)
def test_what_does_not_leak_is_not_counted(rows: tuple[Given, ...]) -> None:
    assert filter_corpus(corpus_of(*rows, items=LONG + "x"), DatasetOptions()).notes == ()


def test_the_summary_counts_examples_and_candidates() -> None:
    summary = check_corpus(filter_corpus(corpus_of(*ROWS), DatasetOptions()))

    assert (summary.users, summary.items, summary.interactions) == (5, 8, 14)
    assert summary.parts == {"train": 2, "validation": 1, "test": 2}
    assert summary.candidates == {"min": 3, "25%": 3, "50%": 3, "75%": 3, "max": 4}
    assert summary.interactions_per_user == {"min": 2, "25%": 2, "50%": 2, "75%": 3, "max": 5}
    assert summary.warnings == (), "what holds of logs alone is not warned of"
    assert check_corpus(Corpus("log", corpus_of(*ROWS).interactions, corpus_of(*ROWS).catalogue)).parts == {}


def broken(corpus: Corpus, **columns: object) -> Corpus:
    assert corpus.examples is not None
    examples = corpus.examples.with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    return Corpus(corpus.name, corpus.interactions, corpus.catalogue, (), examples)


@pytest.mark.parametrize(
    ("corpus", "said"),
    [
        (
            broken(corpus_of(*ROWS), part=["test", "tran", "train", "train", "train"]),
            "part other than train, .*: user 'r2'",
        ),
        (broken(corpus_of(*ROWS), part=[1, 2, 3, 4, 5]), "a column 'part' of type Int64, not String"),
        (broken(corpus_of(*ROWS), user=["r1", "r2", "r3", "r4", "r4"]), "name a user twice, or none: user 'r4'"),
        (broken(corpus_of(*ROWS), user=["r1", "r2", "r3", "r4", "r6"]), "lack a user of the interactions: user 'r5'"),
        (broken(corpus_of(*ROWS), candidates=["a"] * 5), "a column 'candidates' of type String, not List"),
        (corpus_of(*ROWS, ("r6", "test", "a", "b", "ac")), "test candidates without the target once, .*: user 'r6'"),
        (corpus_of(*ROWS, ("r6", "test", "a", "b", "bcb")), "test candidates without the target once, .*: user 'r6'"),
        (corpus_of(*ROWS, ("r6", "test", "a", "b", "bz")), "or beyond the catalogue: user 'r6'"),
        (corpus_of(*ROWS, ("r6", "test", "a", "b", None)), "test candidates without the target once, .*: user 'r6'"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_told(corpus: Corpus, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        filter_corpus(corpus, DatasetOptions())


def test_a_target_without_a_history_breaks_the_contract() -> None:
    corpus = corpus_of(*ROWS)
    short = corpus.interactions.filter(~((pl.col("user") == "r4") & (pl.col("item") == "c")))

    with pytest.raises(PluginError, match="have a target without a history: user 'r4'"):
        check_corpus(Corpus("invented", short, corpus.catalogue, (), corpus.examples))
