"""Ends a command when a signal asks for it (Ctrl-C, or SIGTERM from a job scheduler), without losing what is done.

Python's own handler raises KeyboardInterrupt wherever the program is. An exception in a destructor is lost, and one
in the middle of a training step loses the step. Here the handler notes the signal, and the command ends at the next
`check`, of which there is one at each step and block. If no such work is running, it also raises KeyboardInterrupt at
once. The same signal again ends the process at once; the next command removes what it leaves.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rosepo_core import ranks

WATCHED = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


class Signals:
    """The signals that the process has received while `watched`."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._received: int | None = None
        self._waits = False

    @property
    def exit_code(self) -> int:
        """The exit code of a command that was interrupted: 128 and the number of the signal, as in shells. It is 130
        for Ctrl-C, and 143 for SIGTERM."""
        return 128 + (self._received or signal.SIGINT)

    def check(self, *, waits: bool = False) -> None:
        """End the command if a signal asked for it. Call this where nothing is lost.

        Args:
            waits: whether there will be another check soon, for which the next signal should wait.

        Raises:
            KeyboardInterrupt: a signal was received.
        """
        self._waits = waits and self._received is None
        if self._received is not None:
            raise KeyboardInterrupt

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Receive the signals inside the context. Signals that the process was told to ignore stay ignored, and so do
        all signals outside the main thread, because Python allows no handlers there."""
        self._process, self._received, self._waits = os.getpid(), None, False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
            number: signal.getsignal(number) for number in WATCHED
        }
        replaced = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
        for number in replaced:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in replaced.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker process, which has inherited this handler. Ctrl-C reaches it, too, but its end is not its own
            # decision.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._received == number:
            _say(b"\nended at once\n", _SHOW_CURSOR if os.isatty(2) else b"")
            os._exit(128 + number)
        if self._received is not None:
            # A launcher that receives Ctrl-C passes it on as SIGTERM.
            return
        self._received = number
        if not ranks.is_first():
            # All processes of a run receive it, and rank 0 decides where they end.
            return
        if not self._waits:
            raise KeyboardInterrupt
        _say(b"\nends as soon as what is done is saved; the same signal again ends at once\n")


def _say(*parts: bytes) -> None:
    # Python's own streams may be in the middle of another write.
    for part in parts:
        os.write(2, part)


SIGNALS = Signals()
"""The signals of this process."""
