"""Signals end a command where nothing is lost, and the same command goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from rosepo_cli.app import run as command
from rosepo_cli.progress import ConsoleReporter

PROGRESS = ConsoleReporter.progress


@pytest.fixture(autouse=True)
def listens() -> Iterator[None]:
    """Ctrl-C is not ignored, although the tests may run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def at_report(number: int, act: Callable[[], None]) -> Callable[..., None]:
    """A `ConsoleReporter.progress` that does something before one of its calls."""
    calls = [0]

    def progress(self: ConsoleReporter, done: int, total: int, unit: str) -> None:
        calls[0] += 1
        if calls[0] == number:
            act()
        PROGRESS(self, done, total, unit)

    return progress


def sends(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


class Dies:
    """Receives Ctrl-C while it is destroyed. Python drops what a destructor raises."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_and_the_shown_one_goes_on(train, rosepo, tmp_path, monkeypatch, number, code):
    run = tmp_path / "of a user" / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        # The second report: the first has said that another will follow, for which the signal waits.
        patch.setattr(ConsoleReporter, "progress", at_report(2, sends(number)))
        done = train("--run", run, "--until=sft")
    assert signal.getsignal(number) == before
    assert (done.code, done.out) == (code, "")
    said, command = done.err.splitlines()[-2:]
    assert said == "interrupted; what is done is kept, and the same command goes on:"
    name, *arguments = shlex.split(command)
    assert (name, arguments[-3:]) == ("rosepo", ["--run", str(run), "--until=sft"])
    again = rosepo(*arguments)
    assert (again.code, again.made) == (0, {"sft"}), again.err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("report", [1, 2])
def test_a_signal_in_a_destructor_is_not_lost(train, tmp_path, monkeypatch, report):
    with monkeypatch.context() as patch:
        patch.setattr(ConsoleReporter, "progress", at_report(report, lambda: Dies().__class__ and None))
        done = train("--run", tmp_path / "run", "--until=sft")
    assert done.code == 130
    assert not (tmp_path / "run" / "sft").exists()


def test_a_command_that_has_nothing_to_go_on_with_says_so(rosepo, monkeypatch):
    monkeypatch.setattr("rosepo_core.diagnostics.diagnose", sends(signal.SIGINT))
    done = rosepo("doctor")
    assert (done.code, done.err.splitlines()[-1]) == (130, "interrupted")


def test_an_ignored_signal_stays_ignored(train, tmp_path, monkeypatch):
    """As under nohup, or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(ConsoleReporter, "progress", at_report(2, sends(signal.SIGINT)))
        assert train("--run", tmp_path / "run", "--until=sft").code == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


LONG = (
    *("--sft.steps=20", "--sft.lora_dropout=0.2", "--alignment.steps=20", "--checkpoint.minutes=0"),
    "--ranking.score=prior-corrected",
)
"""A run that takes a while, and saves after each step and block."""


def contents(folder: Path) -> dict[str, Any]:
    """What stages wrote, by path; the times that they took aside."""
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["seconds"]
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and (path.parent != folder or path.suffix == ".jsonl")
    }
    return {**files, "metrics.json": metrics}


def at_work(arguments: Sequence[str], said: Path) -> None:
    """One command line, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    with said.open("w") as err, redirect_stderr(err):
        code = command(arguments)
    os._exit(code)


def rosepo_arguments(train: Callable[..., Any], run: Path) -> list[str]:
    """The arguments of `train`, as the command line gets them: from what it shows after an interruption."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rosepo_core.pipeline.run", interrupted)
        shown = train("--run", run).err.splitlines()[-1]
    return shlex.split(shown)[1:]


def steps_in(partial: Path) -> int:
    return max((int(path.name.rpartition("-")[2]) for path in partial.glob("checkpoint-*")), default=0)


def test_processes_that_are_killed_and_terminated_leave_a_run_that_goes_on(train, rosepo, tmp_path):
    """One process is killed in SFT, the next one terminated in alignment. Both are forked from one that has imported
    everything."""
    whole = tmp_path / "whole" / "run"
    assert train("--run", whole, *LONG).code == 0
    run, said = tmp_path / "broken" / "run", tmp_path / "said"
    arguments = [*rosepo_arguments(train, run), *LONG]
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["rosepo_cli.app", "rosepo_core.pipeline", "trl", "peft", "polars"])
    for stage, number, code in (("sft", signal.SIGKILL, -signal.SIGKILL), ("aligned", signal.SIGTERM, 143)):
        process = start.Process(target=at_work, args=(arguments, said))
        process.start()
        while process.is_alive() and steps_in(run / f"{stage}.partial") < 3:
            time.sleep(0.01)
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == code, said.read_text()
        assert steps_in(run / f"{stage}.partial") >= 3
    assert said.read_text().splitlines()[-1] == f"  {shlex.join(['rosepo', *arguments])}"
    done = rosepo(*arguments)
    assert done.code == 0, done.err
    assert "sft" not in done.made
    assert contents(run) == contents(whole)
    assert not [path.name for path in run.iterdir() if path.name.startswith(".") or path.name.endswith(".partial")]


def test_every_stage_goes_on_where_it_was_interrupted(train, tmp_path, monkeypatch):
    """Each stage is interrupted at its second report. The run then equals one that was not interrupted."""
    arguments = (
        *(
            "--sampler=self-hard",
            "--sampler.temperature=1.0",
            "--preferences.max_pairs=30",
            "--preferences.negatives=2",
        ),
        '--evaluation.protocols=["candidates", "catalogue", "free"]',
        *("--evaluation.max_users=8", "--model.token_budget=150"),
    )
    whole = tmp_path / "whole" / "run"
    assert train("--run", whole, *arguments).code == 0
    left = ["sft", "sampling", "reference", "aligned", "scores-aligned", "lists-aligned", "answers-aligned"]
    reports: list[str] = []

    def progress(self: ConsoleReporter, done: int, total: int, unit: str) -> None:
        PROGRESS(self, done, total, unit)
        reports.append(self._stage)
        if reports.count(self._stage) == 2 and self._stage in left[:1]:
            raise KeyboardInterrupt

    run = tmp_path / "broken" / "run"
    monkeypatch.setattr(ConsoleReporter, "progress", progress)
    while left:
        assert train("--run", run, *arguments).code == 130
        assert (run / f"{left.pop(0)}.partial").is_dir()
        reports.clear()
    assert train("--run", run, *arguments).code == 0
    assert contents(run) == contents(whole)
