"""`rosepo compare` and `rosepo report`: finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rosepo_cli.arguments import Json
from rosepo_core.console import print_json, say

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, as `rosepo train` printed them.")]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(compare)
    app.command()(report)


def compare(
    runs: Runs,
    metric: Annotated[str, typer.Option(metavar="NAME", help="The column that is compared.")] = "ndcg@10",
    json_: Json = False,
) -> None:
    """Show finished runs side by side, and test their differences.

    The test is which aligned models differ from that of the first run.

    They are compared by ranking.score, or by the last score that all runs have.

    A run of `rosepo evaluate --model` takes part with its model. Folders of runs under the same seeds are paired by
    seed, and tested over seeds and users.

    The runs must have ranked the same candidates for the same users: equal dataset, split, seed and [evaluation].
    """

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables.comparisons import comparison_document, show_comparison
    from rosepo_core import pipeline
    from rosepo_core import seeds as over
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.evaluation.side_by_side import compared

    if len(runs) < 2:
        raise RequestError(f"name at least two runs; `rosepo evaluate {runs[0]}` shows one")
    of_seeds = _are_of_seeds(runs)
    reporter = ConsoleReporter()
    with reporter.live():
        if of_seeds:
            found = over.compare(runs, metric, reporter)
        else:
            found = [compared(evaluation, metric) for evaluation in pipeline.compare(runs, metric, reporter)]
    if json_:
        print_json(comparison_document(metric, found))
    else:
        for each in found:
            show_comparison(each)


def _are_of_seeds(folders: list[Path]) -> bool:
    """Whether the folders contain runs under seeds.

    Raises:
        RequestError: only some of them do.
    """
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.store.seed_folders import is_seeds

    of_seeds = [folder for folder in folders if is_seeds(folder)]
    if of_seeds and len(of_seeds) < len(folders):
        other = next(folder for folder in folders if folder not in of_seeds)
        raise RequestError(f"{of_seeds[0]} holds runs under seeds and {other} does not: name folders of one kind")
    return bool(of_seeds)


def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="The file to write; by default the run's own report.html."),
    ] = None,
) -> None:
    """Write the report of one or more finished runs, as one page.

    For folders of runs under seeds, it shows means over seeds.
    """
    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core import pipeline
    from rosepo_core import seeds as over
    from rosepo_core.contracts.errors import RequestError

    if out is None and len(runs) > 1:
        raise RequestError("several runs in one report need a place: add --out FILE.html")
    file = out or runs[0] / "report.html"
    of_seeds, reporter = _are_of_seeds(runs), ConsoleReporter()
    with reporter.live():
        (over if of_seeds else pipeline).report(runs, file, reporter)
    say(f"report  {file}")
