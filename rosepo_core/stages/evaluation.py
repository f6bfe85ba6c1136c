"""Evaluation: every model is asked the same under one protocol; one table sets them side by side.

Asking and concluding are apart, so that a run which only changes the loss asks one model anew: `score_model` gives an
array worth saving (`save_scores`), and `summarize` makes everything else from the arrays of all models. Protocols
that give lists or answers save those, and `conclude` makes the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts import Metric, Reporter
from rosepo_core.errors import RosepoError
from rosepo_core.outcome import Outcome
from rosepo_core.ranking import Ranks
from rosepo_core.records import Candidates, Doubles, Examples, Floats, Ints, Part, Split
from rosepo_core.sections import EvaluationOptions, Negatives
from rosepo_core.stages.candidates import protocol_name
from rosepo_core.stages.measurement import Column, Comparison, Metrics, longest_list, measure_all
from rosepo_core.stages.oracle_quality import OracleQuality
from rosepo_core.store import write_text

MODELS = ("popularity", "oracle", "base", "sft", "aligned")
"""The models of a run in the order of every table; others follow."""

SCHEMA = 2

ScoreFn = Callable[[Examples, Ints], Floats | None]
"""(n examples, items int32 [n, c]) -> scores float32 [n, c], higher is better; `None` from what ranks nothing."""


@dataclass(frozen=True)
class ModelResult:
    """How one model did.

    Attributes:
        scores: of the candidates, float32 [n, c], -inf where there is none; where lists were made, of `top`, of the
            same shape; `None` where nothing was scored.
        ranks: of the targets; arrays [n].
        top: items in the order of their scores, int32 [n, the largest cut-off or more], -1 where there are fewer.
        per_user: of metrics that are means over users, column to float64 [n], NaN where one does not apply.
        metrics: column to mean over users, or to the value of all lists; NaN where there is nothing to measure.
        intervals: 95 % intervals of the means, by column; each model by itself, so not for comparing two.
        answers: what the model wrote, [n]; `None` where it wrote nothing.
    """

    scores: Floats | None
    ranks: Ranks
    top: Ints
    per_user: Mapping[str, Doubles]
    metrics: Metrics
    intervals: Mapping[str, tuple[float, float]]
    answers: Sequence[str] | None = None


@dataclass(frozen=True)
class Evaluation:
    """All models under one protocol.

    Attributes:
        protocol: its name, e.g. ``"candidates-20"`` or ``"catalogue"``.
        asked: what each user's question was, in a few words that follow a number of users.
        examples: the n test examples.
        candidates: what was ranked, where it was candidates.
        columns: what was measured, by name such as ``"hr@10"``, in the order of the metrics.
        models: by name, in the order of `MODELS`.
        comparisons: of the models in `COMPARED`, in every column that has values for single users.
        offered: share of the catalogue that any list could hold, which no coverage can exceed.
        oracle_quality: of the run's oracle on pairs of the same targets and candidates.
        part: which held-out targets these are; the protocol's name says so, too, if they are for validation.
    """

    protocol: str
    asked: str
    examples: Examples
    candidates: Candidates | None
    columns: Mapping[str, Column]
    models: Mapping[str, ModelResult]
    comparisons: tuple[Comparison, ...]
    offered: float
    oracle_quality: OracleQuality | None = None
    part: Part = "test"

    @property
    def main_columns(self) -> list[str]:
        """What fits a small table: every column of accuracy, and of other metrics the first cut-off."""
        first: dict[str, str] = {}
        for name, column in self.columns.items():
            first.setdefault(name if column.about.group == "Accuracy" else name.partition("@")[0], name)
        return list(first.values())

    def comparison(self, model: str, baseline: str, column: str) -> Comparison | None:
        """The one of these, if it was made."""
        wanted = (model, baseline, column)
        return next((each for each in self.comparisons if (each.model, each.baseline, each.column) == wanted), None)


def popularity_scores(split: Split) -> ScoreFn:
    """Scores every item by its training interactions."""
    popularity = split.catalogue.popularity.astype(np.float32)

    def score(examples: Examples, items: Ints) -> Floats:
        return popularity[items]

    return score


def score_model(name: str, score: ScoreFn, examples: Examples, candidates: Candidates) -> Floats | None:
    """Have a model score the candidates.

    Returns:
        float32 [n, c], -inf where there is no candidate; `None` where the model ranks nothing.

    Raises:
        RosepoError: the scores have another shape, or hold NaN; the message names the model.
    """
    # A model need not know what -1 means: it scores the target in its place, and the score is dropped.
    offered = candidates.items >= 0
    scores = score(examples, np.where(offered, candidates.items, examples.target[:, None]))
    if scores is None:
        return None
    if scores.shape != candidates.items.shape:
        raise RosepoError(
            f"model '{name}' gave scores of shape {scores.shape} for {candidates.items.shape} candidates"
        )
    scores = np.where(offered, scores, -np.inf).astype(np.float32)
    if bool(np.isnan(scores).any()):
        bad = np.isnan(scores)
        raise RosepoError(
            f"model '{name}' scored {bad.sum()} of {offered.sum()} candidates NaN, the first for test example "
            f"{bad.any(axis=1).argmax()}: its training diverged; lower the learning rate or use float32"
        )
    return scores


def summarize(
    scores: Mapping[str, Floats],
    split: Split,
    examples: Examples,
    candidates: Candidates,
    options: EvaluationOptions,
    metrics: Mapping[str, Metric],
    reporter: Reporter,
    *,
    title_embeddings: Callable[[], Floats] | None = None,
    seed: int = 0,
    negatives: Negatives = "uniform",
) -> Evaluation:
    """Make the metrics of all models from their scores.

    Args:
        scores: float32 [n, c] by model, as `score_model` gives them.
        examples: the n test examples that the candidates were drawn for.
        options: `ks` and `resamples` are used; beyond the number of candidates HR@k is 1 for all models.
        metrics: what is measured, by the name that its columns get.
        reporter: is told which metrics are left out, and why.
        title_embeddings: for metrics that need them: gives unit-length rows, float32 [items, d].
        seed: of the bootstrap.
        negatives: where the candidates come from.

    Raises:
        RosepoError: there are no examples, or an array does not fit the candidates.
        PluginError: a metric breaks its contract.
    """
    if not len(examples):
        raise RosepoError("there are no test examples to evaluate on")
    ks = tuple(sorted(set(options.ks)))
    outcomes: dict[str, Outcome] = {}
    for name, values in scores.items():
        if values.shape != candidates.items.shape:
            raise RosepoError(
                f"scores of '{name}' have shape {values.shape}; there are {candidates.items.shape} candidates"
            )
        outcomes[name] = Outcome.of_scores(
            examples,
            split.catalogue,
            split.seen,
            ks,
            candidates.items,
            values,
            candidates.target_column,
            length=longest_list(metrics, ks),
            title_embeddings=title_embeddings,
        )
    return conclude(
        protocol_name(candidates, negatives),
        f"{candidates.items.shape[1]} candidates each, the target among them",
        outcomes,
        metrics,
        options,
        reporter,
        examples=examples,
        candidates=candidates,
        offered=len(np.unique(candidates.items[candidates.items >= 0])) / len(split.catalogue),
        scores=scores,
        seed=seed,
    )


def conclude(
    protocol: str,
    asked: str,
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Metric],
    options: EvaluationOptions,
    reporter: Reporter,
    *,
    examples: Examples,
    candidates: Candidates | None = None,
    offered: float = 1.0,
    scores: Mapping[str, Floats] | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure what all models did under one protocol.

    Args:
        protocol: its name; the other fields of `Evaluation` and `ModelResult` that have a name here are taken as they
            are given, by model.
        asked: as there.
        outcomes: by model.
        metrics: what is measured, by the name that its columns get.
        options: `resamples` is used.
        reporter: is told which metrics are left out, and why.
        examples: the n test examples.
        candidates: as there.
        offered: as there.
        scores: as there.
        answers: as there.
        seed: of the bootstrap.

    Raises:
        PluginError: a metric breaks its contract.
    """
    names = sorted(outcomes, key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS))
    outcomes = {name: outcomes[name] for name in names}
    measured = measure_all(protocol, outcomes, metrics, reporter, options.resamples, seed)
    return Evaluation(
        protocol=protocol,
        asked=asked,
        examples=examples,
        candidates=candidates,
        columns=measured.columns,
        models={
            name: ModelResult(
                scores=(scores or {}).get(name),
                ranks=Ranks(outcome.ranks.above[:, 0], outcome.ranks.tied[:, 0]),
                top=outcome.top,
                per_user=measured.per_user[name],
                metrics=measured.metrics[name],
                intervals=measured.intervals[name],
                answers=(answers or {}).get(name),
            )
            for name, outcome in outcomes.items()
        },
        comparisons=measured.comparisons,
        offered=offered,
    )


def evaluate(
    models: Mapping[str, ScoreFn],
    split: Split,
    examples: Examples,
    candidates: Candidates,
    options: EvaluationOptions,
    metrics: Mapping[str, Metric],
    reporter: Reporter,
    *,
    title_embeddings: Callable[[], Floats] | None = None,
) -> Evaluation:
    """Score with every model and summarize; models that rank nothing are left out.

    Raises:
        RosepoError: as `score_model` and `summarize`.
    """
    scores: dict[str, Floats] = {}
    for name, score in models.items():
        values = score_model(name, score, examples, candidates)
        if values is None:
            reporter.note(f"'{name}' ranks nothing and is left out of the table")
        else:
            scores[name] = values
    return summarize(
        scores, split, examples, candidates, options, metrics, reporter, title_embeddings=title_embeddings
    )


def per_user_table(evaluations: Sequence[Evaluation], split: Split) -> pl.DataFrame:
    """What every model gave every user under every protocol; later comparisons are paired by it.

    Returns:
        One row a protocol, model and test example: ``protocol``, ``model``, ``user`` and ``target`` (the source's
        ids), ``rank`` (expected over ties; null for a target without one), ``tied`` (other items with the target's
        score), ``items`` (ids of the top items, best first), ``scores`` (theirs, float32; null where nothing was
        scored), ``answer`` (what was written, else null), and a float64 column a metric, null where it does not
        apply or the protocol does not measure it.
    """
    tables = [
        _users_of(evaluation, name, result, split)
        for evaluation in evaluations
        for name, result in evaluation.models.items()
    ]
    return pl.concat(tables, how="diagonal")


def _users_of(evaluation: Evaluation, name: str, result: ModelResult, split: Split) -> pl.DataFrame:
    ids = np.array(split.catalogue.ids, dtype=object)
    examples, held = evaluation.examples, result.top >= 0
    scores = None
    if result.scores is not None:
        ordered = -np.sort(-result.scores, axis=1)[:, : result.top.shape[1]]
        scores = [row[kept[: len(row)]].tolist() for row, kept in zip(ordered, held, strict=True)]
    ranks = pl.Series(result.ranks.expected)
    return pl.DataFrame(
        {
            "protocol": [evaluation.protocol] * len(examples),
            "model": [name] * len(examples),
            "user": [split.users[user] for user in examples.user.tolist()],
            "target": ids[examples.target].tolist(),
            "rank": ranks.set(ranks.is_infinite(), None),
            "tied": result.ranks.tied,
            "items": [ids[row[kept]].tolist() for row, kept in zip(result.top, held, strict=True)],
            "scores": scores,
            "answer": result.answers,
            **{column: pl.Series(values).fill_nan(None) for column, values in result.per_user.items()},
        },
        schema_overrides={"items": pl.List(pl.String), "scores": pl.List(pl.Float32), "answer": pl.String},
    )


def save_scores(scores: Floats, path: Path) -> None:
    """Write one model's scores as safetensors."""
    save_file({"scores": np.ascontiguousarray(scores)}, path)


def load_scores(path: Path) -> Floats:
    """What `save_scores` wrote: float32 [n, c].

    Raises:
        RosepoError: the file is missing or damaged.
    """
    try:
        scores: Floats = load_file(path)["scores"]
    except (OSError, KeyError, SafetensorError) as error:
        raise RosepoError(f"{path} holds no scores ({error}); delete its folder and run again") from None
    return scores


def metrics_document(
    dataset: str, seed: int, evaluations: Sequence[Evaluation], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The contents of ``metrics.json``. A number that does not exist (a mean over nobody) is null.

    Args:
        dataset: its name.
        seed: the run's.
        evaluations: one a protocol.
        seconds: what each stage took, by stage.

    Returns:
        ``schema``, ``dataset``, ``seed``; ``protocols``: protocol to model to column to value; ``intervals``:
        protocol to model to column to the two ends; ``comparisons``: protocol to a list of `Comparison` fields;
        ``oracle_quality``: protocol to the fields of `OracleQuality`, or null; ``seconds``.
    """
    document = {
        "schema": SCHEMA,
        "dataset": dataset,
        "seed": seed,
        "protocols": {
            evaluation.protocol: {name: dict(result.metrics) for name, result in evaluation.models.items()}
            for evaluation in evaluations
        },
        "intervals": {
            evaluation.protocol: {
                name: {column: list(ends) for column, ends in result.intervals.items()}
                for name, result in evaluation.models.items()
            }
            for evaluation in evaluations
        },
        "comparisons": {
            evaluation.protocol: [asdict(each) for each in evaluation.comparisons] for evaluation in evaluations
        },
        "oracle_quality": {
            evaluation.protocol: asdict(evaluation.oracle_quality) if evaluation.oracle_quality else None
            for evaluation in evaluations
        },
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
    return {key: value if key == "seconds" else _null_for_nan(value) for key, value in document.items()}


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _null_for_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def first_oracle_quality(evaluations: Sequence[Evaluation]) -> OracleQuality | None:
    """That of the first protocol under which the oracle was judged."""
    return next((each.oracle_quality for each in evaluations if each.oracle_quality is not None), None)


def write_oracle_quality(quality: OracleQuality, path: Path) -> None:
    """Write ``oracle_quality.json``: the fields of `OracleQuality`."""
    write_text(path, json.dumps(_null_for_nan(asdict(quality)), indent=2, allow_nan=False) + "\n")


def write_metrics(document: Mapping[str, Any], path: Path) -> None:
    """Write ``metrics.json`` whole or not at all."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
