"""How a run shows itself in Python: in one line, and as a table in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as escape_html

from rosepo_core.contracts.untrusted_text import visible
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.run_models import by_score_in_use, last_language_model, preferred_column
from rosepo_core.report.charts import number


def in_short(evaluations: Sequence[Evaluation]) -> str:
    """The last trained language model and its NDCG@10, if measured, under the first protocol."""
    if not evaluations:
        return "not evaluated"
    first = evaluations[0]
    rows = by_score_in_use(first.models)
    last = last_language_model(first.models)
    row = next((name for name in rows if name.split()[0] == last), rows[-1])
    column = preferred_column(first.main_columns)
    title, decimals = first.columns[column].title, first.columns[column].about.decimals
    value = number(first.models[row].metrics[column], decimals)
    return f"{row} {title} {value}, {len(first.examples):,} {first.part} users, {first.protocol}"


def as_html(evaluations: Sequence[Evaluation]) -> str:
    """The accuracy of all models under each protocol, or all main metrics where there is none about accuracy."""
    return "".join(_table(each) for each in evaluations) or "<p>not evaluated</p>"


def _table(evaluation: Evaluation) -> str:
    main = evaluation.main_columns
    names = [name for name in main if evaluation.columns[name].about.group == "Accuracy"] or main
    columns = [(name, evaluation.columns[name]) for name in names]
    head = "".join(f"<th>{_escape(column.title)}</th>" for _, column in columns)
    body = "".join(
        f"<tr><th>{_escape(model)}</th>"
        + "".join(
            f"<td>{_escape(number(result.metrics[name], column.about.decimals))}</td>" for name, column in columns
        )
        + "</tr>"
        for model, result in evaluation.models.items()
    )
    caption = f"{evaluation.protocol}: {len(evaluation.examples):,} {evaluation.part} users, {evaluation.asked}"
    return f"<table><caption>{_escape(caption)}</caption><tr><th></th>{head}</tr>{body}</table>"


def _escape(text: str) -> str:
    """The text as HTML shows it."""
    return escape_html(visible(text))
