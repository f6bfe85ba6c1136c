"""`rosepo compare` and `rosepo report`: finished runs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rosepo_cli.arguments import Json

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
    """Set the models of finished runs side by side, and test which aligned ones differ from the first run's; a run
    that only evaluates a model stands for that model.

    The runs must have ranked the same candidates for the same users: equal dataset, split, seed and [evaluation].
    """
    import json
    from dataclasses import asdict

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables import show_comparison
    from rosepo_core import pipeline
    from rosepo_core.contracts.errors import RequestError

    if len(runs) < 2:
        raise RequestError(f"name at least two runs; `rosepo evaluate {runs[0]}` shows one")
    reporter = ConsoleReporter()
    with reporter.live():
        evaluations = pipeline.compare(runs, metric, reporter)
    if not json_:
        for evaluation in evaluations:
            show_comparison(evaluation, metric)
        return
    document = {
        evaluation.protocol: {
            "models": {
                name: {"value": result.metrics[metric], "interval": result.intervals.get(metric)}
                for name, result in evaluation.models.items()
            },
            "comparisons": [asdict(each) for each in evaluation.comparisons],
        }
        for evaluation in evaluations
    }
    print(json.dumps({"metric": metric, "protocols": document}, ensure_ascii=False))


def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.html", help="Where to; by default the run's own report.html."),
    ] = None,
) -> None:
    """Write the report of a finished run, or of several in one page."""
    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core import pipeline
    from rosepo_core.contracts.errors import RequestError

    if out is None and len(runs) > 1:
        raise RequestError("several runs in one report need a place: add --out FILE.html")
    file = out or runs[0] / "report.html"
    reporter = ConsoleReporter()
    with reporter.live():
        pipeline.report(runs, file, reporter)
    typer.echo(f"report  {file}")
