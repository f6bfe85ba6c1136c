"""`rosepo clean`: what the cache holds, what goes, and what never goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

OLD = 1_000_000_000  # 2001-09-09 01:46:40 UTC


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel, a model of two files, two leftovers, a plugin's file, a user's hidden folder, and links to outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x" * 5000)
    folder = tmp_path / "cache"
    for path, size in {
        "wheels/a-1-py3-none-any.whl": 100,
        "wheels/.b-2-xyz/b.whl": 20,
        "models/tiny-1/model.safetensors": 1000,
        "models/tiny-1/config.json": 30,
        ".extract-abc/model.gguf": 7,
        "acme/index.bin": 9,
        ".ssh/key": 3,
    }.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
        os.utime(file, (OLD, OLD))
    (folder / "models" / "tiny-1" / "linked").symlink_to(outside)
    (folder / "models" / "link").symlink_to(outside)
    monkeypatch.setenv("ROSEPO_CACHE", str(folder))
    return folder


def test_what_the_cache_holds_is_shown_and_nothing_goes(cache, rosepo, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (cache / "models" / "tiny-1" / "linked").unlink()
    document = rosepo("clean", "--json").json
    sizes = {f"{each['kind']}/{each['name']}": each["bytes"] for each in document["entries"]}
    link = len(str(cache.parent / "outside"))
    assert sizes == {
        "other/.extract-abc": 7,
        "other/.ssh": 3,
        "acme/index.bin": 9,
        "models/link": link,
        "models/tiny-1": 1030,
        "wheels/.b-2-xyz": 20,
        "wheels/a-1-py3-none-any.whl": 100,
    }
    by_name = {each["name"]: each for each in document["entries"]}
    assert by_name["tiny-1"]["last_used"] == "2001-09-09T01:46:40+00:00"
    assert {name for name, each in by_name.items() if each["incomplete"]} == {".extract-abc", ".ssh", ".b-2-xyz"}
    assert {name for name, each in by_name.items() if not each["made_again"]} == {".ssh", "index.bin"}
    shown = rosepo("clean")
    assert (shown.code, shown.err) == (0, "")
    assert max(map(len, shown.out.splitlines()[:-3])) <= 80
    assert "2001-09-09  converted again" in shown.out
    assert rosepo("clean", "--json").json == document


def test_a_name_takes_one_thing_and_says_how_much_was_freed(cache, rosepo):
    (cache / "wheels" / "tiny-1").write_bytes(b"x" * 50)
    several = rosepo("clean", "--remove", "tiny-1")
    assert (several.code, several.out) == (2, "")
    assert "the cache holds several 'tiny-1': write models/tiny-1 or wheels/tiny-1" in several.err
    done = rosepo("clean", "--remove", "wheels/tiny-1", "--remove", "index.bin")
    assert done.code == 0
    assert "freed 59 bytes" in done.out
    assert not (cache / "wheels" / "tiny-1").exists()
    assert not (cache / "acme" / "index.bin").exists()
    assert (cache / "models" / "tiny-1" / "config.json").exists()
    missing = rosepo("clean", "--remove", "models", "--remove", "a-1-py3-none-any.whl")
    assert missing.code == 2
    assert "the cache holds no 'models'" in missing.err
    assert (cache / "wheels" / "a-1-py3-none-any.whl").exists()


def test_all_takes_what_rosepo_made_and_nothing_behind_a_link(cache, rosepo):
    done = rosepo("clean", "--remove", "all", "--json").json
    assert {each["name"] for each in done["entries"]} == {"index.bin", ".ssh"}
    assert done["freed_bytes"] == 100 + 20 + 1030 + 7 + len(str(cache.parent / "outside"))
    assert (cache.parent / "outside" / "precious").read_bytes() == b"x" * 5000
    assert sorted(path.name for path in (cache / "models").iterdir()) == []


def test_an_empty_or_absent_cache_is_said(tmp_path, rosepo, monkeypatch):
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "none"))
    assert rosepo("clean").out == f"{tmp_path / 'none'} is empty\n"
    assert rosepo("clean", "--json").json["entries"] == []
    assert not (tmp_path / "none").exists()
    assert rosepo("clean", "--remove", "x").code == 2
