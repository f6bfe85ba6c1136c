"""What a run shows while it works: a live line on a terminal, plain lines elsewhere."""

import re
from itertools import count

import pytest

from rosepo_core import console
from rosepo_core.console import ConsoleReporter

STEP = {"loss": 0.6123, "grad_norm": 1.5, "rewards/margins": -0.84, "learning_rate": 1e-4}


@pytest.fixture
def clock(monkeypatch) -> None:
    """Ten seconds go by between two looks at the clock."""
    times = count(0, 10)
    monkeypatch.setattr("rosepo_core.console.time.monotonic", lambda: float(next(times)))


def work(reporter: ConsoleReporter) -> None:
    reporter.stage_started("aligned")
    reporter.progress(0, 18, "steps")
    reporter.numbers(STEP)
    for step in (1, 2, 3):
        reporter.progress(step, 18, "steps")


@pytest.mark.usefixtures("clock")
def test_plain_lines_have_rate_loss_and_margin(capfd):
    work(ConsoleReporter())
    assert capfd.readouterr().err.splitlines() == [
        "aligned                2 of 18 steps, 10.0 s each, loss 0.612 margin -0.840"
    ]


def test_the_live_line_has_time_left_loss_and_margin_in_80_columns(capfd, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with ConsoleReporter().live() as reporter:
        work(reporter)
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", capfd.readouterr().err)]
    last = [line for line in shown if "steps" in line][-1]
    assert re.fullmatch(r"aligned \S+ +3/18 steps [\d,.]+/s [-:\d]+ loss 0\.612 margin -0\.840 *", last)
    assert len(last) <= 80


@pytest.mark.usefixtures("clock")
def test_numbers_of_one_stage_are_not_shown_with_the_next(capfd, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_EVERY", 0.0)
    reporter = ConsoleReporter()
    reporter.stage_started("sft")
    reporter.numbers({"loss": 3.0})
    reporter.progress(5, 130, "steps")
    reporter.stage_started("scores-sft")
    reporter.progress(600, 4000, "titles")
    assert capfd.readouterr().err.splitlines() == [
        "sft                    5 of 130 steps, loss 3.000",
        "scores-sft             600 of 4,000 titles",
    ]
