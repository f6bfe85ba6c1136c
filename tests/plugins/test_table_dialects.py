"""Tables in every dialect, and what is said of those that cannot be read: file, row, and advice that works."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from rosepo_core.config import load_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing.toys import SilentReporter

ADVICE = re.compile(r"dataset\.(\w+)=('[^']*'|\S+)")
HEADER = "user,item,title,time\n"


def load(path: Path, **options: Any) -> Corpus:
    corpus: Corpus = load_plugins().create("dataset", "table", {"path": path, **options}).load(SilentReporter())
    return corpus


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(RequestError) as raised:
        load(path, **options)
    return str(raised.value).replace(f"{path.parent}/", "")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def advice(said: str) -> tuple[str, str]:
    """The first option that an error names with a value."""
    found = ADVICE.search(said)
    assert found, said
    value = found[2]
    return found[1], value.strip("'") if value.startswith("'") else value.rstrip(",.")


@pytest.mark.parametrize(
    ("name", "content", "advised", "rows"),
    [
        ("log.csv", "u1,a,1\nu1,b,2\n", ["columns"], 2),
        ("log.csv", "u1,a,5,1\nu1,b,4,2\n", ["columns"], 2),
        ("log.csv", "a,u1\nb,u1\n", ["columns"], 2),
        ("log.dat", "u1::a::5::1::x\nu1::b::4::2::y\n", ["columns"], 2),
        ("log.csv", (HEADER + "u,a,Café,1\n").encode("latin-1"), ["encoding"], 1),
        ("log.csv", (HEADER + "u,a,Caf\x92,1\n").encode("latin-1"), ["encoding"], 1),
        ("log.csv", HEADER + 'u,a,"Ash,1\nu,b,Birch,2\n', ["quoting"], 2),
        ("log.tsv", HEADER.replace(",", "\t") + 'u\ta\t"Ash" again\t1\n', ["quoting"], 1),
        ("log.tsv", 'u1\ta\t"Ash" again\nu1\tb\tBirch\n', ["quoting", "columns"], 2),
        ("log.csv", "user;item;title;time, local\nu;a;Ash;1\n", ["separator"], 1),
        ("log.csv", "user\titem\ttitle\ttime,local\nu\ta\tAsh\t1\n", ["separator"], 1),
        ("log.csv", "user;item;title;time;rating\nu;a;Ash;1;4,5\nu;b;Birch;2;3\n", ["decimal"], 2),
        ("log.csv", "user;item;title;time\nu;a;Ash;1593898068,5\nu;b;Birch;1593898069\n", ["decimal"], 2),
        ("log.csv", HEADER + "u,a,Ash,1\nu,b,Birch,\n", ["untimed"], 1),
        ("log.csv", HEADER + "u,a,Ash,1\nu,b,,2\n", ["untitled"], 1),
        ("log.csv", HEADER + "u,a,Ash,31/12/2016\nu,b,Birch,1/1/2016\n", ["time_format"], 2),
        ("log.csv", "user,item,title,text\nu,a,Ash,fine\n", ["title"], 1),
        ("log.csv", "user,item,title,text\nu1,a,Ash,f\nu2,b,,g\n", ["title", "untitled"], 1),
    ],
)
def test_advice_that_is_followed_reads_the_file(
    tmp_path: Path, name: str, content: str | bytes, advised: list[str], rows: int
) -> None:
    path = write(tmp_path / name, content)
    # Titles are not what is tested here: where there is no column of them, the item is its own title.
    options: dict[str, Any] = {}
    followed = []
    while len(followed) < len(advised):
        said = refusal(path, **options)
        if "called like a title" in said:
            options["title"] = "item"
        else:
            option, value = advice(said)
            followed.append(option)
            options[option] = value
    if "title" not in path.read_text("latin-1"):
        options["title"] = "item"
    corpus = load(path, **options)
    assert followed == advised
    assert corpus.interactions.height == rows


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_unicode_is_recognized(tmp_path: Path, encoding: str, suffix: str) -> None:
    text = HEADER + "u,a,Café 猫,1\n" if suffix == ".csv" else '{"user":"u","item":"a","title":"Café 猫","time":1}\n'
    path = write(tmp_path / f"log{suffix}", text.encode(encoding))

    assert load(path).catalogue.rows() == [("a", "Café 猫")]


def test_an_encoding_by_name_is_for_files_that_need_it(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time\nué,x,1\n")
    catalogue = write(tmp_path / "items.csv", "item,title\nx,日本\n".encode("shift_jis"))

    corpus = load(log, catalogue=catalogue, encoding="shift_jis")

    assert corpus.interactions.rows() == [("ué", "x", 1)]
    assert corpus.catalogue.rows() == [("x", "日本")]
    # Seven-bit encodings look like ASCII.
    write(log, (HEADER + "u,a,日本,1\n").encode("iso2022_jp"))
    assert load(log, encoding="iso2022_jp").catalogue.rows() == [("a", "日本")]


@pytest.mark.parametrize("separator", ["::", ";", "|", "\t", "\\t", ",", "^", "||"])
def test_separators(tmp_path: Path, separator: str) -> None:
    between = separator.replace("\\t", "\t")
    path = write(
        tmp_path / "log.txt", "\n".join(map(between.join, (["user", "item", "title"], ["u", "a", "Ash: x y"])))
    )

    assert load(path, separator=separator).catalogue.rows() == [("a", "Ash: x y")]
    if separator in ("^", "||"):
        return
    corpus = load(path)
    assert corpus.catalogue.rows() == [("a", "Ash: x y")]
    assert corpus.notes[0] == f"log.txt: read 1 rows of 3 columns (separator {between!r} guessed)"


def test_one_separator_for_a_log_and_another_for_its_catalogue(tmp_path: Path) -> None:
    log = write(tmp_path / "log", "user^item^time\nu^a^1\n")
    catalogue = write(tmp_path / "items.csv", "item,title\na,Ash\n")

    assert load(log, catalogue=catalogue, separator="^").catalogue.rows() == [("a", "Ash")]
    assert load(catalogue, catalogue=log, separator="^", user="item", title="user").catalogue.height == 1
    write(catalogue, "a|Ash\n")
    assert load(log, catalogue=catalogue, separator="^", catalogue_columns=["item", "title"]).notes[2] == (
        "items.csv: read 1 rows of 2 columns (separator '|' guessed, no header)"
    )


def test_quotes_of_a_log_and_of_its_catalogue_are_apart(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", 'user,item,time\n"u,a,1\n')
    catalogue = write(tmp_path / "items.tsv", 'item\ttitle\na\t"Ash"\n')

    assert load(log, catalogue=catalogue, quoting="none").interactions["user"].to_list() == ['"u']
    assert load(log, catalogue=catalogue, quoting="none").catalogue["title"].to_list() == ["Ash"]
    corpus = load(log, catalogue=catalogue, quoting="none", catalogue_quoting="none")
    assert corpus.catalogue["title"].to_list() == ['"Ash"']
    atomic = write(tmp_path / "items.item", 'item\ttitle\na\t"Ash"\n')
    assert load(log, catalogue=atomic, quoting="none").catalogue["title"].to_list() == ['"Ash"']
    assert load(log, catalogue=atomic, quoting="none", catalogue_quoting="csv").catalogue["title"].to_list() == [
        "Ash"
    ]


def test_headers_that_pandas_writes(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ",user,item,title\n0,u,a,Ash\n1,u,b,Birch\n")
    assert load(path).interactions["item"].to_list() == ["a", "b"]
    write(path, ",0,1,2\n0,u,a,Ash\n1,u,b,Birch\n")
    assert load(path, user=0, item=1, title=2).interactions["item"].to_list() == ["a", "b"]


def test_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for text in (
        "user,item,title\r\nu,a,Ash\r\n",
        "user,item,title\ru,a,Ash\r",
        "\n\nuser,item,title\n\nu,a,Ash\n  \n",
    ):
        write(path, text)
        assert load(path).catalogue.rows() == [("a", "Ash")]
    write(path, "\n\nuser,item,title,time\n\nu,a,Ash,x\n")
    assert refusal(path).startswith("log.csv row 5: timestamp 'x'")


@pytest.mark.parametrize(
    ("cells", "format_", "timestamps"),
    [
        (["10 1, 2016", "09 12, 2016"], "%m %d, %Y", [1475280000, 1473638400]),
        (["31.12.1999 23:59", "1.1.2000 00:00"], "%d.%m.%Y %H:%M", [946684740, 946684800]),
        (["1970-01-01 00:00:00.25"], "%Y-%m-%d %H:%M:%S.%f", [250_000]),
        (["01/Jan/1970:01:00:00 +0100"], "%d/%b/%Y:%H:%M:%S %z", [0]),
    ],
)
def test_times_by_their_format(tmp_path: Path, cells: list[str], format_: str, timestamps: list[int]) -> None:
    rows = "".join(f'u,{at},Ash,"{cell}"\n' for at, cell in enumerate(cells))

    corpus = load(write(tmp_path / "log.csv", HEADER + rows), time_format=format_)

    assert corpus.interactions["timestamp"].to_list() == timestamps


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (
            ["1/2/2016", "3/4/2016"],
            {},
            "timestamp '1/2/2016' is not a number or an ISO 8601 date or time: dataset.time_format='%m/%d/%Y' or "
            "dataset.time_format='%d/%m/%Y' reads the whole column",
        ),
        (
            ["1.2.2016"],
            {"time_format": "%m/%d/%Y"},
            "timestamp '1.2.2016' is not written as dataset.time_format='%m/%d/%Y' says: "
            "dataset.time_format='%d.%m.%Y' reads the whole column",
        ),
        (
            ["7"],
            {"time_format": "%d"},
            "timestamp '7' is not written as dataset.time_format='%d' says: leave it unset",
        ),
        (
            ["7,5"],
            {"decimal": ".", "time_format": "%H"},
            "timestamp '7,5' is not written as dataset.time_format='%H' ",
        ),
    ],
)
def test_times_that_cannot_be_read(tmp_path: Path, cells: list[str], options: dict[str, str], message: str) -> None:
    rows = "".join(f'u,{at},Ash,"{cell}"\n' for at, cell in enumerate(cells))

    assert refusal(write(tmp_path / "log.csv", HEADER + rows), **options).startswith(f"log.csv row 2: {message}")


def test_a_guessed_column_of_times_may_be_empty(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv", "user,item,title,time,seen_date\nu,a,Ash,,2020-01-02\nu,b,Birch,NaN,2020-01-01\n"
    )

    assert load(path).interactions["timestamp"].to_list() == [0, 1]
    assert load(path).notes[1:3] == (
        "log.csv: 'time' is empty throughout",
        "log.csv: no timestamp column: the order of rows is the order of time; dataset.timestamp='seen_date' may be "
        "one",
    )
    assert load(path, timestamp="seen_date").interactions["timestamp"].to_list() == [1577923200, 1577836800]
    assert refusal(path, timestamp="time") == (
        "log.csv: column 'time' (dataset.timestamp) is empty throughout: name another"
    )


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("log.csv", HEADER + "u,a,Ash,1\nu,b\n", {}, "log.csv row 3: 2 fields, but 4 columns; mend it"),
        ("log.csv", HEADER + 'u,a,"Ash",1\nu,b\n', {}, "log.csv row 3: 2 fields, but 4 columns; mend it"),
        (
            "log.dat",
            "user^item\nu^a\n",
            {},
            "log.dat: cannot tell what stands between the cells: set dataset.sep",
        ),
        ("log.dat", "user::item\nu::a::1\n", {}, "log.dat row 2: 3 fields, but 2 columns; mend it or take it out"),
        (
            "log.csv",
            '"user";"item"\n"u";"a \\"b\\""\n',
            {},
            "log.csv row 2: a cell in quotes goes on after its closing quote, where ';' should follow; mend it",
        ),
        (
            "log.csv",
            '"user","item"\nu,"a\n',
            {},
            "log.csv row 2: a quote is opened and never closed; mend it or take it out",
        ),
        (
            "log.csv",
            HEADER + 'u,a,"A"sh,1\nu,"b,c",B,2\n',
            {},
            "log.csv row 2: a cell in quotes goes on after its clos",
        ),
        (
            "log.csv",
            HEADER + HEADER + "u,a,Ash,1\n",
            {},
            "log.csv row 2 repeats row 1, the names of the columns: take",
        ),
        (
            "log.csv",
            HEADER,
            {"columns": "a,b,c,d"},
            "log.csv row 1 looks like names of columns ('user', 'item', 'tit",
        ),
        (
            "log.csv",
            "u,a\n",
            {"columns": "user"},
            "log.csv row 1 has 2 fields ('u', 'a'), but dataset.columns names 1",
        ),
        (
            "log.csv",
            HEADER + "u,a,Ash,1\n",
            {"separator": ";"},
            "dataset.separator=';' does not part the cells of log",
        ),
        ("log.txt", "a::b\n", {"quoting": "csv"}, "log.txt: quotes around cells need a separator of one character"),
        (
            "log.json",
            "{}",
            {"columns": "user"},
            "log.json: dataset.columns is for tables of text alone, such as .csv",
        ),
        ("log.json", "{}", {"quoting": "none"}, "log.json: dataset.quoting is for tables of text alone"),
        (
            "log.json",
            '[{"user": "u"},\n{"user" 1}]',
            {},
            "log.json line 2: Expecting ':' delimiter (column 9): neither",
        ),
        ("log.json", "[" * 9999, {}, "log.json line 1: lists or objects are nested too deeply (column 1)"),
        ("log.json", "[1]", {}, "log.json row 1: not a JSON object"),
        (
            "log.json",
            '{"user": {"0": "u"}}',
            {},
            "log.json: all of its keys hold objects or lists ('user'): write an",
        ),
        (
            "log.json",
            '{"user":[1],"item":2}',
            {"user": "user"},
            "log.json: column 'user' (dataset.user) holds lists or",
        ),
        (
            "log.csv",
            "ü".encode("latin-1"),
            {"encoding": "ascii"},
            "log.csv line 1: not ascii text ('ascii' codec can't",
        ),
        (
            "log.csv.gz",
            gzip.compress(HEADER.encode(), mtime=0)[:-4],
            {},
            "log.csv.gz: the gzip archive is damaged or cut off",
        ),
        ("log", HEADER, {}, "log (dataset.path): the name must end in .csv, .tsv, "),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: str | bytes, options: Any, message: str) -> None:
    assert refusal(write(tmp_path / name, content), **options).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "latin-11"}, r"option 'dataset\.encoding' = 'latin-11': .*not an encoding that Python knows"),
        ({"encoding": "rot13"}, r"option 'dataset\.encoding' = 'rot13': .*not an encoding that Python knows"),
        ({"separator": '"'}, r"option 'dataset\.separator' = '\"': .*write the characters between two cells"),
        ({"columns": "user,,item"}, r"option 'dataset\.columns\.1' = '': string should have at least 1 character"),
        ({"decimal": ";"}, r"option 'dataset\.decimal' = ';'"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load(tmp_path / "log.csv", **options)


def test_half_a_surrogate_pair_and_numbers_beyond_64_bits_in_json(tmp_path: Path) -> None:
    rows = '{"user":"u","item":18446744073709551617,"title":"x \\ud83d y"}\n{"user":1,"item":"b","title":2.5}\n'

    corpus = load(write(tmp_path / "log.jsonl", rows))

    assert corpus.interactions["user"].to_list() == ["u", "1"]
    assert corpus.catalogue.rows() == [("18446744073709551617", "x ? y"), ("b", "2.5")]


def test_a_catalogue_of_other_ids(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", "user,item,time\nu,a,1\n")
    catalogue = write(tmp_path / "items.csv", "item,code,title\n1,a,Ash\n")

    assert refusal(log, catalogue=catalogue, untitled="drop") == (
        "log.csv: none of its items (the first is 'a') has a title in items.csv (its first is '1'): are these the "
        "same ids? dataset.item and dataset.catalogue_item name the columns"
    )
    assert load(log, catalogue=catalogue, catalogue_item="code").catalogue["title"].to_list() == ["Ash"]


def test_the_item_is_called_the_same_in_both_tables(tmp_path: Path) -> None:
    """Though another column of the catalogue has a name that is surer."""
    log = write(tmp_path / "log.csv", "user,asin,time\nu,a,1\n")
    catalogue = write(tmp_path / "items.csv", "item_id,asin,title\n7,a,Ash\n")

    assert load(log, catalogue=catalogue).catalogue["item"].to_list() == ["a"]


def test_a_dialect_comes_through_the_configuration(tmp_path: Path) -> None:
    """From the command line to the file of a run and back."""
    path = write(tmp_path / "log.txt", "u;a;A's;31.12.1999\nu;b;B;1.1.2000\n")
    asked = {
        "path": str(path),
        "columns": "user,item,title,time",
        "separator": ";",
        "encoding": "latin-1",
        "quoting": "none",
        "decimal": ",",
        "time_format": "%d.%m.%Y",
        "untimed": "drop",
    }

    config = load_config(None, [("dataset", "table"), *((f"dataset.{key}", value) for key, value in asked.items())])
    (tmp_path / "config.toml").write_text(config.to_toml())
    again = load_config(tmp_path / "config.toml").resolved()["dataset"]

    assert again == config.resolved()["dataset"]
    options = {key: value for key, value in again.items() if key != "name" and value is not None}
    assert load(**options | {"path": path}).interactions.rows() == [("u", "a", 946598400), ("u", "b", 946684800)]
