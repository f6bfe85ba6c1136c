"""The command line: it reads arguments and shows results, and has no logic of its own."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 the request was wrong, 130 interrupted by Ctrl-C, 143 ended
    by SIGTERM."""
    from rosepo_cli.app import run
    from rosepo_core import ranks

    code = run(sys.argv[1:])
    if code == 0:
        ranks.leave()
    sys.exit(code)
