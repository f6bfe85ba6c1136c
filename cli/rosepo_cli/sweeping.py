"""`rosepo sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

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
    Prompt,
    Protocol,
    Rounds,
    Sampler,
    Seed,
    Set,
    named_keys,
    overrides,
)
from rosepo_cli.keys import WithKeys
from rosepo_core.console import SafeTable, Text, open_console, print_json

if TYPE_CHECKING:
    from rosepo_core.config import RunConfig
    from rosepo_core.sweep.running import Sweep

MOST_ROWS = 20
STATES = {"pruned": "ended early", "running": "not finished"}


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(context_settings=DOTTED, cls=WithKeys)(sweep)


def sweep(
    context: typer.Context,
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="Search this key: A..B, A..B:log, A..B:STEP, or values with commas between them. You can repeat "
            "this.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(metavar="N", help="How many configurations to try.")] = 20,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The column that decides; by default NDCG at the largest cut-off.",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        str,
        typer.Option(metavar="ROW", help="The row that decides: a model, by ranking.score, or a model and a score."),
    ] = "aligned",
    under: Annotated[
        str | None,
        typer.Option(metavar="PROTOCOL", help="The protocol that decides; by default the first.", show_default=False),
    ] = None,
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the space and a forecast, and do nothing.")
    ] = False,
    json_: Json = False,
) -> None:
    """Search the values of some keys that validate best, in N trials.

    For example: --over alignment.learning_rate=1e-6..1e-4:log --over loss=dpo,ipo --over loss.beta=0.05..0.5. All
    other options are those of `rosepo train`.

    Trials are judged on validation and never on the test. Each is a complete run in DIR, and shares with the others
    what it can. DIR/best.toml is the best configuration, DIR/report.html the picture. With sft.patience, a trial ends
    early if its validation during SFT is worse than the median.

    The same command goes on where it stopped. A larger --trials adds some.
    """
    from rosepo_core.config import load_config
    from rosepo_core.plugins.registry import load_plugins
    from rosepo_core.sweep.judging import judged_by
    from rosepo_core.sweep.space import check_space, parse_space

    space = parse_space(over or [])
    named = {"dataset": dataset, "model": model, "prompt": prompt, "oracle": oracle, "rounds": rounds, "seed": seed}
    changes = named_keys(named, {"sampler": sampler, "loss": loss, "metric": metric}, protocol)
    changes += overrides(set_ or [], context)
    registry = load_plugins()

    def load(more: Sequence[tuple[str, Any]]) -> RunConfig:
        return load_config(config, [*changes, *more], registry, preset=preset)

    base = load([])
    check_space(space, {key.replace("-", "_").removesuffix(".name") for key, _ in changes}, load)
    judged = judged_by(base, registry, by, row, under)

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core.sweep.running import default_folder, run_sweep

    folder = run or default_folder(base, space)
    reporter = ConsoleReporter()
    if dry_run:
        from rosepo_core.sweep.forecast import forecast

        with reporter.live():
            expected = forecast(load, space, judged, folder, trials, reporter, registry=registry)
        if json_:
            print_json(expected.document())
            return
        console = open_console()
        for line in expected.lines():
            console.print(line)
        return
    with reporter.live():
        done = run_sweep(load, space, judged, folder, trials, reporter, registry=registry)
    if json_:
        print_json({"sweep": str(folder), **done.document(), "command": done.command})
    else:
        _show(done)


def _show(done: Sweep) -> None:
    from rosepo_core.sweep.space import shown

    assert done.best is not None
    console = open_console()
    sign = -1 if done.judged.higher else 1
    order = sorted(done.trials, key=lambda each: (each.value is None, sign * (each.value or 0.0), each.number))
    table = SafeTable()
    table.add_column("trial", justify="right")
    table.add_column(done.judged.column, justify="right", no_wrap=True)
    table.add_column("values", overflow="fold")
    for trial in order[:MOST_ROWS]:
        value = STATES.get(trial.state, trial.state) if trial.value is None else f"{trial.value:.4f}"
        style = "bold" if trial.number == done.best.number else ""
        table.add_row(str(trial.number + 1), value, Text(shown(trial.params)), style=style)
    console.print(f"\n{done.judged}")
    console.print(table)
    if len(order) > MOST_ROWS:
        console.print(f"and {len(order) - MOST_ROWS} more")
    console.print(f"\nThe best is trial {done.best.number + 1}. To train it and test it:")
    console.print(f"  {done.command}", soft_wrap=True)
    console.print(f"report  {done.folder / 'report.html'}", soft_wrap=True)
