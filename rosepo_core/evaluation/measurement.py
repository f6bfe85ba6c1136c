"""Metrics of outcomes with their uncertainty: columns, values, intervals, and comparisons of models user by user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rosepo_core.contracts.components import CutOffMetric, Metric, Reporter
from rosepo_core.contracts.errors import PluginError
from rosepo_core.contracts.outcome import MISSING, Measure, Outcome
from rosepo_core.contracts.records import Bools, Doubles
from rosepo_core.evaluation import statistics
from rosepo_core.evaluation.run_models import compared_models
from rosepo_core.plugins.registry import running

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Column:
    """One metric at one cut-off.

    Attributes:
        about: how to read its numbers.
        cut_off: the part after the title, such as ``"@10"``; empty without a cut-off.
        summary: the metric's description in one line.
    """

    about: Measure
    cut_off: str
    summary: str

    @property
    def title(self) -> str:
        """The title in tables."""
        return self.about.title + self.cut_off


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models on the same users in one column. Numbers are NaN if there are fewer than two
    users.

    Attributes:
        model: the model.
        baseline: the model that it is compared with.
        column: the column that is compared.
        users: number of users that the metric applies to for both models.
        difference: mean of model minus baseline.
        low: lower end of its 95 % interval.
        high: upper end.
        p_bootstrap: two-sided p-value of no difference, by the paired bootstrap.
        p_wilcoxon: the same by Wilcoxon's signed-rank test.
        p_holm: `p_bootstrap` after Holm's correction for all comparisons of the evaluation.
        p_bh: `p_bootstrap` after Benjamini and Hochberg's correction.
    """

    model: str
    baseline: str
    column: str
    users: int
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_wilcoxon: float
    p_holm: float
    p_bh: float


@dataclass(frozen=True)
class Measurement:
    """The metrics of several models.

    Attributes:
        columns: the columns, by name such as ``"hr@10"``, in the order of the metrics.
        per_user: by model and column, float64 [n], NaN for users that a metric does not apply to; only for metrics
            that are means over users.
        metrics: by model and column, the mean over users, or the value of all lists; NaN if there is nothing to
            measure.
        intervals: by model and column, the 95 % interval of the mean, for each model separately.
        comparisons: the pairs of `compared_models`, in every column with values for single users.
    """

    columns: Mapping[str, Column]
    per_user: Mapping[str, Mapping[str, Doubles]]
    metrics: Mapping[str, Metrics]
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    comparisons: tuple[Comparison, ...]


def longest_list(metrics: Mapping[str, Metric], ks: tuple[int, ...]) -> int:
    """The number of list items that the metrics use."""
    longest = max(ks)
    for metric in metrics.values():
        if isinstance(metric, CutOffMetric):
            longest = max(longest, *(metric.options.ks or ks))
    return longest


def measure_all(
    protocol: str,
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Metric],
    reporter: Reporter,
    resamples: int,
    seed: int,
) -> Measurement:
    """Measure every outcome.

    Args:
        protocol: name of the protocol, for notes.
        outcomes: outcomes by model, all for the same examples and protocol.
        metrics: the metrics, by the name of their columns.
        reporter: gets notes about metrics that are left out.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        PluginError: a metric breaks its contract.
    """
    columns: dict[str, Column] = {}
    values: dict[str, dict[str, Doubles | float]] = {name: {} for name in outcomes}
    for metric_name, metric in _measurable(protocol, metrics, outcomes, reporter).items():
        for name, outcome in outcomes.items():
            for cut_off, value in measure(metric, metric_name, outcome).items():
                columns[metric_name + cut_off] = Column(metric.about, cut_off, metric.summary)
                values[name][metric_name + cut_off] = value
    per_user = {
        name: {key: each for key, each in of.items() if not isinstance(each, float)} for name, of in values.items()
    }
    return Measurement(
        columns=columns,
        per_user=per_user,
        metrics={name: {key: _mean(value) for key, value in of.items()} for name, of in values.items()},
        intervals=_intervals(per_user, resamples, seed),
        comparisons=_comparisons(per_user, resamples, seed),
    )


def measure(metric: Metric, name: str, outcome: Outcome) -> Mapping[str, Doubles | float]:
    """The values of a metric for an outcome, checked.

    Raises:
        PluginError: values have a wrong shape, are infinite or out of the metric's range, or reward giving no answer.
    """
    with running(metric):
        found = metric.measure(outcome)
    kept: dict[str, Doubles | float] = {}
    for cut_off, value in found.items():
        array = np.asarray(value, dtype=np.float64)
        where = f"{metric.origin or type(metric).__qualname__} gave '{name}{cut_off}'"
        if array.shape not in ((), (len(outcome),)):
            raise PluginError(
                f"{where} of shape {array.shape}, not one number a user ({len(outcome)}) nor one in all"
            )
        # By rounding, sums may be slightly out of range.
        slack = 1e-9 * max(1.0, abs(metric.about.low))
        bad = np.isinf(array) | (array < metric.about.low - slack) | (array > metric.about.high + slack)
        if bad.any():
            raise PluginError(
                f"{where} = {array[bad][0] if array.ndim else float(array):g}, not within {metric.about.low:g} and "
                f"{metric.about.high:g}"
            )
        if metric.about.direction == "lower" and _rewards_silence(array, outcome.without_items(), metric.about.high):
            raise PluginError(
                f"{where}, of which lower is better, a value for users whose lists hold no item: give them the "
                f"worst, {metric.about.high:g}, or NaN where the metric does not apply"
            )
        kept[cut_off] = array if array.ndim else float(array)
    return kept


def _rewards_silence(values: Doubles, silent: Bools, worst: float) -> bool:
    """Whether users without any item have a better value than the worst, or a number for all lists exists although no
    list has an item."""
    if not values.ndim:
        return bool(silent.all() and not np.isnan(values))
    return bool((values[silent] < worst).any())


def _measurable(
    protocol: str, metrics: Mapping[str, Metric], outcomes: Mapping[str, Outcome], reporter: Reporter
) -> Mapping[str, Metric]:
    """The metrics whose data is available. Notes name the others and the reason."""
    outcome = next(iter(outcomes.values()), None)
    kept: dict[str, Metric] = {}
    left_out: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        lacking = [need for need in sorted(metric.needs) if outcome is None or not outcome.offers(need)]
        if lacking:
            left_out.setdefault(MISSING[lacking[0]], []).append(name)
        else:
            kept[name] = metric
    if outcome is not None:
        for reason, names in left_out.items():
            reporter.note(f"not measured under {protocol}: {', '.join(names)} ({reason})")
    return kept


def _mean(value: Doubles | float) -> float:
    """The mean over the users that a metric applies to; NaN if there is none."""
    if isinstance(value, float):
        return value
    applies = value[~np.isnan(value)]
    return float(applies.mean()) if len(applies) else float("nan")


def _intervals(
    per_user: Mapping[str, Mapping[str, Doubles]], resamples: int, seed: int
) -> Mapping[str, Mapping[str, tuple[float, float]]]:
    """Intervals by model and column. All use the same resampled users."""
    keys = [(name, column) for name, of in per_user.items() for column in of]
    if not keys:
        return {name: {} for name in per_user}
    table = np.stack([per_user[name][column] for name, column in keys], axis=1)
    low, high = statistics.bootstrap_interval(table, resamples, seed)
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in per_user}
    for place, (name, column) in enumerate(keys):
        found[name][column] = float(low[place]), float(high[place])
    return found


def _comparisons(per_user: Mapping[str, Mapping[str, Doubles]], resamples: int, seed: int) -> tuple[Comparison, ...]:
    pairs = [(model, baseline, column) for model, baseline in compared_models(per_user) for column in per_user[model]]
    if not pairs:
        return ()
    first = np.stack([per_user[model][column] for model, _, column in pairs], axis=1)
    second = np.stack([per_user[baseline][column] for _, baseline, column in pairs], axis=1)
    test = statistics.paired_test(first, second, resamples, seed)
    adjusted = statistics.holm(test.p_bootstrap), statistics.benjamini_hochberg(test.p_bootstrap)
    return tuple(
        Comparison(
            *pair,
            int(test.users[place]),
            *(
                float(values[place])
                for values in (test.difference, test.low, test.high, test.p_bootstrap, test.p_wilcoxon, *adjusted)
            ),
        )
        for place, pair in enumerate(pairs)
    )


def headline(columns: Mapping[str, Column]) -> str | None:
    """The main column, for statements in the report: NDCG, or else HR, at the largest cut-off."""
    return widest(columns, "ndcg") or widest(columns, "hr")


def widest(columns: Mapping[str, Column], metric: str) -> str | None:
    """The metric's column with the largest cut-off."""
    found = [name for name in columns if name.partition("@")[0] == metric]
    return found[-1] if found else None
