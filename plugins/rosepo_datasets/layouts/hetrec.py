"""The log of Last.fm from the workshop HetRec 2011."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from rosepo_core.api import Reporter
from rosepo_datasets.catalogues import as_text
from rosepo_datasets.published import PublishedLog, PublishedOptions, PublishedTable, Reading
from rosepo_datasets.values import text

_SHOWN_TAGS = 5


class LastFMOptions(PublishedOptions):
    """Options of `lastfm-hetrec`."""

    times: Literal["tags", "rows"] = Field(
        "tags",
        description="The time of an artist: when the user first tagged it, without artists never tagged; or "
        " the order of rows, with all artists, which is no order of time.",
    )


class LastFM(PublishedLog):
    """Last.fm, HetRec 2011 (Cantador, Brusilovsky and Kuflik): the artists that 1,892 users listened to.

    The rating is the number of plays. The publisher gives no times of listening. By default the time of an artist is
    when the user first tagged it, in milliseconds. Attribute: ``tags``, the tags that most users gave an artist, at
    most five, the most frequent first.
    """

    Options = LastFMOptions
    name = "lastfm-hetrec"
    publisher = "GroupLens (https://grouplens.org/datasets/hetrec-2011/) in hetrec2011-lastfm-2k.zip"
    log = PublishedTable(
        ("user_artists.dat",),
        {"user": "userID", "item": "artistID", "rating": "weight"},
        separator="\t",
        quoting="none",
    )
    items = PublishedTable(
        ("artists.dat",), {"item": "id", "title": "name"}, separator="\t", encoding="latin-1", quoting="none"
    )
    assignments = PublishedTable(
        ("user_taggedartists-timestamps.dat",),
        {"user": "userID", "item": "artistID", "tag": "tagID", "timestamp": "timestamp"},
        separator="\t",
        quoting="none",
    )
    tags = PublishedTable(
        ("tags.dat",), {"tag": "tagID", "name": "tagValue"}, separator="\t", encoding="latin-1", quoting="none"
    )

    def tables(self) -> Sequence[Path]:
        """See `PublishedLog.tables`."""
        log, items = super().tables()
        return [log, items, *(self.beside(log.parent, table) for table in (self.assignments, self.tags))]

    def read_log(self, reporter: Reporter) -> Reading:
        """With the time of each user's first tag for an artist; see `PublishedLog.read_log`."""
        log = super().read_log(reporter)
        if self.options.times == "tags":
            tagged = self.read(self.assignments, self.tables()[2], reporter)
            self.read_times(tagged)
            first = _pairs(tagged).with_columns(tagged.table.frame["timestamp"])
            first = first.group_by("user", "item").agg(pl.col("timestamp").min())
            log.change(_pairs(log).join(first, on=["user", "item"], how="left", maintain_order="left")["timestamp"])
        return log

    def read_items(self, reporter: Reporter) -> Reading:
        """With the tags of each artist; see `PublishedLog.read_items`."""
        items = super().read_items(reporter)
        assigned, names = (
            self.read(table, file, reporter)
            for table, file in zip((self.assignments, self.tags), self.tables()[2:], strict=True)
        )
        named = pl.DataFrame({"tag": as_text(names.table, "tag"), "tags": text(names.table.frame["name"])})
        counts = (
            pl.DataFrame({name: as_text(assigned.table, name) for name in ("item", "tag")})
            .group_by("item", "tag", maintain_order=True)
            .len()
            .join(named.unique("tag", keep="first").drop_nulls(), on="tag", maintain_order="left")
            .sort("len", descending=True, maintain_order=True)
            .group_by("item", maintain_order=True)
            .agg(pl.col("tags").head(_SHOWN_TAGS))
        )
        ids = pl.DataFrame({"item": as_text(items.table, "item")})
        items.change(ids.join(counts, on="item", how="left", maintain_order="left")["tags"].fill_null([]))
        return items


def _pairs(reading: Reading) -> pl.DataFrame:
    return pl.DataFrame({name: as_text(reading.table, name) for name in ("user", "item")})
