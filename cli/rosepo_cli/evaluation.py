"""`rosepo evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rosepo_cli.arguments import (
    DOTTED,
    ConfigFile,
    Dataset,
    Json,
    Metric,
    NewRun,
    Processes,
    Prompt,
    Protocol,
    Seed,
    Set,
    bare_argument,
    in_processes,
    overrides,
)
from rosepo_cli.keys import WithKeys
from rosepo_core.console import print_json
from rosepo_core.contracts.errors import RequestError


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(context_settings=DOTTED, cls=WithKeys)(evaluate)


def evaluate(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A finished run's folder.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Evaluate this model instead: the folder of a PEFT adapter, or any model for `train`.",
            show_default=False,
        ),
    ] = None,
    dataset: Dataset = None,
    prompt: Prompt = None,
    protocol: Protocol = None,
    metric: Metric = None,
    seed: Seed = None,
    config: ConfigFile = None,
    set_: Set = None,
    folder: NewRun = None,
    processes: Processes = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--scores",
            metavar="[NAME=]FILE",
            help="With RUN: the scores of another recommender, as a row of the tables. You can repeat this.",
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Evaluate a finished run again, or a single model.

    With RUN: show its tables. --protocol, --metric and --evaluation.part validation add to them. Other keys of
    [evaluation], e.g. --evaluation.max_users 500, make them again. Nothing is trained, and earlier answers of models
    are reused. In a folder of seeds, each run is evaluated. --scores adds a row for another recommender, from a table
    of user, item and score (Parquet, CSV or TSV) by the log's own ids, with all candidates of the test users.

    With --model: make the same tables for any PEFT adapter or full model, beside popularity, in a run folder of its
    own. Choose data, split, prompt and evaluation as in `rosepo train`. For a model that rosepo trained, its own
    prompts are used, unless you set --prompt.KEY.
    """
    finished = bare_argument(run, context)
    if (finished is None) == (model is None):
        raise RequestError(
            "name a finished run, RUN, or a model, --model PATH"
            + ("" if finished is None else f"; '{finished}' and '{model}' are one of each")
        )
    changes: list[tuple[str, Any]] = [
        (key, value)
        for key, value in {"dataset": dataset, "prompt": prompt, "seed": seed}.items()
        if value is not None
    ]
    changes += [("metric", name) for name in metric or []] + overrides(set_ or [], context)
    if finished is not None:
        for flag, value in {"--config": config, "--run": folder}.items():
            if value is not None:
                raise RequestError(f"{flag} goes with --model; a finished run has its own")

    elif scores:
        raise RequestError("--scores adds rows to the tables of a finished run: name the run, RUN")

    in_processes(processes, context)

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables.evaluations import document_of, show_evaluations
    from rosepo_cli.tables.seeds import show_seeds
    from rosepo_core import pipeline
    from rosepo_core import seeds as over
    from rosepo_core.plugins.registry import load_plugins
    from rosepo_core.store.seed_folders import is_seeds

    registry = load_plugins()
    reporter = ConsoleReporter()
    if finished is not None and is_seeds(Path(finished)):
        if scores:
            raise RequestError(
                f"{finished} holds runs under seeds, which ranked different candidates: name one of them"
            )
        with reporter.live():
            found = over.evaluate(Path(finished), changes, reporter, protocols=protocol or (), registry=registry)
        if json_:
            print_json({"run": finished, "seeds": found.document()})
        else:
            show_seeds(found)
        return
    if finished is not None:
        with reporter.live():
            done = pipeline.evaluate(
                Path(finished), changes, reporter, protocols=protocol or (), scores=scores or (), registry=registry
            )
    else:
        changes += [("model", model), *([("evaluation.protocols", protocol)] if protocol else [])]
        settings = pipeline.evaluation_config(config, changes, registry)
        folder = folder or pipeline.default_folder(settings, trained=False)
        with reporter.live():
            done = pipeline.evaluate_model(settings, folder, reporter, registry=registry)
    if json_:
        print_json(document_of(done))
    else:
        show_evaluations(done)
