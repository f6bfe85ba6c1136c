"""What users thought of chosen and rejected items, for losses that read ratings."""

from __future__ import annotations

import numpy as np
import polars as pl

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Corpus, Examples, Floats, Ints, Split
from rosepo_core.stages.session import Handle, Session


def check(session: Session, corpus: Handle[Corpus]) -> None:
    """Check, before any expensive work, that the log has the ratings that a loss of the run reads.

    Raises:
        RequestError: it has none, or some are not positive.
    """
    if not session.loss().needs_ratings:
        return
    name, log = session.config.dataset.shown_name, corpus.content.interactions
    if "rating" not in log.columns or log["rating"].null_count() == len(log):
        raise RequestError(
            f"loss '{session.config.loss_name}' reads ratings, and dataset '{name}' has none: name their column, or "
            "take another loss"
        )
    if (low := log["rating"].to_numpy() <= 0).any():
        worst = float(log["rating"].to_numpy()[low].min())
        raise RequestError(
            f"loss '{session.config.loss_name}' divides by ratings, and dataset '{name}' has some as low as "
            f"{worst:g}: drop them with dataset.min_rating, or take another loss"
        )


def of_items(corpus: Corpus, split: Split, examples: Examples, items: Ints) -> tuple[Floats, Floats]:
    """The ratings and delays of items, as far as the training interactions tell.

    Args:
        corpus: with ratings.
        split: of the corpus.
        examples: n examples of ``split.train``.
        items: int32 [n, m], -1 for an empty slot.

    Returns:
        ratings: the user's rating of each item, float32 [n, m]; NaN if the user has not rated it in training.
        delays: how many places after the example's target the user took it, float32 [n, m]: 0 for the target, NaN if
            not after it.
    """
    train, count = split.train, len(split.catalogue)
    user = np.repeat(np.arange(len(train)), train.lengths)
    place = np.arange(len(train.items)) - train.offsets[user]
    keys = user * count + train.items
    # Of an item that a user took twice, the last time counts.
    order = np.lexsort((place, keys))
    asked = examples.user[:, None].astype(np.int64) * count + items
    found = np.clip(np.searchsorted(keys[order], asked, side="right") - 1, 0, None)
    taken = (keys[order][found] == asked) & (items >= 0)
    delays = np.where(taken, place[order][found] - examples.position[:, None], -1).astype(np.float32)
    delays[items == examples.target[:, None]] = 0
    row, column = np.nonzero(taken)
    users, ids = np.array(split.users, dtype=object), np.array(split.catalogue.ids, dtype=object)
    log = corpus.interactions.select("user", "item", "timestamp", "rating")
    # The ids of a large log are no text.
    kinds = {"user": log.schema["user"], "item": log.schema["item"]}
    pairs = pl.DataFrame(
        {"user": users[examples.user[row]].tolist(), "item": ids[items[row, column]].tolist()}, kinds
    )
    people = np.unique(examples.user)
    trained = pl.DataFrame(
        {"user": users[people].tolist(), "length": train.lengths[people]}, {"user": kinds["user"], "length": pl.Int64}
    )
    # What is held out comes last in the log of a user, and must not be read.
    known = (
        log.join(trained, on="user", maintain_order="left")
        .sort("timestamp", maintain_order=True)
        .filter(pl.int_range(pl.len()).over("user") < pl.col("length"))
        .unique(["user", "item"], keep="last", maintain_order=True)
    )
    found_ratings = pairs.join(known, on=["user", "item"], how="left", maintain_order="left")["rating"]
    ratings = np.full(items.shape, np.nan, dtype=np.float32)
    ratings[row, column] = found_ratings.cast(pl.Float32).fill_null(np.nan).to_numpy()
    return ratings, np.where(delays >= 0, delays, np.float32(np.nan))
