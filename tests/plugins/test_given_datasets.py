"""`sprec` and `s-dpo`: files in the formats that those papers' repositories publish, with invented rows."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.data.supplied_examples import leaks
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import SilentReporter
from rosepo_datasets.sprec import readings
from rosepo_datasets.supplied import draw_parts

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"


def load(name: str, path: Path, **options: Any) -> Corpus:
    corpus: Corpus = load_plugins().create("dataset", name, {"path": str(path), **options}).load(SilentReporter())
    return corpus


def error_of(name: str, path: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as error:
        load(name, path, **options)
    return str(error.value)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def examples_of(corpus: Corpus) -> dict[str, tuple[str, ...]]:
    """User: history and target."""
    items = corpus.interactions.group_by("user", maintain_order=True).agg("item")
    return {user: tuple(row) for user, row in items.iter_rows()}


def parts_of(corpus: Corpus) -> dict[str, str]:
    assert corpus.examples is not None
    return dict(corpus.examples.select("user", "part").iter_rows())


# --- SPRec ------------------------------------------------------------------------------------------------------

IT, QUOTED, COMMA = "It", 'The "It" Girl', 'Salt, Silt", "Sand'
BOOKS = {"0": "Dune Road", "1": IT, "2": QUOTED, "3": COMMA, "4": "Salt, Silt", "7": "Two  Spaces (Vol. 1, #2)"}
GENRES = {"Dune Road": ["fiction", "history, biography"], IT: [], QUOTED: ["romance"]}


def book_row(*titles: str) -> dict[str, str]:
    history = ", ".join(f'"{title}"' for title in titles[:-1])
    return {
        "instruction": "Given a list of books the user recently enjoys, please recommend a new book",
        "input": f"The user has played the following books before: {history}, please write a new book",
        "output": f'"{titles[-1]}"\n',
    }


BOOK_ROWS = [book_row("Dune Road", IT, QUOTED), book_row(COMMA, IT, "Dune Road"), book_row(IT, BOOKS["7"])]


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    write(folder / "train.json", BOOK_ROWS)
    write(folder / "test.json", [book_row("Dune Road", IT)])
    write(folder / "valid.json", [book_row(IT, "Dune Road", "Dune Road")])
    write(folder / "id2name.json", BOOKS)
    write(folder / "name2genre.json", GENRES)
    return folder


def test_sprec_reads_titles_with_quotes_commas_and_separators_in_them(books: Path) -> None:
    corpus = load("sprec", books)

    assert examples_of(corpus) == {
        "train:1": ("0", "1", "2"),
        "train:2": ("3", "1", "0"),
        "train:3": ("1", "7"),
        "valid:1": ("1", "0", "0"),
        "test:1": ("0", "1"),
    }
    assert parts_of(corpus) == {
        **dict.fromkeys(("train:1", "train:2", "train:3"), "train"),
        "valid:1": "validation",
        "test:1": "test",
    }
    assert corpus.catalogue["item"].to_list() == ["0", "1", "2", "3", "4", "7"]
    assert corpus.catalogue["title"].to_list() == list(BOOKS.values())
    assert corpus.examples is not None
    assert corpus.examples.columns == ["user", "part"], "no candidates"


def test_sprec_gives_genres(books: Path) -> None:
    corpus = load("sprec", books)

    assert corpus.catalogue["genres"].to_list() == [["fiction", "history, biography"], [], ["romance"], [], [], []]
    assert corpus.notes == ("name2genre.json has no genres for 3 of 6 titles",)
    (books / "name2genre.json").unlink()
    assert "genres" not in load("sprec", books).catalogue.columns


def test_sprec_finds_the_catalogue_beside_a_file_too_or_where_an_option_says(books: Path, tmp_path: Path) -> None:
    options = {"test": str(books / "test.json"), "validation": str(books / "valid.json")}
    expected = examples_of(load("sprec", books))

    assert examples_of(load("sprec", books / "train.json", **options)) == expected
    (books / "id2name.json").rename(tmp_path / "titles.json")
    corpus = load("sprec", books / "train.json", **options, id2name=str(tmp_path / "titles.json"))
    assert examples_of(corpus) == expected


def test_sprec_without_a_catalogue_splits_at_every_separator(books: Path) -> None:
    (books / "id2name.json").unlink()

    corpus = load("sprec", books)

    assert examples_of(corpus)["train:2"] == ("Salt, Silt", "Sand", "It", "Dune Road")
    assert corpus.catalogue["title"].to_list() == ["Dune Road", IT, QUOTED, "Salt, Silt", "Sand", BOOKS["7"]]
    assert "no id2name.json: the catalogue is all titles named" in corpus.notes[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", [["a"]]),
        ('a", "b", "a', [["a", "b", "a"]]),
        # A title that looks like two, where one of the two is no title.
        ('c", "d', [['c", "d']]),
        ('a", "c", "d", "b', [["a", 'c", "d', "b"]]),
        # A title that begins as a separator does.
        ('a", ", "b', [["a", ', "b']]),
        ('a", "x', []),
        ("", []),
    ],
)
def test_a_history_is_read_as_titles_of_the_catalogue(text: str, found: list[list[str]]) -> None:
    assert readings(text, {"a", "b", 'c", "d', ', "b', "d"}) == found


def test_a_history_that_can_be_read_in_two_ways_is_turned_down(books: Path) -> None:
    write(books / "id2name.json", {**BOOKS, "8": "Sand"})

    one, other = ["Salt, Silt", "Sand", IT], [COMMA, IT]
    assert error_of("sprec", books) == (
        f"{books}/train.json row 2: 'input' can be read as {one} and as {other}: take the row out"
    )


def test_unknown_titles_are_an_error_or_their_rows_are_left_out(books: Path) -> None:
    write(books / "train.json", [book_row("Dune", IT), *BOOK_ROWS, book_row("Dune Road", "Dune Road", "Dune")])

    assert error_of("sprec", books) == (
        f"{books}/train.json row 1: 'Dune' is not among the titles of id2name.json: add it there, or set "
        "dataset.unknown_titles='drop' to leave out the 2 rows with such titles"
    )
    corpus = load("sprec", books, unknown_titles="drop")
    assert list(examples_of(corpus)) == ["train:2", "train:3", "train:4", "valid:1", "test:1"]
    assert corpus.notes[0] == (
        "left out 2 rows with titles that are not in id2name.json, e.g. 'Dune': train.json rows 1, 5"
    )


def test_a_file_of_which_no_row_is_left_is_named(books: Path) -> None:
    file = write(books / "train.json", [book_row("Dune", IT)])

    said = error_of("sprec", books, unknown_titles="drop")
    assert said == f"{file}: no row is left to train on; all were left out"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"input": '"It"'}, "the key 'output' is missing (it has 'input'): mend the row or take it out"),
        ({"input": ["It"], "output": '"It"'}, "'input' is a list, not text: mend the row or take it out"),
        ({"input": "nothing yet", "output": '"It"'}, "'input' has no title in quotes: mend the row or take it out"),
        ({"input": '"It"', "output": "It\n"}, "'output' has no title in quotes: mend the row or take it out"),
        ({"input": '"It", " "', "output": '"It"'}, "names an empty title: mend the row or take it out"),
    ],
)
def test_a_wrong_row_of_sprec_is_named(books: Path, row: dict[str, Any], said: str) -> None:
    file = write(books / "train.json", [*BOOK_ROWS, row])

    assert error_of("sprec", books) in (f"{file} row 4: {said}", f"{file} row 4 {said}")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("id2name.json", ["It"], " is no object of ids with their titles"),
        ("id2name.json", {**BOOKS, "9": ""}, ": the title of '9' is '': give it one or take it out"),
        ("name2genre.json", ["fiction"], " is no object of titles with their genres"),
        ("name2genre.json", {"It": "fiction"}, ": the genres of 'It' are no list of texts: mend them"),
    ],
)
def test_a_wrong_catalogue_of_sprec_is_named(books: Path, name: str, content: Any, said: str) -> None:
    write(books / name, content)

    assert error_of("sprec", books) == f"{books / name}{said}"


@pytest.mark.parametrize(
    ("path", "parts"), [("train.json", ["train.json"]), ("", ["train.json", "valid.json", "test.json"])]
)
def test_all_files_that_are_read_are_told(books: Path, path: str, parts: list[str]) -> None:
    dataset = load_plugins().create("dataset", "sprec", {"path": str(books / path)})

    assert dataset.files() == [books / name for name in (*parts, "id2name.json", "name2genre.json")]


# --- S-DPO ------------------------------------------------------------------------------------------------------


def artist_row(history: str, candidates: str, target: str) -> dict[str, Any]:
    return {"historyList": history, "itemList": candidates.split("|"), "trueSelection": target}


ARTIST_ROWS = [
    artist_row("Ada::Bo:Bo::Cleo", "Fish|Ada and the Fish|Gil", "Ada and the Fish"),
    artist_row("Cleo::Gil::Ada", "Dot|Fish", "Fish"),
]


@pytest.fixture
def artists(tmp_path: Path) -> Path:
    folder = tmp_path / "artists"
    write(folder / "lastfm-train.json", ARTIST_ROWS)
    write(folder / "lastfm-test.json", [artist_row("Ada::Cleo", "Fish|Gil|Dot|Ada and the Fish", "Fish")])
    write(folder / "lastfm-val.json", [artist_row("Ada", "Gil|Eve", "Gil")])
    return folder


def test_s_dpo_takes_every_artist_named_anywhere(artists: Path) -> None:
    corpus = load("s-dpo", artists)

    assert examples_of(corpus) == {
        "lastfm-train:1": ("Ada", "Bo:Bo", "Cleo", "Ada and the Fish"),
        "lastfm-train:2": ("Cleo", "Gil", "Ada", "Fish"),
        "lastfm-val:1": ("Ada", "Gil"),
        "lastfm-test:1": ("Ada", "Cleo", "Fish"),
    }
    assert list(parts_of(corpus).values()) == ["train", "train", "validation", "test"]
    assert corpus.catalogue["title"].to_list() == [
        *("Ada", "Bo:Bo", "Cleo", "Fish", "Ada and the Fish", "Gil", "Dot", "Eve"),
    ]
    assert corpus.catalogue["item"].to_list() == corpus.catalogue["title"].to_list()


def test_the_target_is_the_candidate_that_equals_it_not_one_inside_it(artists: Path) -> None:
    """In a row of the published file, as in the first one here, another candidate is a part of the target."""
    (artists / "lastfm-test.json").unlink()
    (artists / "lastfm-val.json").unlink()
    write(artists / "lastfm-train.json", ARTIST_ROWS[1:])
    test = write(artists / "mine.json", ARTIST_ROWS[:1])

    split = split_corpus(load("s-dpo", artists, test=str(test), validation_fraction=0), SplitOptions())

    assert split.supplied_candidates is not None
    ranked = [split.catalogue.titles[item] for item in split.supplied_candidates.items[0]]
    assert ranked == ["Fish", "Ada and the Fish", "Gil"]
    assert split.supplied_candidates.target_column.tolist() == [1]


def test_s_dpo_takes_histories_as_lists_and_candidates_once(artists: Path) -> None:
    row = {"historyList": ["Ada", "Bo::Bo"], "itemList": ["Gil", "Dot", "Gil"], "trueSelection": "Gil"}
    write(artists / "lastfm-test.json", [row])

    corpus = load("s-dpo", artists)

    assert examples_of(corpus)["lastfm-test:1"] == ("Ada", "Bo::Bo", "Gil")
    assert corpus.examples is not None
    assert corpus.examples["candidates"].to_list()[-1] == ["Gil", "Dot"]


def test_candidates_may_be_drawn_instead(artists: Path) -> None:
    write(artists / "lastfm-test.json", [artist_row("Ada", "Gil|Dot", "Eve")])

    assert error_of("s-dpo", artists) == (
        f"{artists}/lastfm-test.json row 1: 'trueSelection' 'Eve' is not among 'itemList': mend the row, or set "
        "dataset.candidates=false to have candidates drawn"
    )
    corpus = load("s-dpo", artists, candidates=False)
    assert corpus.examples is not None
    assert corpus.examples.columns == ["user", "part"]
    assert corpus.catalogue.height == 8, "who is only a candidate can be recommended all the same"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (artist_row("", "Gil|Dot", "Gil"), "row 3: 'historyList' is empty: take the row out"),
        (artist_row("Ada::::Cleo", "Gil|Dot", "Gil"), "row 3 names an empty title: mend the row or take it out"),
        (
            {"historyList": "Ada", "trueSelection": "Gil"},
            "row 3: the key 'itemList' is missing (it has 'historyList', ",
        ),
        (
            {**ARTIST_ROWS[0], "itemList": "Gil::Dot"},
            "row 3: 'itemList' is not a list of texts: mend the row or take",
        ),
        (
            {**ARTIST_ROWS[0], "historyList": 4},
            "row 3: 'historyList' is not a list of texts, or a text with '::' betw",
        ),
        ({**ARTIST_ROWS[0], "trueSelection": None}, "row 3: 'trueSelection' is null, not text: mend the row or take"),
        ("Ada", "row 3 is text, not an object: mend it or take it out"),
    ],
)
def test_a_wrong_row_of_s_dpo_is_named(artists: Path, row: Any, said: str) -> None:
    file = write(artists / "lastfm-train.json", [*ARTIST_ROWS, row])

    assert error_of("s-dpo", artists).startswith(f"{file} {said}")


# --- files and parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '[\n {"historyList": "Ada",\n  "itemList" ["Gil"]}\n]',
            " line 3 column 14: not valid JSON: Expecting ':' del",
        ),
        ("", " line 1 column 1: not valid JSON: Expecting value; is the file whole?"),
        ("[]", " holds an empty list, not a list of rows: name a file of examples"),
        ('{"rows": []}', " holds an object, not a list of rows: name a file of examples"),
        ("12", " holds a number, not a list of rows: name a file of examples"),
    ],
)
def test_a_damaged_file_is_named(artists: Path, content: str, said: str) -> None:
    file = artists / "lastfm-train.json"
    file.write_text(content)

    assert error_of("s-dpo", artists).startswith(f"{file}{said}")


def test_a_file_that_is_not_text_is_named(artists: Path) -> None:
    file = artists / "lastfm-train.json"
    file.write_bytes(b'["caf\xe9"]')

    assert error_of("s-dpo", artists) == f"{file} is not UTF-8 text (byte 5): convert it"


def test_files_that_are_not_there_are_named(artists: Path, tmp_path: Path) -> None:
    nowhere, train = tmp_path / "nowhere.json", artists / "lastfm-train.json"

    assert error_of("s-dpo", nowhere) == f"{nowhere} (dataset.path) does not exist: name a file or a folder"
    assert error_of("s-dpo", artists, test=str(nowhere)) == f"{nowhere} (dataset.test) does not exist: name a file"
    assert (
        error_of("s-dpo", train, test=str(train)) == f"one file is named for two parts: train {train}, test {train}"
    )
    (tmp_path / "empty").mkdir()
    assert error_of("s-dpo", tmp_path / "empty").startswith(
        f"{tmp_path}/empty (dataset.path) does not say what to train on, it has no file that ends in train.json, "
    )


def test_a_folder_with_two_files_for_one_part_is_turned_down(artists: Path) -> None:
    write(artists / "steam-train.json", ARTIST_ROWS)

    assert error_of("s-dpo", artists) == (
        f"{artists} (dataset.path) has lastfm-train.json and steam-train.json, both for train: name files with "
        "dataset.path, dataset.validation and dataset.test"
    )


def test_a_folder_without_a_training_file_is_turned_down_unless_it_has_one_file_alone(artists: Path) -> None:
    (artists / "lastfm-train.json").unlink()
    assert "does not say what to train on, it has lastfm-test.json, lastfm-val.json: name" in error_of(
        "s-dpo", artists
    )

    (artists / "lastfm-test.json").unlink()
    rows = [artist_row(f"a{row}::b{row}::c{row}", f"x{row}|y{row}", f"x{row}") for row in range(20)]
    write(artists / "lastfm-val.json", rows)
    assert Counter(parts_of(load("s-dpo", artists)).values()) == {"train": 16, "validation": 2, "test": 2}


def test_only_parts_without_a_file_are_drawn(artists: Path) -> None:
    rows = [artist_row(f"a{row}::b{row}::c{row}", f"x{row}|y{row}", f"x{row}") for row in range(20)]
    write(artists / "lastfm-train.json", rows)
    (artists / "lastfm-val.json").unlink()

    corpus = load("s-dpo", artists, validation_fraction=0.25)

    assert Counter(parts_of(corpus).values()) == {"train": 15, "validation": 5, "test": 1}
    assert parts_of(corpus)["lastfm-test:1"] == "test"
    assert corpus.notes == (
        "lastfm-train.json: drew 5 rows for validation and left 15 to train on (dataset.split_seed=0); rows that "
        "share 5 titles in a row stay together",
    )
    assert parts_of(load("s-dpo", artists, validation_fraction=0.25)) == parts_of(corpus)
    assert parts_of(load("s-dpo", artists, validation_fraction=0.25, split_seed=1)) != parts_of(corpus)


def test_rows_of_one_person_stay_together() -> None:
    """Three people of ten titles each, in windows that overlap, and equal rows, which are too short to overlap."""
    people = [[f"{person}{at}" for at in range(10)] for person in "pqr"]
    rows = [titles[max(0, end - 6) : end] for titles in people for end in range(4, 11)]
    rows += [["x", "y"], ["z", "y"], ["x", "y"], ["x", "z"], ["y", "y"], ["z", "z"]] * 3

    parts = draw_parts(rows, {"validation": 0.2, "test": 0.2}, seed=3)

    assert len(parts) == 39
    for person in range(3):
        assert len(set(parts[7 * person : 7 * person + 7])) == 1, "windows that overlap, growing or sliding"
    of_short = dict(zip(map(tuple, rows[21:]), parts[21:], strict=True))
    assert [of_short[tuple(row)] for row in rows[21:]] == parts[21:], "equal rows"
    assert len(set(of_short.values())) > 1
    # Groups of 7, 7, 7 (people), 6, 3, 3, 3 and 3 (equal rows) fill 8 rows of each part as far as they fit.
    counts = Counter(parts)
    assert 5 <= counts["test"] <= 8
    assert 5 <= counts["validation"] <= 8


def test_the_shares_must_leave_something_for_each_part() -> None:
    rows = [[f"a{row}", "b"] for row in range(10)]

    with pytest.raises(
        RequestError, match=r"^dataset\.validation_fraction and dataset\.test_fraction leave nothing to"
    ):
        draw_parts(rows, {"validation": 0.5, "test": 0.5}, 0)
    with pytest.raises(
        RequestError, match=r"^no rows are left for test: 9 rows fall into 1 groups .* dataset\.test$"
    ):
        draw_parts([["a", "b"]] * 9, {"test": 0.1}, 0)
    assert Counter(draw_parts(rows, {"test": 0.01}, 0)) == {"train": 9, "test": 1}


# --- what the papers publish ------------------------------------------------------------------------------------

published = pytest.mark.skipif(not REAL.is_dir(), reason="the published files are not in ../shared/data")


@published
def test_every_published_row_of_goodreads_is_read_or_named() -> None:
    corpus = load("sprec", REAL / "goodreads-sprec", unknown_titles="drop")

    # Ten rows name "It", which id2name.json lacks; one row has a history of five titles instead of ten.
    assert corpus.notes[0].startswith("left out 10 rows with titles that are not in id2name.json, e.g. 'It': ")
    lengths = Counter(len(row) for row in examples_of(corpus).values())
    assert lengths == {11: 4989, 6: 1}
    assert corpus.catalogue.height == 4058
    assert corpus.catalogue["genres"].list.len().sum() == 14988
    filtered = filter_corpus(corpus, load_plugins().get("dataset", "sprec").Options(path=REAL))
    assert not [note for note in filtered.notes if note.startswith("leakage")]


@published
def test_every_published_row_of_lastfm_is_read() -> None:
    corpus = load("s-dpo", REAL / "lastfm-sdpo")

    assert len(examples_of(corpus)) == 2767
    assert corpus.catalogue.height == 4606
    assert Counter(parts_of(corpus).values()) == {"train": 2213, "validation": 277, "test": 277}
    filtered = filter_corpus(corpus, load_plugins().get("dataset", "s-dpo").Options(path=REAL))
    assert not [note for note in filtered.notes if note.startswith("leakage")]
    given = split_corpus(filtered, SplitOptions()).supplied_candidates
    assert given is not None
    assert given.items.shape == (277, 20)
    assert given.items.min() >= 0


@published
@pytest.mark.parametrize(
    ("name", "folder", "options", "leaked"),
    [
        ("sprec", "goodreads-sprec", {"unknown_titles": "drop"}, "75 of 499"),
        ("s-dpo", "lastfm-sdpo", {}, "262 of 277"),
    ],
)
def test_drawn_row_by_row_much_of_the_test_would_leak(
    name: str, folder: str, options: dict[str, str], leaked: str
) -> None:
    """The numbers in the README: as many rows for each part, but any."""
    corpus = load(name, REAL / folder, **options)
    assert corpus.examples is not None
    parts = np.random.default_rng(0).permutation(corpus.examples["part"].to_numpy())
    of_test = list(leaks(replace(corpus, examples=corpus.examples.with_columns(part=pl.Series(parts)))))[-1]
    assert of_test.startswith(f"leakage: {leaked} test examples ")
