"""The files of an evaluation: the table of users, metrics.json and the oracle's quality."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rosepo_core.contracts.records import Split
from rosepo_core.evaluation.confidence import confidences
from rosepo_core.evaluation.oracle_quality import OracleQuality
from rosepo_core.evaluation.results import Evaluation, ModelResult
from rosepo_core.store.files import write_text

SCHEMA = 3


def per_user_table(evaluations: Sequence[Evaluation], split: Split) -> pl.DataFrame:
    """The results of every model for every user under every protocol.

    Returns:
        One row for each protocol, model and test example: ``protocol``, ``model``, ``user`` and ``target`` (the
        source's ids), ``rank`` (expected over ties; null for a target without a rank), ``tied`` (number of other
        items with the target's score), ``items`` (ids of the top items, best first), ``scores`` (their scores,
        float32; for ``fusion`` the logarithms of probabilities; null if nothing was scored), ``answer`` (the written
        answer, or null), and one float64 column for each metric (null if it does not apply, or the protocol does not
        measure it).
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


def metrics_document(
    dataset: str, seed: int, evaluations: Sequence[Evaluation], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The contents of ``metrics.json``. A number that does not exist (a mean over no users) is null.

    Args:
        dataset: name of the dataset.
        seed: the run's seed.
        evaluations: one for each protocol.
        seconds: time of each stage.

    Returns:
        ``schema``, ``dataset``, ``seed``; ``protocols``: the value by protocol, model and column; ``intervals``: the
        two ends by protocol, model and column; ``users``: the number of users in each mean over users, by protocol,
        model and column; ``comparisons``: by protocol, a list with the fields of `Comparison`; ``oracle_quality``: by
        protocol, the fields of `OracleQuality`, or null; ``fusions``: by protocol and model, the fields of
        `ConditionalLogit`; ``confidence``: by protocol and model, the fields of `Confidence`, only for fusions that
        rank candidates; ``pool_recall``: by protocol and model, see `Evaluation`; ``seconds``.
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
        "users": {
            evaluation.protocol: {
                name: {column: result.users(column) for column in result.per_user}
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
        "fusions": {
            evaluation.protocol: {name: asdict(logit) for name, logit in evaluation.fusions.items()}
            for evaluation in evaluations
        },
        "confidence": {
            evaluation.protocol: {name: asdict(each) for name, each in confidences(evaluation).items()}
            for evaluation in evaluations
        },
        "pool_recall": {evaluation.protocol: dict(evaluation.pool_recall) for evaluation in evaluations},
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
    """The oracle's quality under the first protocol that measured it."""
    return next((each.oracle_quality for each in evaluations if each.oracle_quality is not None), None)


def write_oracle_quality(quality: OracleQuality, path: Path) -> None:
    """Write ``oracle_quality.json``: the fields of `OracleQuality`."""
    write_text(path, json.dumps(_null_for_nan(asdict(quality)), indent=2, allow_nan=False) + "\n")


def metrics_text(document: Mapping[str, Any]) -> str:
    """The text of ``metrics.json``."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
