"""What the trials of a sweep are judged by: one column of one row of one table, on validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rosepo_core.config import RunConfig, column_name
from rosepo_core.contracts.components import CutOffMetric, Metric
from rosepo_core.contracts.errors import DivergedError, RequestError, nearest
from rosepo_core.contracts.sections import HeldOut
from rosepo_core.evaluation.candidates import named
from rosepo_core.evaluation.decision_rules import ranked_name, shown_scores
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.run_models import RowName, models_of
from rosepo_core.plugins.registry import Registry

PART: HeldOut = "validation"
"""Trials are evaluated on validation alone, so that no choice looks at the test."""


@dataclass(frozen=True)
class Judged:
    """What trials are judged by.

    Attributes:
        column: the column, such as ``"ndcg@10"``.
        row: a model, which ranks by the score of each trial, or a model and a score, such as ``"aligned mean"``.
        protocol: the protocol, such as ``"candidates"``; the first of its tables counts.
        higher: whether more is better.
        title: the title of the column.
    """

    column: str
    row: str
    protocol: str
    higher: bool
    title: str

    def __str__(self) -> str:
        return f"{self.column} of {self.row}, {named(self.protocol, part=PART)}"


def on_validation(config: RunConfig) -> RunConfig:
    """The configuration of a trial: evaluated on validation alone."""
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"part": (PART,)})})


def on_test(config: RunConfig) -> RunConfig:
    """The configuration of the best trial, which is then tested."""
    if "test" in config.evaluation.part:
        return config
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"part": ("test",)})})


def judged_by(
    config: RunConfig, registry: Registry, column: str | None, row: str | None, protocol: str | None
) -> Judged:
    """What a sweep is judged by; what is `None` has its default: NDCG at the largest cut-off, the aligned model, the
    first protocol.

    Raises:
        RequestError: the runs of the sweep will have no such column, row or protocol.
    """
    metrics = {column_name(choice.name): choice for choice in config.metric}
    if column is None:
        main = next((name for name in ("ndcg", "hr") if name in metrics), None)
        if main is None:
            raise RequestError("the run measures neither ndcg nor hr: say by what to judge, --by COLUMN")
        ks = getattr(metrics[main].options, "ks", None) or config.evaluation.ks
        column = f"{main}@{max(ks)}"
    name, at, cut_off = column.partition("@")
    if name not in metrics:
        raise RequestError(f"--by {column}: the run has no metric '{name}'{nearest(name, metrics)}")
    found = registry.get("metric", metrics[name].name)
    assert issubclass(found, Metric)
    if issubclass(found, CutOffMetric):
        ks = getattr(metrics[name].options, "ks", None) or config.evaluation.ks
        known = [f"{name}@{k}" for k in sorted(set(ks)) if k >= found.smallest_k]
        if column not in known:
            raise RequestError(f"--by {column}: the run has {', '.join(known)}; set evaluation.ks for others")
    if found.about.direction == "neither":
        raise RequestError(f"--by {column}: neither high nor low is better, so nothing is the best")
    row = "aligned" if row is None else row
    parts = RowName.of(row)
    if parts.model not in models_of(config.rounds) or parts.label:
        raise RequestError(f"--row {row}: the run has no such row{nearest(parts.model, models_of(config.rounds))}")
    if parts.score not in shown_scores(config.ranking.score):
        raise RequestError(f"--row {row}: set ranking.score to '{parts.score}' for this row")
    protocols = config.evaluation.protocols
    if protocol is not None and protocol not in protocols:
        raise RequestError(f"--under {protocol}: the run has no such protocol{nearest(protocol, protocols)}")
    title = found.about.title + at + cut_off
    return Judged(column, row, protocol or protocols[0], found.about.direction == "higher", title)


def value_of(config: RunConfig, evaluations: Sequence[Evaluation], by: Judged) -> float:
    """The value by which a finished trial is judged.

    Raises:
        RequestError: its tables have no such row or column.
        DivergedError: the value is not a number.
    """
    table = next(each for each in evaluations if each.protocol.partition("-")[0] == by.protocol)
    parts = RowName.of(by.row)
    score = config.ranking.score if parts.score == "likelihood" and parts.writes else parts.score
    row = ranked_name(parts.model, score)
    if row not in table.models:
        raise RequestError(
            f"--row {by.row}: the table {table.protocol} has no row '{row}'{nearest(row, table.models)}"
        )
    metrics = table.models[row].metrics
    if by.column not in metrics:
        raise RequestError(f"--by {by.column}: the table {table.protocol} has {', '.join(metrics)}")
    if not math.isfinite(metrics[by.column]):
        raise DivergedError(f"{by.column} of {row} is not a number")
    return float(metrics[by.column])
