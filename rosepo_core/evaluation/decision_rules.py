"""Decision rules: how the raw scores of models become the score by which a model ranks titles.

One model can rank by several scores (`Score`). Evaluation and recommending use the same rules. docs/ranking.md
explains them with an example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rosepo_core.contracts.records import Doubles, Floats, Ints, Longs
from rosepo_core.contracts.sections import SCORES, Score

if TYPE_CHECKING:
    # The command line reads the names of scores from here, and must not wait for scipy.
    from rosepo_core.evaluation.conditional_logit import ConditionalLogit

RawScores = Mapping[str, Floats]
"""Scores of items as the models give them, by name of the model: float32 [n, c], -inf for an empty slot. Those of a
language model are log-probabilities of whole titles."""


def shown_scores(score: Score) -> tuple[Score, ...]:
    """The scores that a table shows if `score` is in use: this one and all before it."""
    return SCORES[: SCORES.index(score) + 1]


def ranked_name(model: str, score: Score) -> str:
    """The name in tables of a model that ranks by a score: ``aligned`` by likelihood, ``aligned fusion`` by
    fusion."""
    return model if score == "likelihood" else f"{model} {score}"


def feature_names(features: Sequence[str], model: str, writes: bool) -> tuple[str, ...]:
    """The features that `fusion` can have for a model.

    Args:
        features: the wanted features.
        model: name of the model.
        writes: whether it is a language model. If not, its fusion has no part of a language model.
    """
    if writes:
        return tuple(name for name in features if name != model)
    return tuple(name for name in features if name in ("popularity", model))


def needed_models(features: Sequence[str], model: str) -> tuple[str, ...]:
    """The models whose raw scores the features are made of, each once."""
    own = {"likelihood": model, "prior": None, "popularity": None}
    return tuple(dict.fromkeys(found for name in features if (found := own.get(name, name)) is not None))


@dataclass(frozen=True)
class DecisionRule:
    """One score of one model.

    Attributes:
        model: name of the model.
        score: the score.
        popularity: training interactions of each item, int64 [items].
        lengths: tokens of each title with its end, int64 [items]; for language models.
        prior: log p(title) of each item under the model, float32 [items]; for ``prior-corrected`` and ``fusion`` of
            language models.
        features: the features of ``fusion``.
        logit: the fitted weights of ``fusion``.
        cross_fits: for each fifth of the users behind `logit`: their rows, and weights that were fitted on the
            others.
    """

    model: str
    score: Score
    popularity: Longs
    lengths: Longs | None = None
    prior: Floats | None = None
    features: tuple[str, ...] = ()
    logit: ConditionalLogit | None = None
    cross_fits: tuple[tuple[Ints, ConditionalLogit], ...] = ()

    @property
    def name(self) -> str:
        """The name in tables of the model with this score."""
        return ranked_name(self.model, self.score)

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose raw scores this rule needs."""
        return needed_models(self.features, self.model) if self.score == "fusion" else (self.model,)

    def values(self, items: Ints, raw: RawScores, features: Sequence[str]) -> Doubles:
        """The values of features: float64 [n, c, f], 0 for an empty slot.

        Args:
            items: int32 [n, c], -1 for an empty slot.
            raw: the raw scores of `models`.
            features: names of features.
        """
        found = []
        for name in features:
            if name == "likelihood":
                value = raw[self.model].astype(np.float64)
            elif name == "prior":
                assert self.prior is not None
                value = self.prior[items].astype(np.float64)
            elif name == "popularity":
                value = np.log1p(self.popularity[items].astype(np.float64))
            else:
                value = raw[name].astype(np.float64)
            found.append(np.where(items >= 0, value, 0.0))
        return np.stack(found, axis=2)

    def scores(self, items: Ints, raw: RawScores, fitted_rows: Ints | None = None) -> Floats:
        """The scores of items: float32 [n, c], higher is better, -inf for an empty slot. ``fusion`` gives the
        logarithm of the probability that an item is chosen out of those of its row.

        Args:
            items: int32 [n, c], -1 for an empty slot.
            raw: the raw scores of `models`, for these items.
            fitted_rows: for users whom ``fusion`` was fitted on: the row of each among them, [n]. Each is then ranked
                with weights that were fitted on other users.
        """
        offered = items >= 0
        if self.score == "fusion" and fitted_rows is not None:
            assert self.cross_fits
            found = np.full(items.shape, -np.inf, dtype=np.float32)
            for rows, logit in self.cross_fits:
                here = np.flatnonzero(np.isin(fitted_rows, rows))
                part = {name: values[here] for name, values in raw.items()}
                found[here] = replace(self, logit=logit).scores(items[here], part)
        elif self.score == "fusion":
            assert self.logit is not None
            logit = self.logit
            found = logit.log_probabilities(self.values(items, raw, logit.features), offered).astype(np.float32)
        else:
            found = raw[self.model]
            if self.score == "mean":
                assert self.lengths is not None
                found = np.divide(found, self.lengths[items], dtype=np.float32)
            elif self.score == "prior-corrected":
                assert self.prior is not None
                found = found - self.prior[items]
        scores: Floats = np.where(offered, found, np.float32(-np.inf))
        return scores
