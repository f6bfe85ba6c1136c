"""Shows the main metric of all models with its intervals, in 80 columns."""

from __future__ import annotations

import math

from rosepo_core.console import Console, SafeTable, Text
from rosepo_core.evaluation.main_table import Estimate, MainTable


def show_main_table(console: Console, found: MainTable) -> None:
    """A row for each model, a column for each score."""
    console.print(f"\n{found.column.upper()} with 95 % intervals, {found.protocol}", style="bold")
    table = SafeTable()
    table.add_column("", overflow="fold")
    for score in found.scores:
        table.add_column(score if len(found.scores) > 1 else "", justify="right", no_wrap=True)
    for model, by_score in found.rows.items():
        cells = (_text(by_score[score]) if score in by_score else "" for score in found.scores)
        table.add_row(Text(model), *cells)
    console.print(table)


def _text(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return "-"
    ends = () if estimate.interval is None else estimate.interval
    interval = "\N{EN DASH}".join(f"{end:.3f}".removeprefix("0") for end in ends if math.isfinite(end))
    return f"{estimate.value:.3f} {interval}".strip()
