"""KuaiRec, the log of a video app in which nearly every user saw every video."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from rosepo_datasets.published import PublishedLog, PublishedTable
from rosepo_datasets.values import lists, text

_UNKNOWN = ("UNKNOWN", "nan", "[]")


class KuaiRec(PublishedLog):
    """KuaiRec (Gao et al., CIKM 2022): videos that users watched, with captions as titles.

    A folder is read from ``small_matrix.csv``; for the other one name ``big_matrix.csv`` itself. The rating is
    ``watch_ratio``: the time played, divided by the length of the video. Times are microseconds. A video without a
    caption has the text on its cover as its title. Attributes: ``category`` (the first level), ``subcategory`` (the
    second level) and ``tags``.
    """

    name = "kuairec"
    publisher = "KuaiRec's authors (https://kuairec.com/)"
    log = PublishedTable(
        ("small_matrix.csv", "big_matrix.csv"),
        {"user": "user_id", "item": "video_id", "timestamp": "timestamp", "rating": "watch_ratio"},
    )
    items = PublishedTable(
        ("kuairec_caption_category.csv",),
        {"item": "video_id", "title": "caption"},
        {
            "cover": "manual_cover_text",
            "tags": "topic_tag",
            "category": "first_level_category_name",
            "subcategory": "second_level_category_name",
        },
    )

    def attributes(self, items: pl.DataFrame) -> Sequence[pl.Series]:
        """See `PublishedLog.attributes`."""
        captions, covers = (text(items[name], _UNKNOWN) for name in ("title", "cover"))
        return [
            captions.zip_with(captions.is_not_null(), covers),
            text(items["category"], _UNKNOWN),
            text(items["subcategory"], _UNKNOWN),
            lists(items["tags"].cast(pl.String).str.strip_chars("[] "), ",", _UNKNOWN),
        ]
