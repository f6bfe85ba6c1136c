"""What is damaged is noticed before it is used, whoever asks: each file that a command opens in a finished run or an
export, as the kernel tells it, and each way to damage it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rosepo_core import pipeline, run_list
from rosepo_core.contracts.errors import RequestError
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.serving.export import golden
from rosepo_core.serving.export.model_export import export_model
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.run_lists import RunLists
from rosepo_core.serving.web.served_runs import ServedRuns
from rosepo_core.stages.session import QuietReporter
from rosepo_core.store.run_store import RunStore

UNCHECKED = {"metrics.jsonl", "aligned/README.md", "README.md"}
"""What grows while a run goes on, and what people edit."""

IN_OPEN = 0x20


@contextmanager
def opened(folder: Path) -> Iterator[set[str]]:
    """The files in a folder that are opened inside the context, by this or any other way: what inotify tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    watched = {libc.inotify_add_watch(handle, os.fsencode(path), IN_OPEN): path for path in folders}
    found: set[str] = set()
    try:
        yield found
        events = bytearray()
        while True:
            try:
                events += os.read(handle, 1 << 16)
            except BlockingIOError:
                break
    finally:
        os.close(handle)
    place = 0
    while place < len(events):
        watch, _, _, length = struct.unpack_from("iIII", events, place)
        name = events[place + 16 : place + 16 + length].rstrip(b"\0").decode()
        place += 16 + length
        path = watched[watch] / name
        if name and not path.is_dir():
            found.add(path.relative_to(folder).as_posix())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    put(path, bytes(content))


def truncate(path: Path) -> None:
    put(path, path.read_bytes()[:-3])


def replace(path: Path) -> None:
    put(path, b"something else")


def put(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, truncate, replace, Path.unlink)


class Notes(QuietReporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def recommend(run: Path, _: Path) -> None:
    Recommender.load(run).recommend(HISTORY, 3)


def serve(run: Path, _: Path) -> None:
    served = ServedRuns({"run": run}, Recommender.load, lambda folder, in_use: RunLists(folder, in_use))
    lists = served.get(None).lists
    assert lists is not None
    for name in lists.names:
        lists.top(name, [["i5"]], 3)
    assert lists.report()


def report(run: Path, to: Path) -> None:
    pipeline.report([run], to / "page.html", QuietReporter(), registry=REGISTRY)


def compare(run: Path, _: Path) -> None:
    pipeline.compare([run], "ndcg@5", QuietReporter(), registry=REGISTRY)


def evaluate(run: Path, _: Path) -> None:
    reporter = Notes()
    pipeline.evaluate(run, [], reporter, registry=REGISTRY)
    # What it measures is made anew, and told.
    if told := [note for note in reporter.notes if "made anew" in note]:
        raise RequestError(told[0])


def export(run: Path, to: Path) -> None:
    shutil.rmtree(to / "exported", ignore_errors=True)
    export_model(run, to / "exported", QuietReporter())


def check_export(folder: Path, _: Path) -> None:
    golden.check(folder, QuietReporter())


def evaluate_export(folder: Path, to: Path) -> None:
    overrides = [("dataset", "table"), ("dataset.path", str(to / "log.csv")), ("model", str(folder))]
    config = pipeline.evaluation_config(None, overrides, REGISTRY)
    pipeline.evaluate_model(config, to / "evaluated", QuietReporter(), registry=REGISTRY)


REGISTRY = load_plugins()
HISTORY = ["Quiet Rivers (1994)"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, finished, rosepo, log):
    """A run and an export to damage, and the log."""
    folder = tmp_path_factory.mktemp("damage")
    shutil.copytree(finished, folder / "run")
    done = rosepo("export", finished, "--to", folder / "export", "--adapter")
    assert done.code == 0, done.err
    shutil.copytree(folder / "export", folder / "whole")
    shutil.copyfile(log, folder / "log.csv")
    return folder


@contextmanager
def damaged(folder: Path, name: str, whole: Path, damage: Callable[[Path], None]) -> Iterator[Path]:
    """A file of a copy of `whole` is damaged inside the context."""
    damage(folder / name)
    try:
        yield folder / name
    finally:
        put(folder / name, (whole / name).read_bytes())


def refused(what: str, file: Path, ask: Callable[[Path, Path], None], folder: Path, to: Path) -> None:
    """Asking ends with one error that names the file, or what is missing."""
    try:
        ask(folder, to)
    except RequestError as error:
        said = str(error)
    else:
        raise AssertionError(f"{what}: not noticed")
    missing = not file.exists() and str(file.parent) in said and file.name in said
    assert str(file) in said or missing, f"{what}: {said}"
    assert "\n" not in said


def attack(ask: Callable[[Path, Path], None], files: set[str], folder: Path, whole: Path, to: Path) -> None:
    """Damage files one after the other, each in another way, and ask."""
    for number, name in enumerate(sorted(files)):
        damage = DAMAGES[number % len(DAMAGES)]
        with damaged(folder, name, whole, damage) as file:
            refused(f"{ask.__name__}, {name}, {damage.__name__}", file, ask, folder, to)
        if ask is evaluate:
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)


@pytest.mark.parametrize("ask", [recommend, serve, report, compare, evaluate, export], ids=lambda ask: ask.__name__)
def test_each_file_of_a_run_that_is_opened_is_checked_before(place, finished, ask):
    run = place / "run"
    with opened(run) as found:
        ask(run, place)
    files = {name for name in found - UNCHECKED if not name.startswith(".") and (finished / name).is_file()}
    assert {"run.json", "config.toml"} <= files
    if ask is export:
        # It works between the files that it reads as `recommend` does, and those that it reads as `report` does.
        files = {name for name in files if name.startswith("aligned/")}
    if ask in (report, compare):
        # They read a run in the same way, so each file is damaged for one of them.
        files = set(sorted(files)[ask is report :: 2])
    if ask is evaluate:
        # It takes the stages of the training as `report` does, and finds the others as `train` does.
        files = set(sorted(files)[::6])
    attack(ask, files, run, finished, place)


@pytest.mark.parametrize("ask", [recommend, check_export, evaluate_export], ids=lambda ask: ask.__name__)
def test_each_file_of_an_export_that_is_opened_is_checked_before(place, ask):
    with opened(place / "export") as found:
        ask(place / "export", place)
    attack(ask, found - UNCHECKED, place / "export", place / "whole", place)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_no_damaged_file_of_a_stage_is_reused(place, finished, tmp_path, damage):
    """What `train` asks for each stage: here, and beside."""
    run = place / "run"
    for stage in sorted(path.parent.name for path in finished.glob("*/manifest.json")):
        fingerprint = json.loads((run / stage / "manifest.json").read_text())["fingerprint"]
        assert RunStore(run).find(stage, fingerprint) is not None
        for name in sorted(path.name for path in (run / stage).iterdir() if path.name != "README.md"):
            with damaged(run, f"{stage}/{name}", finished, damage) as file:
                notes: list[str] = []
                assert RunStore(run).find(stage, fingerprint, notes.append) is None
                assert RunStore(run.parent / "beside").find(stage, fingerprint) is None
                if (stage, name) != (stage, "manifest.json") or file.exists():
                    assert str(file) in notes[0]
                    assert notes[0].endswith("the stage is made anew")


def test_a_damaged_list_of_runs_tells(place, finished):
    for name in ("run.json", "config.toml", "metrics.json", "sft/manifest.json"):
        with damaged(place / "run", name, finished, truncate):
            (listed,) = run_list.list_runs(place / "run")
            assert listed.state.startswith(f"{name} is damaged")
