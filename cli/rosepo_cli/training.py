"""`rosepo train`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rosepo_cli.arguments import (
    DOTTED,
    ConfigFile,
    Dataset,
    Json,
    Loss,
    Metric,
    Model,
    NewRun,
    Oracle,
    Preset,
    Processes,
    Prompt,
    Protocol,
    Rounds,
    Sampler,
    Seed,
    Set,
    in_processes,
    named_keys,
    overrides,
)
from rosepo_cli.keys import WithKeys
from rosepo_core.console import print_json


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(context_settings=DOTTED, cls=WithKeys)(train)


def train(
    context: typer.Context,
    dataset: Dataset = None,
    model: Model = None,
    prompt: Prompt = None,
    sampler: Sampler = None,
    oracle: Oracle = None,
    loss: Loss = None,
    rounds: Rounds = None,
    protocol: Protocol = None,
    metric: Metric = None,
    seed: Seed = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    run: NewRun = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Send the numbers of training to tensorboard, wandb, mlflow or trackio. You can repeat this.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Run N seeds, starting with the configured one, and show mean and standard deviation.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    force: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE",
            help="Make this stage again, and all stages that depend on it. You can repeat this.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow to replace a finished run of another configuration in DIR.")
    ] = False,
    processes: Processes = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost, and do nothing.")] = False,
    json_: Json = False,
) -> None:
    """Make an aligned recommender of a log and a language model.

    Write options of plugins and of the configuration's sections as --SECTION.KEY VALUE, e.g. --loss.beta 0.2 or
    --sft.steps 80. `rosepo plugins show NAME` lists the options of a plugin. The command line wins over --config,
    --config over --preset, and --preset over the defaults.

    The same command continues an interrupted run. New stages that will replace stages of a finished run wait in
    DIR/unfinished until all are done.

    With --seeds, each seed S is a complete run in DIR/seed-S, and DIR/seeds.json has the numbers over all seeds.
    Everything random differs between seeds: the first adapter, the order of batches, the oracle's training, rejected
    items, test users and candidates. The log and its split are the same. The same command again continues.
    """
    from rosepo_core.config import load_config
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.plugins.registry import load_plugins

    if seeds is not None and until is not None:
        raise RequestError("--seeds needs finished runs: leave --until out, or --seeds")
    named = {"dataset": dataset, "model": model, "prompt": prompt, "oracle": oracle, "rounds": rounds, "seed": seed}
    changes = named_keys(named, {"sampler": sampler, "loss": loss, "metric": metric}, protocol)
    changes += [("track", track)] if track else []
    changes += overrides(set_ or [], context)
    registry = load_plugins()
    settings = load_config(config, changes, registry, preset=preset)

    if not dry_run:
        in_processes(processes, context)

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables.evaluations import document_of, show_evaluations
    from rosepo_cli.tables.plans import in_a_line, show_plan, show_plan_of_seeds
    from rosepo_cli.tables.seeds import show_seeds
    from rosepo_core import pipeline, ranks
    from rosepo_core import seeds as over

    folder = run or (pipeline if seeds is None else over).default_folder(settings)
    reporter = ConsoleReporter()
    how: Any = {"force": force or [], "overwrite": overwrite}
    if dry_run:
        from rosepo_core.planning import plan

        runs = {settings.seed: folder} if seeds is None else over.seed_folders(settings, folder, seeds)
        with reporter.live():
            how |= {"registry": registry, "until": until, "processes": processes or 1}
            made = plan(settings, runs[settings.seed], reporter, **how)
        if json_:
            document = {"config": settings.resolved(), "run": str(folder), "plan": made.document()}
            print_json(document if seeds is None else {**document, "seeds": list(runs)})
        else:
            show_plan(settings.to_toml(), runs[settings.seed], made)
            if seeds is not None:
                show_plan_of_seeds(list(runs), made)
        return
    if ranks.count() == 1:
        from rosepo_core.planning import forecast

        first = folder if seeds is None else over.seed_folders(settings, folder, seeds)[settings.seed]
        with reporter.live():
            expected = forecast(settings, first, reporter, registry=registry, **how)
            if expected is not None and (line := in_a_line(expected, until, runs=seeds or 1)):
                reporter.note(line)
    if seeds is not None:
        with reporter.live():
            found = over.run_seeds(settings, folder, seeds, reporter, registry=registry, **how)
        if json_:
            print_json({"run": str(folder), "seeds": found.document()})
        else:
            show_seeds(found)
        return
    with reporter.live():
        done = pipeline.run(settings, folder, reporter, registry=registry, until=until, **how)
    if json_:
        print_json(document_of(done))
    else:
        show_evaluations(done)
