"""`rosepo runs`: the runs of a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rosepo_cli.arguments import Json
from rosepo_cli.tables.main_metric import show_main_table
from rosepo_core.console import SafeTable, Text, open_console, print_json


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
        print_json([{**asdict(run), "folder": str(run.folder)} for run in found])
        return
    console = open_console()
    if not found:
        console.print(f"there are no runs in {folder}", soft_wrap=True)
        return
    table = SafeTable()
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
