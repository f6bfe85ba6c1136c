"""What every oracle that scores items shares: from scores to calibrated probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rosepo_core.api import Examples, Floats, Ints, Longs, Options, OracleContext, Places, SmoothingOracle, Split
from rosepo_oracles import calibration

CALIBRATION_ITEMS = 100
"""Number of unseen items drawn for each validation target, for calibration."""


class ScoredOptions(Options):
    """Options of every oracle that scores items."""

    calibration: Literal["temperature", "none"] = Field(
        "temperature",
        description="`temperature` fits the temperature to validation pairs; `none` takes the scores as log-odds.",
    )
    temperature: float | None = Field(
        None, gt=0, description="Divides the margins in the flip probability, in place of the calibrated temperature."
    )
    max_flip: float = Field(
        0.45,
        ge=0,
        lt=1,
        description="Largest flip probability. Below one half, training always prefers the item in the log. Above, "
        "it may prefer the oracle's item instead.",
    )


class ScoredOracle(SmoothingOracle):
    """P(the user prefers the rejected item) = sigmoid((s(rejected) - s(target)) / T), at most `max_flip`.

    A subclass implements `learn` and `score`, and extends `state` and `restore` by what it learned. The calibration
    of T and the limit `max_flip` are rosepo's own choices.

    First, T is fitted on pairs of a validation target and items drawn uniformly from those that the user has not
    seen. The items must be drawn uniformly. Only then are the odds that one item of a pair is the target equal to the
    ratio of the two items' probabilities to come next (Luce's choice rule). So T is near one if scores are logarithms
    of these probabilities, as after training by cross-entropy. With popular or hard negatives, the probability would
    also contain the odds of being drawn. With negatives drawn from the model itself, the odds of every pair would be
    even.

    Second, T is raised. Preference pairs are at positions that the oracle was trained on, where its margins are too
    large, because it has seen the targets. So T is raised until the mean flip probability at the users' last training
    positions equals the mean at their validation positions, which come next. If no user has both (given examples),
    the last training positions of all users are used. For SASRec on MovieLens-100K this gives the mean flip
    probability of users that were not in the training data at all (`benchmarks/sasrec_quality.py --gap`).

    Attributes:
        calibration_items: number of unseen items drawn for each validation target, for calibration.
        calibration_users: calibrate on this many validation examples, drawn at random; on all if it is `None`.
        temperature: T. It is 1 before `fit`, without validation examples, and without calibration.
    """

    Options: ClassVar[type[Options]] = ScoredOptions
    calibration_items: int = CALIBRATION_ITEMS
    calibration_users: int | None = None

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.temperature = 1.0

    @abstractmethod
    def learn(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Learn to score, as `fit` says, and return numbers to show to the user."""

    def fit(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Learn, then calibrate.

        Returns:
            the numbers of `learn`, and ``temperature`` (the one that is used), ``temperature_held_out`` (fitted on
            the validation pairs); ``mean_flip`` of validation pairs and ``mean_flip_trained`` of pairs at the last
            training positions, both with ``temperature_held_out`` and not clipped; ``auc``, ``nll``, ``ece`` and,
            with temperature 1, ``nll_uncalibrated``, ``ece_uncalibrated``, all on the pairs of every second
            validation example, with the temperature fitted on the pairs of the others. Without validation examples,
            only the numbers of `learn` and ``temperature``.
        """
        shown = dict(self.learn(split, context))
        fitted = 1.0
        if len(split.validation):
            fitted, measured = self._calibrated(split, context)
            shown |= measured
        self.temperature = self.options.temperature or (1.0 if self.options.calibration == "none" else fitted)
        return shown | {"temperature": self.temperature}

    def state(self) -> Mapping[str, NDArray[Any]]:
        """``temperature``, float64 []."""
        return {"temperature": np.array(self.temperature, dtype=np.float64)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load the result of `state`."""
        self.temperature = float(state["temperature"])

    @abstractmethod
    def score(self, places: Places, items: Ints) -> Floats:
        """Scores, higher is better: float32 [n, m], finite; -inf where the item is -1."""

    def flip_probability(self, places: Places, chosen: Ints, rejected: Ints) -> Floats:
        """`preference_probability`, at most `max_flip`: float32 [n, k]."""
        return np.minimum(self.preference_probability(places, chosen, rejected), np.float32(self.options.max_flip))

    def preference_probability(self, places: Places, chosen: Ints, rejected: Ints) -> Floats:
        """float32 [n, k], below 1; 0 where rejected is -1."""
        scores = self.score(places, np.concatenate([chosen[:, None], rejected], axis=1))
        flips = calibration.sigmoid((scores[:, 1:] - scores[:, :1]) / self.temperature)
        flips[rejected < 0] = 0.0
        return np.minimum(flips.astype(np.float32), np.nextafter(np.float32(1), np.float32(0)))

    def _calibrated(self, split: Split, context: OracleContext) -> tuple[float, dict[str, float]]:
        """The fitted temperature, and the numbers to show."""
        validation = split.validation
        if self.calibration_users is not None and self.calibration_users < len(validation):
            kept = np.sort(context.rng.choice(len(validation), self.calibration_users, replace=False))
            validation = validation.take(kept)
        margins, row = self._margins(split, validation, context.rng)
        held_out = calibration.fit_temperature(margins)
        flip = float(calibration.sigmoid(-margins / held_out).mean()) if len(margins) else 0.0
        shown = {"temperature_held_out": held_out, "mean_flip": flip}
        fitted, other = margins[row % 2 == 0], margins[row % 2 == 1]
        if len(other):
            half = calibration.fit_temperature(fitted)
            shown |= {
                "auc": calibration.pairwise_auc(other),
                "nll": calibration.negative_log_likelihood(other, half),
                "nll_uncalibrated": calibration.negative_log_likelihood(other, 1.0),
                "ece": calibration.expected_calibration_error(other, half),
                "ece_uncalibrated": calibration.expected_calibration_error(other, 1.0),
            }
        lengths = split.train.lengths
        users = validation.user[lengths[validation.user] > 0]
        if not len(users):
            users = np.flatnonzero(lengths).astype(np.int32)[: self.calibration_users]
        last = Examples.of(split.train, users, (lengths[users] - 1).astype(np.int32))
        trained, _ = self._margins(split, last, context.rng)
        if not len(trained):
            return held_out, shown
        shown["mean_flip_trained"] = float(calibration.sigmoid(-trained / held_out).mean())
        return max(held_out, calibration.temperature_for_mean_flip(trained, flip)), shown

    def _margins(self, split: Split, examples: Examples, rng: np.random.Generator) -> tuple[Floats, Longs]:
        """Scores of the targets minus those of unseen items drawn uniformly: float32 [pairs], and the example of each
        pair, int64 [pairs]."""
        items = unseen_items(split, examples, self.calibration_items, rng)
        scores = self.score(examples, np.concatenate([examples.target[:, None], items], axis=1))
        margins: Floats = (scores[:, :1] - scores[:, 1:])[items >= 0]
        return margins, np.nonzero(items >= 0)[0]


def unseen_items(split: Split, examples: Examples, count: int, rng: np.random.Generator) -> Ints:
    """Items drawn uniformly, with replacement, that are not the target and that the user has not seen in training:
    int32 [n, count], -1 where a seen item was drawn."""
    items = rng.integers(0, len(split.catalogue), size=(len(examples), count), dtype=np.int32)
    unseen = ~split.train_seen.contains(examples.user, items) & (items != examples.target[:, None])
    return np.where(unseen, items, np.int32(-1))
