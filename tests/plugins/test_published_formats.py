"""Logs and catalogues in the formats of their publishers, read as published. Every row is invented."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rosepo_core.contracts.components import LogOptions
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus
from rosepo_core.data.filters import filter_corpus
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing.toys import SilentReporter


def load(path: Path, **options: Any) -> Corpus:
    corpus: Corpus = load_plugins().create("dataset", "table", {"path": path, **options}).load(SilentReporter())
    return corpus


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as raised:
        load(path, **options)
    return str(raised.value).replace(f"{path.parent}/", "")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def items_in_time(corpus: Corpus, user: str) -> list[str]:
    log = corpus.interactions.filter(user=user).sort("timestamp", maintain_order=True)
    return log["item"].to_list()


def test_movielens_1m(tmp_path: Path) -> None:
    log = write(tmp_path / "ratings.dat", "7::31::5::978300760\n7::32::3::978302109\n8::33::4::978301968\n")
    films = "31::Misérables, Les (1995)::Drama|Musical\n32::Ships: A Story (1990)::Action\n33::Oak (1991)::Drama\n"
    catalogue = write(tmp_path / "movies.dat", films.encode("latin-1"))

    corpus = load(
        log,
        catalogue=catalogue,
        separator="::",
        encoding="latin-1",
        columns="user,item,rating,timestamp",
        catalogue_columns="item,title,genres",
    )

    assert corpus.interactions.rows() == [
        ("7", "31", 978300760, 5.0),
        ("7", "32", 978302109, 3.0),
        ("8", "33", 978301968, 4.0),
    ]
    assert corpus.catalogue.rows() == [
        ("31", "Misérables, Les (1995)", ["Drama", "Musical"]),
        ("32", "Ships: A Story (1990)", ["Action"]),
        ("33", "Oak (1991)", ["Drama"]),
    ]
    assert corpus.notes == (
        "ratings.dat: read 3 rows of 4 columns (separator '::', latin-1, no header)",
        "ratings.dat: guessed user='user', item='item', timestamp='timestamp', rating='rating'",
        "movies.dat: read 3 rows of 3 columns (separator '::', latin-1, no header)",
        "movies.dat: guessed catalogue_item='item', title='title'",
    )


def test_movielens_latest(tmp_path: Path) -> None:
    log = write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,5,4.5,964981247\n1,6,3.0,964982224\n")
    films = 'movieId,title,genres\n5,"Oak, The (1995)",Drama|Comedy\n6,"Say ""Yes"" (1990)",(no genres listed)\n'
    catalogue = write(tmp_path / "movies.csv", films)

    assert load(log, catalogue=catalogue).catalogue.rows() == [
        ("5", "Oak, The (1995)", ["Drama", "Comedy"]),
        ("6", 'Say "Yes" (1990)', []),
    ]


REVIEWS = [
    {"rating": 5.0, "title": "Love it", "text": "a\nb", "images": [], "asin": "B1", "parent_asin": "P1"},
    {"rating": 4, "title": "Good", "text": "", "images": [{"u": "x"}], "asin": "B2", "parent_asin": "P2"},
    {"rating": 1.0, "title": "Love it", "text": "c", "images": [], "asin": "B3", "parent_asin": "P3"},
]


def amazon_2023(folder: Path) -> Path:
    rows = [{**row, "user_id": "AE", "timestamp": 1588687728923 + at} for at, row in enumerate(REVIEWS)]
    return write(folder / "reviews.jsonl.gz", json_lines(rows))


def test_headlines_of_amazon_reviews_are_no_titles(tmp_path: Path) -> None:
    log = amazon_2023(tmp_path)

    assert refusal(log) == (
        "reviews.jsonl.gz: 'title' stands beside 'text', so it is likely the headline of a review, not the title of "
        "an item: name a file that has the items' titles with dataset.catalogue, or set dataset.title='title' if "
        "these are the titles after all"
    )
    assert load(log, title="title").catalogue["title"].to_list() == ["Love it", "Good", "Love it"]

    meta = [{"parent_asin": f"P{at}", "title": f"Lamp {at}", "details": {f"key {at}": 1}} for at in (1, 2, 3)]
    corpus = load(log, catalogue=write(tmp_path / "meta.jsonl.gz", json_lines(meta)))
    assert corpus.interactions["item"].to_list() == ["P1", "P2", "P3"]
    assert corpus.catalogue.rows() == [("P1", "Lamp 1"), ("P2", "Lamp 2"), ("P3", "Lamp 3")]


def test_a_column_of_many_titles_an_item_is_no_title_even_without_a_text(tmp_path: Path) -> None:
    rows = "u,a,Good,1\nv,a,Bad,2\nu,b,Fine,3\nv,b,Fine,4\nw,c,So so,5\nw,a,Bad,6\n"
    log = write(tmp_path / "log.csv", "user,item,title,time\n" + rows)

    # Of the items a and b, which come up again, one has several: not most of them.
    assert load(log).catalogue["title"].to_list() == ["Good", "Fine", "So so"]
    write(log, "user,item,title,time\n" + rows.replace("Fine,4", "No,4"))
    assert refusal(log).startswith(
        "log.csv: most items have several values in 'title', e.g. item 'a' has 'Good', 'Bad'"
    )
    assert len(load(log, title="title").catalogue) == 3


def test_a_time_in_the_year_1_is_told_and_can_be_left_out(tmp_path: Path) -> None:
    rows = [
        {"user": "u", "item": str(at), "title": f"t{at}", "time": time}
        for at, time in enumerate((7, -62135596800000))
    ]
    log = write(tmp_path / "log.jsonl", json_lines(rows))

    assert (
        "log.jsonl: 1 time of the year 1, which often stands for no time, e.g. in row 2: dataset.untimed='drop' "
        "leaves them out"
    ) in load(log).notes
    assert load(log, untimed="drop").interactions.rows() == [("u", "0", 7)]


def test_amazon_2018_gzipped(tmp_path: Path) -> None:
    reviews = [
        {"overall": 5.0, "reviewTime": "10 1, 2016", "reviewerID": "A", "asin": f"00{at}", "style": {"Format:": " x"},
         "reviewText": "t", "summary": "s", "unixReviewTime": 1475280000 + at}
        for at in (1, 2, 3)
    ]  # fmt: skip
    meta = [{"asin": f"00{at}", "title": f"Game {at}", "price": "$9", "also_buy": []} for at in (1, 2, 3)]
    log = write(tmp_path / "Games_5.json.gz", json_lines(reviews))

    corpus = load(log, catalogue=write(tmp_path / "meta_Games.json.gz", json_lines(meta)))

    assert corpus.name == "Games_5"
    assert corpus.interactions.rows() == [("A", f"00{at}", 1475280000 + at, 5.0) for at in (1, 2, 3)]
    assert corpus.catalogue.select("item", "title").rows() == [(f"00{at}", f"Game {at}") for at in (1, 2, 3)]


@pytest.mark.parametrize("named", [{}, {"user": "A1"}])
def test_amazon_ratings_without_a_header(tmp_path: Path, named: dict[str, str]) -> None:
    log = write(tmp_path / "ratings.csv", "001,A1,5.0,1475280000\n002,A1,4.0,1475280001\n001,A2,3.0,1475280003\n")
    meta = [{"asin": "001", "title": "One"}, {"asin": "002", "title": "Two"}]
    catalogue = write(tmp_path / "meta_Games.json.gz", json_lines(meta))

    assert refusal(log, catalogue=catalogue, **named) == (
        "ratings.csv row 1 looks like data, not like names of columns ('001', 'A1', '5.0', '1475280000'): name its 4 "
        "columns in their order with dataset.columns, e.g. dataset.columns=user,item,rating,timestamp or "
        "item,user,rating,timestamp"
    )
    corpus = load(log, catalogue=catalogue, columns="item,user,rating,timestamp")
    assert corpus.interactions["user"].to_list() == ["A1", "A1", "A2"]
    assert corpus.interactions["item"].to_list() == ["001", "002", "001"]


def test_steam_in_python_notation(tmp_path: Path) -> None:
    reviews = [
        {
            "username": "ann",
            "hours": 1.5,
            "product_id": str(at),
            "date": f"2017-12-1{at}",
            "text": "it's",
            "early": False,
        }
        for at in (1, 2)
    ]
    games = [{"id": str(at), "app_name": f'Ann\'s "{at}"', "genres": ["Action"], "sentiment": None} for at in (1, 2)]
    log = write(tmp_path / "steam_reviews.json.gz", "".join(f"{row!r}\n" for row in reviews))

    corpus = load(log, catalogue=write(tmp_path / "steam_games.json.gz", "".join(f"{row!r}\n" for row in games)))

    assert corpus.interactions.rows() == [("ann", "1", 1512950400), ("ann", "2", 1513036800)]
    assert corpus.catalogue.rows() == [("1", 'Ann\'s "1"', ["Action"], None), ("2", 'Ann\'s "2"', ["Action"], None)]
    assert "steam_reviews.json.gz: read 2 rows of 6 columns (Python literals)" in corpus.notes


def test_python_notation_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    log = write(tmp_path / "log.json", f"{{'user': 'u', 'item': open({str(trace)!r}, 'w').name, 'title': 'x'}}\n")

    assert refusal(log).startswith("log.json row 1: Expecting property name")
    assert not trace.exists()


def test_goodreads_dates(tmp_path: Path) -> None:
    dates = ["Sat Oct 28 01:52:25 -0700 2017", "Mon Jan 02 10:00:00 -0800 2012", "Fri Jun 05 10:00:00 +0200 2015"]
    rows = [
        {"user_id": "u", "book_id": f"b{at}", "rating": 4, "date_added": date, "read_at": ""}
        for at, date in enumerate(dates)
    ]
    books = [{"book_id": f"b{at}", "title": f"Book {at}", "authors": [{"author_id": "1"}]} for at in range(3)]
    log = write(tmp_path / "interactions.json.gz", json_lines(rows))

    corpus = load(log, catalogue=write(tmp_path / "books.json.gz", json_lines(books)))

    assert corpus.interactions["timestamp"].to_list() == [1509180745, 1325527200, 1433491200]
    assert items_in_time(corpus, "u") == ["b1", "b2", "b0"]


def test_yelp(tmp_path: Path) -> None:
    rows = [
        {"user_id": "u", "business_id": f"b{at}", "stars": 3.0, "text": "a\nb", "date": f"201{at}-07-07 22:09:11"}
        for at in range(2)
    ]
    places = [
        {"business_id": "b0", "name": 'Bar "Ü"', "stars": 5.0, "attributes": {"WiFi": "u'no'"}, "categories": "Bars"},
        {"business_id": "b1", "name": "Café", "stars": 3.5, "attributes": None, "categories": None},
    ]
    log = write(tmp_path / "review.json", json_lines(rows))

    corpus = load(log, catalogue=write(tmp_path / "business.json", json_lines(places)))

    assert corpus.interactions.rows() == [("u", "b0", 1278540551, 3.0), ("u", "b1", 1310076551, 3.0)]
    assert corpus.catalogue.rows() == [("b0", 'Bar "Ü"', 5.0, "Bars"), ("b1", "Café", 3.5, None)]


def test_kuairec_without_times_and_with_repeats(tmp_path: Path) -> None:
    rows = [
        "user_id,video_id,play_duration,time,timestamp",
        "14,148,43,2020-07-05 05:27:48.378,1593898068.378",
        "14,183,11,2020-07-05 05:28:00.057,1593898080.057",
        "14,183,11,2020-07-05 05:28:00.057,1593898080.057",
        "14,200,1,,",
    ]
    log = write(tmp_path / "matrix.csv", "\n".join(rows))
    catalogue = write(tmp_path / "captions.csv", "video_id,caption\n148,一只猫 😺\n183,做饭\n200,x\n")

    assert refusal(log, catalogue=catalogue) == (
        "matrix.csv row 5: timestamp is empty: fill it in, or set dataset.untimed='drop' to leave out 1 interaction "
        "without a time"
    )
    corpus = load(log, catalogue=catalogue, untimed="drop")
    assert corpus.interactions.rows() == [
        ("14", "148", 1593898068378000),
        ("14", "183", 1593898080057000),
        ("14", "183", 1593898080057000),
    ]
    assert corpus.catalogue["title"].to_list() == ["一只猫 😺", "做饭", "x"]
    assert "matrix.csv: dropped 1 interaction without a time" in corpus.notes
    assert "matrix.csv: 1 interaction equal to an earlier one (user, item, timestamp)" in corpus.notes
    assert filter_corpus(corpus, LogOptions()).interactions.height == 2


def test_recbole_atomic_files(tmp_path: Path) -> None:
    log = write(
        tmp_path / "x.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "9\t2\t4\t880394520\n9\t3\t4\t8.80394519e8\n9\t1\t4\t880394518\n",
    )
    catalogue = write(
        tmp_path / "x.item",
        'item_id:token\ttitle:token_seq\tgenres:token_seq\n1\tOne "day\tA B\n2\t"Two" again\tA\n3\tThree\t\n',
    )

    corpus = load(log, catalogue=catalogue)

    assert items_in_time(corpus, "9") == ["1", "3", "2"]
    assert corpus.catalogue.columns == ["item", "title", "genres"]
    assert corpus.catalogue.rows() == [("1", 'One "day', ["A", "B"]), ("2", '"Two" again', ["A"]), ("3", "Three", [])]


SHARDS = (
    {"user_id": ["a", "a"], "item_id": ["1", "2"], "title": ["One", "Two"], "timestamp": [1, 2]},
    {"user_id": ["a", "b"], "item_id": ["3", "1"], "title": ["Three", "One"], "timestamp": [3, 4]},
)
WHOLE = [("a", "1", 1), ("a", "2", 2), ("a", "3", 3), ("b", "1", 4)]


@pytest.mark.parametrize("format_", ["parquet", "csv", "jsonl", "csv.gz"])
def test_a_folder_of_shards(tmp_path: Path, format_: str) -> None:
    """As the hub keeps them, in a folder of a folder; the tenth comes after the ninth."""
    folder = tmp_path / "hub"
    for number, shard in zip((9, 10), SHARDS, strict=True):
        path, frame = folder / "data" / f"train-{number}.{format_}", pl.DataFrame(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        if format_ == "parquet":
            frame.write_parquet(path)
        else:
            write(path, frame.write_ndjson() if format_ == "jsonl" else frame.write_csv())
    write(folder / "README.md", "about")
    write(folder / "_SUCCESS", "")
    write(folder / "data" / ".train-9.crc", b"\x00")

    corpus = load(folder)

    assert (corpus.name, corpus.interactions.rows()) == ("hub", WHOLE)
    files = f"2 files, data/train-9.{format_} to data/train-10.{format_}"
    assert corpus.notes[0].startswith(f"hub: read 4 rows of 4 columns from {files} (")
    dataset = load_plugins().create("dataset", "table", {"path": folder})
    assert [file.name for file in dataset.files()] == [f"train-9.{format_}", f"train-10.{format_}"]


def test_what_is_wrong_in_a_shard_names_the_shard(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    write(folder / "part-1.csv", "user,item,title,time\nu,a,Ash,1\nu,b,Birch,2\n")
    second = write(folder / "part-2.csv", "user,item,title,time\n\nu,c,Cedar,noon\n")

    with pytest.raises(RequestError, match=f"^{second} row 3: timestamp 'noon' is not a number"):
        load(folder)
    write(second, "user,item,time\nu,c,3\n")
    with pytest.raises(RequestError, match=f"^{second} has the columns 'user', 'item', 'time', but part-1.csv has"):
        load(folder)
    write(folder / "part-3.jsonl", "{}")
    with pytest.raises(
        RequestError, match=r"holds \.csv and \.jsonl files: name one file, or a folder of one format$"
    ):
        load(folder)


def save_as_datasets_does(folder: Path, frames: Iterable[pl.DataFrame]) -> None:
    names = []
    for number, frame in enumerate(frames):
        names.append({"filename": f"data-{number:05}.arrow"})
        folder.mkdir(parents=True, exist_ok=True)
        frame.write_ipc_stream(folder / names[-1]["filename"])
    write(folder / "state.json", json.dumps({"_data_files": names, "_split": None}))
    write(folder / "dataset_info.json", "{}")


def test_a_saved_dataset(tmp_path: Path) -> None:
    save_as_datasets_does(tmp_path / "saved", map(pl.DataFrame, SHARDS))
    assert load(tmp_path / "saved").interactions.rows() == WHOLE

    for split, shard in zip(("train", "test"), SHARDS, strict=True):
        save_as_datasets_does(tmp_path / "splits" / split, [pl.DataFrame(shard)])
    write(tmp_path / "splits" / "dataset_dict.json", '{"splits": ["train", "test"]}')
    assert load(tmp_path / "splits").interactions.rows() == WHOLE

    (tmp_path / "saved" / "data-00001.arrow").unlink()
    assert refusal(tmp_path / "saved").startswith("saved/data-00001.arrow does not exist, and state.json beside it")
    write(tmp_path / "saved" / "state.json", "{}")
    assert "saved/state.json: not as the package datasets writes it" in refusal(tmp_path / "saved")


def test_what_the_package_datasets_saves(tmp_path: Path) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    Dataset.from_polars(pl.concat(map(pl.DataFrame, SHARDS))).save_to_disk(tmp_path / "saved", num_shards=2)

    assert load(tmp_path / "saved").interactions.rows() == WHOLE


def test_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "userId;movieId;rating;timestamp\n1;10;4,5;1260759144\n1;11;3;1260759179\n")
    catalogue = write(tmp_path / "movies.csv", "movieId;title\n10;Ten\n11;Eleven, or more\n")

    assert refusal(log, catalogue=catalogue) == (
        "log.csv row 2: rating '4,5' is not a number: dataset.decimal=',' reads the whole column"
    )
    corpus = load(log, catalogue=catalogue, decimal=",")
    assert corpus.interactions["rating"].to_list() == [4.5, 3.0]
    assert "log.csv: read 2 rows of 4 columns (separator ';' guessed)" in corpus.notes
    assert corpus.catalogue["title"].to_list() == ["Ten", "Eleven, or more"]

    write(log, "userId;movieId;rating\n1;10;1.234,5\n")
    assert refusal(log, catalogue=catalogue, decimal=",") == (
        "log.csv row 2: rating '1.234,5' is not a number: mend it or take the row out"
    )


@pytest.mark.parametrize("header", ["user,item,time, title,title", "user,item,time,title,title"])
def test_a_name_twice_in_a_header(tmp_path: Path, header: str) -> None:
    log = write(tmp_path / "log.csv", f"{header}\nu,1,1,A,B\n")

    assert refusal(log).startswith("log.csv: columns 4 and 5 are both called 'title'")


def test_a_name_twice_in_other_formats(tmp_path: Path) -> None:
    pl.DataFrame({"user": ["u"], "title ": ["A"], "title": ["B"]}).write_parquet(tmp_path / "log.parquet")
    assert refusal(tmp_path / "log.parquet").startswith("log.parquet: columns 2 and 3 are both called 'title'")
    log = write(tmp_path / "log.jsonl", json_lines([{"user": "u", "title": "A"}, {"user": "u", " title": "B"}]))
    assert refusal(log).startswith("log.jsonl: columns 2 and 3 are both called 'title'")


def test_a_quote_that_swallows_lines(tmp_path: Path) -> None:
    lines = [
        "user\titem\ttime\ttitle",
        'u\t1\t1\t"Never Again',
        "u\t2\t2\tPlain",
        'u\t3\t3\tShe Said No"',
        "u\t4\t4\tLast",
    ]
    log = write(tmp_path / "log.tsv", "\n".join(lines))

    corpus = load(log)
    assert corpus.interactions["item"].to_list() == ["1", "4"]
    assert (
        "log.tsv: 1 cell holds several lines, e.g. 'title' in row 2 holds 3: they look like rows of their own; "
        "dataset.quoting='none' takes quotes for text and reads 4 rows"
    ) in corpus.notes
    assert load(log, quoting="none").catalogue["title"].to_list() == ['"Never Again', "Plain", 'She Said No"', "Last"]


def test_lines_that_belong_into_a_cell(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", 'user,item,time,title\nu,a,1,"Ash\n(a tree)"\nu,b,2,Birch\n')

    corpus = load(log)

    assert corpus.catalogue["title"].to_list() == ["Ash\n(a tree)", "Birch"]
    assert "log.csv: 1 cell holds several lines, e.g. 'title' in row 2 holds 2" in corpus.notes
