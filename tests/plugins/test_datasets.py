"""The first-party datasets: MovieLens 100K from both of its sources, and tables of one's own."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rosepo_core.contracts.components import LogOptions
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.corpus_summary import check_corpus
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import DatasetContract
from rosepo_datasets.movielens import GENRES, readable_title


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        raise AssertionError("nothing here takes long")

    def note(self, message: str) -> None:
        self.notes.append(message)


def load(name: str, **options: Any) -> Corpus:
    corpus: Corpus = load_plugins().create("dataset", name, options).load(Notes())
    return corpus


# --- MovieLens 100K ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filed", "read", "year"),
    [
        ("Usual Suspects, The (1995)", "The Usual Suspects (1995)", 1995),
        ("Postino, Il (1994)", "Il Postino (1994)", 1994),
        ("Fish Called Wanda, A (1988)", "A Fish Called Wanda (1988)", 1988),
        ("American Werewolf in London, An (1981)", "An American Werewolf in London (1981)", 1981),
        ("Enfer, L' (1994)", "L'Enfer (1994)", 1994),
        ("Misérables, Les (1995)", "Les Misérables (1995)", 1995),
        ("Shanghai Triad (Yao a yao yao dao waipo qiao) (1995)",) * 2 + (1995,),
        (
            "Horseman on the Roof, The (Hussard sur le toit, Le) (1995)",
            "The Horseman on the Roof (Le Hussard sur le toit) (1995)",
            1995,
        ),
        (
            "Double vie de Véronique, La (Double Life of Veronique, The) (1991)",
            "La Double vie de Véronique (The Double Life of Veronique) (1991)",
            1991,
        ),
        ("Star Maker, The (Uomo delle stelle, L') (1995)", "The Star Maker (L'Uomo delle stelle) (1995)", 1995),
        ("Beans of Egypt, Maine, The (1994)", "The Beans of Egypt, Maine (1994)", 1994),
        ("Good, The Bad and The Ugly, The (1966)", "The Good, The Bad and The Ugly (1966)", 1966),
        ("Mrs. Brown (Her Majesty, Mrs. Brown) (1997)",) * 2 + (1997,),
        ("Truth or Consequences, N.M. (1997)",) * 2 + (1997,),
        ("To Have, or Not (1995)",) * 2 + (1995,),
        ("Paris, France (1993)",) * 2 + (1993,),
        ("Two Friends (1986) ", "Two Friends (1986)", 1986),
        ("Slingshot, The (1993 )", "The Slingshot (1993)", 1993),
        (
            "Land Before Time III: The Time of the Great Giving (1995) (V)",
            "Land Before Time III: The Time of the Great Giving (1995)",
            1995,
        ),
        ("187 (1997)", "187 (1997)", 1997),
        ("unknown", "unknown", None),
    ],
)
def test_titles_are_as_one_reads_them(filed: str, read: str, year: int | None) -> None:
    assert readable_title(filed) == (read, year)


# Invented, in the formats of GroupLens and of RecBole; item 3 and 4 have the quirks of the real items 267 and 1412.
USER_ITEM_RATING_TIME = [(9, 2, 4, 881250949), (7, 1, 3, 881250949), (9, 4, 5, 881250000), (7, 3, 1, 891717742)]
FILMS = [
    ("1", "Tailor of Trieste, The (Sastre, El) (1961)", "01-Jan-1961", {"Drama", "War"}),
    ("2", "Étoile d'été (1994) ", "", {"Film-Noir"}),
    ("3", "unknown", "", set()),
    ("4", "Kites (1995) (V)", "", {"Children's", "Animation"}),
]
FILMS_IN_RECBOLE = """\
item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tTailor of Trieste, The (Sastre, El)\t1961\tDrama War
2\tÉtoile d'été\t1994\tFilm-Noir
3\tunkonwn\tunkonwn\tunknown
4\tKites (1995)\tV\tAnimation Children's
"""


def write_grouplens(folder: Path, newline: str = "\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    log = newline.join("\t".join(str(field) for field in row) for row in USER_ITEM_RATING_TIME)
    films = newline.join(
        "|".join([item, title, date, "", "http://", str(int(not genres)), *(str(int(g in genres)) for g in GENRES)])
        for item, title, date, genres in FILMS
    )
    (folder / "u.data").write_bytes((log + newline).encode("latin-1"))
    (folder / "u.item").write_bytes((films + newline).encode("latin-1"))
    return folder


class TestMovieLens100K(DatasetContract):
    name = "rosepo/movielens-100k"

    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, str]:
        return {"path": str(write_grouplens(tmp_path))}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_local_copy_in_grouplens_format(tmp_path: Path, newline: str) -> None:
    corpus = load("movielens-100k", path=write_grouplens(tmp_path, newline))

    assert corpus.name == "movielens-100k"
    assert corpus.interactions.rows(named=True)[0] == {
        "user": "9",
        "item": "2",
        "timestamp": 881250949,
        "rating": 4.0,
    }
    assert corpus.interactions["user"].to_list() == ["9", "7", "9", "7"]
    assert corpus.interactions["item"].to_list() == ["2", "1", "4", "3"]
    assert corpus.catalogue.rows() == [
        ("1", "The Tailor of Trieste (El Sastre) (1961)", 1961, ["Drama", "War"]),
        ("2", "Étoile d'été (1994)", 1994, ["Film-Noir"]),
        ("3", "unknown", None, []),
        ("4", "Kites (1995)", 1995, ["Animation", "Children's"]),
    ]


def test_recbole_and_grouplens_give_the_same_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "cache" / "wheels" / "recbole-1.2.1-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    log = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    log += "".join("\t".join(str(field) for field in row) + "\n" for row in USER_ITEM_RATING_TIME)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", log)
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.item", FILMS_IN_RECBOLE)
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rosepo_datasets.movielens.WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())

    fetched = load("movielens-100k")
    local = load("movielens-100k", path=write_grouplens(tmp_path / "ml-100k"))

    assert_frame_equal(fetched.interactions, local.interactions)
    assert_frame_equal(fetched.catalogue, local.catalogue)
    assert (fetched.name, fetched.notes) == (local.name, local.notes)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("u.data", None, "u.data: no such file or directory; dataset.path must be the folder that GroupLens's"),
        ("u.item", None, "u.item: no such file or directory; dataset.path must be the folder that GroupLens's"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\n", "u.data line 2: 3 fields, not 4; take the file as it is"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\tnoon\n", "u.data line 2: timestamp 'noon' is not a number"),
        ("u.data", "", "u.data line 1: 1 fields, not 4"),
        ("u.item", "1|Kites (1995)\n", "u.item line 1: 2 fields, not 24"),
    ],
)
def test_a_damaged_local_copy_names_the_file_and_the_line(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    write_grouplens(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)

    with pytest.raises(RequestError) as raised:
        load("movielens-100k", path=tmp_path)

    assert message in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.real
def test_the_real_movielens_100k(tmp_path: Path) -> None:
    """Counts from GroupLens's README: 100,000 ratings, 943 users with at least 20 each, 1,682 items;
    18 titles stand under two ids each."""
    corpus = load("movielens-100k")

    summary = check_corpus(corpus)
    assert (summary.users, summary.items, summary.interactions) == (943, 1682, 100_000)
    assert summary.interactions_per_user["min"] == 20
    assert summary.ratings == {1.0: 6110, 2.0: 11370, 3.0: 27145, 4.0: 34174, 5.0: 21201}
    assert (summary.first, summary.last) == ("1997-09-20T03:05:10Z", "1998-04-22T23:10:38Z")
    assert len(summary.duplicate_titles) == 18
    assert summary.duplicate_titles["Chasing Amy (1997)"] == ("246", "268")
    titles = dict(corpus.catalogue.select("item", "title").iter_rows())
    assert titles["12"] == "The Usual Suspects (1995)"
    assert titles["1005"] == "La Double vie de Véronique (The Double Life of Veronique) (1991)"
    assert titles["1412"] == "Land Before Time III: The Time of the Great Giving (1995)"
    assert titles["267"] == "unknown"
    assert corpus.catalogue.filter(pl.col("year").is_null())["item"].to_list() == ["267"]
    assert corpus.catalogue.filter(pl.col("genres").list.len() == 0)["item"].to_list() == ["267", "1373"]
    assert not corpus.catalogue["title"].str.contains(r", (The|A|An|Le|La|Les|Il|L')( \(|\)|$)").any()

    filtered = filter_corpus(corpus, LogOptions())
    assert filtered.catalogue.height == 1664
    assert filtered.notes[0].startswith("merged 18 items into others of the same title, e.g. 'Chasing Amy (1997)'")
    split = split_corpus(filtered, SplitOptions())
    assert len(split.test) == len(split.validation) == 943

    # The same data in GroupLens's format: a conversion that shares nothing with the reader but the list of genres.
    rows = corpus.interactions.select("user", "item", pl.col("rating").cast(pl.Int64), "timestamp").rows()
    (tmp_path / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    films = []
    for item, title, _, genres in corpus.catalogue.rows():
        name, year = (title[:-7], title[-7:]) if title != "unknown" else (title, "")
        for article in ("The", "A", "An"):
            if name.startswith(f"{article} ") and "(" not in name:
                name = f"{name.removeprefix(f'{article} ')}, {article}"
        flags = [str(int(not genres)), *(str(int(genre in genres)) for genre in GENRES)]
        films.append("|".join([item, name + year, "01-Jan-1995", "", "", *flags]))
    assert films[11].startswith("12|Usual Suspects, The (1995)|")
    (tmp_path / "u.item").write_bytes("\n".join(films).encode("latin-1"))
    local = load("movielens-100k", path=tmp_path)
    assert_frame_equal(local.interactions, corpus.interactions)
    assert_frame_equal(local.catalogue, corpus.catalogue)


# --- Tables -----------------------------------------------------------------------------------------------------

LOG = [
    {"userId": "u1", "movieId": "007", "Time Stamp": 30, "stars": 4.5},
    {"userId": "u1", "movieId": "b", "Time Stamp": 10, "stars": None},
    {"userId": "u2", "movieId": "007", "Time Stamp": 20, "stars": 1.0},
]
ITEMS = [
    {"id": "b", "name": 'Birch, "the tall"', "wood": "soft"},
    {"id": "007", "name": "Ash", "wood": "hard"},
    {"id": "c", "name": "Cedar", "wood": None},
]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    frame = pl.DataFrame(rows, infer_schema_length=None)
    match path.suffix:
        case ".csv":
            frame.write_csv(path)
        case ".tsv":
            frame.write_csv(path, separator="\t")
        case ".parquet":
            frame.write_parquet(path)
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".ndjson"])
def test_all_formats_give_the_same_corpus_and_show_what_was_guessed(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"log{suffix}", LOG)
    catalogue = write_table(tmp_path / f"trees{suffix}", ITEMS)

    corpus = load("table", path=path, catalogue=catalogue)

    assert corpus.name == "log"
    assert corpus.interactions.rows() == [("u1", "007", 30, 4.5), ("u1", "b", 10, None), ("u2", "007", 20, 1.0)]
    assert corpus.catalogue.columns == ["item", "title", "wood"]
    assert corpus.catalogue.rows() == [
        ("b", 'Birch, "the tall"', "soft"),
        ("007", "Ash", "hard"),
        ("c", "Cedar", None),
    ]
    assert {note for note in corpus.notes if ": read " not in note} == {
        f"log{suffix}: guessed user='userId', item='movieId', timestamp='Time Stamp', rating='stars'",
        f"trees{suffix}: guessed catalogue_item='id', title='name'",
    }
    assert filter_corpus(corpus, LogOptions()).catalogue.height == 2


def test_titles_in_the_log_and_columns_by_name(tmp_path: Path) -> None:
    rows = [
        {"who": "x", "what": 3, "when": 5, "called": "Ash"},
        {"who": "x", "what": 1, "when": 6, "called": "Birch"},
        {"who": "y", "what": 3, "when": 7, "called": "Ash tree"},
        {"who": "y", "what": 1, "when": 8, "called": None},
    ]
    path = write_table(tmp_path / "log.parquet", rows)

    corpus = load("table", path=path, user="who", item="what", timestamp="when", title="called")

    assert corpus.interactions.rows() == [("x", "3", 5), ("x", "1", 6), ("y", "3", 7), ("y", "1", 8)]
    assert corpus.catalogue.rows() == [("3", "Ash"), ("1", "Birch")]
    assert corpus.notes == (
        "log.parquet: read 4 rows of 4 columns (Parquet)",
        "log.parquet: 1 item with several titles; the first is taken, e.g. for item '3' of 'Ash', 'Ash tree'",
    )


def test_the_title_may_be_the_item(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,title\nx,Ash\nx,Birch\ny,Ash\n")

    corpus = load("table", path=tmp_path / "log.csv", item="title")

    assert corpus.catalogue.rows() == [("Ash", "Ash"), ("Birch", "Birch")]
    assert corpus.interactions.rows() == [("x", "Ash", 0), ("x", "Birch", 1), ("y", "Ash", 2)]
    assert corpus.notes == (
        "log.csv: read 3 rows of 2 columns (separator ',')",
        "log.csv: no timestamp column: the order of rows is the order of time",
        "log.csv: guessed user='user', title='title'",
    )


def test_recbole_headers_are_understood(tmp_path: Path) -> None:
    (tmp_path / "log.tsv").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t3\t881250949\n"
    )
    (tmp_path / "items.tsv").write_text("item_id:token\tmovie_title:token_seq\n2\tAsh\n")

    corpus = load("table", path=tmp_path / "log.tsv", catalogue=tmp_path / "items.tsv")

    assert corpus.interactions.rows() == [("1", "2", 881250949, 3.0)]
    assert corpus.catalogue.rows() == [("2", "Ash")]


def test_ids_of_different_types_meet(tmp_path: Path) -> None:
    """A column of whole numbers with a gap is read as floats by pandas and saved so."""
    log = pl.DataFrame({"user": [1.0, 2.0], "item": [12.0, 7.0], "time": [1, 2]})
    log.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text("item,title\n7,Ash\n12,Birch\n")

    corpus = load("table", path=tmp_path / "log.parquet", catalogue=tmp_path / "items.csv")

    assert corpus.interactions.rows() == [("1", "12", 1), ("2", "7", 2)]


@pytest.mark.parametrize(
    ("cells", "timestamps"),
    [
        (["881250949", " 5 ", "-3"], [881250949, 5, -3]),
        (["881250949.0", "1e3"], [881250949, 1000]),
        (["1.5", "2"], [1_500_000, 2_000_000]),
        (["1970-01-02", "1970-01-01"], [86400, 0]),
        (["1970-01-01T00:01", "1970-01-01 00:01:01", "1970-01-01T00:01:02Z"], [60, 61, 62]),
        (["1970-01-01T02:00:00+02:00", "1970-01-01T02:00+01:30"], [0, 1800]),
        (["1970-01-01T00:00:00.25", "1970-01-01"], [250_000, 0]),
    ],
)
def test_timestamps_of_many_kinds(tmp_path: Path, cells: list[str], timestamps: list[int]) -> None:
    (tmp_path / "log.csv").write_text("user,title,time\n" + "".join(f"u,Ash,{cell}\n" for cell in cells))

    corpus = load("table", path=tmp_path / "log.csv", item="title")

    assert corpus.interactions["timestamp"].to_list() == timestamps
    in_microseconds = "log.csv: 'time' has fractions of seconds: timestamps are in microseconds"
    assert (in_microseconds in corpus.notes) == any("." in cell and "949.0" not in cell for cell in cells)


def test_timestamps_with_a_type(tmp_path: Path) -> None:
    from datetime import UTC, date, datetime

    for name, value, seconds in (
        ("date", date(1970, 1, 2), 86400),
        ("naive", datetime(1970, 1, 1, 0, 1), 60),
        ("aware", datetime(1970, 1, 1, 0, 1, tzinfo=UTC), 60),
        ("float", 61.0, 61),
    ):
        path = tmp_path / f"{name}.parquet"
        pl.DataFrame({"user": ["u"], "item": ["a"], "title": ["Ash"], "time": [value]}).write_parquet(path)
        assert load("table", path=path).interactions["timestamp"].to_list() == [seconds], name


HEADER = "user,item,title,time,rating\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("log.csv", None, {}, "log.csv (dataset.path) does not exist: name a file"),
        ("log.xlsx", "", {}, "log.xlsx (dataset.path): the name must end in .csv, .tsv, .txt, .dat, .inter, .item"),
        ("log.csv", "", {}, "log.csv (dataset.path) has no rows"),
        ("log.jsonl", "", {}, "log.jsonl (dataset.path) has no rows"),
        ("log.csv", HEADER, {}, "log.csv (dataset.path) has no rows (read as UTF-8)"),
        ("log.csv", b"\xff\xfe", {}, "log.csv (dataset.path) has no rows (read as UTF-16)"),
        (
            "log.csv",
            "a,b\n1,2\n",
            {},
            "log.csv: none of its columns 'a', 'b' is called like a user: name one with dataset.user",
        ),
        (
            "log.csv",
            HEADER + "u,a,Ash,1,1\n",
            {"user": "usr"},
            "log.csv has no column 'usr' (dataset.user); did you mean 'user'?",
        ),
        (
            "log.csv",
            "user,item\nu,a\n",
            {},
            "log.csv: none of its columns 'user', 'item' is called like a title: name one with dataset.title",
        ),
        (
            "log.csv",
            HEADER + "u,a,Ash,1,1\nu,b,,2,1\n",
            {},
            "log.csv row 3: item 'b' has no title in log.csv: add one, or set dataset.untitled='drop' to leave out "
            "1 interaction with such items",
        ),
        ("log.csv", HEADER + "u,a,Ash,1,1\n\n,b,Ash,2,1\n", {}, "log.csv row 4: 'user' is empty: fill it in"),
        (
            "log.csv",
            HEADER + "u,a,Ash,1,1\nu,b,Birch,yesterday,1\n",
            {},
            "log.csv row 3: timestamp 'yesterday' is not a number or an ISO 8601 date or time",
        ),
        (
            "log.csv",
            HEADER + "u,a,Ash,2020-01-02,1\nu,b,Birch,2020-13-02,1\n",
            {},
            "log.csv row 3: timestamp '2020-13-02' is not a number",
        ),
        ("log.csv", HEADER + "u,a,Ash,1,1\nu,b,Birch,,1\n", {}, "log.csv row 3: timestamp is empty: fill it in"),
        ("log.csv", HEADER + "u,a,Ash,inf,1\n", {}, "log.csv row 2: timestamp 'inf' is not a number"),
        (
            "log.jsonl",
            '{"user":"u","item":"a","title":"Ash","time":1}\n{"user":"u","item":"a","title":"Ash","time":null}\n',
            {},
            "log.jsonl row 2: timestamp is empty",
        ),
        ("log.csv", HEADER + "u,a,Ash,1,good\n", {}, "log.csv row 2: rating 'good' is not a number"),
        ("log.csv", HEADER + "u,a,Ash,1,1\nu,a,Ash,1,1,1\n", {}, "log.csv row 3: 6 fields, but 5 columns; mend it"),
        ("log.jsonl", '{"user":"u"}\n{"user":\n', {}, "log.jsonl row 2: Expecting value"),
        ("log.jsonl", "[1]\n", {}, "log.jsonl row 1: not a JSON object; mend it"),
        ("log.parquet", "no parquet", {}, "log.parquet: "),
        ("log.csv", b"user,item\nu,\xe9\n", {}, "log.csv line 2: not UTF-8 text: name the encoding with dataset"),
    ],
)
def test_what_is_wrong_with_a_log_names_file_row_or_column(
    tmp_path: Path, name: str, content: str | bytes | None, options: dict[str, str], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(RequestError) as raised:
        load("table", path=tmp_path / name, **options)

    assert str(raised.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("catalogue", "message"),
    [
        (
            "item,title\na,Ash\n",
            "log.csv row 3: item 'b' has no title in items.csv: add one, or set dataset.untitled",
        ),
        ("item,title\na,Ash\nb,\n", "log.csv row 3: item 'b' has no title in items.csv"),
        ("item,title\na,Ash\nb,Birch\na,Oak\n", "items.csv rows 2 and 4: item 'a' has the titles 'Ash' and 'Oak'"),
        ("item,colour\na,red\n", "items.csv: none of its columns 'item', 'colour' is called like a title"),
        ("code,title\na,Ash\n", "items.csv: none of its columns 'code', 'title' is called like a catalogue_item"),
        ("item,title\n,Ash\n", "items.csv row 2: 'item' is empty"),
        ("", "items.csv (dataset.catalogue) has no rows"),
    ],
)
def test_what_is_wrong_with_a_catalogue(tmp_path: Path, catalogue: str, message: str) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nu,a,1\nu,b,2\n")
    (tmp_path / "items.csv").write_text(catalogue)

    with pytest.raises(RequestError) as raised:
        load("table", path=tmp_path / "log.csv", catalogue=tmp_path / "items.csv")

    assert str(raised.value).startswith(f"{tmp_path}/{message}")


def test_untitled_items_can_be_dropped(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nu,a,1\nu,b,2\nv,b,3\nv,c,4\n")
    (tmp_path / "items.csv").write_text("item,title\na,Ash\nb,\na,Ash\n")

    corpus = load("table", path=tmp_path / "log.csv", catalogue=tmp_path / "items.csv", untitled="drop")

    assert corpus.interactions.rows() == [("u", "a", 1)]
    assert corpus.catalogue.rows() == [("a", "Ash")]
    assert "log.csv: dropped 3 interactions with 2 items without a title, e.g. 'b'" in corpus.notes
    assert "items.csv: left out 1 item without a title" in corpus.notes


def test_path_is_required() -> None:
    with pytest.raises(RequestError, match=r"^option 'dataset\.path' is required$"):
        load("table")
