"""Filters: which items of a catalogue may be recommended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.records import Bools, Catalogue

Values = Mapping[str, Collection[str]]
"""Values of attributes, by the name of the catalogue's column."""


@dataclass(frozen=True)
class Filter:
    """Conditions for items that may be recommended. An item must satisfy all that are set.

    Attributes:
        allow: the only items that are possible, by title or id as in the histories; `None` for all.
        deny: items that are never recommended.
        having: for each of these columns, the item has at least one of the values, such as
            ``{"genres": {"Comedy", "Drama"}}``. A column may hold a text, a number, a list, or texts separated by
            ``|``.
        lacking: for each of these columns, the item has none of the values.
    """

    allow: Collection[str] | None = None
    deny: Collection[str] = ()
    having: Values = field(default_factory=dict)
    lacking: Values = field(default_factory=dict)

    @property
    def passes_all(self) -> bool:
        """Whether no condition is set."""
        return self.allow is None and not (self.deny or self.having or self.lacking)

    def passing(self, catalogue: Catalogue, find: Callable[[str], int]) -> Bools:
        """Which items satisfy all conditions: bool [items].

        Args:
            catalogue: the catalogue.
            find: the item of a title or id.

        Raises:
            RequestError: an item, column or value is not in the catalogue, or no item is left.
        """
        found = np.ones(len(catalogue), dtype=np.bool_)
        if self.allow is not None:
            found[:] = False
            found[[find(name) for name in self.allow]] = True
        found[[find(name) for name in self.deny]] = False
        for column, values in self.having.items():
            found &= _has(catalogue.attributes, column, values)
        for column, values in self.lacking.items():
            found &= ~_has(catalogue.attributes, column, values)
        if not found.any():
            raise RequestError("no item of the catalogue passes the filter; loosen it")
        return found


def _has(attributes: pl.DataFrame, column: str, values: Collection[str]) -> Bools:
    """Which items have one of the values in a column: bool [items].

    Raises:
        RequestError: there is no such column, or no item has one of the values.
    """
    if column not in attributes.columns:
        known = f"it has {', '.join(attributes.columns)}" if attributes.columns else "it has none"
        raise RequestError(f"the catalogue has no attribute '{column}'{nearest(column, attributes.columns)}; {known}")
    cells = attributes[column]
    if not isinstance(cells.dtype, pl.List):
        cells = cells.cast(pl.String).str.split("|")
    parts = cells.cast(pl.List(pl.String)).list.eval(pl.element().str.strip_chars())
    known_values = set(parts.explode().drop_nulls().to_list())
    for value in values:
        if value not in known_values:
            raise RequestError(f"no item has {column} = '{value}'{nearest(value, known_values)}")
    wanted = list(values)
    held = parts.list.eval(pl.element().is_in(wanted)).list.any().fill_null(False)
    found: Bools = held.to_numpy()
    return found
