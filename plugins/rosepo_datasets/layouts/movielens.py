"""The MovieLens data sets after 100K (Harper and Konstan 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rosepo_datasets.catalogues import as_genres
from rosepo_datasets.movielens import readable_title
from rosepo_datasets.published import PublishedLog, PublishedTable

_SITE = "GroupLens (https://grouplens.org/datasets/movielens/)"


class _MovieLens(PublishedLog):
    """Titles in normal word order, such as "The Usual Suspects (1995)". Attributes: ``year`` and ``genres``."""

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        titles = [(None, None) if title is None else readable_title(title) for title in items["title"]]
        return [
            pl.Series("title", [title for title, _ in titles], pl.String),
            pl.Series("year", [year for _, year in titles], pl.Int32),
            as_genres(items["genres"].cast(pl.String), "|").alias("genres"),
        ]


class MovieLens1M(_MovieLens):
    """MovieLens 1M: ``ratings.dat`` and ``movies.dat``, in Latin-1, with ``::`` between the cells and no header."""

    name = "movielens-1m"
    publisher = f"{_SITE} in ml-1m.zip"
    log = PublishedTable(
        ("ratings.dat",),
        {"user": "UserID", "item": "MovieID", "rating": "Rating", "timestamp": "Timestamp"},
        header=("UserID", "MovieID", "Rating", "Timestamp"),
        separator="::",
        encoding="latin-1",
    )
    items = PublishedTable(
        ("movies.dat",),
        {"item": "MovieID", "title": "Title"},
        {"genres": "Genres"},
        header=("MovieID", "Title", "Genres"),
        separator="::",
        encoding="latin-1",
    )


class _InCommas(_MovieLens):
    """``ratings.csv`` and ``movies.csv``, in UTF-8 with a header."""

    log = PublishedTable(
        ("ratings.csv",), {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}
    )
    items = PublishedTable(("movies.csv",), {"item": "movieId", "title": "title"}, {"genres": "genres"})


class MovieLensLatestSmall(_InCommas):
    """MovieLens latest-small: 100,000 ratings of 9,000 films. GroupLens changes it from time to time."""

    name = "movielens-latest-small"
    publisher = f"{_SITE} in ml-latest-small.zip"


class MovieLens25M(_InCommas):
    """MovieLens 25M: 25 million ratings of 62,000 films, 2019."""

    name = "movielens-25m"
    publisher = f"{_SITE} in ml-25m.zip"


class MovieLens32M(_InCommas):
    """MovieLens 32M: 32 million ratings of 87,585 films, 2024."""

    name = "movielens-32m"
    publisher = f"{_SITE} in ml-32m.zip"
