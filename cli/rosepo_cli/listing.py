"""`rosepo runs`: the runs of a folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rosepo_cli.arguments import Json
from rosepo_cli.main_tables import show_main_table


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(runs)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A folder of runs, or one run.")] = Path("runs"),
    json_: Json = False,
) -> None:
    """List the runs in a folder.

    Each line says what the run is, how far it is, and how good its last model is. Of one run, the main metric of all
    models is shown, too, in the time that reading a file takes; `rosepo evaluate` shows all metrics.
    """
    from rosepo_core.evaluation.main_table import read_main_tables
    from rosepo_core.run_list import list_runs

    found = list_runs(folder)
    if json_:
        print(json.dumps([{**asdict(run), "folder": str(run.folder)} for run in found], ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not found:
        console.print(f"there are no runs in {folder}", markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("run", "sampler oracle loss", "state", "result"):
        table.add_column(column, overflow="fold")
    for run in found:
        result = "" if run.value is None else f"{run.row} {run.column} {run.value:.3f}"
        name = run.folder.relative_to(folder) if run.folder != folder else run.folder
        table.add_row(Text(str(name)), Text(run.method), Text(run.state), Text(result))
    console.print(table)
    if [run.folder for run in found if run.value is not None] == [folder]:
        for each in read_main_tables(folder):
            show_main_table(console, each)
