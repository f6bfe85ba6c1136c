"""The study's results as Markdown and JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from benchmarks.study.answers import COLUMNS, Finding
from benchmarks.study.arms import Cell


def markdown(
    summary: pl.DataFrame,
    buckets: pl.DataFrame,
    found: Sequence[Finding],
    training: pl.DataFrame,
    missing: Sequence[Cell],
) -> str:
    """Models by dataset and by popularity of the target, questions and answers, how training went, what was not
    run."""
    lines = [
        "| data | model | seeds | users | " + " | ".join(COLUMNS) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(COLUMNS),
    ]
    for row in summary.iter_rows(named=True):
        cells = (_with_interval(row[column], row[f"{column} low"], row[f"{column} high"]) for column in COLUMNS)
        lines.append(
            f"| {row['dataset']} | {row['model']} | {row['seeds']} | {row['users']} | " + " | ".join(cells) + " |"
        )
    if len(buckets.columns) > 3:
        lines += _by_bucket(buckets)
    lines += [
        "",
        "| question | data | difference of | in | users | mean (95 %) | between seeds | p, Holm | answer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        question = each.question
        column = f"{question.column} ({question.wanted})" + (f", {question.bucket}" if question.bucket else "")
        difference = _with_interval(each.difference, each.low, each.high, sign="+")
        models = f"{question.model} less {question.baseline}"
        lines.append(
            f"| {question.text} | {each.dataset} | {models} | {column} | {each.users} | {difference} "
            f"| {_number(each.deviation)} | {_number(each.p_holm)} | {each.answer} |"
        )
    measured = training.columns[2:]
    lines += [
        "",
        "What each arm was taught with, and how it took it (means over seeds; log-probabilities moved from the first "
        "to the last quarter of the steps, whose pairs differ):",
        "",
        "| data | model | " + " | ".join(measured) + " |",
        "| --- | --- |" + " --- |" * len(measured),
    ]
    for row in training.iter_rows(named=True):
        cells = ("" if row[name] is None else _number(row[name]) for name in measured)
        lines.append(f"| {row['dataset']} | {row['model']} | " + " | ".join(cells) + " |")
    if missing:
        counted = Counter((cell.dataset, cell.seed) for cell in missing)
        parts = (f"{count} arms of {dataset}, seed {seed}" for (dataset, seed), count in counted.items())
        lines += ["", "Not run: " + "; ".join(parts) + "."]
    return "\n".join(lines) + "\n"


def _by_bucket(buckets: pl.DataFrame) -> list[str]:
    lines = [
        "",
        "NDCG@10 by training interactions of the target:",
        "",
        "| data | target | users | " + " | ".join(buckets.columns[3:]) + " |",
        "| --- | --- | --- |" + " --- |" * len(buckets.columns[3:]),
    ]
    for dataset, bucket, count, *means in buckets.iter_rows():
        cells = ("" if mean is None else _number(mean) for mean in means)
        lines.append(f"| {dataset} | {bucket} | {count} | " + " | ".join(cells) + " |")
    return lines


def document(
    summary: pl.DataFrame,
    buckets: pl.DataFrame,
    found: Sequence[Finding],
    training: pl.DataFrame,
    missing: Sequence[Cell],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """The same for machines; what does not exist is null."""
    return {
        "config": config,
        "models": [_plain(row) for row in summary.iter_rows(named=True)],
        "buckets": buckets.to_dicts(),
        "findings": [_plain(asdict(each)) | {"answer": each.answer} for each in found],
        "training": [_plain(row) for row in training.iter_rows(named=True)],
        "missing": [cell.name for cell in missing],
    }


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _number(value: float, sign: str = "") -> str:
    if math.isnan(value):
        return ""
    return f"{value:{sign}.1f}" if abs(value) >= 10 else f"{value:{sign}.3f}"


def _with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{_number(value, sign)} ({_number(low, sign)} to {_number(high, sign)})" if not math.isnan(value) else ""
