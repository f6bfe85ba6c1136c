"""One configuration under several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rosepo_cli.tables.cells import SIGNS, heading, plain_table
from rosepo_cli.tables.evaluations import ranked_by, show_by_model, without_scores
from rosepo_core.console import Text, open_console
from rosepo_core.evaluation.run_models import by_score_in_use

if TYPE_CHECKING:
    from rosepo_core.evaluation.measurement import Column
    from rosepo_core.seeds import SeedRuns, SeedTable, Spread


def show_seeds(found: SeedRuns) -> None:
    """Mean and, below it, standard deviation over seeds, for all models side by side; and the folder of the runs."""
    console = open_console()
    for protocol, table in found.tables.items():
        accuracy = [name for name, column in table.columns.items() if column.about.group == "Accuracy"]
        others = [name for name in table.columns if name not in accuracy]
        if accuracy:
            heading(console, f"Accuracy, {protocol}")
            shown = plain_table("", *(table.columns[name].title for name in accuracy))
            for model, spreads in table.models.items():
                shown.add_row(Text(model), *(_spread(table.columns[name], spreads[name]) for name in accuracy))
            console.print(shown)
        if others:
            used = by_score_in_use(table.models)
            heading(console, f"Beyond accuracy, {protocol}{ranked_by(table.models)}")
            titles = [f"{table.columns[name].title} {SIGNS[table.columns[name].about.direction]}" for name in others]
            values = {
                model: [_spread(table.columns[name], table.models[model][name]) for name in others] for model in used
            }
            show_by_model(console, titles, values)
        console.print()
        for line in _over_fewer(table):
            console.print(line)
    seeds = ", ".join(map(str, found.runs))
    one = len(found.runs) == 1
    console.print(
        f"seed {seeds} alone, so there is no deviation"
        if one
        else f"mean \N{PLUS-MINUS SIGN} standard deviation over seeds {seeds}",
        markup=False,
    )
    console.print(f"run     {found.folder}", soft_wrap=True)


def _spread(column: Column, spread: Spread) -> str:
    mean, deviation = (
        f"{value:.{column.about.decimals}f}" if math.isfinite(value) else ""
        for value in (spread.over.mean, spread.over.deviation)
    )
    return (mean or "-") + (f"\n\N{PLUS-MINUS SIGN} {deviation}" if deviation else "")


def _over_fewer(table: SeedTable) -> Iterator[str]:
    """Lines about means that are not over all seeds, one for each column and number of seeds."""
    found: dict[tuple[str, str], list[str]] = {}
    for model, spreads in table.models.items():
        for name, spread in spreads.items():
            known = sum(map(math.isfinite, spread.values))
            if 0 < known < len(spread.values):
                key = (table.columns[name].title, f"{known} of {len(spread.values)}")
                found.setdefault(key, []).append(model)
    for (title, share), models in found.items():
        yield f"{title} applies in {share} seeds to {', '.join(without_scores(models, table.models))}"
