"""What finished runs say of each user, in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from benchmarks.study.arms import REFERENCE, Cell
from rosepo_core.evaluation.buckets import bucket_names
from rosepo_core.stages.split import load_split

KEYS = ("dataset", "seed", "user", "target")
COMMON = {"popularity": "popularity", "oracle": "sasrec", "base": "base", "sft": "sft"}
"""Models that all arms of a seed share, and how the study calls them."""

AMONG_ALIKE = {"hallucination among alike": "semantic-hallucination", "ndcg@10 among alike": "ndcg@10"}
"""Columns of the protocol with semantic negatives, the titles nearest to the target's; null in runs without it."""


def finished(folder: Path) -> bool:
    """Whether a run came to its end."""
    return (folder / "metrics.json").is_file()


def training_of(runs: Path, cell: Cell) -> dict[str, float | str | int]:
    """What the arm was taught with and how it took it: ``pairs``, ``smoothing`` (mean eps), ``oracle AUC`` and
    ``oracle ECE`` of held-out pairs, ``reward accuracy`` (share of the last quarter's pairs whose margin is above 0),
    ``chosen moved`` and ``rejected moved`` (log-probability, last quarter of the steps less the first)."""
    folder = runs / cell.name
    pairs = pl.read_parquet(folder / "preferences" / "pairs.parquet")
    log = json.loads((folder / "aligned" / "log.json").read_text(encoding="utf-8"))
    quarter = max(1, len(log) // 4)

    def mean(entries: Sequence[Mapping[str, float]], key: str) -> float:
        return sum(entry[key] for entry in entries) / len(entries)

    moved = {
        f"{which} moved": mean(log[-quarter:], f"logps/{which}") - mean(log[:quarter], f"logps/{which}")
        for which in ("chosen", "rejected")
    }
    judged = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["oracle_quality"]
    quality = next(filter(None, judged.values()), {})
    return {
        "dataset": cell.dataset,
        "model": cell.arm,
        "pairs": pairs.height,
        "smoothing": float(pairs["eps"].to_numpy().mean()),
        "oracle AUC": quality.get("auc"),
        "oracle ECE": quality.get("ece"),
        "reward accuracy": mean(log[-quarter:], "rewards/accuracies"),
        **moved,
    }


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
