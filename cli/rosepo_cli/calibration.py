"""`rosepo calibrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from rosepo_cli.arguments import Json, RunFolder, Stage
from rosepo_core.console import print_json
from rosepo_core.contracts.sections import Score


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    run: RunFolder,
    stage: Stage = None,
    score: Annotated[
        Score | None, typer.Option(help="How titles are ranked; by default the run's ranking.score.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="The most validation users. Each costs a list.")] = 500,
    k: Annotated[int, typer.Option("--k", min=1, help="The longest list that has a confidence.")] = 20,
    json_: Json = False,
) -> None:
    """Measure how probably the next title is in a list.

    This is the confidence of the list. The model makes lists out of the whole catalogue for validation users, whose
    next title is known. `recommend`, `serve` and `export` then give each list its confidence.
    """
    from dataclasses import asdict

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables.calibrations import show_calibration
    from rosepo_core.serving.calibrating import calibrate as calibrated

    reporter = ConsoleReporter()
    with reporter.live():
        reporter.stage_started("calibrate")
        done = calibrated(run, reporter, model=stage, score=score, users=users, k=k)
    if json_:
        print_json({**asdict(done), "folder": str(done.folder)})
    else:
        show_calibration(done)
