"""What `rosepo doctor` finds on a machine that works, and on one that does not."""

import importlib.util
from importlib import metadata

from rosepo_core.diagnostics import Check, diagnose


def found(name):
    (check,) = (check for check in diagnose() if check.name == name)
    return check


def test_a_machine_that_works(monkeypatch, tmp_path):
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kept").write_bytes(bytes(2**25))
    checks = {check.name: check for check in diagnose()}
    assert [name for name, check in checks.items() if check.status == "fail"] == []
    assert checks["cache"].detail.startswith(f"{tmp_path / 'cache'}: 0.03 GiB kept, ")
    assert f"torch {metadata.version('torch')}" in checks["libraries"].detail
    assert "GFLOP/s in float32, " in checks["speed"].detail
    assert checks["processes"].detail.startswith("one, on ")
    assert not list((tmp_path / "cache").glob("tmp*"))


def test_each_check_that_is_not_ok_says_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    checks = diagnose()
    assert {check.name for check in checks if check.status == "warn"} >= {"pip", "sentence encoder"}
    assert all(check.fix for check in checks if check.status != "ok")


def test_library_of_another_version(monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "trl" else version(name))
    assert found("trl") == Check("trl", "fail", "1.0, but rosepo needs <1.17,>=1.16", "pip install 'trl<1.17,>=1.16'")


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ROSEPO_CACHE", str(tmp_path / "file" / "cache"))
    check = found("cache")
    assert check.status == "fail"
    assert check.detail.startswith(f"{tmp_path / 'file' / 'cache'}: cannot be written to")
    assert "ROSEPO_CACHE" in check.fix
