"""`rosepo train`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from rosepo_cli.arguments import (
    DOTTED,
    ConfigFile,
    Dataset,
    Json,
    Metric,
    Model,
    NewRun,
    Protocol,
    Seed,
    Set,
    overrides,
)


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(context_settings=DOTTED)(train)


def train(
    context: typer.Context,
    dataset: Dataset = None,
    model: Model = None,
    sampler: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHT]", help="What picks rejected items; may be repeated.", show_default=False),
    ] = None,
    oracle: Annotated[str | None, typer.Option(help="What gives the smoothing factors.", show_default=False)] = None,
    loss: Annotated[str | None, typer.Option(help="The preference objective.", show_default=False)] = None,
    protocol: Protocol = None,
    metric: Metric = None,
    seed: Seed = None,
    config: ConfigFile = None,
    set_: Set = None,
    run: NewRun = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    json_: Json = False,
) -> None:
    """Turn a log of interactions and a language model into an aligned recommender.

    Options of plugins and of the configuration's sections are --SECTION.KEY VALUE, e.g. --loss.beta 0.2,
    --sft.steps 80; `rosepo plugins show NAME` lists a plugin's. Precedence: defaults, --config, command line.
    """
    from rosepo_core.config import load_config
    from rosepo_core.registry import load_plugins

    named = {"dataset": dataset, "model": model, "oracle": oracle, "loss": loss, "seed": seed}
    given: list[tuple[str, Any]] = [(key, value) for key, value in named.items() if value is not None]
    given += [("sampler", name) for name in sampler or []]
    given += [("metric", name) for name in metric or []]
    given += [("evaluation.protocols", protocol)] if protocol else []
    given += overrides(set_ or [], context)
    registry = load_plugins()
    settings = load_config(config, given, registry)

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables import show_evaluations, show_plan, to_json
    from rosepo_core import pipeline

    folder = run or pipeline.default_folder(settings, registry)
    reporter = ConsoleReporter()
    if dry_run:
        from rosepo_core.planning import plan

        with reporter.live():
            made = plan(settings, folder, reporter, registry=registry)
        if json_:
            print(json.dumps({"config": settings.resolved(registry), "run": str(folder), "plan": made.document()}))
        else:
            show_plan(settings.to_toml(registry), folder, made)
        return
    with reporter.live():
        done = pipeline.run(settings, folder, reporter, registry=registry, until=until)
    if json_:
        print(to_json(done))
    else:
        show_evaluations(done)
