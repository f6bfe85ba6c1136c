"""Several oracles as one, weighted by what they say about validation users' choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, JsonValue
from scipy import optimize, special

from rosepo_core.api import (
    Bools,
    Component,
    Doubles,
    Floats,
    Ints,
    Options,
    OracleContext,
    Places,
    RequestError,
    SmoothingOracle,
    Split,
    load_plugins,
)
from rosepo_oracles.scored import CALIBRATION_ITEMS, ScoredOptions, ScoredOracle, unseen_items

RIDGE = 1.0
"""Penalty on the squared weights of standardized scores; keeps them finite where a score predicts every choice."""


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


class EnsembleOptions(ScoredOptions):
    """Options of `ensemble`."""

    oracles: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        ("sasrec", "item-knn", "popularity"),
        min_length=1,
        description="The oracles, by name, with commas between them.",
    )
    settings: dict[str, dict[str, JsonValue]] = Field(
        {}, description="Options of these oracles by their names: a table such as {sasrec = {layers = 1}}."
    )


class Ensemble(ScoredOracle):
    """The score is the sum of the oracles' scores, each times its weight.

    The weights are those of a conditional logit (McFadden, "Conditional logit analysis of qualitative choice
    behavior", 1974): they maximize the sum over validation users of log P(target), where P(i) = exp(w . s_i) / sum
    over j of exp(w . s_j) over the target and unseen items, which are drawn uniformly. The penalty is half of the sum
    of the squared weights, of scores that are divided by their standard deviation among the items of one user. A
    weight may be negative. So the score is a log-probability up to a constant, and its temperature is near one.

    The oracles may choose their best epoch on the same validation users, and then get a little too much weight.
    Without validation users, the weights are 1. An oracle that ranks nothing cannot take part.
    """

    Options: ClassVar[type[Options]] = EnsembleOptions

    def __init__(self, options: Any = None) -> None:
        """
        Raises:
            RequestError: an oracle or one of its options does not exist, or an oracle asks the language model.
        """
        super().__init__(options)
        names, settings = self.options.oracles, self.options.settings
        for name in settings:
            if name not in names:
                raise RequestError(f"oracle.settings.{name}: oracle.oracles does not name '{name}'")
        self._members: list[SmoothingOracle] = [
            load_plugins().create("oracle", name, settings.get(name, {}), f"oracle.settings.{name}") for name in names
        ]
        for name, member in zip(names, self._members, strict=True):
            if member.needs:
                raise RequestError(
                    f"oracle '{name}' asks the language model, and weights are fitted on too many titles for that: "
                    "leave it out of oracle.oracles"
                )
        self._weights: Doubles = np.ones(len(names))

    def parts(self) -> Sequence[Component]:
        """The oracles."""
        return self._members

    def learn(self, split: Split, context: OracleContext) -> Mapping[str, float]:
        """Let the oracles learn, one after the other, and fit the weights.

        Returns:
            what each oracle shows, as ``"sasrec: epochs"``, and ``"sasrec: weight"``.

        Raises:
            RequestError: an oracle ranks nothing.
        """
        shown: dict[str, float] = {}
        generators = context.rng.spawn(len(self._members))
        for name, member, rng in zip(self.options.oracles, self._members, generators, strict=True):
            found = member.fit(split, replace(context, rng=rng))
            shown |= {f"{name}: {key}": value for key, value in found.items()}
        if len(split.validation):
            sampled = unseen_items(split, split.validation, CALIBRATION_ITEMS, context.rng)
            items = np.concatenate([split.validation.target[:, None], sampled], axis=1)
            self._weights = fit_weights(self._scores(split.validation, items), items >= 0)
        return shown | {
            f"{name}: weight": float(weight) for name, weight in zip(self.options.oracles, self._weights, strict=True)
        }

    def state(self) -> Mapping[str, NDArray[Any]]:
        """``weights``, float64 [oracles], the states of the oracles as ``0.temperature`` and so on; and the
        temperature."""
        state = {**super().state(), "weights": self._weights}
        for number, member in enumerate(self._members):
            state |= {f"{number}.{name}": array for name, array in member.state().items()}
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Load the result of `state`."""
        super().restore(state)
        self._weights = state["weights"]
        for number, member in enumerate(self._members):
            start = f"{number}."
            own = {name.removeprefix(start): array for name, array in state.items() if name.startswith(start)}
            member.restore(own)

    def score(self, places: Places, items: Ints) -> Floats:
        """Weighted sums of the oracles' scores, float32 [n, m]; -inf where the item is -1."""
        scores = self._scores(places, items) @ self._weights
        return np.where(items >= 0, scores, -np.inf).astype(np.float32)

    def _scores(self, places: Places, items: Ints) -> Doubles:
        """The score of each oracle: float64 [n, m, oracles], 0 where the item is -1."""
        found: Doubles = np.empty((*items.shape, len(self._members)))
        for number, member in enumerate(self._members):
            scores = member.score(places, np.maximum(items, 0))
            if scores is None:
                name = self.options.oracles[number]
                raise RequestError(
                    f"oracle '{name}' ranks nothing, so it can be no part of an ensemble: leave it out"
                )
            found[..., number] = np.where(items >= 0, scores, 0.0)
        return found


def fit_weights(scores: Doubles, offered: Bools) -> Doubles:
    """The weights of a conditional logit, see `Ensemble`: float64 [f], of scores as they are.

    Args:
        scores: float64 [n, c, f]; the chosen item is in the first column.
        offered: which places have an item, bool [n, c].
    """
    held = offered[:, :, None]
    deviations = np.where(
        held, scores - np.where(held, scores, 0).sum(1, keepdims=True) / held.sum(1, keepdims=True), 0
    )
    scale = np.sqrt((deviations**2).sum(axis=(0, 1)) / max(1, int(offered.sum()) - len(scores)))
    # What is the same for all items of a user says nothing, whatever its weight.
    scale = np.where(scale > 1e-9 * np.maximum(np.abs(scores).max(axis=(0, 1)), 1e-300), scale, np.inf)
    scaled = deviations / scale

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        logits = np.where(offered, scaled @ weights, -np.inf)
        log_share = special.log_softmax(logits, axis=1)
        expected = np.einsum("nc,ncf->f", np.exp(log_share), scaled)
        value = RIDGE / 2 * float(weights @ weights) - float(log_share[:, 0].sum())
        return value, RIDGE * weights + expected - scaled[:, 0].sum(axis=0)

    weights: Doubles = optimize.minimize(loss, np.zeros(scores.shape[2]), jac=True, method="BFGS").x / scale
    return weights
