"""Several runs side by side: one evaluation with all their models, and tests of the differences between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rosepo_core.contracts.errors import RequestError, nearest
from rosepo_core.contracts.sections import SCORES, Score
from rosepo_core.evaluation import statistics
from rosepo_core.evaluation.decision_rules import ranked_name
from rosepo_core.evaluation.measurement import Comparison, headline
from rosepo_core.evaluation.over_seeds import ComparedModels
from rosepo_core.evaluation.results import Evaluation, ModelResult
from rosepo_core.evaluation.run_models import in_order


@dataclass(frozen=True)
class RunEvaluation:
    """The evaluations of a finished run, with the ids that make examples and items comparable.

    Attributes:
        evaluations: one for each protocol.
        users: the source's user ids, by index.
        items: the source's item ids, by index.
        subject: the main model of the run.
        score: the score by which it ranks. Runs are compared by the last score that all of them have.
    """

    evaluations: Sequence[Evaluation]
    users: Sequence[str]
    items: Sequence[str]
    subject: str = "aligned"
    score: Score = "likelihood"


def labels(folders: Sequence[Path]) -> list[str]:
    """Labels of the runs: the names of their folders, or longer parts of their paths if names are equal.

    Raises:
        RequestError: a run is named twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    for place, own in enumerate(parts):
        if own in parts[:place]:
            raise RequestError(f"{folders[place]} is named twice; name each run once")
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(own[-length:]) for own in parts]
        if len(set(found)) == len(found):
            return found
    raise AssertionError("different folders have different paths")


def side_by_side(runs: Mapping[str, RunEvaluation], column: str | None = None) -> list[Evaluation]:
    """One evaluation for each protocol that all runs have, with the models of all runs. The main model of each later
    run is compared with that of the first run, by the last score that all runs have.

    A model with the same results in several runs appears once. If it has the same results in all runs, it keeps its
    name. Otherwise, and always for main models, the label of the run is added in brackets; of equal ones, the first
    label.

    Args:
        runs: runs by label, at least one.
        column: the column to compare, such as ``"ndcg@10"``; by default the main column of reports.

    Raises:
        RequestError: the runs did not rank the same candidates for the same users (the message says what differs);
            the column does not exist (similar ones are named); or it has no values for single users.
    """
    first_label, first = next(iter(runs.items()))
    for label, run in runs.items():
        _check_comparable(first_label, first, label, run)
    shared = [
        evaluation.protocol
        for evaluation in first.evaluations
        if all(evaluation.protocol in _by_protocol(run) for run in runs.values())
    ]
    found = {label: _by_protocol(run) for label, run in runs.items()}
    return [_together(runs, {label: each[protocol] for label, each in found.items()}, column) for protocol in shared]


def _together(
    runs: Mapping[str, RunEvaluation], evaluations: Mapping[str, Evaluation], column: str | None
) -> Evaluation:
    """The evaluation of all runs under one protocol, with its comparisons."""
    score = min((run.score for run in runs.values()), key=SCORES.index)
    subjects = {label: ranked_name(run.subject, score) for label, run in runs.items()}
    # Models that write freely have no score.
    if any(name not in evaluations[label].models for label, name in subjects.items()):
        subjects = {label: run.subject for label, run in runs.items()}
    merged = _merge(subjects, evaluations)
    of = column or headline(merged.columns)
    compared = [f"{name} ({label})" for label, name in subjects.items()]
    return replace(merged, comparisons=_compare(merged, of, compared) if of else ())


def compared(evaluation: Evaluation, column: str) -> ComparedModels:
    """One column of one evaluation, with the comparisons in it."""
    return ComparedModels(
        protocol=evaluation.protocol,
        column=evaluation.columns[column],
        seeds=(),
        models={
            name: (result.metrics[column], *result.intervals.get(column, (math.nan, math.nan)))
            for name, result in evaluation.models.items()
        },
        comparisons=tuple(each for each in evaluation.comparisons if each.column == column),
    )


def _by_protocol(run: RunEvaluation) -> Mapping[str, Evaluation]:
    return {evaluation.protocol: evaluation for evaluation in run.evaluations}


def _check_comparable(first_label: str, first: RunEvaluation, label: str, run: RunEvaluation) -> None:
    between = f"runs '{first_label}' and '{label}' cannot be compared:"
    mine, theirs = _by_protocol(first), _by_protocol(run)
    shared = [protocol for protocol in mine if protocol in theirs]
    if not shared:
        raise RequestError(
            f"{between} their protocols are {', '.join(mine)} and {', '.join(theirs)}; evaluate both under one, with "
            "`rosepo evaluate`"
        )
    if tuple(first.items) != tuple(run.items):
        raise RequestError(f"{between} they have different catalogues; give both the same dataset and filters")
    for protocol in shared:
        one, other = mine[protocol], theirs[protocol]
        users = [[of.users[user] for user in each.examples.user] for of, each in ((first, one), (run, other))]
        if users[0] != users[1]:
            raise RequestError(
                f"{between} they tested different users; train both with the same seed and [evaluation]"
            )
        if not np.array_equal(one.examples.target, other.examples.target):
            raise RequestError(f"{between} their users have different targets; give both the same [split]")
        if not _same_candidates(one, other):
            raise RequestError(f"{between} they ranked different candidates; train both with the same seed")


def _same_candidates(one: Evaluation, other: Evaluation) -> bool:
    """Also where there are none, and all of the catalogue is ranked."""
    if one.candidates is None or other.candidates is None:
        return one.candidates is other.candidates
    return np.array_equal(one.candidates.items, other.candidates.items)


def _same(one: ModelResult, other: ModelResult) -> bool:
    """Whether two runs' models of one name gave the same."""
    if one.scores is None or other.scores is None:
        return one.answers == other.answers and np.array_equal(one.top, other.top)
    return np.array_equal(one.scores, other.scores) and np.array_equal(one.top, other.top)


def _merge(subjects: Mapping[str, str], evaluations: Mapping[str, Evaluation]) -> Evaluation:
    """One evaluation with the models of all runs; `subjects` are the rows that are compared, by label."""
    first = next(iter(evaluations.values()))
    columns = {
        name: column
        for name, column in first.columns.items()
        if all(name in evaluation.columns for evaluation in evaluations.values())
    }
    sources: dict[str, tuple[str, str]] = {}
    names = dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.models)
    for name in in_order(names):
        having = {label: each.models[name] for label, each in evaluations.items() if name in each.models}
        if not any(subjects[label] == name for label in having):
            having = _distinct(having)
        alone = len(having) == 1 and name not in subjects.values()
        sources |= {name if alone else f"{name} ({label})": (label, name) for label in having}
    return replace(
        first,
        columns=columns,
        models={shown: evaluations[label].models[name] for shown, (label, name) in sources.items()},
        comparisons=(),
        fusions={
            shown: evaluations[label].fusions[name]
            for shown, (label, name) in sources.items()
            if name in evaluations[label].fusions
        },
        pool_recall={
            shown: evaluations[label].pool_recall[name]
            for shown, (label, name) in sources.items()
            if name in evaluations[label].pool_recall
        },
    )


def _distinct(results: Mapping[str, ModelResult]) -> dict[str, ModelResult]:
    """The results without repetitions: of equal ones, the first."""
    found: dict[str, ModelResult] = {}
    for label, result in results.items():
        if not any(_same(result, each) for each in found.values()):
            found[label] = result
    return found


def _compare(evaluation: Evaluation, column: str, subjects: Sequence[str]) -> tuple[Comparison, ...]:
    """Compare each later main model with the first, in one column; corrected for the number of these comparisons."""
    if column not in evaluation.columns:
        raise RequestError(f"the runs have no metric '{column}' in common{nearest(column, evaluation.columns)}")
    first, *others = subjects
    if any(column not in evaluation.models[name].per_user for name in (first, *others)):
        raise RequestError(
            f"'{column}' belongs to all lists together, so users cannot be compared one by one; take a mean over "
            "users, such as ndcg@10"
        )
    if not others:
        return ()
    values = {name: evaluation.models[name].per_user[column] for name in (first, *others)}
    one = np.stack([values[name] for name in others], axis=1)
    test = statistics.paired_test(one, np.stack([values[first]] * len(others), axis=1))
    adjusted = statistics.holm(test.p_bootstrap), statistics.benjamini_hochberg(test.p_bootstrap)
    numbers = (test.difference, test.low, test.high, test.p_bootstrap, test.p_wilcoxon, *adjusted)
    return tuple(
        Comparison(name, first, column, int(test.users[place]), *(float(each[place]) for each in numbers))
        for place, name in enumerate(others)
    )
