"""The run folder: artifacts whole or not at all, found again by fingerprint, here or in a run beside."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.store import RunStore, fingerprint, read_manifest


def writes(**files: str) -> Callable[[Path], float]:
    """A build that writes these files and says that it took 1.5 seconds; `__` in a name is a folder."""

    def build(folder: Path) -> float:
        for name, text in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return 1.5

    return build


def never(folder: Path) -> float:
    raise AssertionError("made anew")


def begun(folder: Path, config: str = "seed = 0\n") -> RunStore:
    store = RunStore(folder)
    store.begin(config)
    return store


def run(folder: Path) -> RunStore:
    store = begun(folder)
    store.commit()
    return store


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_fingerprint_is_the_same_in_every_process_and_version():
    # printf '%s' '["sft",{"a":[1,2],"b":"é"},null]' | sha256sum
    assert fingerprint("sft", {"b": "é", "a": (1, 2)}, None) == "698c6abce693ed5e"


@pytest.mark.parametrize("other", [("a", {"x": 1.0}), ("a", {"x": "1"}), ("a", {"y": 1}), ("a",), ({"x": 1}, "a")])
def test_fingerprint_tells_values_types_and_places_apart(other):
    assert fingerprint(*other) != fingerprint("a", {"x": 1})


def test_an_artifact_stands_with_its_sums_under_its_stage(tmp_path):
    store = run(tmp_path / "run")
    artifact = store.make("sft", "f" * 16, {"split": "e" * 16}, writes(weights="w", sub__log="l"))
    assert (artifact.folder, artifact.fingerprint, artifact.reused, artifact.seconds) == (
        tmp_path / "run" / "sft",
        "f" * 16,
        None,
        1.5,
    )
    assert read_manifest(artifact.folder) == {
        "stage": "sft",
        "fingerprint": "f" * 16,
        "inputs": {"split": "e" * 16},
        "seconds": 1.5,
        "files": {name: hashlib.sha256(text).hexdigest() for name, text in (("sub/log", b"l"), ("weights", b"w"))},
    }
    assert sorted(os.listdir(tmp_path / "run")) == ["config.toml", "sft"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "full"), ValueError])
def test_a_build_that_fails_leaves_nothing(tmp_path, error):
    store = run(tmp_path / "run")

    def fails(folder: Path) -> float:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        store.make("sft", "f", {}, fails)
    assert os.listdir(tmp_path / "run") == ["config.toml"]
    assert store.find("sft", "f") is None


def test_a_build_that_fails_leaves_the_artifact_that_stood_there(tmp_path):
    store = run(tmp_path / "run")
    store.make("sft", "old", {}, writes(weights="old"))
    before = contents(tmp_path / "run")
    with pytest.raises(AssertionError):
        store.make("sft", "new", {}, never)
    assert contents(tmp_path / "run") == before
    assert store.artifact("sft").fingerprint == "old"


def test_another_fingerprint_replaces_the_whole_stage(tmp_path):
    store = run(tmp_path / "run")
    store.make("sft", "old", {}, writes(weights="old", extra="e"))
    store.make("sft", "new", {}, writes(weights="new"))
    assert sorted(os.listdir(tmp_path / "run")) == ["config.toml", "sft"]
    assert sorted(os.listdir(tmp_path / "run" / "sft")) == ["manifest.json", "weights"]
    assert (tmp_path / "run" / "sft" / "weights").read_text() == "new"
    assert store.find("sft", "old") is None
    assert store.find("sft", "new") is not None


def damage_a_file(folder: Path) -> None:
    (folder / "weights").write_text("W")


def lose_a_file(folder: Path) -> None:
    (folder / "weights").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def manifest_is(text: bytes) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / "manifest.json").write_bytes(text)

    return put


@pytest.mark.parametrize(
    "damage",
    [
        damage_a_file,
        lose_a_file,
        lose_the_manifest,
        manifest_is(b'{"stage": "sft", "fingerpr'),
        manifest_is(b"{}"),
        manifest_is(b"[]"),
        manifest_is(b"null"),
        manifest_is(b"\xff\xfe"),
    ],
)
def test_a_damaged_artifact_is_not_found_and_can_be_made_anew(tmp_path, damage):
    store = run(tmp_path / "run")
    store.make("sft", "f", {}, writes(weights="w"))
    damage(tmp_path / "run" / "sft")
    assert store.find("sft", "f") is None
    store.make("sft", "f", {}, writes(weights="w"))
    assert store.find("sft", "f") is not None
    assert contents(tmp_path / "run" / "sft").keys() == {"weights", "manifest.json"}


def test_a_run_beside_lends_what_it_has_made(tmp_path):
    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    made = first.make("sft", "f", {"split": "e"}, writes(weights="w", sub__log="l"))
    found = second.find("sft", "f")
    assert found is not None
    artifact = second.reuse(found)
    assert (artifact.folder, artifact.reused, artifact.seconds) == (tmp_path / "second" / "sft", first.folder, 1.5)
    assert contents(artifact.folder) == contents(made.folder)
    for name in ("weights", "sub/log"):
        assert (artifact.folder / name).samefile(made.folder / name)
    assert sorted(os.listdir(second.folder)) == ["config.toml", "sft"]

    # Each run is complete in itself: what becomes of the lender changes nothing.
    first.make("sft", "g", {}, writes(weights="other"))
    assert second.find("sft", "f").folder == tmp_path / "second" / "sft"
    assert contents(artifact.folder)["weights"] == "w"


def test_what_stands_in_the_run_itself_is_not_taken_from_elsewhere(tmp_path):
    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    first.make("sft", "f", {}, writes(weights="w"))
    own = second.make("sft", "f", {}, writes(weights="w"))
    found = second.find("sft", "f")
    assert second.reuse(found).folder == own.folder
    assert not (own.folder / "weights").samefile(first.folder / "sft" / "weights")


def test_a_run_beside_makes_good_for_a_damaged_artifact(tmp_path):
    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    first.make("sft", "f", {}, writes(weights="w"))
    own = second.make("sft", "f", {}, writes(weights="w"))
    damage_a_file(own.folder)
    second.reuse(second.find("sft", "f"))
    assert (own.folder / "weights").read_text() == "w"
    assert sorted(os.listdir(second.folder)) == ["config.toml", "sft"]


def test_only_run_folders_lend(tmp_path):
    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    first.make("sft", "f", {}, writes(weights="w"))
    (tmp_path / "first" / "config.toml").unlink()
    (tmp_path / "a file").write_text("")
    assert second.find("sft", "f") is None


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    made = first.make("sft", "f", {}, writes(weights="w"))

    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    artifact = second.reuse(second.find("sft", "f"))
    assert contents(artifact.folder) == contents(made.folder)
    assert not (artifact.folder / "weights").samefile(made.folder / "weights")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_of_other_people_beside_the_run_are_passed_over(tmp_path):
    theirs = run(tmp_path / "theirs")
    theirs.make("sft", "f", {}, writes(weights="w"))
    store = run(tmp_path / "run")
    (theirs.folder / "sft" / "weights").chmod(0)
    assert store.find("sft", "f") is None
    theirs.folder.chmod(0)
    try:
        assert store.find("sft", "f") is None
    finally:
        theirs.folder.chmod(0o755)


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(RequestError, match=r"absent is no run folder: it has no config\.toml"):
        RunStore.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty is no run folder"):
        RunStore.open(tmp_path / "empty")
    assert run(tmp_path / "run").folder == RunStore.open(tmp_path / "run").folder


def test_a_run_does_not_move_in_with_other_things(tmp_path):
    (tmp_path / "letter").write_text("Dear")
    for taken in (tmp_path, tmp_path / "letter"):
        with pytest.raises(RequestError, match=r"exists and is no run folder.*choose another --run"):
            RunStore(taken)
    assert contents(tmp_path) == {"letter": "Dear"}


def test_stages_that_are_missing_or_out_of_date_are_not_opened(tmp_path):
    store = run(tmp_path / "run")
    with pytest.raises(RequestError, match="has no finished stage 'sft': finish the run with `rosepo train"):
        store.artifact("sft")
    store.make("split", "s1", {}, writes(a="a"))
    store.make("sft", "f", {"split": "s1"}, writes(weights="w"))
    assert store.artifact("sft").fingerprint == "f"
    store.make("split", "s2", {}, writes(a="b"))
    with pytest.raises(RequestError, match="stage 'split' was made anew after stage 'sft'"):
        store.artifact("sft")


def test_rolling_back_leaves_the_folder_as_it_was(tmp_path):
    store = run(tmp_path / "run")
    store.make("split", "s1", {}, writes(a="a"))
    before = contents(tmp_path / "run")
    again = begun(tmp_path / "run", "seed = 1\n")
    again.make("split", "s2", {}, writes(a="b"))
    again.make("split", "s3", {}, writes(a="c"))
    again.make("sft", "f", {}, writes(weights="w"))
    again.roll_back()
    assert contents(tmp_path / "run") == before
    assert sorted(os.listdir(tmp_path / "run")) == ["config.toml", "split"]


def test_rolling_back_a_new_run_leaves_no_folder_and_a_committed_one_stays(tmp_path):
    store = begun(tmp_path / "new")
    store.make("split", "s", {}, writes(a="a"))
    store.roll_back()
    assert os.listdir(tmp_path) == []
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "empty").roll_back()
    assert os.listdir(tmp_path / "empty") == []
    kept = begun(tmp_path / "kept")
    kept.make("split", "s", {}, writes(a="a"))
    kept.commit()
    kept.roll_back()
    assert sorted(os.listdir(tmp_path / "kept")) == ["config.toml", "split"]
    assert json.loads((tmp_path / "kept" / "split" / "manifest.json").read_text())["fingerprint"] == "s"
