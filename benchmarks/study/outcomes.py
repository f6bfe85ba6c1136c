"""What finished runs say of each user, in one table."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from benchmarks.study.arms import REFERENCE, Cell
from rosepo_core.stages.buckets import bucket_names
from rosepo_core.stages.split import load_split

KEYS = ("dataset", "seed", "user", "target")
COMMON = {"popularity": "popularity", "oracle": "sasrec", "base": "base", "sft": "sft"}
"""Models that all arms of a seed share, and how the study calls them."""

AMONG_ALIKE = {"hallucination among alike": "semantic-hallucination", "ndcg@10 among alike": "ndcg@10"}
"""Columns of the protocol with semantic negatives, the titles nearest to the target's; null in runs without it."""


def finished(folder: Path) -> bool:
    """Whether a run came to its end."""
    return (folder / "metrics.json").is_file()


def users_of(runs: Path, cell: Cell) -> pl.DataFrame:
    """One row a model and test user: `KEYS`, ``model``, ``bucket`` and a column a metric."""
    folder = runs / cell.name
    catalogue = load_split(folder / "split").catalogue
    bucket = bucket_names(catalogue.popularity)
    named = COMMON | {"aligned": cell.arm} if cell.arm == REFERENCE else {"aligned": cell.arm}
    every = pl.read_parquet(folder / "evaluation" / "per_user.parquet").filter(pl.col("model").is_in(list(named)))
    alike = every.filter(pl.col("protocol").str.ends_with("-semantic")).select("model", "user", **AMONG_ALIKE)
    return (
        every.filter(pl.col("protocol") == every["protocol"].first())
        .join(alike, on=["model", "user"], how="left", maintain_order="left")
        .join(pl.DataFrame({"target": catalogue.ids, "bucket": bucket}), on="target", maintain_order="left")
        .with_columns(
            pl.col("model").replace(named),
            dataset=pl.lit(cell.dataset),
            seed=pl.lit(cell.seed),
        )
        .drop("protocol", "rank", "tied", "items", "scores")
    )
