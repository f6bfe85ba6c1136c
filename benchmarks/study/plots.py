"""The study's two pictures, for docs/results.md: SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl
import vl_convert

from benchmarks.study.answers import Finding

INK = "#7d8590"
ROSE = "#d6336c"
TEAL = "#1f9e92"
WIDTH = 440


def forest(found: Sequence[Finding], path: Path) -> None:
    """Differences in NDCG@10 to SFT, with intervals."""
    rows = [
        {
            "model": each.question.model,
            "data": each.dataset,
            "difference": each.difference,
            "low": each.low,
            "high": each.high,
        }
        for each in found
        if each.question.baseline == "sft" and each.question.column == "ndcg@10"
    ]
    if not rows:
        return
    # Layers without data of their own: a facet shows all rows of any other.
    base = alt.Chart().encode(y=alt.Y("model:N", title=None, sort=None))
    bars = base.mark_rule(color=ROSE, strokeWidth=2).encode(x="low:Q", x2="high:Q")
    points = base.mark_point(color=ROSE, filled=True, size=60, opacity=1).encode(
        x=alt.X("difference:Q", title="NDCG@10 less that of SFT, 95 % interval over users")
    )
    zero = alt.Chart().mark_rule(color=INK, strokeDash=[4, 4]).encode(x=alt.datum(0))
    write(
        alt.layer(zero, bars, points, data=pl.DataFrame(rows))
        .properties(width=WIDTH, height=170)
        .facet(row=alt.Row("data:N", title=None)),
        path,
    )


def scatter(summary: pl.DataFrame, path: Path) -> None:
    """Accuracy against popularity bias, all models."""
    base = alt.Chart(summary.rename({"ndcg@10": "ndcg", "arp@10": "arp"})).encode(
        x=alt.X(
            "arp:Q", title="ARP@10: mean training interactions of what is recommended", scale=alt.Scale(zero=False)
        ),
        y=alt.Y("ndcg:Q", title="NDCG@10", scale=alt.Scale(zero=False)),
    )
    # Aligned models lie too near each other for names beside their points.
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        color=alt.Color("model:N", title=None, sort=None, scale=alt.Scale(scheme="tableau20"))
    )
    rows = points.properties(width=WIDTH, height=280).facet(row=alt.Row("dataset:N", title=None))
    write(rows.resolve_scale(x="independent", y="independent"), path)


def growth(models: pl.DataFrame, path: Path) -> None:
    """Accuracy against the tokens trained on, beside what is not trained on text."""
    trained = models.filter(pl.col("tokens") > 0).unique(["model", "tokens", "ndcg@10"], maintain_order=True)
    levels = models.filter(pl.col("model").is_in(["popularity", "oracle", "base"])).unique(
        "model", maintain_order=True
    )
    tokens = trained["tokens"].to_numpy()
    ends = [float(tokens.min()) / 1.5, float(tokens.max()) * 1.3]
    base = alt.Chart(trained.rename({"ndcg@10": "ndcg"})).encode(
        x=alt.X(
            "tokens:Q",
            title="tokens trained on, SFT and alignment",
            scale=alt.Scale(type="log", nice=False, domain=ends),
            axis=alt.Axis(values=[each * 10**power for power in range(3, 9) for each in (1, 2, 5)], format="~s"),
        ),
        color=alt.Color("model:N", title=None, scale=alt.Scale(domain=["sft", "aligned"], range=[TEAL, ROSE])),
    )
    bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y="low:Q", y2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=alt.Y("ndcg:Q", title="NDCG@10, 95 % interval over users", scale=alt.Scale(zero=False)), tooltip="run:N"
    )
    of_level = alt.Chart(levels.rename({"ndcg@10": "ndcg"})).encode(y="ndcg:Q")
    rules = of_level.mark_rule(color=INK, strokeDash=[4, 4])
    names = of_level.mark_text(color=INK, align="left", dx=4, dy=-7, fontSize=12).encode(
        x=alt.value(0), text="model:N"
    )
    write(alt.layer(rules, names, bars, points).properties(width=WIDTH, height=280), path)


def write(chart: alt.FacetChart | alt.LayerChart, path: Path, font: int = 12) -> None:
    """Save a chart, in colours that are readable on light and dark pages. `font` is the size of its letters."""
    quiet = {"labelColor": INK, "titleColor": INK, "gridColor": "#7d859033", "domainColor": INK, "tickColor": INK}
    chart = chart.configure(background="transparent").configure_axis(**quiet, labelFontSize=font, titleFontSize=font)
    chart = chart.configure_view(stroke=None).configure_header(
        labelColor=INK, titleColor=INK, labelFontSize=font + 1, titleFontSize=font + 1
    )
    chart = chart.configure_legend(labelColor=INK, labelFontSize=font)
    path.write_text(vl_convert.vegalite_to_svg(chart.to_dict()), encoding="utf-8")
