"""Shows the progress of a run on stderr: a live line on a terminal, plain lines elsewhere.

Only this module of the core imports rich.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rosepo_core.store.artifacts import Artifact

WIDTH = 22
"""Of the names of stages."""

SHOWN = {"loss": "loss", "rewards/margins": "margin"}
"""The numbers of a training that are shown, and what they are called here."""

PLAIN_EVERY = 20.0
"""Seconds between two lines about the same stage, if there is no terminal."""


class ConsoleReporter:
    """Shows finished stages, notes, and the progress of the running stage, on stderr.

    For a live line on a terminal, work inside `live`::

        with ConsoleReporter().live() as reporter:
            rosepo_core.align(log, items, reporter=reporter)
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._unit = ""
        self._stage = ""
        self._told = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._done = 0
        self._numbers = ""

    @contextmanager
    def live(self) -> Iterator[ConsoleReporter]:
        """Show the live line during the work."""
        if not self._console.is_terminal:
            yield self
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
            transient=True,
        ) as self._bar:
            yield self
        self._bar = None

    def stage_started(self, stage: str) -> None:
        """Start the clock of `stage`."""
        self._stage, self._unit, self._told, self._numbers = stage, "", time.monotonic(), ""
        self.check()

    def stage_finished(self, artifact: Artifact) -> None:
        """Print one line for the finished stage."""
        self._drop()
        if artifact.reused is None:
            self._line(f"{artifact.stage:<{WIDTH}} {artifact.seconds:6.1f} s")
        else:
            here = artifact.reused.resolve() == artifact.folder.parent.resolve()
            source = "this run" if here else str(artifact.reused)
            self._line(f"{artifact.stage:<{WIDTH}} reused from {source}")
        self.check()

    def progress(self, done: int, total: int, unit: str) -> None:
        """Move the bar; without a terminal, print a line from time to time."""
        now = time.monotonic()
        if self._first is None or unit != self._unit or done < self._done:
            # Other work begins. Work that goes on after an interruption does not begin at 0.
            self._drop()
            self._unit, self._first = unit, (now, done)
        self._done = done
        since, before = self._first
        rate = _rate(done - before, now - since)
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(
                    self._stage, total=total, completed=before, unit=unit, rate="", numbers=""
                )
            self._bar.update(self._task, completed=done, total=total, unit=unit, rate=rate, numbers=self._numbers)
        elif not self._console.is_terminal and now - self._told > PLAIN_EVERY:
            self._told = now
            parts = [f"{done:,} of {total:,} {unit}", rate, self._numbers]
            self._line(f"{self._stage:<{WIDTH}} {', '.join(part for part in parts if part)}")
        self.check(waits=done < total)

    def numbers(self, values: Mapping[str, float]) -> None:
        """Show loss and reward margin of the last step with the progress. Other numbers are not shown."""
        if shown := [f"{SHOWN[name]} {values[name]:.3f}" for name in SHOWN if name in values]:
            self._numbers = " ".join(shown)

    def note(self, message: str) -> None:
        """Print the note."""
        self._line(f"  {message}")

    def check(self, *, waits: bool = False) -> None:
        """Called with each report, where ending the work loses nothing. A subclass may raise here.

        Args:
            waits: whether there will be another report soon.
        """

    def _line(self, text: str) -> None:
        # Without a terminal, programs read the lines, so they must not be wrapped.
        self._console.print(text, markup=False, soft_wrap=not self._console.is_terminal)

    def _drop(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
        self._task = None


def _rate(done: int, seconds: float) -> str:
    """How fast it is: units a second, or seconds a unit if they take longer than one."""
    if not done or seconds <= 0:
        return ""
    return f"{done / seconds:,.1f}/s" if done >= seconds else f"{seconds / done:,.1f} s each"
