"""What is asked of the study at full size, and means with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from benchmarks.study.answers import RESAMPLES, Question
from benchmarks.study.full.cells import ARMS, REFERENCE
from benchmarks.study.full.kept import COLUMNS, LENGTHS
from rosepo_core.evaluation.buckets import BUCKETS, FEWEST_USERS
from rosepo_core.evaluation.statistics import bootstrap_interval

BEST = "best on validation"
ALL = "all"
MAIN = "ndcg@10"


def row(model: str, score: str) -> str:
    """The name of a model by a score."""
    return model if score in ("own", BEST) else f"{model} by {score}"


def _asked() -> list[Question]:
    def higher(text: str, model: str, baseline: str, bucket: str | None = None, grouped: str = "bucket") -> Question:
        return Question(text, model, baseline, MAIN, "higher", bucket, grouped)

    aligned = row(REFERENCE, "fusion")
    return [
        *(
            higher("Does it beat SFT?", row(arm, score), row("sft", score))
            for score in ("likelihood", "fusion")
            for arm in ARMS
        ),
        *(
            higher("Is it better than the reference arm?", row(arm, "likelihood"), row(REFERENCE, "likelihood"))
            for arm in ARMS
            if arm != REFERENCE
        ),
        *(
            higher("Does the score help?", row(model, score), row(model, "likelihood"))
            for model in ("base", "sft", REFERENCE)
            for score in ("mean", "prior-corrected", "fusion")
        ),
        *(
            higher("Does what validation chose hold on the test?", BEST, other)
            for other in (row("sft", "likelihood"), row("sft", "fusion"), "sasrec")
        ),
        *(higher("Why not simply SASRec?", row(REFERENCE, score), "sasrec") for score in ("likelihood", "fusion")),
        higher("Does the language model add to SASRec?", aligned, row("sasrec", "fusion")),
        *(
            higher("Where is it better than SASRec?", row(REFERENCE, score), "sasrec", name, grouped)
            for grouped, names in (("bucket", BUCKETS), ("length", LENGTHS))
            for _, name in names
            for score in ("likelihood", "fusion")
        ),
    ]


QUESTIONS: Sequence[Question] = _asked()
"""All are of test users. Groups are of the target's popularity (``bucket``) or of the history's length
(``length``)."""


def rows_of(users: pl.DataFrame) -> tuple[pl.DataFrame, Mapping[str, str]]:
    """The test users of `Kept.users` in rows for `answers.findings`, where ``model`` is a model by a score; and by
    dataset which of these was the best on validation users. Its rows are there a second time, as `BEST`."""
    named = users.with_columns(
        model=pl.when(pl.col("score") == "own")
        .then(pl.col("model"))
        .otherwise(pl.col("model") + pl.lit(" by ") + pl.col("score")),
        of=pl.col("model"),
    )
    judged = (
        named.filter(pl.col("part") == "validation", pl.col("of").is_in(list(ARMS)))
        .group_by("dataset", "model")
        .agg(pl.col(MAIN).mean())
        .sort("dataset", MAIN, "model", descending=[False, True, False])
        .unique("dataset", keep="first", maintain_order=True)
    )
    best = dict(judged.select("dataset", "model").iter_rows())
    test = named.filter(part="test")
    chosen = test.filter(pl.col("model") == pl.col("dataset").replace_strict(best, default=None))
    return pl.concat([test, chosen.with_columns(model=pl.lit(BEST), score=pl.lit(BEST))]), best


def means(users: pl.DataFrame, grouped: str | None = None) -> pl.DataFrame:
    """One row a dataset, group and model: ``dataset``, ``group``, ``model``, ``of``, ``score``, ``seeds``, ``users``,
    and of each of `COLUMNS` the mean, ``low`` and ``high``: of user means over seeds, with 95 % intervals over users.

    Args:
        users: what `rows_of` returned.
        grouped: the column that divides users; `None` for all of them. Groups of too few users are left out.
    """
    users = users.with_columns(group=pl.lit(ALL) if grouped is None else pl.col(grouped))
    keys = ["dataset", "group", "model", "of", "score"]
    rows = []
    for _, of in users.group_by("dataset", "group", maintain_order=True):
        per_user = of.group_by("model", "user", maintain_order=True).agg(pl.col(COLUMNS).mean())
        # All models have the same users: their intervals come from the same resamples, which are drawn once.
        wide = per_user.pivot("model", index="user", values=COLUMNS).drop("user").cast(pl.Float64)
        if grouped is not None and wide.height < FEWEST_USERS:
            continue
        values = wide.fill_null(math.nan).to_numpy()
        means_of = dict(zip(wide.columns, np.nanmean(values, axis=0).tolist(), strict=True))
        lows, highs = (
            dict(zip(wide.columns, ends.tolist(), strict=True)) for ends in bootstrap_interval(values, RESAMPLES)
        )
        for model in of.unique(keys, maintain_order=True).select(keys).iter_rows(named=True):
            own = of.filter(model=model["model"])
            found = {**model, "seeds": own["seed"].n_unique(), "users": own["user"].n_unique()}
            for column in COLUMNS:
                name = f"{column}_{model['model']}"
                found |= {column: means_of[name], f"{column} low": lows[name], f"{column} high": highs[name]}
            rows.append(found)
    return pl.DataFrame(rows)
