"""Steam's reviews and games, as McAuley's group publishes them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rosepo_datasets.published import PublishedLog, PublishedTable
from rosepo_datasets.values import lists, prices, text


class Steam(PublishedLog):
    """Steam (Kang and McAuley, ICDM 2018): reviews of games. Rows in the notation of
    Python are parsed and never run.

    The rating is the hours that the user had played when they wrote the review. Times are dates.
    Attributes: ``genres``, ``tags``, ``developer``, ``publisher`` and ``price`` (dollars; 0 if free).
    """

    name = "steam"
    publisher = "UC San Diego (https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data)"
    log = PublishedTable(
        ("steam_reviews.json", "steam_new.json"),
        {"user": "username", "item": "product_id", "timestamp": "date", "rating": "hours"},
    )
    items = PublishedTable(
        ("steam_games.json",),
        {"item": "id", "title": "app_name"},
        {
            "other_title": "title",
            "genres": "genres",
            "tags": "tags",
            "developer": "developer",
            "publisher": "publisher",
            "price": "price",
        },
    )

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        names, others = text(items["title"]), text(items["other_title"])
        return [
            names.zip_with(names.is_not_null(), others),
            lists(items["genres"]),
            lists(items["tags"]),
            text(items["developer"]),
            text(items["publisher"]),
            prices(items["price"]),
        ]
