"""Yelp's open data set."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rosepo_datasets.published import PublishedLog, PublishedTable
from rosepo_datasets.values import lists, text


class Yelp(PublishedLog):
    """The Yelp Open Dataset: reviews of businesses.

    Times are seconds. Businesses with the same name become one item, as everywhere in rosepo. Attributes:
    ``category`` (list), ``city``, ``state`` and ``price`` (text, from 1 to 4, the price range of restaurants).
    """

    name = "yelp"
    publisher = "Yelp (https://business.yelp.com/data/resources/open-dataset/)"
    log = PublishedTable(
        ("yelp_academic_dataset_review.json", "review.json"),
        {"user": "user_id", "item": "business_id", "timestamp": "date", "rating": "stars"},
    )
    items = PublishedTable(
        ("yelp_academic_dataset_business.json", "business.json"),
        {"item": "business_id", "title": "name"},
        {
            "category": "categories",
            "city": "city",
            "state": "state",
            "price": "attributes.RestaurantsPriceRange2",
        },
    )

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        # Values of attributes are in Python's notation: '2', "u'2'" and 'None'.
        price = text(items["price"]).str.extract(r"^u?'?([1-4])'?$")
        return [
            text(items["title"]),
            lists(items["category"], ","),
            text(items["city"]),
            text(items["state"]),
            price,
        ]
