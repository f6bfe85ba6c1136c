"""Scores of any recommender as an oracle, from a table of user, item and score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rosepo_core.api import (
    Floats,
    Ints,
    Longs,
    Options,
    OracleContext,
    Places,
    RequestError,
    Split,
    expanded,
    read_scores,
)
from rosepo_oracles.scored import ScoredOptions, ScoredOracle


class ScoreFileOptions(ScoredOptions):
    """Options of `scores`."""

    path: Path = Field(
        description="Scores, one pair of user and item in each row, by the ids of the log: .parquet, or .csv or .tsv "
        "in UTF-8 with a header, perhaps with .gz."
    )
    user: str = Field("user", description="Column of the user's id.")
    item: str = Field("item", description="Column of the item's id.")
    score: str = Field("score", description="Column of the score, higher is better.")
    missing: Literal["refuse", "lowest"] = Field(
        "refuse",
        description="Pairs that the file lacks: `refuse` wants a score for every item and every user; `lowest` gives "
        "them the user's lowest score in the file, as for lists of the best items.",
    )


class ScoreFile(ScoredOracle):
    """The score that another recommender gave to the pair of user and item.

    The score does not depend on the place in the user's history, so all pairs of a user share one opinion. The file
    must come from a model that did not learn from the test part: rosepo cannot see whether it did. As a model in the
    table of an evaluation, it would then show results that it does not have.

    By default nothing is made up: `fit` wants the scores of the whole catalogue for every user who is asked about.
    With ``missing = "lowest"``, an item that the file does not list for a user ties with the user's last one, and a
    user without rows likes all items the same. Rows of unknown users and items are not used, and counted in a note.

    In recommending, histories belong to anyone, so there are no scores: this is an error with ``missing = "refuse"``,
    and all items tie with ``"lowest"``.
    """

    Options: ClassVar[type[Options]] = ScoreFileOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._keys: Longs = np.zeros(0, dtype=np.int64)
        self._scores: Floats = np.zeros(0, dtype=np.float32)
        self._lowest: Floats = np.zeros(0, dtype=np.float32)
        self._items = 0

    def learn(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Read the file.

        Returns:
            ``coverage``: the share of all pairs of users and items that the file has.

        Raises:
            RequestError: the file cannot be read, a row is wrong, no row has a known user and a known item, or a pair
                is missing that the options do not allow to miss. The message names file, row and column.
        """
        options: ScoreFileOptions = self.options
        file = expanded(options.path)
        columns = {"user": options.user, "item": options.item, "score": options.score}
        table = read_scores(file, split.users, split.catalogue.ids, columns=columns, options="oracle")
        known = (table.user >= 0) & (table.item >= 0)
        if not known.any():
            raise RequestError(
                f"{file}: no row has a user and an item of the log; row {table.number(0)} has the user "
                f"'{table.user_ids[0]}' and the item '{table.item_ids[0]}', the log has '{split.users[0]}' and "
                f"'{split.catalogue.ids[0]}': write the ids of the log, or name other columns with oracle.user and "
                "oracle.item"
            )
        if not known.all():
            context.reporter.note(
                f"{file.name}: {int((~known).sum()):,} of {len(known):,} rows have a user or an item that the log "
                "does not have, and are not used"
            )
        self._items = len(split.catalogue)
        keys, rows = table.pairs(self._items)
        self._keys, self._scores = keys, table.score[rows].astype(np.float32)
        lowest = np.full(len(split.users), np.inf, dtype=np.float32)
        np.minimum.at(lowest, keys // self._items, self._scores)
        self._lowest = np.where(np.isfinite(lowest), lowest, np.float32(0))
        if options.missing == "refuse":
            self._require_all(split, file)
        return {"coverage": len(keys) / (len(split.users) * self._items)}

    def state(self) -> Mapping[str, NDArray[Any]]:
        """``keys``, int64 [pairs], ascending: user * items + item; ``scores``, float32 [pairs]; ``lowest``, float32
        [users]; ``items``, int64 []; and the temperature."""
        arrays = {"keys": self._keys, "scores": self._scores, "lowest": self._lowest}
        return {**super().state(), **arrays, "items": np.array(self._items, dtype=np.int64)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load the result of `state`. The file is not read again."""
        super().restore(state)
        self._keys, self._scores, self._lowest = state["keys"], state["scores"], state["lowest"]
        self._items = int(state["items"])

    def score(self, places: Places, items: Ints) -> Floats:
        """The scores of the file, float32 [n, m]; -inf where the item is -1.

        Raises:
            RequestError: a pair is missing, and ``missing`` is ``"refuse"``.
        """
        if not places.of_split:
            return self._of_strangers(items)
        wanted = places.user.astype(np.int64)[:, None] * self._items + np.maximum(items, 0)
        found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        has = self._keys[found] == wanted
        if self.options.missing == "refuse" and not has.all():
            raise RequestError(
                f"{self.options.path} has no score for a user and an item that the run asks about: add it, or set "
                "oracle.missing='lowest'"
            )
        scores = np.where(has, self._scores[found], self._lowest[places.user][:, None])
        return np.where(items >= 0, scores, np.float32(-np.inf))

    def _of_strangers(self, items: Ints) -> Floats:
        if self.options.missing == "refuse":
            raise RequestError(
                f"{self.options.path} has scores for the users of the log alone, and none for a history: recommend "
                "by another score, or train with oracle.missing='lowest'"
            )
        return np.where(items >= 0, np.float32(0), np.float32(-np.inf))

    def _require_all(self, split: Split, file: Path) -> None:
        asked = np.unique(np.concatenate([np.flatnonzero(split.train.lengths), split.validation.user]))
        count = np.bincount(self._keys // self._items, minlength=len(split.users))[asked]
        short = np.flatnonzero(count < self._items)
        if len(short):
            user = int(asked[short[0]])
            of_user = self._keys[self._keys // self._items == user] % self._items
            item = int(np.setdiff1d(np.arange(self._items), of_user)[0])
            raise RequestError(
                f"{file} lacks {int((self._items - count).sum()):,} of {len(asked) * self._items:,} scores, e.g. of "
                f"the user '{split.users[user]}' for the item '{split.catalogue.ids[item]}': add them, or set "
                "oracle.missing='lowest' if the file lists the best items of each user"
            )
