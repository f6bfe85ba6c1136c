"""Data sets by name, from the files of their publishers. Every row is invented."""

from __future__ import annotations

import gzip
import json
import re
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
from rosepo_core.testing import DatasetContract, SilentReporter

Files = Mapping[str, str | bytes]


def load(name: str, path: Path, **options: Any) -> Corpus:
    corpus: Corpus = load_plugins().create("dataset", name, {"path": path, **options}).load(SilentReporter())
    return corpus


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def json_lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def python_lines(*rows: Mapping[str, Any]) -> str:
    return "".join(f"{row!r}\n" for row in rows)


def log_of(corpus: Corpus) -> list[tuple[Any, ...]]:
    return corpus.interactions.rows()


def items_of(corpus: Corpus) -> list[dict[str, Any]]:
    return corpus.catalogue.to_dicts()


ML_1M: Files = {
    "ratings.dat": "7::31::5::978300760\n7::32::3::978302109\n8::33::4::978301968\n",
    "movies.dat": (
        "31::Misérables, Les (1995)::Drama|Musical\n32::Ships: A Story (1990)::Action\n33::Oak (1991)::Drama\n"
    ).encode("latin-1"),
}


def test_movielens_1m(tmp_path: Path) -> None:
    corpus = load("movielens-1m", write(tmp_path, ML_1M))

    assert corpus.name == "movielens-1m"
    assert log_of(corpus) == [
        ("7", "31", 978300760, 5.0),
        ("7", "32", 978302109, 3.0),
        ("8", "33", 978301968, 4.0),
    ]
    assert items_of(corpus) == [
        {"item": "31", "title": "Les Misérables (1995)", "year": 1995, "genres": ["Drama", "Musical"]},
        {"item": "32", "title": "Ships: A Story (1990)", "year": 1990, "genres": ["Action"]},
        {"item": "33", "title": "Oak (1991)", "year": 1991, "genres": ["Drama"]},
    ]


ML_LATEST: Files = {
    "ratings.csv": "userId,movieId,rating,timestamp\n1,5,4.5,964981247\n1,6,3.0,964982224\n",
    "movies.csv": 'movieId,title,genres\n5,"Oak, The (1995)",Drama|Comedy\n6,"Say ""Yes""",(no genres listed)\n',
    "tags.csv": "userId,movieId,tag,timestamp\n",
    "links.csv": "movieId,imdbId,tmdbId\n",
}


@pytest.mark.parametrize("name", ["movielens-latest-small", "movielens-25m", "movielens-32m"])
def test_movielens_in_commas(tmp_path: Path, name: str) -> None:
    corpus = load(name, write(tmp_path, ML_LATEST))

    assert corpus.name == name
    assert log_of(corpus) == [("1", "5", 964981247, 4.5), ("1", "6", 964982224, 3.0)]
    assert items_of(corpus) == [
        {"item": "5", "title": "The Oak (1995)", "year": 1995, "genres": ["Drama", "Comedy"]},
        {"item": "6", "title": 'Say "Yes"', "year": None, "genres": []},
    ]


AMAZON_2018: Files = {
    "Games_5.json.gz": json_lines(
        {"overall": 5.0, "reviewTime": "10 1, 2016", "reviewerID": "A", "asin": "001", "style": {"Format:": " x"},
         "reviewText": "t", "summary": "Great", "unixReviewTime": 1475280000},
        {"overall": 2.0, "reviewerID": "A", "asin": "002", "summary": "Bad", "unixReviewTime": 1475290000},
        {"overall": 4.0, "reviewerID": "B", "asin": "003", "summary": "Gone", "unixReviewTime": 1475300000},
        {"overall": 3.0, "reviewerID": "B", "asin": "001", "unixReviewTime": 1475310000},
    ),
    "meta_Games.json.gz": json_lines(
        {"asin": "001", "title": "Tom &amp; Ann\n", "category": ["Games", "PC &amp; Mac"], "brand": "Oak",
         "price": "$1,299.50", "also_buy": ["002"], "details": {"Weight": "1 kg"}},
        {"asin": "002", "title": "Two", "category": [], "brand": "", "price": "$5.00 - $9.00"},
        {"asin": "003", "title": "var aPageStart = (new Date()).getTime();", "category": ["Games"], "price": ""},
        {"asin": "001", "title": "Tom &amp; Ann", "category": ["Games"], "brand": "Oak", "price": ""},
    ),
}  # fmt: skip


def test_amazon_2018(tmp_path: Path) -> None:
    corpus = load("amazon-2018", write(tmp_path, AMAZON_2018))

    assert log_of(corpus) == [
        ("A", "001", 1475280000, 5.0),
        ("A", "002", 1475290000, 2.0),
        ("B", "001", 1475310000, 3.0),
    ]
    assert items_of(corpus) == [
        {"item": "001", "title": "Tom & Ann", "category": ["Games", "PC & Mac"], "brand": "Oak", "price": 1299.5},
        {"item": "002", "title": "Two", "category": [], "brand": None, "price": None},
    ]
    assert corpus.notes == (
        "Games_5.json.gz: read 4 rows of 4 columns (JSON lines)",
        "Games_5.json.gz: left out 1 row about items without a title, the first of them row 3",
        "meta_Games.json.gz: read 4 rows of 5 columns (JSON lines)",
        "meta_Games.json.gz: left out 1 item without a title",
        "meta_Games.json.gz: left out 1 row about items that have an earlier row",
    )


AMAZON_2023: Files = {
    "Games.jsonl.gz": json_lines(
        {"rating": 5.0, "title": "Love it", "text": "a\nb", "images": [], "asin": "B1", "parent_asin": "P1",
         "user_id": "AE", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True},
        {"rating": 1, "title": "No", "text": "", "asin": "B2", "parent_asin": "P2", "user_id": "AE",
         "timestamp": 1588687728000},
    ),
    "meta_Games.jsonl.gz": json_lines(
        {"main_category": "Video Games", "title": "Lamp  1", "average_rating": 4.5, "price": 9.99, "store": "Oak",
         "categories": ["Games", "Lamps"], "details": {"Brand": "Ash", "Size": "1"}, "parent_asin": "P1"},
        {"main_category": None, "title": "Lamp 2", "price": "from 5.00", "store": None, "categories": [],
         "details": {"Size": {"x": 1}}, "parent_asin": "P2"},
    ),
}  # fmt: skip


def test_amazon_2023(tmp_path: Path) -> None:
    folder = write(tmp_path, AMAZON_2023)
    corpus = load("amazon-2023", folder)

    assert log_of(corpus) == [("AE", "P1", 1588687728923, 5.0), ("AE", "P2", 1588687728000, 1.0)]
    assert items_of(corpus) == [
        {"item": "P1", "title": "Lamp 1", "category": ["Games", "Lamps"], "main_category": "Video Games",
         "store": "Oak", "brand": "Ash", "price": 9.99},
        {"item": "P2", "title": "Lamp 2", "category": [], "main_category": None, "store": None, "brand": None,
         "price": None},
    ]  # fmt: skip

    # Two categories in one folder: the file of reviews says which.
    write(folder, {"Books.jsonl": AMAZON_2023["Games.jsonl.gz"]})
    with pytest.raises(RequestError, match=r"has Books.jsonl, Games.jsonl.gz: name one of them with dataset.path"):
        load("amazon-2023", folder)
    assert len(load("amazon-2023", folder / "Games.jsonl.gz").interactions) == 2
    with pytest.raises(RequestError, match=r"has no file meta_Books.jsonl; 'amazon-2023' reads"):
        load("amazon-2023", folder / "Books.jsonl")


STEAM: Files = {
    "steam_reviews.json.gz": python_lines(
        {"username": "ann", "hours": 1.5, "products": 9, "product_id": "10", "date": "2017-12-11", "text": "it's"},
        {"username": "ann", "product_id": "20", "date": "2017-12-12", "text": "é", "early_access": False},
        {"username": "bo", "hours": 3.0, "product_id": "30", "date": "2017-12-13", "text": ""},
    ),
    "steam_games.json.gz": python_lines(
        {"publisher": "P", "genres": ["Action"], "app_name": "Ann's \"1\"", "title": "Ann's", "price": 4.99,
         "id": "10", "developer": "D", "tags": ["Old", "Old", "Fun"], "early_access": False},
        {"app_name": None, "title": "Second", "price": "Free To Play", "id": "20"},
        {"app_name": "Lost", "price": 1.0},
        {"app_name": "Third", "price": "Install Now", "id": "30", "genres": None},
    ),
}  # fmt: skip


def test_steam(tmp_path: Path) -> None:
    corpus = load("steam", write(tmp_path, STEAM))

    assert log_of(corpus) == [
        ("ann", "10", 1512950400, 1.5),
        ("ann", "20", 1513036800, None),
        ("bo", "30", 1513123200, 3.0),
    ]
    empty: dict[str, Any] = {"genres": [], "tags": [], "developer": None, "publisher": None}
    assert items_of(corpus) == [
        {"item": "10", "title": "Ann's \"1\"", "genres": ["Action"], "tags": ["Old", "Fun"], "developer": "D",
         "publisher": "P", "price": 4.99},
        {"item": "20", "title": "Second", **empty, "price": 0.0},
        {"item": "30", "title": "Third", **empty, "price": None},
    ]  # fmt: skip
    assert "steam_games.json.gz: left out 1 item without an id" in corpus.notes


GOODREADS: Files = {
    "goodreads_interactions_comics.json.gz": json_lines(
        {"user_id": "u", "book_id": "1", "rating": 4, "isbn": "",
         "date_added": "Sat Oct 28 01:52:25 -0700 2017"},
        {"user_id": "u", "book_id": "2", "rating": 0,
         "date_added": "Mon Jan 02 10:00:00 -0800 2012"},
    ),
    "goodreads_books_comics.json.gz": json_lines(
        {"book_id": "1", "title": "One", "authors": [{"author_id": "9", "role": ""}], "publisher": "Oak",
         "publication_year": "2001", "language_code": "eng", "format": "Paperback",
         "popular_shelves": [{"count": "3", "name": "to-read"}]},
        {"book_id": "2", "title": "Two", "publisher": "", "publication_year": "", "language_code": "", "format": ""},
    ),
}  # fmt: skip


def test_goodreads(tmp_path: Path) -> None:
    corpus = load("goodreads", write(tmp_path, GOODREADS))

    assert log_of(corpus) == [("u", "1", 1509180745, 4.0), ("u", "2", 1325527200, None)]
    assert items_of(corpus) == [
        {"item": "1", "title": "One", "publisher": "Oak", "year": 2001, "language": "eng", "format": "Paperback"},
        {"item": "2", "title": "Two", "publisher": None, "year": None, "language": None, "format": None},
    ]


LASTFM: Files = {
    "user_artists.dat": "userID\tartistID\tweight\r\n2\t51\t13883\r\n2\t52\t11690\r\n2\t53\t20\r\n3\t51\t7\r\n",
    "artists.dat": 'id\tname\turl\tpictureURL\r\n51\t"Oak" Ö\thttp://x\thttp://y\r\n52\tAsh\thttp://x\t\r\n53\tElm\t\t\r\n',
    "tags.dat": "tagID\ttagValue\r\n1\tmétal\r\n2\tpop\r\n".encode("latin-1"),
    "user_taggedartists-timestamps.dat": (
        "userID\tartistID\ttagID\ttimestamp\r\n2\t52\t2\t1238536800000\r\n2\t52\t1\t1230764400000\r\n"
        "2\t51\t1\t1241128800000\r\n3\t51\t2\t1241128800001\r\n3\t52\t1\t1241128800002\r\n"
    ),
}


def test_lastfm_hetrec(tmp_path: Path) -> None:
    corpus = load("lastfm-hetrec", write(tmp_path, LASTFM))

    assert log_of(corpus) == [
        ("2", "51", 1241128800000, 13883.0),
        ("2", "52", 1230764400000, 11690.0),
        ("3", "51", 1241128800001, 7.0),
    ]
    assert items_of(corpus) == [
        {"item": "51", "title": '"Oak" Ö', "tags": ["métal", "pop"]},
        {"item": "52", "title": "Ash", "tags": ["métal", "pop"]},
        {"item": "53", "title": "Elm", "tags": []},
    ]
    assert "user_artists.dat: left out 1 row without a time, the first of them row 4" in corpus.notes

    by_rows = load("lastfm-hetrec", tmp_path, times="rows")
    assert log_of(by_rows)[2:] == [("2", "53", 2, 20.0), ("3", "51", 3, 7.0)]
    assert "user_artists.dat: no times: the order of rows is the order of time" in by_rows.notes


YELP: Files = {
    "yelp_academic_dataset_review.json": json_lines(
        {"user_id": "u", "business_id": "b0", "stars": 3.0, "text": "a\nb", "date": "2010-07-07 22:09:11"},
        {"user_id": "u", "business_id": "b1", "stars": 5.0, "text": "", "date": "2011-07-07 22:09:11"},
    ),
    "yelp_academic_dataset_business.json": json_lines(
        {"business_id": "b0", "name": 'Bar "Ü"', "city": "Reno", "state": "NV", "stars": 5.0,
         "attributes": {"RestaurantsPriceRange2": "u'2'", "WiFi": "u'no'"}, "categories": "Bars, Food, Bars"},
        {"business_id": "b1", "name": "Café", "city": "", "state": "PA", "attributes": None, "categories": None},
    ),
}  # fmt: skip


def test_yelp(tmp_path: Path) -> None:
    corpus = load("yelp", write(tmp_path, YELP))

    assert log_of(corpus) == [("u", "b0", 1278540551, 3.0), ("u", "b1", 1310076551, 5.0)]
    assert items_of(corpus) == [
        {"item": "b0", "title": 'Bar "Ü"', "category": ["Bars", "Food"], "city": "Reno", "state": "NV", "price": "2"},
        {"item": "b1", "title": "Café", "category": [], "city": None, "state": "PA", "price": None},
    ]


KUAIREC: Files = {
    "small_matrix.csv": (
        "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        "14,148,4381,6067,2020-07-05 05:27:48.378,20200705.0,1593898068.378,0.7221\n"
        "14,183,11635,6100,2020-07-05 05:28:00.057,20200705.0,1593898080.057,1.9073\n"
        "14,200,1,6100,,,,0.1\n"
    ),
    "big_matrix.csv": (
        "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        "9,183,1,2,2020-07-05 05:28:00.057,20200705,1593898080.057,0.5\n"
    ),
    "kuairec_caption_category.csv": (
        "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
        "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name\n"
        '148,UNKNOWN,"一只猫, 😺","[猫,宠物]",1,宠物,2,UNKNOWN,-124,UNKNOWN\n'
        "183,做饭,,[],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\n"
        "200,UNKNOWN,,[],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\n"
    ),
}


def test_kuairec(tmp_path: Path) -> None:
    corpus = load("kuairec", write(tmp_path, KUAIREC))

    assert log_of(corpus) == [("14", "148", 1593898068378000, 0.7221), ("14", "183", 1593898080057000, 1.9073)]
    assert items_of(corpus) == [
        {"item": "148", "title": "一只猫, 😺", "category": "宠物", "subcategory": None, "tags": ["猫", "宠物"]},
        {"item": "183", "title": "做饭", "category": None, "subcategory": None, "tags": []},
    ]
    assert log_of(load("kuairec", tmp_path / "big_matrix.csv")) == [("9", "183", 1593898080057000, 0.5)]
    # Videos that were watched for less than their length are what a user disliked.
    filtered = filter_corpus(corpus, LogOptions(min_rating=1.0))
    assert log_of(filtered) == [("14", "183", 1593898080057000, 1.9073)]


MIND: Files = {
    "behaviors.tsv": (
        "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0 N5-0\n"
        "2\tU1\t11/11/2019 8:05:58 AM\tN1 N2\tN5-0 N4-1\n"
        "3\tU2\t11/12/2019 6:11:30 PM\t\tN1-0 N9-1 N2-1\n"
    ),
    "news.tsv": "".join(
        f"N{at}\tsports\tgolf{at}\tThe \"{at}\" News\tabstract\thttps://x\t[]\t[]\n" for at in range(1, 6)
    ),
}  # fmt: skip


def test_mind(tmp_path: Path) -> None:
    corpus = load("mind", write(tmp_path, MIND))

    # 2019-11-11 08:05:58 is 1573459558: the history comes a second earlier, once.
    assert sorted(log_of(corpus), key=lambda row: (row[0], row[2])) == [
        ("U1", "N1", 1573459557),
        ("U1", "N2", 1573459557),
        ("U1", "N4", 1573459558),
        ("U1", "N3", 1573463158),
        ("U2", "N2", 1573582290),
    ]
    assert corpus.disliked is not None
    # U1 saw N4 without a click, and clicked it another time.
    assert corpus.disliked.rows() == [
        ("U1", "N5", 1573463158),
        ("U1", "N5", 1573459558),
        ("U2", "N1", 1573582290),
    ]
    assert items_of(corpus)[0] == {
        "item": "N1",
        "title": 'The "1" News',
        "category": "sports",
        "subcategory": "golf1",
    }
    assert "behaviors.tsv: left out 1 row about items without a title, the first of them row 3" in corpus.notes
    assert filter_corpus(corpus, LogOptions()).disliked is not None

    write(tmp_path, {"behaviors.tsv": "1\tU1\t11/11/2019 9:05:58 AM\tN1\tN3\n"})  # as in MIND's test part
    with pytest.raises(RequestError, match=r"behaviors.tsv row 1: the impression 'N3' does not end in -0 or -1"):
        load("mind", tmp_path)


RECBOLE: Files = {
    "x.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "9\t2\t4\t880394520\n9\t3\t4\t8.80394519e8\n9\t1\t4\t\n"
    ),
    "x.item": (
        'item_id:token\tmovie_title:token_seq\tgenre:token_seq\tbrand:token\n1\tOne "day\tA B\tOak\n'
        '2\t"Two" again\tA\t\n3\tThree\t\tAsh\n'
    ),
}


def test_recbole(tmp_path: Path) -> None:
    corpus = load("recbole", write(tmp_path, RECBOLE))

    assert log_of(corpus) == [("9", "2", 880394520, 4.0), ("9", "3", 880394519, 4.0)]
    assert items_of(corpus) == [
        {"item": "1", "title": 'One "day', "genres": ["A", "B"], "brand": "Oak"},
        {"item": "2", "title": '"Two" again', "genres": ["A"], "brand": None},
        {"item": "3", "title": "Three", "genres": [], "brand": "Ash"},
    ]
    dataset = load_plugins().create("dataset", "recbole", {"path": tmp_path / "x.inter"})
    assert [file.name for file in dataset.files()] == ["x.inter", "x.item"]
    (tmp_path / "x.item").unlink()
    with pytest.raises(RequestError, match=r"x.item does not exist: RecBole's items are in NAME.item"):
        load("recbole", tmp_path)


def test_hugging_face(tmp_path: Path) -> None:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rows = {"user_id": ["a", "a"], "item_id": ["1", "2"], "title": ["One", "Two"], "timestamp": [1, 2]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")

    corpus = load("hugging-face", tmp_path / "saved")
    assert log_of(corpus) == [("a", "1", 1), ("a", "2", 2)]
    assert items_of(corpus) == [{"item": "1", "title": "One"}, {"item": "2", "title": "Two"}]
    with pytest.raises(RequestError, match=r"is no folder with state.json or dataset_dict.json"):
        load("hugging-face", write(tmp_path / "empty", {}))


def lenskit(folder: Path, **columns: list[Any]) -> Path:
    """As LensKit 2025 saves a data set: numbers in the relationship are rows of the entities."""
    about = {
        "version": "2025.3",
        "default_interaction": "rating",
        "entities": {"item": {"id_type": "int"}, "user": {"id_type": "str"}},
        "relationships": {"rating": {"entities": {"user": None, "item": None}, "interaction": True}},
    }
    write(folder, {"schema.json": json.dumps(about), "summary.md": "about"})
    items = {"item_id": [40, 41, 42], "title": ["Forty", "One More", None], "genres": [["A"], [], None]}
    pl.DataFrame(items, schema_overrides={"genres": pl.List(pl.String)}).write_parquet(folder / "item.parquet")
    pl.DataFrame({"user_id": ["ann", "bob"]}).write_parquet(folder / "user.parquet")
    numbers = {"user_num": [0, 0, 1], "item_num": [1, 0, 2]}
    schema = {"user_num": pl.Int32, "item_num": pl.Int32}
    pl.DataFrame(numbers | columns, schema_overrides=schema).write_parquet(folder / "rating.parquet")
    return folder


def test_lenskit(tmp_path: Path) -> None:
    corpus = load("lenskit", lenskit(tmp_path / "rated", rating=[4.0, 3.0, 1.0], timestamp=[20, 10, 5]))

    assert log_of(corpus) == [("ann", "41", 20, 4.0), ("ann", "40", 10, 3.0)]
    assert items_of(corpus) == [
        {"item": "40", "title": "Forty", "genres": ["A"]},
        {"item": "41", "title": "One More", "genres": []},
    ]
    counted = load("lenskit", lenskit(tmp_path / "counted", count=[2, 1, 1]))
    assert log_of(counted) == [("ann", "41", 0, 2.0), ("ann", "40", 1, 1.0)]
    with pytest.raises(RequestError, match=r"schema.json names no interactions \(FileNotFoundError\)"):
        load("lenskit", write(tmp_path / "other", {}))


HEADER = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid\n"
MINIONEREC: Files = {
    "train/Games_5.csv": HEADER + (
        "A1,\"['It\\'s 1', 'Two, \"\"2\"\"']\",Three,\"[1, 2]\",3,\"['<a_1>', '<a_2>']\",<a_3>\n"
        "A2,['Three'],It's 1,[3],1,['<a_3>'],<a_1>\n"
    ),
    "valid/Games_5.csv": HEADER + "A1,['Three'],It's 1,[3],1,['<a_3>'],<a_1>\n",
    "test/Games_5.csv": HEADER + "A1,\"['Three', 'It is 1']\",Four,\"[3, 1]\",4,['x'],<a_4>\n",
    "info/Games_5.txt": "<a_1>\tIt's 1\t1\n<a_2>\tTwo, \"2\"\t2\n<a_3>\tThree\t3\n<a_4>\tFour\t4\n",
}  # fmt: skip


def test_minionerec(tmp_path: Path) -> None:
    corpus = load("minionerec", write(tmp_path, MINIONEREC))

    assert corpus.examples is not None
    parts = dict(corpus.examples.select("user", "part").iter_rows())
    items = {user: tuple(each) for user, each in corpus.interactions.group_by("user").agg("item").iter_rows()}
    train, valid, test = (f"{tmp_path}/{part}/Games_5.csv" for part in ("train", "valid", "test"))
    assert items == {
        f"{train}:2": ("1", "2", "3"),
        f"{train}:3": ("3", "1"),
        f"{valid}:2": ("3", "1"),
        f"{test}:2": ("3", "1", "4"),
    }
    assert parts == {f"{train}:2": "train", f"{train}:3": "train", f"{valid}:2": "validation", f"{test}:2": "test"}
    assert items_of(corpus) == [
        {"item": "1", "title": "It's 1", "semantic_id": "<a_1>"},
        {"item": "2", "title": 'Two, "2"', "semantic_id": "<a_2>"},
        {"item": "3", "title": "Three", "semantic_id": "<a_3>"},
        {"item": "4", "title": "Four", "semantic_id": "<a_4>"},
    ]
    assert corpus.notes == ("1 titles in the rows differ from the item's first title, which is taken",)


def test_minionerec_runs_nothing(tmp_path: Path) -> None:
    folder, trace = write(tmp_path, MINIONEREC), tmp_path / "trace"
    for history in (f"[open('{trace}'; 'w').name]", "[[1]]", "{1: 2}", "[" * 5000, "__import__('os')", "[1"):
        write(folder, {"train/Games_5.csv": f"{HEADER}A1,{history},Three,{history},3,['x'],<a_3>\n"})
        with pytest.raises(
            RequestError, match=r"Games_5.csv row 2: 'history_item_id' is no list of texts or numbers"
        ):
            load("minionerec", folder)
    assert not trace.exists()


REAL = Path(__file__).parents[3] / "shared" / "data" / "amazon-industrial"


@pytest.mark.skipif(not REAL.is_dir(), reason="the published files are not here")
def test_minionerec_reads_the_published_files() -> None:
    name = "Industrial_and_Scientific"
    corpus = load("minionerec", REAL / f"{name}-valid.csv.gz", test=REAL / f"{name}-test.csv.gz")

    assert len(corpus.catalogue) == 3686
    assert corpus.examples is not None
    assert corpus.examples.height == 4532 + 4533
    assert corpus.examples.filter(part="test").height == 4533
    row = corpus.interactions.filter(user=f"{name}-valid.csv:2")["item"].to_list()
    assert row == ["3112", "114"]


UNREAD = ("tags.csv", "links.csv", "big_matrix.csv")
PUBLISHED: Mapping[str, Files] = {
    "movielens-1m": ML_1M,
    "movielens-25m": ML_LATEST,
    "amazon-2018": AMAZON_2018,
    "amazon-2023": AMAZON_2023,
    "steam": STEAM,
    "goodreads": GOODREADS,
    "lastfm-hetrec": LASTFM,
    "yelp": YELP,
    "kuairec": KUAIREC,
    "mind": MIND,
}
PUBLISHED = {
    name: {file: data for file, data in files.items() if file not in UNREAD} for name, files in PUBLISHED.items()
}


def hostile(files: Files) -> Iterable[tuple[str, str, bytes]]:
    """Variants of the files that cannot be read: what was done, the file, its content."""
    for name in files:
        content = files[name]
        data = content.encode() if isinstance(content, str) else content
        yield "empty", name, gzip.compress(b"") if name.endswith(".gz") else b""
        if name.endswith(".gz"):
            yield "cut off", name, gzip.compress(data)[:-9]
        if b"{" not in data[:1]:
            yield "a cell too few", name, data + re.split(b"::|\t|,", data.splitlines()[-1])[0] + b"\n"
        yield "zeros", name, b"\x00" * 64


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_cannot_be_read_names_the_file_and_what_is_published(tmp_path: Path, name: str) -> None:
    for what, file, data in hostile(PUBLISHED[name]):
        folder = write(tmp_path / what / file, PUBLISHED[name])
        (folder / file).write_bytes(data)
        with pytest.raises(RequestError) as raised:
            load(name, folder)
        assert file in str(raised.value), what
        assert f"'{name}' reads" in str(raised.value), what
        assert "\n" not in str(raised.value)
        (folder / file).unlink()
        with pytest.raises(RequestError, match=rf"'{name}' reads .* ships them"):
            load(name, folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str) -> None:
    files = {
        file: data if isinstance(data, bytes) else b"\xef\xbb\xbf" + data.encode()
        for file, data in PUBLISHED[name].items()
    }
    plain, marked = load(name, write(tmp_path / "plain", PUBLISHED[name])), load(name, write(tmp_path / "bom", files))

    assert log_of(plain) == log_of(marked)
    assert items_of(plain) == items_of(marked)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, ML_LATEST)
    write(folder, {"ratings.csv": "userId,film,rating,timestamp\n1,5,4.5,964981247\n"})

    with pytest.raises(RequestError) as raised:
        load("movielens-25m", folder)
    assert str(raised.value) == (
        f"{folder}/ratings.csv has no column 'movieId'; it has 'userId', 'film', 'rating', 'timestamp'; "
        "'movielens-25m' reads ratings.csv and movies.csv as GroupLens (https://grouplens.org/datasets/movielens/) "
        "in ml-25m.zip ships them"
    )


def test_a_column_of_objects_is_told(tmp_path: Path) -> None:
    review = {"user_id": {"id": "u"}, "parent_asin": "P1", "rating": 5, "timestamp": 3}
    folder = write(tmp_path, {**AMAZON_2023, "Games.jsonl.gz": json_lines(review)})

    with pytest.raises(
        RequestError, match=r"Games.jsonl.gz: column 'user_id' holds lists or objects, not text or nu"
    ):
        load("amazon-2023", folder)


def test_a_time_or_rating_that_cannot_be_read_names_its_row(tmp_path: Path) -> None:
    folder = write(tmp_path, ML_LATEST)
    for row, message in (("1,6,3.0,noon", "row 3: 'noon' is not a time"), ("1,6,x,7", "row 3: rating 'x' is not a")):
        write(folder, {"ratings.csv": f"userId,movieId,rating,timestamp\n1,5,4.5,964981247\n{row}\n"})
        with pytest.raises(RequestError, match=message):
            load("movielens-25m", folder)
    write(folder, {"ratings.csv": "userId,movieId,rating,timestamp\n1,99,4.5,964981247\n"})
    with pytest.raises(RequestError, match=r"no interaction is left"):
        load("movielens-25m", folder)


def test_files_decide_whether_a_log_is_read_again(tmp_path: Path) -> None:
    folder = write(tmp_path, LASTFM)
    files = load_plugins().create("dataset", "lastfm-hetrec", {"path": folder}).files()
    assert {file.name for file in files} == set(LASTFM)


def contract(name: str, files: Files) -> type[DatasetContract]:
    """The contract tests of a data set."""

    @pytest.fixture
    def options(self: DatasetContract, tmp_path: Path) -> dict[str, str]:
        return {"path": str(write(tmp_path, files))}

    return type(name, (DatasetContract,), {"name": f"rosepo/{name}", "options": options})


CONTRACTS: Mapping[str, Files] = {
    **PUBLISHED,
    **dict.fromkeys(("movielens-latest-small", "movielens-32m"), ML_LATEST),
    "recbole": RECBOLE,
    "minionerec": MINIONEREC,
}
for each, rows in CONTRACTS.items():
    globals()[f"Test{each.title().replace('-', '')}"] = contract(each, rows)


class TestLensKit(DatasetContract):
    name = "rosepo/lenskit"

    @pytest.fixture
    def options(self, tmp_path):
        return {"path": str(lenskit(tmp_path / "saved", timestamp=[20, 10, 5]))}


class TestHuggingFace(DatasetContract):
    name = "rosepo/hugging-face"

    @pytest.fixture
    def options(self, tmp_path):
        rows = {"user_id": ["a", "a"], "item_id": ["1", "2"], "title": ["One", "Two"], "timestamp": [1, 2]}
        pl.DataFrame(rows).write_parquet(tmp_path / "train-0.parquet")
        return {"path": str(tmp_path)}
