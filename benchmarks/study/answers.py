"""Questions, and the answers that follow from intervals.

A user's difference between two models is averaged over the seeds that the user was tested under; intervals and
p-values are over users (BCa and paired bootstrap), corrected by Holm for all questions of the study. They hold for
these seeds: how far apart seeds are stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from benchmarks.study.arms import ARMS, REFERENCE
from benchmarks.study.outcomes import AMONG_ALIKE, KEYS
from rosepo_core.evaluation.buckets import BUCKETS, FEWEST_USERS
from rosepo_core.evaluation.statistics import bootstrap_interval, holm, paired_test

Answer = Literal["yes", "no, the opposite", "not decided"]
LEVEL = 0.05
RESAMPLES = 10_000
COLUMNS = (
    *("hr@1", "ndcg@10", "arp@10", "semantic-hallucination", *AMONG_ALIKE),
    *("popularity-confusion", "popularity-correlation"),
)
TAUGHT = "rosepo-oracle-hard"
SHOWN = ("popularity", "sasrec", "base", "sft", REFERENCE, TAUGHT)
"""Models that stand side by side in each bucket of targets."""


@dataclass(frozen=True)
class Question:
    """Is `model` better than `baseline` in `column`? If `bucket` is set, of the users whose column `grouped` has this
    value."""

    text: str
    model: str
    baseline: str
    column: str
    wanted: Literal["higher", "lower"]
    bucket: str | None = None
    grouped: str = "bucket"


QUESTIONS = (
    *(Question("Does preference optimization beat SFT?", arm, "sft", "ndcg@10", "higher") for arm in ARMS),
    Question("Does personalized smoothing beat none?", REFERENCE, "dpo", "ndcg@10", "higher"),
    Question("Does personalized smoothing beat a constant?", REFERENCE, "cdpo", "ndcg@10", "higher"),
    *(
        Question("Does semantic-similar lower semantic confusion?", "rosepo-semantic", other, column, wanted)
        for other in ("sft", REFERENCE)
        for column, wanted in (
            ("semantic-hallucination", "lower"),
            ("hallucination among alike", "lower"),
            ("ndcg@10 among alike", "higher"),
        )
    ),
    *(
        Question("Does popularity-aware lower popularity bias?", "rosepo-popularity", other, column, "lower")
        for other in ("sft", REFERENCE)
        for column in ("arp@10", "popularity-confusion", "popularity-correlation")
    ),
    Question("At no cost in accuracy?", "rosepo-popularity", REFERENCE, "ndcg@10", "higher"),
    Question("Do rejects from the top of an oracle beat the model's own?", TAUGHT, REFERENCE, "ndcg@10", "higher"),
    *(
        Question("Why not simply SASRec?", model, "sasrec", "ndcg@10", "higher")
        for model in ("sft", REFERENCE, TAUGHT)
    ),
    *(Question("Why not simply SASRec?", REFERENCE, "sasrec", "ndcg@10", "higher", name) for _, name in BUCKETS),
)


@dataclass(frozen=True)
class Finding:
    """A question's answer on one dataset.

    Attributes:
        users: whom the metric applies to under both models.
        seeds: how many.
        difference: model less baseline, of user means over seeds.
        low, high: its 95 % interval over users.
        deviation: of the difference between seeds, n - 1; NaN for one seed.
        p_holm: two-sided, corrected for all findings.
    """

    question: Question
    dataset: str
    users: int
    seeds: int
    difference: float
    low: float
    high: float
    deviation: float
    p_holm: float

    @property
    def answer(self) -> Answer:
        """What the interval and the corrected p-value say."""
        return answer(self.question.wanted, self.low, self.high, self.p_holm)


def answer(wanted: str, low: float, high: float, p_holm: float) -> Answer:
    """Decided where the corrected p-value is below `LEVEL` and the interval is on one side of 0."""
    if not p_holm < LEVEL or not (low > 0 or high < 0):
        return "not decided"
    return "yes" if (low > 0) == (wanted == "higher") else "no, the opposite"


def findings(users: pl.DataFrame, seed: int = 0, questions: Sequence[Question] = QUESTIONS) -> list[Finding]:
    """All of `questions` that can be asked of `users` (`outcomes.users_of`), of each dataset."""
    asked = [
        found for of in users.partition_by("dataset", maintain_order=True) for found in _ask(of, seed, questions)
    ]
    corrected = holm(np.array([p for _, p in asked], dtype=np.float64))
    return [Finding(**fields, p_holm=float(p)) for (fields, _), p in zip(asked, corrected, strict=True)]


def _ask(
    users: pl.DataFrame, seed: int, questions: Sequence[Question]
) -> Iterator[tuple[Mapping[str, object], float]]:
    dataset = users["dataset"][0]
    for question in questions:
        pairs = _pairs(users, question)
        per_user = (
            pairs.group_by("user", maintain_order=True).agg(pl.col("difference").mean())["difference"].to_numpy()
        )
        if len(per_user) < (FEWEST_USERS if question.bucket else 2):
            continue
        test = paired_test(per_user[:, None], np.zeros((len(per_user), 1)), RESAMPLES, seed)
        of_seed = pairs.group_by("seed").agg(pl.col("difference").mean())["difference"].to_numpy()
        yield (
            {
                "question": question,
                "dataset": dataset,
                "users": len(per_user),
                "seeds": len(of_seed),
                "difference": float(test.difference[0]),
                "low": float(test.low[0]),
                "high": float(test.high[0]),
                "deviation": float(of_seed.std(ddof=1)) if len(of_seed) > 1 else math.nan,
            },
            float(test.p_bootstrap[0]),
        )


def _pairs(users: pl.DataFrame, question: Question) -> pl.DataFrame:
    if question.bucket is not None:
        users = users.filter(pl.col(question.grouped) == question.bucket)
    first, second = (
        users.filter(model=model).select(*KEYS, value=question.column)
        for model in (question.model, question.baseline)
    )
    return (
        first.join(second, on=KEYS, suffix="_baseline", maintain_order="left")
        .select("user", "seed", difference=pl.col("value") - pl.col("value_baseline"))
        .drop_nulls()
    )


def summary(users: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """One row a dataset and model: ``seeds``, ``users``, and mean, ``low`` and ``high`` of each of `COLUMNS`."""
    rows = []
    for (dataset, model), of in users.group_by("dataset", "model", maintain_order=True):
        per_user = of.group_by("user", maintain_order=True).agg(pl.col(COLUMNS).mean()).select(COLUMNS)
        values = per_user.cast(pl.Float64).fill_null(math.nan).to_numpy()
        low, high = bootstrap_interval(values, RESAMPLES, seed)
        row: dict[str, object] = {
            "dataset": dataset,
            "model": model,
            "seeds": of["seed"].n_unique(),
            "users": len(per_user),
        }
        for place, column in enumerate(COLUMNS):
            row |= {column: _mean(values[:, place]), f"{column} low": low[place], f"{column} high": high[place]}
        rows.append(row)
    return pl.DataFrame(rows)


def by_bucket(users: pl.DataFrame) -> pl.DataFrame:
    """NDCG@10 by popularity of the target: ``dataset``, ``bucket``, ``users``, and a column for each of `SHOWN`."""
    per_user = (
        users.filter(pl.col("model").is_in(SHOWN))
        .group_by("dataset", "bucket", "model", "user", maintain_order=True)
        .agg(pl.col("ndcg@10").mean())
    )
    counted = per_user.group_by("dataset", "bucket").agg(users=pl.col("user").n_unique())
    means = per_user.group_by("dataset", "bucket", "model").agg(pl.col("ndcg@10").mean())
    table = means.pivot("model", index=["dataset", "bucket"]).join(counted, on=["dataset", "bucket"])
    order = {name: place for place, (_, name) in enumerate(BUCKETS)}
    return table.sort("dataset", pl.col("bucket").replace_strict(order)).select(
        "dataset", "bucket", "users", *(model for model in SHOWN if model in table.columns)
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
