"""The picture of the study: accuracy by model, score and popularity of the target, data side by side."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl

from benchmarks.study.full.cells import REFERENCE
from benchmarks.study.full.questions import ALL, MAIN
from benchmarks.study.plots import INK, ROSE, TEAL, write
from rosepo_core.evaluation.buckets import BUCKETS

AMBER = "#c07f00"
MODELS = {
    "popularity": "popularity",
    "sasrec": "SASRec",
    "base": "untrained",
    "sft": "fine-tuned",
    REFERENCE: "aligned",
}
"""Models from top to bottom, as the picture names them."""

OWN = "its own score"
SCORES = {OWN: INK, "likelihood": TEAL, "prior-corrected": AMBER, "fusion": ROSE}
SHAPES = ["circle", "square", "triangle-up", "diamond"]
DATA = {
    "movielens-100k": "MovieLens 100K",
    "amazon-industrial": "Amazon Industrial",
    "sprec": "Goodreads",
    "s-dpo": "LastFM",
}
GROUPS = {ALL: "all test users", **{name: f"target {name}" for _, name in BUCKETS}}


def draw(found: pl.DataFrame, path: Path) -> None:
    """Draw the rows of `means` of all users and of buckets. A language model's score by ``mean`` is left out."""
    found = found.with_columns(pl.col("score").replace({"own": OWN}))
    rows = found.filter(pl.col("of").is_in(list(MODELS)), pl.col("score").is_in(list(SCORES))).select(
        data=pl.col("dataset").replace(DATA),
        group=pl.col("group").replace(GROUPS),
        model=pl.col("of").replace(MODELS),
        score="score",
        mean=MAIN,
        low=f"{MAIN} low",
        high=f"{MAIN} high",
    )
    scores = [score for score in SCORES if score in rows["score"].to_list()]
    groups = [name for name in GROUPS.values() if name in rows["group"].to_list()]
    shown = rows["data"].unique(maintain_order=True).to_list()
    data = [name for name in DATA.values() if name in shown] + [name for name in shown if name not in DATA.values()]
    # Where a panel has no row, all later ones would take the place before theirs.
    every = pl.DataFrame({"data": data}).join(pl.DataFrame({"group": groups}), how="cross")
    empty = every.join(rows, on=["data", "group"], how="anti").with_columns(
        model=pl.lit(MODELS[REFERENCE]), score=pl.lit(scores[0])
    )
    rows = pl.concat([rows, empty], how="diagonal")
    colours = alt.Scale(domain=scores, range=[SCORES[score] for score in scores])
    legend = alt.Legend(orient="top", direction="horizontal", columns=2, symbolSize=140)
    base = alt.Chart().encode(
        y=alt.Y("model:N", title=None, sort=list(MODELS.values()), axis=alt.Axis(labelLimit=200, ticks=False)),
        yOffset=alt.YOffset("score:N", sort=scores),
        color=alt.Color("score:N", title=None, sort=scores, scale=colours, legend=legend),
    )
    bars = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q", scale=alt.Scale(domain=[0, 1])), x2="high:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("mean:Q", title="NDCG@10", axis=alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format=".2~f")),
        shape=alt.Shape(
            "score:N", title=None, sort=scores, scale=alt.Scale(domain=scores, range=SHAPES[: len(scores)])
        ),
    )
    panels = alt.layer(bars, points, data=rows).properties(width=190, height=150)
    above = alt.Header(labelOrient="top", labelAnchor="start", labelFontWeight="bold")
    # At 400 pixels, the letters are then still as large as small print.
    write(
        panels.facet(
            row=alt.Row("group:N", title=None, sort=groups, header=above),
            column=alt.Column("data:N", title=None, sort=data, header=alt.Header(labelFontWeight="bold")),
        ),
        path,
        font=16,
    )
