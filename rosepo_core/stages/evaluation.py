"""Evaluation: every model ranks the same persisted candidates; one table sets them side by side.

Scoring and summarizing are apart, so that a run which only changes the loss scores one model anew: `score_model`
gives an array worth saving (`save_scores`), and `summarize` makes everything else from the arrays of all models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rosepo_core import metrics
from rosepo_core.contracts import Reporter
from rosepo_core.errors import RosepoError
from rosepo_core.metrics import Doubles, Metrics, Ranks
from rosepo_core.records import Candidates, Examples, Floats, Ints, Split
from rosepo_core.sections import EvaluationOptions
from rosepo_core.store import write_text

MODELS = ("popularity", "oracle", "base", "sft", "aligned")
"""The models of a run in the order of every table; others follow."""

SCHEMA = 1

ScoreFn = Callable[[Examples, Ints], Floats | None]
"""(n examples, items int32 [n, c]) -> scores float32 [n, c], higher is better; `None` from what ranks nothing."""


@dataclass(frozen=True)
class ModelResult:
    """How one model did.

    Attributes:
        scores: float32 [n, c], -inf where there is no candidate.
        ranks: of the targets.
        top: items in the order of their scores, int32 [n, max(ks)], -1 where there are fewer.
        per_user: accuracy of each example, metric name to float64 [n].
        metrics: their means, then those of what is recommended.
        intervals: 95 % intervals of the means, by metric name; each model by itself, so not for comparing two.
    """

    scores: Floats
    ranks: Ranks
    top: Ints
    per_user: Mapping[str, Doubles]
    metrics: Metrics
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Evaluation:
    """All models under one protocol.

    Attributes:
        protocol: its name, e.g. ``"candidates-20"``.
        examples: the n test examples.
        candidates: what was ranked.
        ks: the cut-offs, ascending.
        models: by name, in the order of `MODELS`.
        offered: share of the catalogue among all candidates, which no coverage can exceed.
    """

    protocol: str
    examples: Examples
    candidates: Candidates
    ks: tuple[int, ...]
    models: Mapping[str, ModelResult]
    offered: float


@dataclass(frozen=True)
class Difference:
    """Mean difference of two models over the same users, with its paired 95 % interval (normal approximation)."""

    mean: float
    low: float
    high: float


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
) -> Evaluation:
    """Make the metrics of all models from their scores.

    Args:
        scores: float32 [n, c] by model, as `score_model` gives them.
        examples: the n test examples that the candidates were drawn for.
        options: `ks` is used; beyond the number of candidates HR@k is 1 for every model.

    Raises:
        RosepoError: there are no examples, or an array does not fit the candidates.
    """
    if not len(examples):
        raise RosepoError("there are no test examples to evaluate on")
    ks = tuple(sorted(set(options.ks)))
    items, target_column, popularity = candidates.items, candidates.target_column, split.catalogue.popularity
    offered = items >= 0
    models: dict[str, ModelResult] = {}
    for name in sorted(scores, key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS)):
        values = scores[name]
        if values.shape != items.shape:
            raise RosepoError(f"scores of '{name}' have shape {values.shape}; there are {items.shape} candidates")
        ranks = metrics.rank_targets(values, target_column, offered)
        top = metrics.top_items(values, items, max(ks))
        per_user = metrics.accuracy(ranks, ks)
        models[name] = ModelResult(
            scores=values,
            ranks=ranks,
            top=top,
            per_user=per_user,
            metrics={**metrics.mean(per_user), **metrics.recommended(top, popularity, ks)},
            intervals={
                metric: metrics.rate_interval(each) if metric.startswith("hr@") else _bounded_interval(each)
                for metric, each in per_user.items()
            },
        )
    return Evaluation(
        protocol=f"candidates-{items.shape[1]}",
        examples=examples,
        candidates=candidates,
        ks=ks,
        models=models,
        offered=metrics.coverage(items, len(popularity)),
    )


def evaluate(
    models: Mapping[str, ScoreFn],
    split: Split,
    examples: Examples,
    candidates: Candidates,
    options: EvaluationOptions,
    reporter: Reporter,
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
    return summarize(scores, split, examples, candidates, options)


def _bounded_interval(values: Doubles) -> tuple[float, float]:
    # The normal approximation knows no bounds.
    low, high = np.clip(metrics.mean_interval(values), 0, 1)
    return float(low), float(high)


def compare(evaluation: Evaluation, model: str, baseline: str, metric: str) -> Difference:
    """How much better `model` is than `baseline` in an accuracy metric, user by user."""
    per_user = evaluation.models[model].per_user[metric] - evaluation.models[baseline].per_user[metric]
    return Difference(float(per_user.mean()), *metrics.mean_interval(per_user))


def per_user_table(evaluation: Evaluation, split: Split) -> pl.DataFrame:
    """What every model gave every user; later comparisons are paired by it.

    Returns:
        One row a model and test example: ``model``, ``user`` and ``target`` (the source's ids), ``rank`` (expected
        over ties), ``tied`` (other items with the target's score), ``items`` (ids of the top items, best first) and
        ``scores`` (theirs, float32).
    """
    users = np.array(split.users, dtype=object)[evaluation.examples.user]
    ids = np.array(split.catalogue.ids, dtype=object)
    tables = []
    for name, result in evaluation.models.items():
        held = result.top >= 0
        scores = -np.sort(-result.scores, axis=1)[:, : result.top.shape[1]]
        tables.append(
            pl.DataFrame(
                {
                    "model": [name] * len(users),
                    "user": users.tolist(),
                    "target": ids[evaluation.examples.target].tolist(),
                    "rank": result.ranks.expected,
                    "tied": result.ranks.tied,
                    "items": [ids[row[kept]].tolist() for row, kept in zip(result.top, held, strict=True)],
                    "scores": [row[kept[: len(row)]].tolist() for row, kept in zip(scores, held, strict=True)],
                },
                schema_overrides={"items": pl.List(pl.String), "scores": pl.List(pl.Float32)},
            )
        )
    return pl.concat(tables)


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
    """The contents of ``metrics.json``: means over users of every metric, by protocol and model.

    Args:
        dataset: its name.
        seed: the run's.
        evaluations: one a protocol.
        seconds: what each stage took, by stage.
    """
    return {
        "schema": SCHEMA,
        "dataset": dataset,
        "seed": seed,
        "protocols": {
            evaluation.protocol: {name: dict(result.metrics) for name, result in evaluation.models.items()}
            for evaluation in evaluations
        },
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }


def write_metrics(document: Mapping[str, Any], path: Path) -> None:
    """Write ``metrics.json`` whole or not at all."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
