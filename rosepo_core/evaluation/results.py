"""Evaluation: all models have the same task under one protocol, and their results are in one table.

Asking models is separate from computing metrics. `score_model` returns an array that is saved (`save_scores`), and
`summarize` computes everything else from the arrays of all models. So a run that only changes the loss asks only one
model again. Protocols with lists or answers save these, and `conclude` computes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import Metric, Reporter
from rosepo_core.contracts.errors import DivergedError, RosepoError
from rosepo_core.contracts.outcome import Outcome
from rosepo_core.contracts.ranking import Ranks
from rosepo_core.contracts.records import Candidates, Doubles, Examples, Floats, Ints, Part, Places, Split
from rosepo_core.contracts.sections import EvaluationOptions, Negatives
from rosepo_core.evaluation.candidates import protocol_name
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.measurement import Column, Comparison, Metrics, longest_list, measure_all
from rosepo_core.evaluation.oracle_quality import OracleQuality
from rosepo_core.evaluation.run_models import in_order

ScoreFn = Callable[[Places, Ints], Floats | None]
"""(n places, items int32 [n, c]) -> scores float32 [n, c], higher is better; `None` if the model cannot rank."""


@dataclass(frozen=True)
class ModelResult:
    """The results of one model.

    Attributes:
        scores: scores of the candidates, float32 [n, c], -inf for an empty slot. For protocols with lists, scores of
            `top`, with its shape. `None` if nothing was scored.
        ranks: ranks of the targets; arrays [n].
        top: items in the order of their scores, int32 [n, the largest cut-off or more], -1 fills rows with fewer.
        per_user: for metrics that are means over users: by column, float64 [n], NaN for users that it does not apply
            to.
        metrics: by column, the mean over users, or the value of all lists; NaN if there is nothing to measure.
        intervals: by column, the 95 % interval of the mean. It is for this model only, not for comparing two models.
        answers: the answers that the model wrote, [n]; `None` if it did not write.
    """

    scores: Floats | None
    ranks: Ranks
    top: Ints
    per_user: Mapping[str, Doubles]
    metrics: Metrics
    intervals: Mapping[str, tuple[float, float]]
    answers: Sequence[str] | None = None

    def users(self, column: str) -> int | None:
        """Number of users in the mean of a column; `None` for a number about all lists."""
        return int((~np.isnan(self.per_user[column])).sum()) if column in self.per_user else None


@dataclass(frozen=True)
class Evaluation:
    """All models under one protocol.

    Attributes:
        protocol: its name, e.g. ``"candidates-20"`` or ``"catalogue"``.
        asked: the task for each user, in a few words that follow a number of users.
        examples: the n test examples.
        candidates: the candidates, if the protocol ranks candidates.
        columns: the columns, by name such as ``"hr@10"``, in the order of the metrics.
        models: results by name, in the order of `in_order`.
        comparisons: the pairs of `compared_models`, in every column with values for single users.
        offered: share of the catalogue that lists can contain; no coverage can be higher.
        oracle_quality: quality of the run's oracle, on pairs of the same targets and candidates.
        part: the held-out part; for validation, the protocol's name has it, too.
        fusions: the fitted weights, by name of the model under ``fusion``, such as ``"aligned fusion"``. If the part
            is validation, each fifth of the users was ranked with weights that were fitted on the others; these are
            the weights of all.
        pool_recall: for ``catalogue``: the share of users whose target was among the titles that were scored, by
            name of the model under a score that ranks a pool of titles only.
    """

    protocol: str
    asked: str
    examples: Examples
    candidates: Candidates | None
    columns: Mapping[str, Column]
    models: Mapping[str, ModelResult]
    comparisons: tuple[Comparison, ...]
    offered: float
    oracle_quality: OracleQuality | None = None
    part: Part = "test"
    fusions: Mapping[str, ConditionalLogit] = field(default_factory=dict)
    pool_recall: Mapping[str, float] = field(default_factory=dict)

    @property
    def main_columns(self) -> list[str]:
        """The columns of a small table: all columns of accuracy, and the first cut-off of other metrics."""
        first: dict[str, str] = {}
        for name, column in self.columns.items():
            first.setdefault(name if column.about.group == "Accuracy" else name.partition("@")[0], name)
        return list(first.values())

    def comparison(self, model: str, baseline: str, column: str) -> Comparison | None:
        """The comparison of two models in a column, if there is one."""
        wanted = (model, baseline, column)
        return next((each for each in self.comparisons if (each.model, each.baseline, each.column) == wanted), None)


def popularity_scores(split: Split) -> ScoreFn:
    """A function that scores every item by its training interactions."""
    popularity = split.catalogue.popularity.astype(np.float32)

    def score(places: Places, items: Ints) -> Floats:
        return popularity[items]

    return score


def score_model(name: str, score: ScoreFn, examples: Examples, candidates: Candidates) -> Floats | None:
    """Score the candidates with a model.

    Returns:
        float32 [n, c], -inf for an empty slot; `None` if the model cannot rank.

    Raises:
        RosepoError: the scores have a wrong shape, or contain NaN; the message names the model.
    """
    # Models need not handle -1: the target is scored in its place, and this score is not used.
    offered = candidates.items >= 0
    scores = score(examples, np.where(offered, candidates.items, examples.target[:, None]))
    if scores is None:
        return None
    if scores.shape != candidates.items.shape:
        raise RosepoError(
            f"model '{name}' gave scores of shape {scores.shape} for {candidates.items.shape} candidates"
        )
    scores = np.where(offered, scores, -np.inf).astype(np.float32)
    if bool(np.isnan(scores).any()):
        bad = np.isnan(scores)
        raise DivergedError(
            f"model '{name}' scored {bad.sum()} of {offered.sum()} candidates NaN, the first for test example "
            f"{bad.any(axis=1).argmax()}: its training diverged; lower the learning rate or use float32"
        )
    return scores


def summarize(
    scores: Mapping[str, Floats],
    split: Split,
    examples: Examples,
    candidates: Candidates,
    options: EvaluationOptions,
    metrics: Mapping[str, Metric],
    reporter: Reporter,
    *,
    title_embeddings: Callable[[], Floats] | None = None,
    seed: int = 0,
    negatives: Negatives = "uniform",
) -> Evaluation:
    """Compute the metrics of all models from their scores.

    Args:
        scores: float32 [n, c] by model, results of `score_model`.
        examples: the n test examples of the candidates.
        options: `ks` and `resamples` are used. If k is the number of candidates or more, HR@k is 1 for all models.
        metrics: the metrics, by the name of their columns.
        reporter: gets notes about metrics that are left out.
        title_embeddings: for metrics that need them: returns rows of unit length, float32 [items, d].
        seed: seed of the bootstrap.
        negatives: how the candidates were chosen.

    Raises:
        RosepoError: there are no examples, or an array does not fit the candidates.
        PluginError: a metric breaks its contract.
    """
    if not len(examples):
        raise RosepoError("there are no test examples to evaluate on")
    ks = tuple(sorted(set(options.ks)))
    outcomes: dict[str, Outcome] = {}
    for name, values in scores.items():
        if values.shape != candidates.items.shape:
            raise RosepoError(
                f"scores of '{name}' have shape {values.shape}; there are {candidates.items.shape} candidates"
            )
        outcomes[name] = Outcome.of_scores(
            examples,
            split.catalogue,
            split.seen,
            ks,
            candidates.items,
            values,
            candidates.target_column,
            length=longest_list(metrics, ks),
            title_embeddings=title_embeddings,
        )
    return conclude(
        protocol_name(candidates, negatives),
        f"{candidates.items.shape[1]} candidates each, the target among them",
        outcomes,
        metrics,
        options,
        reporter,
        examples=examples,
        candidates=candidates,
        offered=len(np.unique(candidates.items[candidates.items >= 0])) / len(split.catalogue),
        scores=scores,
        seed=seed,
    )


def conclude(
    protocol: str,
    asked: str,
    outcomes: Mapping[str, Outcome],
    metrics: Mapping[str, Metric],
    options: EvaluationOptions,
    reporter: Reporter,
    *,
    examples: Examples,
    candidates: Candidates | None = None,
    offered: float = 1.0,
    scores: Mapping[str, Floats] | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure the results of all models under one protocol.

    Args:
        protocol: name of the protocol.
        asked: see `Evaluation`.
        outcomes: outcomes by model.
        metrics: the metrics, by the name of their columns.
        options: `resamples` is used.
        reporter: gets notes about metrics that are left out.
        examples: the n test examples.
        candidates: see `Evaluation`.
        offered: see `Evaluation`.
        scores: see `ModelResult`; by model.
        answers: see `ModelResult`; by model.
        seed: seed of the bootstrap.

    Raises:
        PluginError: a metric breaks its contract.
    """
    outcomes = {name: outcomes[name] for name in in_order(outcomes)}
    measured = measure_all(protocol, outcomes, metrics, reporter, options.resamples, seed)
    return Evaluation(
        protocol=protocol,
        asked=asked,
        examples=examples,
        candidates=candidates,
        columns=measured.columns,
        models={
            name: ModelResult(
                scores=(scores or {}).get(name),
                ranks=Ranks(outcome.ranks.above[:, 0], outcome.ranks.tied[:, 0]),
                top=outcome.top,
                per_user=measured.per_user[name],
                metrics=measured.metrics[name],
                intervals=measured.intervals[name],
                answers=(answers or {}).get(name),
            )
            for name, outcome in outcomes.items()
        },
        comparisons=measured.comparisons,
        offered=offered,
    )


def save_scores(scores: Floats, path: Path) -> None:
    """Write one model's scores as safetensors."""
    save_file({"scores": np.ascontiguousarray(scores)}, path)


def load_scores(path: Path) -> Floats:
    """The scores that `save_scores` wrote: float32 [n, c].

    Raises:
        RosepoError: the file is missing or damaged.
    """
    try:
        scores: Floats = load_file(path)["scores"]
    except (OSError, KeyError, SafetensorError) as error:
        raise RosepoError(f"{path} holds no scores ({error}); delete its folder and run again") from None
    return scores
