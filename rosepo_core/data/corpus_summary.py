"""A summary of a corpus, to look at before training."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus
from rosepo_core.data.filters import check_contract, check_titles, one_line
from rosepo_core.data.supplied_examples import PARTS, has_candidates

if TYPE_CHECKING:
    pass

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class CorpusSummary:
    """A summary of a corpus, to look at before training.

    Attributes:
        name: the dataset's name.
        users: number of users with an interaction; each given example counts as one user.
        items: number of items in the catalogue.
        interactions: rows of the log.
        density: share of all pairs of user and item that occur in the log.
        interactions_per_user: minimum, quartiles and maximum: keys "min", "25%", "50%", "75%", "max".
        interactions_per_item: the same over the items of the catalogue.
        duplicate_titles: titles that several items share, with the items' ids.
        first: time of the first interaction, as ISO 8601 in UTC if the timestamps look like times, else as a number.
        last: time of the last interaction.
        ratings: interactions per rating, ascending; empty without ratings or with more than 20 different ones.
        parts: examples per part; empty for a log.
        candidates: minimum, quartiles and maximum of the candidates per test example; empty if none are given.
        notes: the notes of the corpus.
        warnings: problems that may spoil a result, one line each.
    """

    name: str
    users: int
    items: int
    interactions: int
    density: float
    interactions_per_user: dict[str, int]
    interactions_per_item: dict[str, int]
    duplicate_titles: dict[str, tuple[str, ...]]
    first: str
    last: str
    ratings: dict[float, int]
    parts: dict[str, int]
    candidates: dict[str, int]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def check_corpus(corpus: Corpus) -> CorpusSummary:
    """Summarize a corpus, filtered or not.

    Raises:
        PluginError: the corpus is not as `Corpus` describes.
        RequestError: it has no interactions, or an item without a title.
    """
    check_contract(corpus)
    log, catalogue = corpus.interactions, corpus.catalogue
    if log.is_empty():
        raise RequestError(f"dataset '{corpus.name}' has no interactions")
    titles = catalogue.select("item", one_line(pl.col("title")).alias("title"))
    check_titles(corpus.name, log, titles)
    per_user = log["user"].value_counts()["count"]
    counts = log.group_by("item").len("count").with_columns(pl.col("item").cast(pl.String))
    per_item = catalogue.select("item").join(counts, on="item", how="left")["count"].fill_null(0)
    shared = titles.group_by("title", maintain_order=True).agg("item").filter(pl.col("item").list.len() > 1)
    distinct = log.select("user", "item").n_unique()
    ratings: dict[float, int] = {}
    if "rating" in log.columns and log["rating"].n_unique() <= 20:
        counts = log["rating"].drop_nulls().value_counts().sort("rating")
        ratings = dict(counts.iter_rows())
    times = log["timestamp"].sort()
    examples = corpus.examples
    parts: dict[str, int] = {}
    candidates: dict[str, int] = {}
    if examples is not None:
        parts = {part: examples.filter(part=part).height for part in PARTS}
        if has_candidates(corpus):
            candidates = _quantiles(examples.filter(part="test")["candidates"].list.len())
    return CorpusSummary(
        name=corpus.name,
        users=per_user.len(),
        items=catalogue.height,
        interactions=log.height,
        density=distinct / (per_user.len() * catalogue.height),
        interactions_per_user=_quantiles(per_user),
        interactions_per_item=_quantiles(per_item),
        duplicate_titles={title: tuple(items) for title, items in shared.iter_rows()},
        first=_time(times[0]),
        last=_time(times[-1]),
        ratings=ratings,
        parts=parts,
        candidates=candidates,
        notes=corpus.notes,
        warnings=tuple(_shared_titles(shared) if parts else _warnings(log, per_user, per_item, shared, distinct)),
    )


def _warnings(
    log: pl.DataFrame, per_user: pl.Series, per_item: pl.Series, shared: pl.DataFrame, distinct: int
) -> list[str]:
    found = []
    short = int((per_user < 3).sum())
    if short:
        found.append(
            f"{short} of {per_user.len()} users have fewer than 3 interactions: leave-one-out only trains on them"
        )
    last = log.sort("timestamp", maintain_order=True).group_by("user").agg(pl.col("timestamp").tail(2))["timestamp"]
    tied = int(((last.list.len() == 2) & (last.list.first() == last.list.last())).sum())
    if tied:
        found.append(
            f"the last two interactions of {tied} of {per_user.len()} users have the same timestamp: "
            "the order of their rows decides what is held out"
        )
    if distinct < log.height:
        found.append(
            f"{log.height - distinct} interactions repeat an item of the same user: "
            "dataset.duplicates says which stay"
        )
    found += _shared_titles(shared)
    unused = int((per_item == 0).sum())
    if unused:
        found.append(
            f"{unused} of {per_item.len()} items have no interaction: they are dropped unless dataset.k_core is 0"
        )
    return found


def _shared_titles(shared: pl.DataFrame) -> list[str]:
    if shared.is_empty():
        return []
    return [
        f"{shared.height} titles belong to more than one item: such items are merged, e.g. "
        f"'{shared['title'][0]}': items {', '.join(shared['item'][0])}"
    ]


def _quantiles(counts: pl.Series) -> dict[str, int]:
    names = ("min", "25%", "50%", "75%", "max")
    return {name: int(counts.quantile(q, "lower") or 0) for name, q in zip(names, QUANTILES, strict=True)}


def _time(timestamp: int) -> str:
    """Seconds, milliseconds or microseconds since 1970. The size tells which: each covers 1973 to about 5000."""
    for unit in (1, 1_000, 1_000_000):
        if 10**8 <= timestamp / unit < 10**11:
            return datetime.fromtimestamp(timestamp // unit, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(timestamp)
