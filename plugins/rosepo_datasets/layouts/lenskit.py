"""Data sets that LensKit saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from rosepo_core.api import Reporter, RequestError
from rosepo_datasets.published import PublishedLog, PublishedTable, Reading


class LensKit(PublishedLog):
    """A folder that ``Dataset.save`` of LensKit wrote (Ekstrand, CIKM 2020): its default interactions, and its items.

    The rating is the attribute ``rating``, or else ``count``; the time is ``timestamp``. Without times, the order of
    rows is the order of time. Items need the attribute ``title``; the other attributes of the items are kept.
    """

    name = "lenskit"
    publisher = "LensKit (https://lkpy.lenskit.org)"
    log = PublishedTable(("*.parquet",), {"user": "user_num", "item": "item_num"}, None)
    items = PublishedTable(("item.parquet",), {"item": "item_id", "title": "title"}, None)
    users = PublishedTable(("user.parquet",), {"user": "user_id"})

    def tables(self) -> Sequence[Path]:
        """See `PublishedLog.tables`."""
        folder = self.place
        about = folder / "schema.json"
        try:
            schema = json.loads(about.read_text(encoding="utf-8"))
            default = schema.get("default_interaction")
            interactions = [name for name, each in schema["relationships"].items() if each.get("interaction")]
            relation = default or interactions[0]
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise RequestError(
                f"{about} names no interactions ({type(error).__name__}): set dataset.path to a folder that "
                "LensKit's Dataset.save wrote"
            ) from None
        return [folder / f"{name}.parquet" for name in (relation, "item", "user")] + [about]

    def read_log(self, reporter: Reporter) -> Reading:
        """With the users' and items' own ids instead of numbers; see `PublishedLog.read_log`."""
        log = super().read_log(reporter)
        frame = log.table.frame
        for role, table, file in zip(("user", "item"), (self.users, self.items), self.tables()[2:0:-1], strict=True):
            ids = self.read(table, file, reporter).table.frame[role]
            numbers = frame[role].cast(pl.Int64)
            if not numbers.is_between(0, len(ids) - 1).all():
                raise RequestError(
                    f"{log.table.path}: '{role}_num' goes beyond the rows of {file.name}: save it again"
                )
            log.change(ids.gather(numbers).alias(role))
        if "rating" not in frame.columns and "count" in frame.columns:
            log.change(pl.col("count").alias("rating"))
        return log
