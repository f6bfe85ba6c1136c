"""The progress of a command, which a signal can end."""

from __future__ import annotations

from rosepo_cli.signals import SIGNALS
from rosepo_core import console


class ConsoleReporter(console.ConsoleReporter):
    """Shows progress. Each report is a chance to end the command, see `rosepo_cli.signals`."""

    def check(self, *, waits: bool = False) -> None:
        """End the command if a signal asked for it."""
        SIGNALS.check(waits=waits)
