"""The command line: arguments in, pictures out, no logic."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 the request was wrong, 130 interrupted."""
    from rosepo_cli.app import run

    sys.exit(run(sys.argv[1:]))
