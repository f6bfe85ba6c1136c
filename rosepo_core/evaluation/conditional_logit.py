"""The conditional logit: how users choose one item among several, from features of the items.

McFadden, "Conditional logit analysis of qualitative choice behavior", 1974. With features x of the items in a user's
set C, P(i | C) = exp(w . x_i) / sum over j in C of exp(w . x_j). Weights that were fitted on uniformly drawn subsets
of the items hold for the whole set, too (McFadden, "Modelling the choice of residential location", 1978).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Bools, Doubles, Ints

LEVEL = 0.95
"""The level of the weights' intervals."""


@dataclass(frozen=True)
class ConditionalLogit:
    """A fitted conditional logit. The tuples have one entry for each feature.

    Attributes:
        features: names of the features.
        scales: standard deviation of each feature among the items of one user's set, over all sets.
        weights: weight of each feature, per standard deviation.
        low: lower end of the weight's 95 % interval for other users.
        high: upper end.
        users: number of users that it was fitted on.
        left_out: features that were not used, and why.
    """

    features: tuple[str, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    users: int
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def per_unit(self) -> Doubles:
        """The weights of features that are not standardized: float64 [f]."""
        found: Doubles = np.array(self.weights) / np.array(self.scales)
        return found

    def log_probabilities(self, values: Doubles, offered: Bools) -> Doubles:
        """Logarithm of the probability that each item is chosen from its set: float64 [n, c].

        Args:
            values: the features, float64 [n, c, f].
            offered: which places of a set have an item, bool [n, c]; -inf is returned for the others.
        """
        utility = np.where(offered[:, :, None], values, 0.0) @ self.per_unit
        found: Doubles = special.log_softmax(np.where(offered, utility, -np.inf), axis=1)
        return found

    def write(self, path: Path) -> None:
        """Write this as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> ConditionalLogit:
        """Read what `write` wrote."""
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        table["left_out"] = [tuple(each) for each in table["left_out"]]
        fields: dict[str, Any] = {key: value if key == "users" else tuple(value) for key, value in table.items()}
        return ConditionalLogit(**fields)


def fit(names: Sequence[str], values: Doubles, offered: Bools, chosen: Ints, ridge: float = 1.0) -> ConditionalLogit:
    """Fit the weights: minimize the negative log-likelihood of the chosen items, summed over users, plus
    ridge / 2 times the sum of the squared weights.

    Features are divided by their standard deviation within sets first. A value that is the same for all items of a
    set has no effect, so nothing is subtracted. A feature is left out if it has no variance within sets, or no finite
    value for an offered item. Intervals are of the sandwich estimator (White, "Maximum likelihood estimation of
    misspecified models", Econometrica 1982), with one term for each user.

    Args:
        names: name of each feature, [f].
        values: float64 [n, c, f].
        offered: which places of a set have an item, bool [n, c].
        chosen: the column of the item that each user chose, int32 [n].
        ridge: see above, greater than 0.

    Raises:
        RequestError: no user has two items to choose from, or no feature is left.
    """
    rows = offered.sum(axis=1) > 1
    if not rows.any():
        raise RequestError("fusion needs validation users with two or more candidates, and there is none")
    values, offered, chosen = values[rows], offered[rows], chosen[rows]
    held = offered[:, :, None]
    left_out: dict[str, str] = {}
    finite: Bools = np.asarray(np.isfinite(np.where(held, values, 0.0)).all(axis=(0, 1)))
    deviations = np.where(held & finite, values, 0.0)
    means = deviations.sum(axis=1, keepdims=True) / held.sum(axis=1, keepdims=True)
    deviations = np.where(held, deviations - means, 0.0)
    scales = np.sqrt((deviations**2).sum(axis=(0, 1)) / (held.sum() - len(values)))
    # A constant feature has deviations of the size of a rounding error.
    size = np.abs(np.where(held & finite, values, 0.0)).max(axis=(0, 1))
    varies = scales > 1e-9 * np.maximum(size, 1e-300)
    for place, name in enumerate(names):
        if not finite[place]:
            left_out[name] = "it has no value for some candidates"
        elif not varies[place]:
            left_out[name] = "it is the same for all candidates of each user"
    kept = np.flatnonzero(finite & varies).tolist()
    if not kept:
        raise RequestError(
            f"fusion has no feature left ({'; '.join(f'{name}: {why}' for name, why in left_out.items())}): name "
            "others in ranking.features"
        )
    scaled = deviations[:, :, kept] / scales[kept]
    weights, low, high = _fitted(scaled, offered, chosen, ridge)
    return ConditionalLogit(
        features=tuple(names[place] for place in kept),
        scales=tuple(scales[kept].tolist()),
        weights=tuple(weights.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        users=len(values),
        left_out=tuple(left_out.items()),
    )


def _fitted(values: Doubles, offered: Bools, chosen: Ints, ridge: float) -> tuple[Doubles, Doubles, Doubles]:
    """The weights and the ends of their intervals, float64 [f] each."""
    users = np.arange(len(values))

    def probabilities(weights: Doubles) -> Doubles:
        found: Doubles = special.softmax(np.where(offered, values @ weights, -np.inf), axis=1)
        return found

    def loss(weights: Doubles) -> float:
        logits = np.where(offered, values @ weights, -np.inf)
        likelihood = special.log_softmax(logits, axis=1)[users, chosen].sum()
        return float(ridge / 2 * weights @ weights - likelihood)

    def user_gradients(weights: Doubles) -> Doubles:
        expected = np.einsum("nc,ncf->nf", probabilities(weights), values)
        gradients: Doubles = expected - values[users, chosen]
        return gradients

    def gradient(weights: Doubles) -> Doubles:
        total: Doubles = user_gradients(weights).sum(axis=0) + ridge * weights
        return total

    def hessian(weights: Doubles) -> Doubles:
        share = probabilities(weights)
        expected = np.einsum("nc,ncf->nf", share, values)
        second = np.einsum("nc,ncf,ncg->fg", share, values, values, optimize=True) - expected.T @ expected
        found: Doubles = second + ridge * np.eye(values.shape[2])
        return found

    start = np.zeros(values.shape[2])
    # The loss is convex, so there is one minimum.
    weights = optimize.minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact").x
    inverse = np.linalg.inv(hessian(weights))
    of_users = user_gradients(weights)
    of_users -= of_users.mean(axis=0)
    spread = np.sqrt(np.diag(inverse @ (of_users.T @ of_users) @ inverse))
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * spread
    return weights, weights - half, weights + half


def folds(users: int, rng: np.random.Generator, count: int = 5) -> list[Ints]:
    """Divide users into `count` parts of about equal size at random; fewer parts if there are fewer users."""
    parts = np.array_split(rng.permutation(users).astype(np.int32), min(count, users))
    return list(parts)
