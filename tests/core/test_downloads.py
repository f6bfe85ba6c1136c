"""Data sets that are fetched from their publishers, here from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.downloads import downloaded
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import SilentReporter

RATINGS = "userId,movieId,rating,timestamp\n7,31,5.0,978300760\n7,32,3.0,978302109\n"
MOVIES = "movieId,title,genres\n31,Oak (1991),Drama\n32,Elm (1992),Action\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served; rosepo's cache is empty."""
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "published"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def as_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ml-latest-small/ratings.csv", RATINGS)
        archive.writestr("ml-latest-small/movies.csv", MOVIES)


def as_tar(file: Path) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for name, text in (("ratings.csv", RATINGS), ("movies.csv", MOVIES)):
            about = tarfile.TarInfo(name)
            about.size = len(text)
            archive.addfile(about, io.BytesIO(text.encode()))


def sum_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(("name", "write"), [("ml.zip", as_zip), ("ml.tar.gz", as_tar)])
def test_an_archive_is_fetched_once(published: tuple[Path, str], name: str, write: Callable[[Path], None]) -> None:
    folder, address = published
    write(folder / name)
    options = {"url": f"{address}/{name}", "sha256": sum_of(folder / name)}
    (folder / "other").touch()
    for _ in range(2):
        dataset = load_plugins().create("dataset", "movielens-latest-small", options)
        assert dataset.files() == []
        corpus = dataset.load(SilentReporter())
        assert corpus.interactions["item"].to_list() == ["31", "32"]
        assert corpus.catalogue["title"].to_list() == ["Oak (1991)", "Elm (1992)"]
        (folder / name).unlink(missing_ok=True)


def test_several_files_are_put_together(published: tuple[Path, str]) -> None:
    folder, address = published
    (folder / "ratings.csv").write_text(RATINGS)
    (folder / "movies.csv").write_text(MOVIES)
    urls = [f"{address}/ratings.csv", f"{address}/movies.csv"]
    found = downloaded(urls, [sum_of(folder / "ratings.csv"), sum_of(folder / "movies.csv")], SilentReporter())
    assert {file.name: file.read_text() for file in found.iterdir()} == {"ratings.csv": RATINGS, "movies.csv": MOVIES}


def test_what_is_not_as_asked_leaves_nothing(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = published
    (folder / "log.csv").write_text(RATINGS)
    right = sum_of(folder / "log.csv")
    cases = [
        (f"{address}/log.csv", [], rf"must have the sum of each of the 1 files.*what came has {right}"),
        (f"{address}/log.csv", ["0" * 64], rf"has the SHA-256 {right}, and dataset\.sha256 says 0000"),
        (f"{address}/none.csv", [right], r"none\.csv \(dataset\.url\) cannot be fetched \(File not found\)"),
        ("ftp://host/log.csv", [right], r"is no address that begins with https:// or http://"),
        (f"{address}/a b.csv", [right], r"a b\.csv \(dataset\.url\) cannot be fetched \(URL can't contain control"),
        ("http://127.0.0.1:9/log.csv", [right], r"cannot be fetched \(.*refused"),
    ]
    for url, sums, message in cases:
        with pytest.raises(RequestError, match=message):
            downloaded([url], sums, SilentReporter())
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_an_archive_that_breaks_off_is_one_error(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = published
    as_tar(folder / "whole.tar.gz")
    (folder / "ml.tar.gz").write_bytes((folder / "whole.tar.gz").read_bytes()[:150])
    with pytest.raises(RequestError, match=r"ml\.tar\.gz \(dataset\.url\): the archive cannot be unpacked"):
        downloaded([f"{address}/ml.tar.gz"], [sum_of(folder / "ml.tar.gz")], SilentReporter())
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_an_archive_cannot_write_elsewhere(published: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = published
    with tarfile.open(folder / "evil.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../../../evil"))
    with pytest.raises(RequestError, match=r"evil\.tar \(dataset\.url\): the archive cannot be unpacked"):
        downloaded([f"{address}/evil.tar"], [sum_of(folder / "evil.tar")], SilentReporter())
    with zipfile.ZipFile(folder / "evil.zip", "w") as archive:
        archive.writestr("../../../evil", "x")
    downloaded([f"{address}/evil.zip"], [sum_of(folder / "evil.zip")], SilentReporter())
    assert [file for file in tmp_path.rglob("evil") if (tmp_path / "cache" / "downloads") not in file.parents] == []


@pytest.mark.parametrize("options", [{}, {"path": "ml", "url": "https://host/ml.zip"}])
def test_one_source_is_named(options: dict[str, str]) -> None:
    with pytest.raises(RequestError, match=r"^options of 'dataset': set path to the publisher's files, or url"):
        load_plugins().create("dataset", "movielens-1m", options)
