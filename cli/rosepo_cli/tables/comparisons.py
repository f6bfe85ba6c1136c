"""The models of several runs side by side, and the tests between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rosepo_cli.tables.cells import SIGNS, heading, number_of, plain_table
from rosepo_core.console import Text, open_console

if TYPE_CHECKING:
    from rosepo_core.evaluation.measurement import Comparison
    from rosepo_core.evaluation.over_seeds import ComparedModels


def show_comparison(compared: ComparedModels) -> None:
    """One column of all models with intervals, then the differences and whether they hold."""
    tested, column = compared.comparisons, compared.column
    console = open_console()
    heading(console, compared.protocol)
    table = plain_table("", f"{column.title} {SIGNS[column.about.direction]}", "95 % interval")
    for model, (mean, *ends) in compared.models.items():
        known = [end for end in ends if math.isfinite(end)]
        table.add_row(Text(model), number_of(column, mean), " to ".join(number_of(column, end) for end in known))
    console.print(table)
    if not tested:
        return
    console.print()
    table = plain_table(f"less {tested[0].baseline}", "difference", "95 % interval", "p, Holm", "holds")
    for each in tested:
        shown, low, high = (f"{value:+.3f}" for value in (each.difference, each.low, each.high))
        table.add_row(Text(each.model), shown, f"{low} to {high}", _p(each.p_holm), _holds(each))
    console.print(table)
    corrected = f", corrected for {len(tested)} comparisons" if len(tested) > 1 else ""
    if compared.seeds:
        foot = f"seeds {', '.join(map(str, compared.seeds))}, {tested[0].users:,} users; p by drawing seeds and users"
    else:
        foot = f"{tested[0].users:,} users; p by the paired bootstrap"
    console.print(f"\n{foot}{corrected}")


def comparison_document(metric: str, compared: Sequence[ComparedModels]) -> dict[str, Any]:
    """The document of `rosepo compare --json`; a number that does not exist is null."""

    def known(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    document: dict[str, Any] = {"metric": metric}
    if compared and compared[0].seeds:
        document["seeds"] = list(compared[0].seeds)
    document["protocols"] = {
        each.protocol: {
            "models": {
                name: {"value": known(mean), "interval": None if math.isnan(low) else [low, high]}
                for name, (mean, low, high) in each.models.items()
            },
            "comparisons": [
                {key: known(value) for key, value in asdict(tested).items()} for tested in each.comparisons
            ],
        }
        for each in compared
    }
    return document


def _holds(comparison: Comparison) -> str:
    """Whether a difference stands up to the correction, at 5 %."""
    if not comparison.p_holm < 0.05:
        return "no"
    return "higher" if comparison.difference > 0 else "lower"


def _p(value: float) -> str:
    """A p value as text; it is never 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
