"""Runs the code of plugins while nothing but the user can end the program.

A plugin may raise anything when it is imported or called: an error, ``SystemExit``, even ``KeyboardInterrupt``. All
of it becomes an error of that plugin. A real Ctrl-C ends the program. What tells the two apart is the signal: if the
handler of a signal raised while the plugin ran, the user ended it; if none did, the plugin raised by itself.
"""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any

from rosepo_core.contracts.errors import PluginError, RosepoError

ENDING = (signal.SIGINT, signal.SIGTERM)
"""The signals by which a user or a job scheduler ends a program."""


LONGEST = 500
"""The most characters of an error's text that are shown."""


@contextmanager
def contained() -> Iterator[None]:
    """Whatever the code in the context raises leaves it as an `Exception`, unless a signal ended it.

    What the code prints goes to stderr, because the output of a command may be one document of JSON. Filters of
    warnings and handlers of `ENDING` are afterwards as before.

    Raises:
        PluginError: the code raised something that is no `Exception`.
    """
    with _raised_by_signals() as raised, redirect_stdout(sys.stderr), warnings.catch_warnings():
        try:
            yield
        except BaseException as error:
            if raised:
                # Also if the plugin made another exception of it.
                raise raised[0] from None
            if isinstance(error, Exception):
                raise
            raise PluginError(described(error)) from error
    if raised:
        raise raised[0]


def described(error: BaseException) -> str:
    """An exception in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # Its class is a plugin's, too.
        text = ""
    # No control sequences for the terminal, and no page of text.
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    if isinstance(error, RosepoError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _raised_by_signals() -> Iterator[list[BaseException]]:
    """What the handlers of `ENDING` raise inside the context."""
    raised: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        # Handlers run in the main thread only.
        yield raised
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING}

    def watch(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except BaseException as error:
            raised.append(error)
            raise

    watched = [number for number, handler in before.items() if callable(handler)]
    for number in watched:
        signal.signal(number, watch)
    try:
        yield raised
    finally:
        for number in watched:
            signal.signal(number, before[number])
