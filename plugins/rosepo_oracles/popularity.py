"""Popularity as an oracle: everyone prefers what more people took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rosepo_core.api import Floats, Ints, OracleContext, Places, Split
from rosepo_oracles.scored import ScoredOracle


class Popularity(ScoredOracle):
    """The score of an item is log(1 + its training interactions), for every user and place.

    So the odds that l is preferred to w are ((1 + n_l) / (1 + n_w)) ** (1 / T): a Bradley-Terry model (Bradley and
    Terry, Biometrika 1952) whose strengths are popularities, to a power. It is the simplest oracle that learns, and
    what a personalized one has to beat.
    """

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._scores: Floats = np.zeros(0, dtype=np.float32)

    def learn(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Count training interactions; nothing to show."""
        self._scores = np.log1p(split.catalogue.popularity.astype(np.float32))
        return {}

    def state(self) -> Mapping[str, NDArray[Any]]:
        """``scores``, float32 [items], and the temperature."""
        return {**super().state(), "scores": self._scores}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load the result of `state`."""
        super().restore(state)
        self._scores = state["scores"]

    def score(self, places: Places, items: Ints) -> Floats:
        """log(1 + training interactions), float32 [n, m]; -inf where the item is -1."""
        return np.where(items >= 0, self._scores[np.maximum(items, 0)], np.float32(-np.inf))
