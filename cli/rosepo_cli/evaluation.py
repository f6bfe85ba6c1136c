"""`rosepo evaluate`."""

from __future__ import annotations

import typer

from rosepo_cli.arguments import DOTTED, Json, Metric, RunFolder, Set, overrides


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(context_settings=DOTTED)(evaluate)


def evaluate(
    context: typer.Context, run: RunFolder, metric: Metric = None, set_: Set = None, json_: Json = False
) -> None:
    """Show a finished run's table, or make it anew with other keys of [evaluation] or other metrics.

    For instance --evaluation.max_users 500 or --evaluation.candidates 100; nothing is trained again.
    """
    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables import show_evaluation, to_json
    from rosepo_core import pipeline
    from rosepo_core.registry import load_plugins

    reporter = ConsoleReporter()
    with reporter.live():
        given = [("metric", name) for name in metric or []] + overrides(set_ or [], context)
        done = pipeline.evaluate(run, given, reporter, registry=load_plugins())
    if json_:
        print(to_json(run, done.evaluation))
    else:
        show_evaluation(run, done.evaluation)
