"""Fetching pinned wheels, against a folder that pip takes for its index."""

import hashlib
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest

from rosepo_core.api import RequestError, cache_folder, fetch_wheel

METADATA = "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Listener:
    def __init__(self):
        self.notes = []

    def progress(self, done, total, unit):
        pass

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with tiny_data 1.0, the only index that pip knows."""
    folder = tmp_path / "index"
    folder.mkdir()
    with ZipFile(folder / "tiny_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_data/log.txt", "1 2 3\n")
        wheel.writestr("tiny_data-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_data-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("tiny_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def sha256(index):
    return hashlib.sha256((index / "tiny_data-1.0-py3-none-any.whl").read_bytes()).hexdigest()


def wheels(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "wheels").iterdir())


def empty(index):
    for file in index.iterdir():
        file.unlink()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ROSEPO_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "rosepo"


def test_fetches_once_and_notices_once(index, sha256, tmp_path):
    first = Listener()
    path = fetch_wheel("tiny-data==1.0", sha256, first, notice="Free for research.")
    assert path == tmp_path / "cache" / "wheels" / "tiny_data-1.0-py3-none-any.whl"
    assert first.notes[0] == "Free for research."
    with ZipFile(path) as wheel:
        assert wheel.read("tiny_data/log.txt") == b"1 2 3\n"

    empty(index)
    second = Listener()
    assert fetch_wheel("tiny-data==1.0", sha256, second, notice="Free for research.") == path
    assert second.notes == []


def test_another_hash_leaves_nothing(index, tmp_path):
    with pytest.raises(
        RequestError, match=r"tiny-data==1\.0 from the package index has SHA-256 [0-9a-f]{64}, not 00"
    ):
        fetch_wheel("tiny-data==1.0", "00", Listener())
    assert wheels(tmp_path) == []


def test_damaged_file_is_fetched_again(index, sha256):
    path = fetch_wheel("tiny-data==1.0", sha256, Listener())
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    listener = Listener()
    assert fetch_wheel("tiny-data==1.0", sha256, listener).read_bytes() == whole
    assert "is not the expected file" in listener.notes[0]


def test_out_of_reach_then_by_hand(index, sha256, tmp_path):
    wheel = (index / "tiny_data-1.0-py3-none-any.whl").read_bytes()
    empty(index)
    with pytest.raises(RequestError) as raised:
        fetch_wheel("tiny-data==1.0", sha256, Listener())
    folder = tmp_path / "cache" / "wheels"
    assert str(raised.value) == (
        "pip could not fetch tiny-data==1.0 (No matching distribution found for tiny-data==1.0): "
        f"connect to a package index, or put that wheel (SHA-256 {sha256}) into {folder} by hand"
    )
    (folder / "tiny_data-1.0-py3-none-any.whl").write_bytes(wheel)
    assert fetch_wheel("tiny-data==1.0", sha256, Listener()).read_bytes() == wheel


def test_no_pip(index, sha256, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))
    with pytest.raises(RequestError, match=r"tiny-data==1\.0 is not in the cache and this environment has no pip"):
        fetch_wheel("tiny-data==1.0", sha256, Listener())


def test_cache_that_cannot_be_written(index, sha256, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "file"))
    with pytest.raises(RequestError, match=r"cannot write to the cache folder .*file/wheels .*set ROSEPO_CACHE"):
        fetch_wheel("tiny-data==1.0", sha256, Listener())


def test_requirement_must_be_pinned(index):
    with pytest.raises(RequestError, match=r"requirement 'tiny-data>=1': write it as 'name==version'"):
        fetch_wheel("tiny-data>=1", "00", Listener())


@pytest.mark.skipif(sys.platform == "win32", reason="renaming over a file that is being read needs POSIX")
def test_several_at_once(index, sha256, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda _: fetch_wheel("tiny-data==1.0", sha256, Listener()), range(3)))
    assert paths == {tmp_path / "cache" / "wheels" / "tiny_data-1.0-py3-none-any.whl"}
    assert wheels(tmp_path) == ["tiny_data-1.0-py3-none-any.whl"]
