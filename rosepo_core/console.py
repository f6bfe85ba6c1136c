"""The one door to the terminal: everything that rosepo prints goes through it, so nothing of a title acts there.

Text is shown as `contracts.untrusted_text` says, and nothing in it is taken for markup or for the name of an emoji.
Characters that the encoding of the terminal does not have become ``?``. JSON documents are ASCII.

The progress of a run is on stderr: a live line on a terminal, plain lines elsewhere. Only this module imports rich; a
test forbids `print` elsewhere.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleRenderable, RenderHook
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rosepo_core.contracts.untrusted_text import message as as_message
from rosepo_core.contracts.untrusted_text import visible

__all__ = [
    "Console",
    "ConsoleReporter",
    "SafeTable",
    "Text",
    "complain",
    "never_fail_to_encode",
    "open_console",
    "print_json",
    "say",
]

if TYPE_CHECKING:
    from rosepo_core.store.artifacts import Artifact

WIDTH = 22
"""Of the names of stages."""

SHOWN = {"loss": "loss", "rewards/margins": "margin"}
"""The numbers of a training that are shown, and what they are called here."""

PLAIN_EVERY = 20.0
"""Seconds between two lines about the same stage, if there is no terminal."""


class _Visible(RenderHook):
    """Shows all text as `visible` says, whatever is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """See rich."""
        return [_safe(each) if isinstance(each, Text) else each for each in renderables]


def _safe(text: Text) -> Text:
    shown = visible(text.plain)
    return text if shown == text.plain else Text(shown, style=text.style)


class SafeTable(Table):
    """A table without lines, whose cells are shown as `visible` says."""

    def __init__(self, *, header: bool = True) -> None:
        super().__init__(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header)

    def add_column(self, header: Any = "", *arguments: Any, **options: Any) -> None:
        """See rich."""
        super().add_column(_cell(header), *arguments, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """See rich. Cells are str or Text."""
        super().add_row(*map(_cell, cells), **options)


def _cell(content: str | Text) -> Text:
    return _safe(content if isinstance(content, Text) else Text(content))


def open_console(*, stderr: bool = False) -> Console:
    """A console of rich on stdout or stderr, for text, and for tables that are `SafeTable`."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    made.push_render_hook(_Visible())
    return made


def say(text: str, *, stderr: bool = False) -> None:
    """Print lines, as they are apart from what `visible` replaces."""
    print(visible(text), file=sys.stderr if stderr else sys.stdout)


def complain(kind: str, text: str) -> None:
    """Print an error or a warning on stderr. Its second line and those after are indented."""
    print(as_message(f"{kind}: {text}"), file=sys.stderr)


def print_json(document: Any) -> None:
    """Print one document of JSON on stdout, in ASCII, which every terminal and every program can read."""
    print(json.dumps(document))


def never_fail_to_encode() -> None:
    """Let characters that stdout or stderr cannot encode be replaced by ``?``, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class ConsoleReporter:
    """Shows finished stages, notes, and the progress of the running stage, on stderr.

    For a live line on a terminal, work inside `live`::

        with ConsoleReporter().live() as reporter:
            rosepo_core.align(log, items, reporter=reporter)
    """

    def __init__(self) -> None:
        self._console = open_console(stderr=True)
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
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]} {task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}", markup=False),
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
        self._line(as_message(f"  {message}"))

    def check(self, *, waits: bool = False) -> None:
        """Called with each report, where ending the work loses nothing. A subclass may raise here.

        Args:
            waits: whether there will be another report soon.
        """

    def _line(self, text: str) -> None:
        # Without a terminal, programs read the lines, so they must not be wrapped.
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def _drop(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
        self._task = None


def _rate(done: int, seconds: float) -> str:
    """How fast it is: units a second, or seconds a unit if they take longer than one."""
    if not done or seconds <= 0:
        return ""
    return f"{done / seconds:,.1f}/s" if done >= seconds else f"{seconds / done:,.1f} s each"
