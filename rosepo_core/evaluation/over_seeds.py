"""Compares models over seeds and users. Runs that differ in their seed only belong to one configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rosepo_core.contracts.records import Doubles
from rosepo_core.evaluation import statistics
from rosepo_core.evaluation.measurement import Column, Comparison
from rosepo_core.evaluation.results import Evaluation


@dataclass(frozen=True)
class ComparedModels:
    """Models side by side in one column of one protocol.

    Attributes:
        protocol: name of the protocol.
        column: the column that is compared.
        seeds: the seeds, ascending, if each model has one run for each seed; otherwise empty.
        models: by name: the mean over users, and over seeds if there are several, and the ends of its 95 % interval.
        comparisons: the tested differences.
    """

    protocol: str
    column: Column
    seeds: tuple[int, ...]
    models: Mapping[str, tuple[float, float, float]]
    comparisons: tuple[Comparison, ...]


def compare_over_seeds(evaluations: Mapping[int, Evaluation], column: str) -> ComparedModels:
    """Compare models over seeds: test the differences that the evaluation of each seed compares.

    For each seed, two models have the same users and candidates, so differences are paired by seed and user. Their
    mean is tested by drawing seeds and users (`statistics.seeds_and_users`), with Holm's and Benjamini and Hochberg's
    corrections for the number of these comparisons. `Comparison.p_wilcoxon` is NaN, because that test cannot use
    seeds. A model that is not in all seeds is left out.

    Args:
        evaluations: evaluations of one protocol, by seed; all with the same split, and with values of `column` for
            single users.
        column: such as ``"ndcg@10"``.
    """
    by_seed = [evaluations[seed] for seed in sorted(evaluations)]
    first = by_seed[0]
    shared = [name for name in first.models if all(name in each.models for each in by_seed)]
    values = {name: _by_seed_and_user(by_seed, name, column) for name in shared}
    pairs = [(each.model, each.baseline) for each in first.comparisons if each.column == column]
    pairs = [pair for pair in pairs if pair[0] in values and pair[1] in values]
    differences = [values[model] - values[baseline] for model, baseline in pairs]
    tests = [statistics.seeds_and_users(table) for table in differences]
    p = np.array([test.p for test in tests], dtype=np.float64)
    holm, bh = statistics.holm(p), statistics.benjamini_hochberg(p)
    means = {name: statistics.seeds_and_users(table) for name, table in values.items()}
    return ComparedModels(
        protocol=first.protocol,
        column=first.columns[column],
        seeds=tuple(sorted(evaluations)),
        models={name: (test.mean, test.low, test.high) for name, test in means.items()},
        comparisons=tuple(
            Comparison(
                model=model,
                baseline=baseline,
                column=column,
                users=int((~np.isnan(differences[place])).any(axis=0).sum()),
                difference=tests[place].mean,
                low=tests[place].low,
                high=tests[place].high,
                p_bootstrap=tests[place].p,
                p_wilcoxon=float("nan"),
                p_holm=float(holm[place]),
                p_bh=float(bh[place]),
            )
            for place, (model, baseline) in enumerate(pairs)
        ),
    )


def _by_seed_and_user(evaluations: list[Evaluation], model: str, column: str) -> Doubles:
    """Values, float64 [seeds, users], NaN if a seed did not test a user, or the metric does not apply."""
    users = np.unique(np.concatenate([each.examples.user for each in evaluations]))
    table = np.full((len(evaluations), len(users)), np.nan)
    for row, each in enumerate(evaluations):
        table[row, np.searchsorted(users, each.examples.user)] = each.models[model].per_user[column]
    return table
