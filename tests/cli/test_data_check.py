"""`rosepo data check` on tables: how each was read is told in 80 columns, and what was left out is counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def notes(out: str) -> list[str]:
    """The notes, each in one line again."""
    assert max(map(len, out.splitlines())) <= 80
    return re.sub(r" *\n(?!note|warning)", " ", out[out.index("note: ") :].strip()).splitlines()


def test_a_table_without_a_header(rosepo: Command, tmp_path: Path) -> None:
    log, films = tmp_path / "ratings.dat", tmp_path / "movies.dat"
    log.write_text("".join(f"{user}::{item}::4::{978300760 + item}\n" for user in (1, 2) for item in (1, 2, 3)))
    films.write_bytes(
        "1::Été, L' (1995)::Drama|War\n2::Oak::(no genres listed)\n3::Ash::Drama|War\n".encode("latin-1")
    )
    flags = ["--dataset.catalogue", films, "--dataset.separator", "::", "--dataset.encoding", "latin-1"]

    done = rosepo("data", "check", log, *flags)
    assert (done.code, done.out) == (2, "")
    assert "dataset.columns=user,item,rating,timestamp" in done.err

    flags += ["--dataset.columns", "user,item,rating,timestamp"]
    done = rosepo("data", "check", log, *flags)
    assert "dataset.catalogue_columns=item,title,genres" in done.err

    flags += ["--dataset.catalogue_columns=item,title,genres"]
    done = rosepo("data", "check", log, *flags)
    assert done.code == 0, done.err
    assert notes(done.out)[:4] == [
        "note: ratings.dat: read 6 rows of 4 columns (separator '::', latin-1, no header)",
        "note: ratings.dat: guessed user='user', item='item', timestamp='timestamp', rating='rating'",
        "note: movies.dat: read 3 rows of 3 columns (separator '::', latin-1, no header)",
        "note: movies.dat: guessed catalogue_item='item', title='title'",
    ]


def test_what_is_left_out_of_a_folder_is_counted(rosepo: Command, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "part-1.csv").write_text("user;item;title;time\n" + "".join(f"u;{at};t{at};{at}\n" for at in range(4)))
    (folder / "part-2.csv").write_text("user;item;title;time\nu;7;;8\nu;8;t8;\nu;1;t1;1\n")

    done = rosepo("data", "check", folder, "--dataset.untimed=drop", "--dataset.untitled=drop")

    assert done.code == 0, done.err
    assert notes(done.out) == [
        "note: log: read 7 rows of 4 columns from 2 files, part-1.csv to part-2.csv (separator ';' guessed)",
        "note: log: dropped 1 interaction without a time",
        "note: log: guessed user='user', item='item', timestamp='time', title='title'",
        "note: log: dropped 1 interaction with 1 item without a title, e.g. '7'",
        "note: log: 1 interaction equal to an earlier one (user, item, timestamp)",
        "note: duplicates='last' dropped 1 of 5 interactions",
    ]
