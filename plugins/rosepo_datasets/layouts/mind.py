"""MIND, the log of a news site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from rosepo_core.api import Corpus, Reporter, RequestError
from rosepo_datasets.catalogues import first_true
from rosepo_datasets.published import PublishedLog, PublishedTable, Reading
from rosepo_datasets.values import text


class MIND(PublishedLog):
    """MIND (Wu et al., ACL 2020): the news that users clicked, and those that they were shown and did not click.

    An interaction is a click: each ``N1-1`` among the impressions, at the time of the impression, and before a user's
    first impression the clicks of the history, in order, at the second before it, because MIND gives no times for
    them. What was shown and never clicked (``N2-0``) is `Corpus.disliked`. Attributes: ``category`` and
    ``subcategory``.
    """

    name = "mind"
    publisher = "Microsoft (https://msnews.github.io/)"
    log = PublishedTable(
        ("behaviors.tsv",),
        {"user": "user", "item": "impressions", "timestamp": "time"},
        {"history": "history"},
        header=("impression", "user", "time", "history", "impressions"),
        quoting="none",
        time_format="%m/%d/%Y %I:%M:%S %p",
    )
    items = PublishedTable(
        ("news.tsv",),
        {"item": "news", "title": "title"},
        {"category": "category", "subcategory": "subcategory"},
        header=(
            *("news", "category", "subcategory", "title", "abstract", "url"),
            *("title_entities", "abstract_entities"),
        ),
        quoting="none",
    )

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        return [text(items["category"]), text(items["subcategory"])]

    def read_log(self, reporter: Reporter) -> Reading:
        """A row for each item of a history and each impression, rated 1 if it was clicked and else 0; see
        `PublishedLog.read_log`."""
        log = super().read_log(reporter)
        self.read_times(log)
        table = log.table
        words = (pl.col(name).cast(pl.String).str.extract_all(r"\S+") for name in ("history", "item"))
        frame = table.frame.with_columns(*words, row=pl.int_range(pl.len()))
        shown = frame.select("user", "item", "timestamp", "row").explode("item").filter(pl.col("item").is_not_null())
        wrong = ~shown["item"].str.contains(r".-[01]$")
        if wrong.any():
            at = first_true(wrong)
            raise RequestError(
                f"{table.place(shown['row'][at])}: the impression '{shown['item'][at]}' does not end in -0 or -1; "
                f"{self.shipped}"
            )
        shown = shown.with_columns(
            item=pl.col("item").str.head(-2), rating=pl.col("item").str.tail(1).cast(pl.Float64)
        )
        first = frame.sort("timestamp", maintain_order=True).unique("user", keep="first", maintain_order=True)
        before = first.select("user", item="history", timestamp=pl.col("timestamp") - 1, row="row").explode("item")
        before = before.filter(pl.col("item").is_not_null()).with_columns(rating=pl.lit(1.0))
        rows = pl.concat([before, shown])
        log.table = replace(table, frame=rows.drop("row"), rows=table.rows.gather(rows["row"]))
        return log

    def corpus(self, interactions: pl.DataFrame, catalogue: pl.DataFrame, notes: Sequence[str]) -> Corpus:
        """Clicks are the interactions, and what was never clicked is disliked; see `PublishedLog.corpus`."""
        clicks, skipped = (interactions.filter(rating=value).drop("rating") for value in (1.0, 0.0))
        if clicks.is_empty():
            raise RequestError(f"no interaction is left: no impression with a title was clicked; {self.shipped}")
        skipped = skipped.join(clicks, on=["user", "item"], how="anti", maintain_order="left")
        return replace(super().corpus(clicks, catalogue, notes), disliked=skipped)
