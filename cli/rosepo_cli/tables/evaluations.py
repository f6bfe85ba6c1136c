"""The tables of a run: all models side by side under each protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rosepo_cli.tables.cells import SIGNS, heading, plain_table, value_of
from rosepo_cli.tables.main_metric import show_main_table
from rosepo_core.console import Console, Text, open_console
from rosepo_core.evaluation.main_table import main_table
from rosepo_core.evaluation.run_models import ROUND, RowName, by_score_in_use, score_in_use
from rosepo_core.store.marker import read_listed

if TYPE_CHECKING:
    from rosepo_core.evaluation.results import Evaluation
    from rosepo_core.pipeline import Run

ROOM_OF_TITLES = 16
"""The columns of a terminal that the titles of metrics need at least; longer ones are broken between words."""


def document_of(run: Run) -> dict[str, Any]:
    """The run's folder and, if it was evaluated, the contents of its metrics.json."""
    document: dict[str, Any] = {"run": str(run.folder)}
    if run.evaluations:
        document["metrics"] = json.loads(read_listed(run.folder, "metrics.json") or "{}")
    return document


def show_evaluations(run: Run) -> None:
    """All models side by side under each protocol, and the folder of the run."""
    console = open_console()
    for evaluation in run.evaluations:
        _show_evaluation(console, evaluation)
    for evaluation in run.evaluations:
        metrics = {name: result.metrics for name, result in evaluation.models.items()}
        intervals = {name: result.intervals for name, result in evaluation.models.items()}
        show_main_table(console, main_table(evaluation.protocol, metrics, intervals))
    if run.evaluations:
        console.print()
    report = run.folder / "report.html"
    if run.evaluations and report.exists():
        console.print(f"report  {report}", soft_wrap=True)
    console.print(f"run     {run.folder}", soft_wrap=True)


def _show_evaluation(console: Console, evaluation: Evaluation) -> None:
    columns, protocol = evaluation.columns, evaluation.protocol
    accuracy = [name for name in evaluation.main_columns if columns[name].about.group == "Accuracy"]
    others = [name for name in evaluation.main_columns if name not in accuracy]
    if accuracy:
        heading(console, f"Accuracy, {protocol}")
        table = plain_table("", *(columns[name].title for name in accuracy))
        for model, result in evaluation.models.items():
            table.add_row(Text(model), *(value_of(evaluation, name, result.metrics[name]) for name in accuracy))
        console.print(table)
    if others:
        used = by_score_in_use(evaluation.models)
        heading(console, f"Beyond accuracy, {protocol}{ranked_by(evaluation.models)}")
        titles = [f"{columns[name].title} {SIGNS[columns[name].about.direction]}" for name in others]
        values = {
            model: [value_of(evaluation, name, evaluation.models[model].metrics[name]) for name in others]
            for model in used
        }
        show_by_model(console, titles, values)
    console.print(f"\n{len(evaluation.examples):,} {evaluation.part} users, {evaluation.asked}")
    for line in (*_over_fewer_users(evaluation), *_about_fusion(evaluation)):
        console.print(line)


def show_by_model(console: Console, titles: Sequence[str], values: Mapping[str, Sequence[str]]) -> None:
    """A row for each title and a column for each model. If they do not fit beside each other, several tables."""
    headings = {name: _heading_of(RowName.of(name)) for name in values}
    parts: list[list[str]] = [[]]
    room = console.width - ROOM_OF_TITLES
    for name, cells in values.items():
        width = 2 + max(len(line) for text in (headings[name], *cells) for line in text.splitlines() or [""])
        if parts[-1] and room < width:
            parts.append([])
            room = console.width - ROOM_OF_TITLES
        parts[-1].append(name)
        room -= width
    for place, part in enumerate(parts):
        table = plain_table("", *(headings[name] for name in part))
        for row, title in enumerate(titles):
            table.add_row(Text(title), *(values[name][row] for name in part))
        if place:
            console.print()
        console.print(table)


def _heading_of(row: RowName) -> str:
    """The heading of a model's column: the long name of a round in two lines."""
    return row.own.replace("-aligned", "-\naligned") if ROUND.fullmatch(row.model) else row.own


def ranked_by(models: Iterable[str]) -> str:
    """The end of a heading over models that are shown by one of several scores."""
    score = score_in_use(models)
    return "" if score == "likelihood" else f", ranked by {score}"


def _about_fusion(evaluation: Evaluation) -> Iterator[str]:
    """Lines about the pools that language models rank, and about features that fusions leave out."""
    if evaluation.pool_recall:
        # All scores of a model rank the same pool.
        own = {RowName.of(name).own: share for name, share in evaluation.pool_recall.items()}
        yield f"targets in the pools (pool recall): {', '.join(f'{name} {share:.3f}' for name, share in own.items())}"
    left_out: dict[tuple[str, str], list[str]] = {}
    for name, logit in evaluation.fusions.items():
        for each in logit.left_out:
            left_out.setdefault(each, []).append(name)
    for (feature, why), names in left_out.items():
        yield f"{', '.join(names)} without {feature}: {why}"


def _over_fewer_users(evaluation: Evaluation) -> Iterator[str]:
    """Lines about means that are not over all users, one for each metric and number of users."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in evaluation.main_columns:
        for model, result in evaluation.models.items():
            users = result.users(name)
            if users is not None and users < len(evaluation.examples):
                found.setdefault((evaluation.columns[name].title, users), []).append(model)
    for (title, users), models in found.items():
        yield f"over {users:,} of them: {title} of {', '.join(without_scores(models, evaluation.models))}"


def without_scores(names: Sequence[str], every: Iterable[str]) -> list[str]:
    """The names, with one name for a model if it is there by all its scores."""
    by_model: dict[str, list[str]] = {}
    for name in every:
        by_model.setdefault(RowName.of(name).own, []).append(name)
    found: list[str] = []
    for own, rows in by_model.items():
        found += [own] if set(rows) <= set(names) else [name for name in rows if name in names]
    return found
