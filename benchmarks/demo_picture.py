"""The README's picture: what `make demo` reaches, by model, on MovieLens 100K.

It is drawn from the numbers of `python -m benchmarks.decision_rule` (benchmarks/results/decision-rule.json), which
trains as `make demo` does. Readable on light and dark pages.

    python -m benchmarks.demo_picture
"""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from benchmarks.decision_rule import RESULTS
from benchmarks.study.plots import INK, ROSE, TEAL, WIDTH, write

SHOWN = {
    "popularity": "popularity",
    "oracle": "SASRec, the oracle",
    "base": "language model, untrained",
    "sft": "language model, fine-tuned",
    "aligned": "language model, aligned",
    "aligned fusion": "aligned, with popularity and SASRec",
}
"""The models of the picture, from top to bottom, in the words of a newcomer."""


def main() -> None:
    """Write benchmarks/results/demo.svg."""
    rows = {
        row["model"]: row["ndcg@10"]
        for row in json.loads((RESULTS / "decision-rule.json").read_text())["movielens-100k"]["rows"]
    }
    data = pl.DataFrame(
        [(words, *rows[model], "aligned" in model) for model, words in SHOWN.items()],
        ["model", "ndcg", "low", "high", "aligned"],
        orient="row",
    )
    base = alt.Chart(data).encode(
        y=alt.Y("model:N", title=None, sort=None, axis=alt.Axis(labelLimit=300)),
        color=alt.Color("aligned:N", legend=None, scale=alt.Scale(domain=[True, False], range=[ROSE, TEAL])),
    )
    intervals = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=alt.Scale(domain=[0, 1])), x2="high:Q")
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=alt.X("ndcg:Q", title="NDCG@10 among 20 candidates, 95 % interval over 200 users")
    )
    numbers = base.mark_text(dy=-10, fontSize=11).encode(
        x="ndcg:Q", text=alt.Text("ndcg:Q", format=".3f"), color=alt.value(INK)
    )
    chart = alt.layer(intervals, points, numbers).properties(width=WIDTH, height=210)
    write(chart, RESULTS / "demo.svg")


if __name__ == "__main__":
    main()
