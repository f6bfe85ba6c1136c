"""Goodreads' shelves and books, as McAuley's group publishes them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rosepo_core.api import Reporter
from rosepo_datasets.published import PublishedLog, PublishedTable, Reading
from rosepo_datasets.values import numbers, text


class Goodreads(PublishedLog):
    """Goodreads (Wan and McAuley, RecSys 2018): the books on users' shelves.

    A rating of 0 means that the user gave none. The time is when the book was put on the shelf. Attributes:
    ``publisher``, ``year``, ``language`` and ``format``.
    """

    name = "goodreads"
    publisher = "UC San Diego (https://cseweb.ucsd.edu/~jmcauley/datasets/goodreads.html)"
    log = PublishedTable(
        ("goodreads_interactions*.json",),
        {"user": "user_id", "item": "book_id", "timestamp": "date_added", "rating": "rating"},
    )
    items = PublishedTable(
        ("goodreads_books*.json", "goodreads_books.json"),
        {"item": "book_id", "title": "title"},
        {
            "publisher": "publisher",
            "year": "publication_year",
            "language": "language_code",
            "format": "format",
        },
    )

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        return [
            text(items["title"]),
            text(items["publisher"]),
            numbers(items["year"]),
            text(items["language"]),
            text(items["format"]),
        ]

    def read_log(self, reporter: Reporter) -> Reading:
        """Without the ratings of 0; see `PublishedLog.read_log`."""
        log = super().read_log(reporter)
        given = ~pl.col("rating").cast(pl.String).is_in(["0", "0.0"])
        log.change(pl.when(given).then(pl.col("rating")).alias("rating"))
        return log
