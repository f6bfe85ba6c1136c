"""`rosepo trust`: take over a run that others made, or whose configuration was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rosepo_core.console import say


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(trust)


def trust(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]) -> None:
    """Take over a run, as if you had made it.

    Use it for a run of someone you trust, and after you edited config.toml of a finished run, such as the
    path of a model that moved. Read config.toml before: code in files that it names will run. All other files must be
    as they were written. Afterwards, runs beside this one reuse its stages.
    """
    from rosepo_core.store.trusting import trust as take_over

    stages = take_over(run)
    say(f"{run} is signed with your key: config.toml as it is now, and {len(stages)} stages")
