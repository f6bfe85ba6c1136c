"""The language model that an oracle asks: the SFT model, and what is already known of its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.records import Floats, Ints, Longs, Places, Split
from rosepo_core.engine.training import LogHistory
from rosepo_core.stages.sampling import title_model
from rosepo_core.stages.session import Handle, Session


@dataclass(frozen=True)
class KnownScores:
    """Log-probabilities of titles that another stage has computed.

    Attributes:
        places: n different places.
        items: int32 [n, m], -1 for an empty slot.
        scores: float32 [n, m].
    """

    places: Places
    items: Ints
    scores: Floats

    def look_up(self, places: Places, items: Ints) -> Floats:
        """The scores of items, NaN where they are not known and -inf where there is no item: float32 [n, k]."""
        found = np.where(items >= 0, np.float32(np.nan), np.float32(-np.inf))
        if places.sequences is not self.places.sequences:
            return found
        own, asked = _keys(self.places), _keys(places)
        order = np.argsort(own)
        row = order[np.minimum(np.searchsorted(own, asked, sorter=order), len(own) - 1)]
        known = np.flatnonzero(own[row] == asked)
        for column in range(self.items.shape[1]):
            same = (items[known] == self.items[row[known], column][:, None]) & (items[known] >= 0)
            scores = np.broadcast_to(self.scores[row[known], column][:, None], same.shape)
            found[known] = np.where(same, scores, found[known])
        return found


def _keys(places: Places) -> Longs:
    """A number for each place of the same sequences, int64 [n]."""
    keys: Longs = places.user.astype(np.int64) << 32 | places.position.astype(np.int64)
    return keys


class OracleModel:
    """Implements `LanguageModel` for an oracle of the run.

    The session holds one model in memory and changes its weights from stage to stage, so the SFT model is taken anew
    for each question. At training places, prompts are those of training, which the stage `reference` scores, too;
    elsewhere they are those of evaluation.
    """

    def __init__(self, session: Session, split: Handle[Split], sft: Handle[LogHistory]) -> None:
        self._session, self._split, self._sft = session, split, sft
        self._known: KnownScores | None = None

    def remember(self, known: KnownScores) -> None:
        """Do not score these titles again. This replaces what was known before."""
        self._known = known

    def generate(
        self,
        places: Places,
        k: int,
        *,
        exclude: Callable[[Longs], list[NDArray[np.integer]]],
        beams: int = 8,
        temperature: float = 0.0,
    ) -> Ints:
        """See `LanguageModel.generate`: int32 [n, k]."""
        model = title_model(self._session, self._split, self._sft)
        return model.generate(places, k, exclude=exclude, beams=beams, temperature=temperature)

    def score(self, places: Places, items: Ints) -> Floats:
        """See `LanguageModel.score`: float32 [n, m], -inf where the item is -1."""
        found = np.where(items >= 0, np.float32(np.nan), np.float32(-np.inf))
        if self._known is not None:
            found = self._known.look_up(places, items)
        unknown = np.isnan(found)
        if unknown.any():
            rows = np.flatnonzero(unknown.any(1))
            model = title_model(self._session, self._split, self._sft)
            ask = model.score if self._trained_on(places) else model.log_probs
            asked = ask(places.take(rows), np.where(unknown, items, np.int32(-1))[rows])
            found[rows] = np.where(unknown[rows], asked, found[rows])
        return found

    def _trained_on(self, places: Places) -> bool:
        """Whether all places are before an item of the training sequences."""
        train = self._split.content.train
        return places.sequences is train and bool((places.position < train.lengths[places.user]).all())


def remember(oracle: SmoothingOracle, places: Places, items: Ints, scores: Floats) -> None:
    """Tell an oracle of the run that asks the SFT model what is known of its log-probabilities, see `KnownScores`."""
    if isinstance(oracle.language_model, OracleModel):
        oracle.language_model.remember(KnownScores(places, items, scores))
