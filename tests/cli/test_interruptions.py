"""Signals end a command where nothing is lost, and the same command goes on."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rosepo_cli.progress import ConsoleReporter

# "progress" is what a reporter is told while a stage is made.
PROGRESS = ConsoleReporter.progress


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


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that stages wrote, by its path; the times that they took aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and path.parent != folder
    }
