"""The run folder: artifacts whole or not at all, found again by fingerprint, here or in a run beside; a change is put
in place as one; one process at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.store import files as store_files
from rosepo_core.store import fingerprint
from rosepo_core.store.artifacts import read_manifest
from rosepo_core.store.files import write_text
from rosepo_core.store.run_store import RunStore
from rosepo_core.store.sealed import sealed

RUN = ["config.toml", "run.json"]
"""What every run folder has."""

MAIN = ("split", "sft", "aligned", "evaluation")


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


@contextmanager
def working(folder: Path, config: str = "seed = 0\n") -> Iterator[RunStore]:
    """A store at work on its folder, past the point where a wrong request is undone."""
    store = RunStore(folder)
    with store.working(config, MAIN):
        store.commit()
        yield store


def made(folder: Path, config: str = "seed = 0\n", **stages: str) -> RunStore:
    """A run folder with a chain of stages, each with one file; stage and content are the fingerprint."""
    with working(folder, config) as store:
        chain(store, stages)
    return store


def chain(store: RunStore, stages: Mapping[str, str]) -> None:
    """Reuse or make the stages in their order, each of the one before it."""
    inputs: dict[str, str] = {}
    for stage, content in stages.items():
        wanted = f"{stage}-{content}"
        found = store.find(stage, wanted)
        if found:
            store.reuse(found)
        else:
            store.make(stage, wanted, inputs, writes(file=content))
        inputs = {stage: wanted}


def stopped(error: type[BaseException], folder: Path, config: str = "seed = 0\n", **stages: str) -> RunStore:
    """The store of a folder where work ended with an error after some stages."""
    store = RunStore(folder)

    def work() -> None:
        with store.working(config, MAIN):
            store.commit()
            chain(store, stages)
            raise error

    with pytest.raises(error):
        work()
    return store


def contents(folder: Path) -> dict[str, str]:
    """Every file by its path; the text of each."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def files(folder: Path) -> dict[str, str]:
    """The one file of each stage, and the configuration: what a run is about."""
    stages = {path.parent.name: path.read_text() for path in folder.glob("[!.]*/file")}
    return {**stages, "config": (folder / "config.toml").read_text()}


def test_fingerprint_is_the_same_in_every_process_and_version():
    # printf '%s' '["sft",{"a":[1,2],"b":"é"},null]' | sha256sum
    assert fingerprint("sft", {"b": "é", "a": (1, 2)}, None) == "698c6abce693ed5e"


@pytest.mark.parametrize("other", [("a", {"x": 1.0}), ("a", {"x": "1"}), ("a", {"y": 1}), ("a",), ({"x": 1}, "a")])
def test_fingerprint_tells_values_types_and_places_apart(other):
    assert fingerprint(*other) != fingerprint("a", {"x": 1})


def test_an_artifact_stands_with_its_sums_under_its_stage(tmp_path):
    with working(tmp_path / "run") as store:
        artifact = store.make("sft", "f" * 16, {"split": "e" * 16}, writes(weights="w", sub__log="l"))
    assert (artifact.folder, artifact.fingerprint, artifact.reused, artifact.seconds) == (
        tmp_path / "run" / "sft",
        "f" * 16,
        None,
        1.5,
    )
    manifest = read_manifest(artifact.folder)
    assert manifest == {
        "stage": "sft",
        "fingerprint": "f" * 16,
        "inputs": {"split": "e" * 16},
        "seconds": 1.5,
        "files": {name: hashlib.sha256(text).hexdigest() for name, text in (("sub/log", b"l"), ("weights", b"w"))},
        "sum": manifest["sum"],
        "signed": manifest["signed"],
    }
    assert sorted(os.listdir(tmp_path / "run")) == [*RUN, "sft"]


# What is made appears whole or not at all.


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "broken"), ValueError])
def test_a_build_that_fails_leaves_nothing(tmp_path, error):
    def fails(folder: Path) -> float:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)), working(tmp_path / "run") as store:
        store.make("sft", "f", {}, fails)
    assert sorted(os.listdir(tmp_path / "run")) == RUN
    assert store.find("sft", "f") is None


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_stood_there_and_says_what_to_do(tmp_path):
    made(tmp_path / "run", split="a", sft="a")
    before = contents(tmp_path / "run")
    said = r"stage 'sft' cannot be written to .*run: File too large; make room and run"
    with pytest.raises(RosepoError, match=said), full_after(1000):
        made(tmp_path / "run", split="a", sft="x" * 2000)
    assert contents(tmp_path / "run") == before
    write_text(tmp_path / "file", "old")
    with pytest.raises(OSError, match="File too large"), full_after(1000):
        write_text(tmp_path / "file", "x" * 2000)
    assert contents(tmp_path) == {"file": "old", **{f"run/{name}": text for name, text in before.items()}}


def test_a_disk_that_is_full_when_a_change_is_complete_leaves_the_run_as_it_was(tmp_path):
    made(tmp_path / "run", sft="a")
    before = files(tmp_path / "run")

    def work() -> None:
        with full_after(1000), working(tmp_path / "run", "seed = 1\n") as store:
            chain(store, {"sft": "b"})
            store.write("report.html", "x" * 2000)

    with pytest.raises(RosepoError, match="cannot be written"):
        work()
    assert files(tmp_path / "run") == before
    made(tmp_path / "run", "seed = 1\n", sft="b")
    assert files(tmp_path / "run") == {"sft": "b", "config": "seed = 1\n"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_weights_that_are_not_numbers_are_no_artifact(tmp_path, dtype):
    def diverged(folder: Path) -> float:
        good, bad = torch.tensor([1.0, -1.0]), torch.tensor([1.0, float("nan")])
        save_tensors({"good": good.to(dtype), "bad": bad.to(dtype)}, folder / "adapter_model.safetensors")
        return 0.0

    said = r"stage 'sft' made values that are not numbers \(NaN in 'bad' of adapter_model\.safetensors\)"
    with working(tmp_path / "run") as store, pytest.raises(RosepoError, match=said):
        store.make("sft", "f", {}, diverged)
    assert sorted(os.listdir(tmp_path / "run")) == RUN


def test_scores_of_what_is_not_there_are_numbers(tmp_path):
    with working(tmp_path / "run") as store:
        scores = np.array([0.0, -np.inf], dtype=np.float32)
        store.make("scores", "f", {}, lambda folder: save_file({"scores": scores}, folder / "s.safetensors") or 0.0)
    assert store.find("scores", "f") is not None


# A damaged artifact is never used.


def damage_a_file(folder: Path) -> None:
    (folder / "file").write_text("W")


def lose_a_file(folder: Path) -> None:
    (folder / "file").unlink()


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
def test_a_damaged_artifact_is_not_found_and_is_made_anew_in_its_place(tmp_path, damage):
    made(tmp_path / "run", split="s", sft="f", aligned="a")
    before = contents(tmp_path / "run")
    damage(tmp_path / "run" / "sft")
    with working(tmp_path / "run") as store:
        chain(store, {"split": "s"})
        assert store.find("sft", "sft-f") is None
        store.make("sft", "sft-f", {"split": "split-s"}, writes(file="f"))
    assert contents(tmp_path / "run") == before


def test_a_damaged_artifact_is_named_with_the_remedy(tmp_path):
    run = tmp_path / "run"
    store = made(run, split="s", sft="f", aligned="a")
    assert store.artifact("sft").fingerprint == "sft-f"
    damage_a_file(run / "sft")
    again = f"`rosepo train --config {run}/config.toml --run {run}`"
    said = f"{run}/sft/file is damaged: its SHA-256 is not the one in manifest.json"
    with pytest.raises(RequestError) as error:
        RunStore.open(run).artifact("sft")
    assert str(error.value) == f"{said}: make it anew with {again}"
    # The stages after it are whole, and are used.
    assert RunStore.open(run).artifact("aligned").fingerprint == "aligned-a"
    notes: list[str] = []
    assert store.find("sft", "sft-f", notes.append) is None
    assert notes == [f"{said}; the stage is made anew"]
    lose_a_file(run / "sft")
    with pytest.raises(RequestError, match=r"run/sft/file is missing: make it anew with `rosepo train"):
        store.artifact("sft")


def test_a_file_is_read_for_its_sum_once_a_process(tmp_path, monkeypatch):
    store = made(tmp_path / "run", sft="f")
    reads = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *arguments: reads.append(1) or digest(*arguments))
    for _ in range(3):
        store.artifact("sft")
        RunStore.open(tmp_path / "run").find("sft", "sft-f")
    assert len(reads) == 1


# Runs beside it lend.


def test_a_run_beside_lends_what_it_has_made(tmp_path):
    with working(tmp_path / "first") as first:
        first.make("split", "e", {}, writes(file="s"))
        lent = first.make("sft", "f", {"split": "e"}, writes(weights="w", sub__log="l"))
    with working(tmp_path / "second") as second:
        found = second.find("sft", "f")
        assert found is not None
        artifact = second.reuse(found)
    assert (artifact.folder, artifact.reused, artifact.seconds) == (tmp_path / "second" / "sft", first.folder, 1.5)
    assert contents(artifact.folder) == contents(lent.folder)
    for name in ("weights", "sub/log"):
        assert (artifact.folder / name).samefile(lent.folder / name)
    assert sorted(os.listdir(second.folder)) == [*RUN, "sft"]

    # Each run is complete in itself: what becomes of the lender changes nothing.
    made(tmp_path / "first", sft="other")
    assert second.find("sft", "f").folder == tmp_path / "second" / "sft"
    assert contents(artifact.folder)["weights"] == "w"


def test_what_stands_in_the_run_itself_is_not_taken_from_elsewhere(tmp_path):
    made(tmp_path / "first", sft="f")
    with working(tmp_path / "second") as second:
        own = second.make("sft", "sft-f", {}, writes(file="f"))
        assert second.reuse(second.find("sft", "sft-f")).folder == own.folder
    assert not (own.folder / "file").samefile(tmp_path / "first" / "sft" / "file")


def test_a_run_beside_makes_good_for_a_damaged_artifact(tmp_path):
    made(tmp_path / "first", sft="f")
    made(tmp_path / "second", sft="f")
    (tmp_path / "second" / "sft" / "file").unlink()
    (tmp_path / "second" / "sft" / "file").write_text("damaged")
    with working(tmp_path / "second") as second:
        second.reuse(second.find("sft", "sft-f"))
    assert (second.folder / "sft" / "file").read_text() == "f"
    assert sorted(os.listdir(second.folder)) == [*RUN, "sft"]


def test_only_run_folders_lend(tmp_path):
    made(tmp_path / "first", sft="f")
    store = made(tmp_path / "second")
    (tmp_path / "a file").write_text("")
    (tmp_path / "first" / "run.json").unlink()
    assert store.find("sft", "sft-f") is None


def as_link_to_the_stage(stage: Path) -> None:
    os.rename(stage, stage.with_name("elsewhere"))
    stage.symlink_to("elsewhere")


def as_link_to_the_file(stage: Path) -> None:
    (stage.parent / "secret").write_text("f")
    (stage / "file").unlink()
    (stage / "file").symlink_to("../secret")


def as_file_in_a_linked_folder(stage: Path) -> None:
    rewrite(stage, {"sub/file": hashlib.sha256(b"f").hexdigest()})
    (stage.parent / "elsewhere").mkdir()
    (stage.parent / "elsewhere" / "file").write_text("f")
    (stage / "sub").symlink_to("../elsewhere")


def as_file_outside(stage: Path) -> None:
    (stage.parent / "secret").write_text("f")
    rewrite(stage, {"../secret": hashlib.sha256(b"f").hexdigest()})


def as_absolute_file(stage: Path) -> None:
    (stage.parent / "secret").write_text("f")
    rewrite(stage, {str(stage.parent / "secret"): hashlib.sha256(b"f").hexdigest()})


def as_pipe(stage: Path) -> None:
    (stage / "file").unlink()
    os.mkfifo(stage / "file")


def as_other_content(stage: Path) -> None:
    (stage / "file").write_text("F")


def rewrite(stage: Path, listed: Mapping[str, str]) -> None:
    manifest = json.loads((stage / "manifest.json").read_text())
    (stage / "manifest.json").write_text(sealed({**manifest, "files": listed}))


@pytest.mark.parametrize(
    "offered",
    [
        as_link_to_the_stage,
        as_link_to_the_file,
        as_file_in_a_linked_folder,
        as_file_outside,
        as_absolute_file,
        as_pipe,
        as_other_content,
    ],
)
def test_a_run_takes_nothing_but_the_regular_files_that_are_listed_with_their_sums(tmp_path, offered):
    made(tmp_path / "first", sft="f")
    offered(tmp_path / "first" / "sft")
    store = made(tmp_path / "second")
    assert store.find("sft", "sft-f") is None


def test_what_the_manifest_does_not_list_stays_where_it_is(tmp_path):
    lender = made(tmp_path / "first", sft="f")
    (lender.folder / "sft" / "README.md").write_text("of another run")
    made(tmp_path / "second", sft="f")
    assert sorted(os.listdir(tmp_path / "second" / "sft")) == ["file", "manifest.json"]


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    lender = made(tmp_path / "first", sft="f")

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    borrower = made(tmp_path / "second", sft="f")
    assert contents(borrower.folder / "sft") == contents(lender.folder / "sft")
    assert not (borrower.folder / "sft" / "file").samefile(lender.folder / "sft" / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_of_other_people_beside_the_run_are_passed_over(tmp_path):
    theirs = made(tmp_path / "theirs", sft="f")
    store = made(tmp_path / "run")
    (theirs.folder / "sft" / "file").chmod(0)
    assert store.find("sft", "sft-f") is None
    theirs.folder.chmod(0)
    try:
        assert store.find("sft", "sft-f") is None
    finally:
        theirs.folder.chmod(0o755)


# A folder that is no run is never written into.


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(RequestError, match=r"absent is no run folder: it has no run\.json"):
        RunStore.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="empty is no run folder"):
        RunStore.open(tmp_path / "empty")
    assert made(tmp_path / "run").folder == RunStore.open(tmp_path / "run").folder


@pytest.mark.parametrize("held", ["letter", "config.toml", "run.json", "dataset/rows.csv"])
def test_a_run_does_not_move_in_with_other_things(tmp_path, held):
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text('{"kind": "race"}')
    for taken in (tmp_path, tmp_path / held):
        with pytest.raises(RequestError, match=r"exists and is no run folder \(it has no run.json\): choose another"):
            RunStore(taken)
    with pytest.raises(RequestError, match="is no run folder"):
        RunStore.open(tmp_path)
    assert contents(tmp_path) == {held: '{"kind": "race"}'}


def test_stages_that_are_missing_or_out_of_date_are_not_opened(tmp_path):
    store = made(tmp_path / "run", split="s1")
    with pytest.raises(RequestError, match="has no finished stage 'sft': finish the run with `rosepo train"):
        store.artifact("sft")
    made(tmp_path / "run", split="s1", sft="f")
    assert store.artifact("sft").fingerprint == "sft-f"
    other = made(tmp_path / "other", split="s2")
    shutil.rmtree(tmp_path / "run" / "split")
    shutil.copytree(other.folder / "split", tmp_path / "run" / "split")
    with pytest.raises(RequestError, match="stage 'split' was made anew after stage 'sft'"):
        store.artifact("sft")


# What fails before `commit` leaves the folder as it was.


def refused(folder: Path, config: str, **stages: str) -> None:
    store = RunStore(folder)

    def work() -> None:
        with store.working(config):
            chain(store, stages)
            raise RequestError("wrong")

    with pytest.raises(RequestError):
        work()


def test_a_wrong_request_leaves_the_folder_as_it_was(tmp_path):
    made(tmp_path / "run", split="s1")
    before = contents(tmp_path)
    refused(tmp_path / "run", "seed = 1\n", split="s2", sft="f")
    refused(tmp_path / "run", "seed = 0\n", split="s1", sft="f")
    assert contents(tmp_path) == before
    refused(tmp_path / "new", "", split="s")
    assert os.listdir(tmp_path) == ["run"]
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "", split="s")
    assert os.listdir(tmp_path / "empty") == []
    refused(tmp_path / "empty", "seed = 0\n", split="s1")
    assert os.listdir(tmp_path / "empty") == []


def test_after_a_commit_finished_stages_are_kept(tmp_path):
    stopped(RequestError, tmp_path / "kept", split="s")
    assert files(tmp_path / "kept") == {"split": "s", "config": "seed = 0\n"}


# A change is put in place as one.

OLD = {"split": "a", "sft": "a", "aligned": "a"}
NEW = {"split": "a", "sft": "b", "aligned": "b"}


def test_a_complete_change_replaces_the_run_and_nothing_of_the_old_one_is_left(tmp_path):
    run = tmp_path / "run"
    with working(run) as store:
        chain(store, OLD)
        store.make("scores", "scores-a", {"aligned": "aligned-a"}, writes(file="a"))
        store.make("evaluation", "evaluation-a", {"scores": "scores-a"}, writes(file="a"))
        store.write("metrics.json", "of a")
    assert (run / "metrics.json").read_text() == "of a"
    with working(run, "seed = 1\n") as store:
        chain(store, NEW)
        store.make("evaluation", "evaluation-b", {"aligned": "aligned-b"}, writes(file="b"))
        store.write("metrics.json", "of b")
        store.write("aligned/README.md", "card of b")
        assert files(run) == {**OLD, "scores": "a", "evaluation": "a", "config": "seed = 0\n"}
        assert (run / "metrics.json").read_text() == "of a"
    assert not store.is_apart
    assert files(run) == {**NEW, "evaluation": "b", "config": "seed = 1\n"}
    assert ((run / "metrics.json").read_text(), (run / "aligned" / "README.md").read_text()) == ("of b", "card of b")
    assert sorted(os.listdir(run)) == [
        "aligned",
        "config.toml",
        "evaluation",
        "metrics.json",
        "run.json",
        "sft",
        "split",
    ]


def test_a_change_that_lacks_a_stage_stays_apart_and_is_found_again(tmp_path):
    run = made(tmp_path / "run", **OLD).folder
    old = files(run)
    store = made(run, "seed = 1\n", split="a", sft="b")
    assert store.is_apart
    assert files(run) == old
    assert RunStore.open(run).artifact("aligned").fingerprint == "aligned-a"
    with working(run, "seed = 1\n") as store:
        assert store.reuse(store.find("sft", "sft-b")).reused == run
        chain(store, NEW)
    assert not store.is_apart
    assert files(run) == {**NEW, "config": "seed = 1\n"}
    assert sorted(os.listdir(run)) == ["aligned", *RUN, "sft", "split"]


def test_what_only_served_a_stage_needs_no_successor(tmp_path):
    run = made(tmp_path / "run", split="a", candidates="a").folder
    assert not made(run, "seed = 1\n", split="a", sft="b").is_apart
    assert files(run) == {"split": "a", "sft": "b", "config": "seed = 1\n"}


def test_the_run_that_was_there_is_not_touched_by_a_change_that_fails(tmp_path):
    run = made(tmp_path / "run", **OLD).folder
    old = files(run)
    for error in (KeyboardInterrupt, ValueError, RequestError):
        store = stopped(error, run, "seed = 1\n", split="a", sft="b")
        assert files(run) == old
    # The old run goes on as if nothing had been, and the other change still finds what it had.
    made(run, **OLD)
    assert files(run) == old
    assert store.find("sft", "sft-b") is not None


def test_the_same_configuration_goes_apart_too_where_it_would_replace_something(tmp_path):
    run = made(tmp_path / "run", **OLD).folder
    stopped(KeyboardInterrupt, run, split="a", sft="edited")
    assert files(run) == {**OLD, "config": "seed = 0\n"}
    assert not made(run, split="a", sft="edited", aligned="edited").is_apart
    assert files(run) == {"split": "a", "sft": "edited", "aligned": "edited", "config": "seed = 0\n"}


def test_a_whole_artifact_is_replaced_on_demand(tmp_path):
    run = made(tmp_path / "run", sft="a", aligned="a").folder
    with working(run) as store:
        store.make("sft", "sft-a", {}, writes(file="again"), replace=True)
        assert (run / "sft" / "file").read_text() == "a"
        store.make("aligned", "aligned-a", {"sft": "sft-a"}, writes(file="again"), replace=True)
    assert files(run) == {"sft": "again", "aligned": "again", "config": "seed = 0\n"}


def test_a_run_that_is_made_step_by_step_is_there_step_by_step(tmp_path):
    run = tmp_path / "run"
    stopped(KeyboardInterrupt, run, split="a")
    assert files(run) == {"split": "a", "config": "seed = 0\n"}
    with working(run) as store:
        chain(store, {"split": "a", "sft": "a"})
        assert store.find("sft", "sft-a").folder == run / "sft"


def test_a_process_that_is_killed_between_two_moves_leaves_the_rest_to_the_next(tmp_path, monkeypatch):
    """The folder is copied before each change of a name in it: a copy is what a kill at that moment would leave."""
    run = made(tmp_path / "run", **OLD, scores="a", evaluation="a").folder
    kills: list[Path] = []

    def before(change):
        def changed(*arguments, **named):
            kills.append(tmp_path / "kills" / str(len(kills)) / "run")
            shutil.copytree(run, kills[-1])
            return change(*arguments, **named)

        return changed

    with monkeypatch.context() as patch:
        for module, name in ((os, "rename"), (os, "replace"), (Path, "unlink"), (store_files, "remove")):
            patch.setattr(module, name, before(getattr(module, name)))
        with working(run, "seed = 1\n") as store:
            chain(store, {**NEW, "evaluation": "b"})
            store.write("metrics.json", "of b")
    old = {**OLD, "scores": "a", "evaluation": "a", "config": "seed = 0\n"}
    new = {**NEW, "evaluation": "b", "config": "seed = 1\n"}
    states = []
    for kill in kills:
        forget_the_owner(kill)
        store = RunStore.open(kill)
        # Whoever only reads already sees one of the two.
        states.append(files(kill))
        stale = store.artifact("evaluation").fingerprint
        assert (stale == "evaluation-b") == (states[-1] == new)
        made(kill, "seed = 1\n", **NEW, evaluation="b")
        assert files(kill) == new
        assert not [path.name for path in kill.iterdir() if path.name.startswith(".") or path.name == "unfinished"]
    assert all(state in (old, new) for state in states)
    changes = [state == new for state in states]
    assert changes == sorted(changes)
    assert set(changes) == {False, True}


def forget_the_owner(run: Path) -> None:
    """As if the process that owns the folder had been killed: what has its number now started at another time."""
    if (run / ".lock").exists():
        owner = json.loads((run / ".lock").read_text())
        (run / ".lock").write_text(json.dumps({**owner, "started": "1"}))


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path):
    run = made(tmp_path / "run", sft="a").folder
    (run / ".new-sft-abc").mkdir()
    (run / ".new-sft-abc" / "half").write_text("half")
    (run / ".new-metrics.json-abc").write_text("half")
    made(run, sft="a")
    assert sorted(os.listdir(run)) == [*RUN, "sft"]
    # Killed at the very beginning, before it was a run.
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / ".lock").write_text("")
    (tmp_path / "early" / ".new-run.json-abc").write_text("half")
    made(tmp_path / "early", sft="a")
    assert sorted(os.listdir(tmp_path / "early")) == [*RUN, "sft"]


# One process owns a run folder.


def test_a_second_process_is_told_who_owns_the_folder(tmp_path):
    run = tmp_path / "run"
    with working(run) as store:
        chain(store, {"sft": "a"})
        owner = json.loads((run / ".lock").read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        code = (
            "import sys; from pathlib import Path; from rosepo_core.store import RunStore\n"
            "with RunStore(Path(sys.argv[1])).working('seed = 1'): pass"
        )
        done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True)
        process = f"process {os.getpid()} on host {owner['host']} since {owner['since']}"
        said = f"{run} is in use by {process}: wait until it is done"
        assert done.stderr.splitlines()[-1].endswith(f"RequestError: {said}")
        with pytest.raises(RequestError, match="is in use by process"), RunStore(run).working("seed = 1"):
            pass
        # To read is nobody's privilege.
        assert RunStore.open(run).artifact("sft").fingerprint == "sft-a"
    assert sorted(os.listdir(run)) == [*RUN, "sft"]
    assert files(run)["config"] == "seed = 0\n"


def test_the_lock_of_a_process_that_has_ended_is_taken_over(tmp_path):
    run = made(tmp_path / "run").folder
    here = {"started": "1", "host": socket.gethostname(), "since": "2026-01-01 00:00:00 UTC"}
    # Number 1 runs, but did not start then: the number was given to another process since.
    for pid in (1, 2**22 + 1):
        (run / ".lock").write_text(json.dumps({"pid": pid, **here}))
        made(run, sft="a")
    assert sorted(os.listdir(run)) == [*RUN, "sft"]


def test_the_lock_of_another_host_is_left_to_the_user(tmp_path):
    run = made(tmp_path / "run").folder
    lock = json.dumps({"pid": 7, "started": "1", "host": "far.example", "since": "2026-01-01 00:00:00 UTC"})
    (run / ".lock").write_text(lock)
    with pytest.raises(RequestError) as error:
        made(run, sft="a")
    assert str(error.value) == (
        f"{run} is in use by process 7 on host far.example since 2026-01-01 00:00:00 UTC: if it no longer runs "
        f"there, remove {run}/.lock"
    )
    assert (run / ".lock").read_text() == lock


def test_runs_are_read_where_nobody_may_write(tmp_path):
    run = made(tmp_path / "run", sft="a").folder
    before = {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))}
    store = RunStore.open(run)
    with store.working(store.config, reading=True):
        store.reuse(store.find("sft", "sft-a"))
    assert {path: path.stat().st_mtime_ns for path in (run, *run.rglob("*"))} == before
    # Where something must be made after all, the folder is taken for it.
    with store.working(store.config, reading=True):
        store.make("scores", "scores-a", {}, writes(file="a"))
        with pytest.raises(RequestError, match="is in use"), RunStore(run).working(""):
            pass
    assert files(run) == {"sft": "a", "scores": "a", "config": "seed = 0\n"}


# A stage in progress keeps what it has so far, until it is in place.


def ends(store: RunStore, error: type[BaseException], stage: str, wanted: str, **named: bool) -> None:
    """An attempt at a stage that saves a checkpoint and ends."""

    def build(folder: Path) -> float:
        partial = store.partial(stage, wanted, 10, **named)
        partial.save_checkpoint(1, lambda folder: (folder / "step").write_text("1") and None)
        raise error

    store.make(stage, wanted, {}, build, **named)


def found(store: RunStore, stage: str, wanted: str, **named: bool) -> list[str]:
    """What the next attempt at a stage finds. It then makes the stage."""
    seen: list[str] = []

    def build(folder: Path) -> float:
        checkpoint = store.partial(stage, wanted, 10, **named).checkpoint()
        seen.extend([] if checkpoint is None else [checkpoint.name])
        return writes(file=wanted)(folder)

    store.make(stage, wanted, {}, build, **named)
    return seen


def attempt(run: Path, error: type[BaseException], stage: str, wanted: str, config: str = "seed = 0\n") -> None:
    store = RunStore(run)

    def work() -> None:
        with store.working(config, MAIN):
            store.commit()
            ends(store, error, stage, wanted)

    with pytest.raises(error):
        work()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_next_attempt_goes_on_and_leaves_nothing_behind(tmp_path, error):
    run = made(tmp_path / "run", split="a").folder
    attempt(run, error, "sft", "sft-a")
    assert sorted(os.listdir(run)) == [*RUN, "sft.partial", "split"]
    with working(run) as store:
        assert found(store, "sft", "sft-a") == ["checkpoint-1"]
    assert sorted(os.listdir(run)) == [*RUN, "sft", "split"]


def test_another_configuration_never_goes_on_from_it(tmp_path):
    run = made(tmp_path / "run", **OLD).folder
    attempt(run, KeyboardInterrupt, "sft", "sft-b", "seed = 1\n")
    # The old run is whole beside it, and is read as if it were not there.
    assert made(run, **OLD).find("sft", "sft-a") is not None
    with working(run, "seed = 2\n") as store:
        assert found(store, "sft", "sft-c") == []
    assert not (run / "sft.partial").exists()


def test_a_stage_that_is_made_again_goes_on_from_attempts_to_make_it_again_alone(tmp_path):
    run = tmp_path / "run"
    attempt(run, KeyboardInterrupt, "sft", "sft-a")
    with working(run) as store:
        assert found(store, "sft", "sft-a", replace=True) == []
        with pytest.raises(KeyboardInterrupt):
            ends(store, KeyboardInterrupt, "sft", "sft-a", replace=True)
    with working(run) as store:
        assert found(store, "sft", "sft-a", replace=True) == ["checkpoint-1"]


def test_a_wrong_request_leaves_no_trace_and_removes_nothing(tmp_path):
    run = made(tmp_path / "run", split="a").folder
    attempt(run, KeyboardInterrupt, "sft", "sft-a")
    before = contents(run)

    def wrong() -> None:
        store = RunStore(run)
        with store.working("seed = 0\n", MAIN):
            ends(store, RequestError, "oracle", "oracle-a")

    with pytest.raises(RequestError):
        wrong()
    assert contents(run) == before


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    run = made(tmp_path / "run", split="a", sft="a").folder
    attempt(run, KeyboardInterrupt, "oracle", "oracle-a")
    (run / "oracle.partial" / ".new-checkpoint-x").mkdir()
    # Killed after the stage had been put in place; killed before anything was saved.
    shutil.copytree(run / "oracle.partial", run / "sft.partial")
    write_text(run / "sft.partial" / "partial.json", json.dumps({"fingerprint": "sft-a", "seconds": 1.0}))
    (run / "aligned.partial").mkdir()
    with working(run):
        assert sorted(os.listdir(run)) == [".lock", *RUN[:1], "oracle.partial", *RUN[1:], "sft", "split"]
        assert sorted(os.listdir(run / "oracle.partial")) == ["checkpoint-1", "partial.json"]
