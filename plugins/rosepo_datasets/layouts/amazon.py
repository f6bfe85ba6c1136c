"""Amazon's reviews and products, as McAuley's group publishes them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rosepo_datasets.published import PublishedLog, PublishedTable
from rosepo_datasets.values import lists, prices, text

_SCRIPT = "(?i)getTime\\(|<span|<script"
"""Parts of a page that some titles of 2018 hold instead of a title."""


class Amazon2018(PublishedLog):
    """Amazon Reviews 2018 (Ni, Li and McAuley, EMNLP 2019): the reviews of one category, and its products.

    Times are seconds. Titles that are pieces of a page's program are no titles. Attributes: ``category`` (list of the
    product's categories, the widest first), ``brand`` and ``price`` (dollars; none for a range).
    """

    name = "amazon-2018"
    publisher = "UC San Diego (https://nijianmo.github.io/amazon/)"
    log = PublishedTable(
        ("*_5.json", "*.json"),
        {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"},
    )
    items = PublishedTable(
        ("meta_*.json",),
        {"item": "asin", "title": "title"},
        {"category": "category", "brand": "brand", "price": "price"},
    )

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        titles = items["title"].cast(pl.String)
        return [
            text(titles.set(titles.str.contains(_SCRIPT).fill_null(False), None)),
            lists(items["category"], "|"),
            text(items["brand"]),
            prices(items["price"]),
        ]


class Amazon2023(PublishedLog):
    """Amazon Reviews 2023 (Hou et al. 2024): the reviews of one category, and its products.

    An item is a ``parent_asin``, which joins the colours and sizes of a product. Times are milliseconds. Attributes:
    ``category`` (list of the product's categories, the widest first), ``main_category``, ``store``, ``brand`` (from
    the details) and ``price`` (dollars; none for a range).
    """

    name = "amazon-2023"
    publisher = "UC San Diego (https://amazon-reviews-2023.github.io/)"
    log = PublishedTable(
        ("*.jsonl",),
        {"user": "user_id", "item": "parent_asin", "timestamp": "timestamp", "rating": "rating"},
    )
    items = PublishedTable(
        ("meta_*.jsonl",),
        {"item": "parent_asin", "title": "title"},
        {
            "category": "categories",
            "main_category": "main_category",
            "store": "store",
            "brand": "details.Brand",
            "price": "price",
        },
    )

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        return [
            text(items["title"]),
            lists(items["category"]),
            text(items["main_category"]),
            text(items["store"]),
            text(items["brand"]),
            prices(items["price"]),
        ]
