"""A catalogue that changes after training: items are added, renamed, retired and described anew, without training.

Items keep their numbers, so that whatever a run has learned about an item by its number stays true. New items come
behind them. A retired item stays in histories, and is never recommended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from rosepo_core.contracts.records import Bools, Catalogue, plain_title

ITEM, TITLE, RETIRED = "item", "title", "retired"


def no_changes(trained: Catalogue) -> pl.DataFrame:
    """An empty table of changes to a catalogue. Its columns are ``item``, ``title``, ``retired`` and the attributes.
    A cell without a value leaves things as they are."""
    attributes = trained.attributes.clear().drop(ITEM, TITLE, RETIRED, strict=False)
    names = pl.DataFrame(schema={ITEM: pl.String, TITLE: pl.String, RETIRED: pl.Boolean})
    return pl.concat([names, attributes], how="horizontal")


@dataclass(frozen=True)
class Difference:
    """How a catalogue in use differs from an earlier state of it. Items are ids.

    Attributes:
        added: new items.
        renamed: the old and the new title of each renamed item.
        described: items with other attributes.
        retired: items that are not recommended any more.
        restored: items that were retired, and are recommended again.
    """

    added: tuple[str, ...]
    renamed: Mapping[str, tuple[str, str]]
    described: tuple[str, ...]
    retired: tuple[str, ...]
    restored: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.renamed or self.described or self.retired or self.restored)

    @property
    def items(self) -> frozenset[str]:
        """All items that differ."""
        return frozenset((*self.added, *self.renamed, *self.described, *self.retired, *self.restored))


@dataclass(frozen=True, eq=False)
class CatalogueInUse:
    """The catalogue of a training, and all changes since. It never changes itself: `updated` makes another one.

    Attributes:
        trained: the catalogue that the model was trained with.
        changes: one row for each item that has changed, see `no_changes`.
    """

    trained: Catalogue
    changes: pl.DataFrame = field(repr=False)

    @staticmethod
    def of(trained: Catalogue) -> CatalogueInUse:
        """A catalogue without changes."""
        return CatalogueInUse(trained, no_changes(trained))

    def updated(self, changes: pl.DataFrame) -> CatalogueInUse:
        """The catalogue after more changes. What they leave open stays as it is.

        Args:
            changes: one row for each item, with the columns of `no_changes`.
        """
        if not changes.height:
            return self
        both = pl.concat([self.changes, changes.select(self.changes.columns)])
        latest = both.group_by(ITEM, maintain_order=True).agg(pl.all().drop_nulls().last())
        return CatalogueInUse(self.trained, latest.select(both.columns))

    @cached_property
    def items(self) -> Catalogue:
        """All items, the retired ones, too: those of the training under their numbers, then the new ones, which have
        a popularity of 0."""
        # Changes may be older than a training that knows their items, or no longer knows them.
        known, new = self._of_known, self._of_new
        if not known.height and not new.height:
            return self.trained
        titles = list(self.trained.titles)
        for item, title in zip(known[ITEM], known[TITLE], strict=True):
            if title is not None:
                titles[self._numbers[item]] = title
        return Catalogue(
            ids=(*self.trained.ids, *new[ITEM]),
            titles=(*titles, *new[TITLE]),
            popularity=np.concatenate([self.trained.popularity, np.zeros(new.height, np.int64)]),
            attributes=self._attributes(known, new),
        )

    @cached_property
    def retired(self) -> Bools:
        """Which items are never recommended: bool [items]."""
        found = np.zeros(len(self.items), dtype=np.bool_)
        known, new = self._of_known, self._of_new
        found[[self._numbers[item] for item in known.filter(RETIRED)[ITEM]]] = True
        found[len(self.trained) :] = new[RETIRED].fill_null(False).to_numpy()
        return found

    @cached_property
    def retitled(self) -> tuple[int, ...]:
        """The numbers of all items that are new or renamed since the training, ascending."""
        count, titles = len(self.trained), self.items.titles
        known = [self._numbers[item] for item in self._of_known[ITEM]]
        renamed = sorted(number for number in known if titles[number] != self.trained.titles[number])
        return (*renamed, *range(count, len(titles)))

    @cached_property
    def plain_titles(self) -> Mapping[str, int]:
        """The number of each item, by its `plain_title`."""
        return {plain_title(title): item for item, title in enumerate(self.items.titles)}

    def difference(self, earlier: CatalogueInUse) -> Difference:
        """How this catalogue differs from an earlier state of it."""
        before, after = earlier.items, self.items
        count = len(before)
        both = [item for item in range(count) if before.titles[item] != after.titles[item]]
        described: list[int] = []
        if before.attributes.width:
            olds, news = before.attributes.rows(), after.attributes.head(count).rows()
            described = [item for item, (old, new) in enumerate(zip(olds, news, strict=True)) if old != new]
        retired, restored = self.retired[:count] & ~earlier.retired, earlier.retired & ~self.retired[:count]
        ids = after.ids
        return Difference(
            added=ids[count:],
            renamed={ids[item]: (before.titles[item], after.titles[item]) for item in both},
            described=tuple(ids[item] for item in described),
            retired=tuple(ids[item] for item in np.flatnonzero(retired).tolist()),
            restored=tuple(ids[item] for item in np.flatnonzero(restored).tolist()),
        )

    @cached_property
    def _numbers(self) -> Mapping[str, int]:
        return {item: number for number, item in enumerate(self.trained.ids)}

    @cached_property
    def _of_known(self) -> pl.DataFrame:
        """The changes to items of the training."""
        return self.changes.filter([item in self._numbers for item in self.changes[ITEM]])

    @cached_property
    def _of_new(self) -> pl.DataFrame:
        """The changes about other items. Without a title they are about items of an earlier training."""
        unknown = self.changes.filter([item not in self._numbers for item in self.changes[ITEM]])
        return unknown.filter(pl.col(TITLE).is_not_null())

    def _attributes(self, known: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
        trained = self.trained.attributes
        if not trained.width:
            return trained
        columns = []
        numbers = [self._numbers[item] for item in known[ITEM]]
        for name in trained.columns:
            values = trained[name]
            if name in (ITEM, TITLE, RETIRED):
                columns.append(values.extend_constant(None, new.height))
                continue
            values = _replaced(values, dict(zip(numbers, known[name].to_list(), strict=True)))
            columns.append(pl.concat([values, new[name]]))
        return pl.DataFrame(columns)


def _replaced(values: pl.Series, cells: Mapping[int, Any]) -> pl.Series:
    """A column with other values in some rows; `None` leaves a value."""
    cells = {row: value for row, value in cells.items() if value is not None}
    if not cells:
        return values
    changed = [cells.get(row, value) for row, value in enumerate(values.to_list())]
    return pl.Series(values.name, changed, values.dtype)
