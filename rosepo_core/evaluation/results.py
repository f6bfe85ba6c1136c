"""Evaluation: every model is asked the same under one protocol; one table sets them side by side.

Asking and concluding are apart, so that a run which only changes the loss asks one model anew: `score_model` gives an
array worth saving (`save_scores`), and `summarize` makes everything else from the arrays of all models. Protocols
that give lists or answers save those, and `conclude` makes the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import Metric, Reporter
from rosepo_core.contracts.errors import RosepoError
from rosepo_core.contracts.outcome import Outcome
from rosepo_core.contracts.ranking import Ranks
from rosepo_core.contracts.records import Candidates, Doubles, Examples, Floats, Ints, Part, Places, Split
from rosepo_core.contracts.sections import EvaluationOptions, Negatives
from rosepo_core.evaluation.candidates import protocol_name
from rosepo_core.evaluation.measurement import Column, Comparison, Metrics, longest_list, measure_all
from rosepo_core.evaluation.oracle_quality import OracleQuality
from rosepo_core.evaluation.run_models import in_order

ScoreFn = Callable[[Places, Ints], Floats | None]
"""(n places, items int32 [n, c]) -> scores float32 [n, c], higher is better; `None` from what ranks nothing."""


@dataclass(frozen=True)
class ModelResult:
    """How one model did.

    Attributes:
        scores: of the candidates, float32 [n, c], -inf where there is none; where lists were made, of `top`, of the
            same shape; `None` where nothing was scored.
        ranks: of the targets; arrays [n].
        top: items in the order of their scores, int32 [n, the largest cut-off or more], -1 where there are fewer.
        per_user: of metrics that are means over users, column to float64 [n], NaN where one does not apply.
        metrics: column to mean over users, or to the value of all lists; NaN where there is nothing to measure.
        intervals: 95 % intervals of the means, by column; each model by itself, so not for comparing two.
        answers: what the model wrote, [n]; `None` where it wrote nothing.
    """

    scores: Floats | None
    ranks: Ranks
    top: Ints
    per_user: Mapping[str, Doubles]
    metrics: Metrics
    intervals: Mapping[str, tuple[float, float]]
    answers: Sequence[str] | None = None

    def users(self, column: str) -> int | None:
        """How many users the mean of a column is over; `None` of a number for all lists."""
        return int((~np.isnan(self.per_user[column])).sum()) if column in self.per_user else None


@dataclass(frozen=True)
class Evaluation:
    """All models under one protocol.

    Attributes:
        protocol: its name, e.g. ``"candidates-20"`` or ``"catalogue"``.
        asked: what each user's question was, in a few words that follow a number of users.
        examples: the n test examples.
        candidates: what was ranked, where it was candidates.
        columns: what was measured, by name such as ``"hr@10"``, in the order of the metrics.
        models: by name, in the order of `RUN_MODELS`, others behind them.
        comparisons: of each model with its baseline (`RUN_MODELS`), in every column with values for single users.
        offered: share of the catalogue that any list could hold, which no coverage can exceed.
        oracle_quality: of the run's oracle on pairs of the same targets and candidates.
        part: which held-out targets these are; the protocol's name says so, too, if they are for validation.
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

    @property
    def main_columns(self) -> list[str]:
        """What fits a small table: every column of accuracy, and of other metrics the first cut-off."""
        first: dict[str, str] = {}
        for name, column in self.columns.items():
            first.setdefault(name if column.about.group == "Accuracy" else name.partition("@")[0], name)
        return list(first.values())

    def comparison(self, model: str, baseline: str, column: str) -> Comparison | None:
        """The one of these, if it was made."""
        wanted = (model, baseline, column)
        return next((each for each in self.comparisons if (each.model, each.baseline, each.column) == wanted), None)


def popularity_scores(split: Split) -> ScoreFn:
    """Scores every item by its training interactions."""
    popularity = split.catalogue.popularity.astype(np.float32)

    def score(places: Places, items: Ints) -> Floats:
        return popularity[items]

    return score


def score_model(name: str, score: ScoreFn, examples: Examples, candidates: Candidates) -> Floats | None:
    """Have a model score the candidates.

    Returns:
        float32 [n, c], -inf where there is no candidate; `None` where the model ranks nothing.

    Raises:
        RosepoError: the scores have another shape, or hold NaN; the message names the model.
    """
    # A model need not know what -1 means: it scores the target in its place, and the score is dropped.
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
        raise RosepoError(
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
    """Make the metrics of all models from their scores.

    Args:
        scores: float32 [n, c] by model, as `score_model` gives them.
        examples: the n test examples that the candidates were drawn for.
        options: `ks` and `resamples` are used; beyond the number of candidates HR@k is 1 for all models.
        metrics: what is measured, by the name that its columns get.
        reporter: is told which metrics are left out, and why.
        title_embeddings: for metrics that need them: gives unit-length rows, float32 [items, d].
        seed: of the bootstrap.
        negatives: where the candidates come from.

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
    """Measure what all models did under one protocol.

    Args:
        protocol: its name; the other fields of `Evaluation` and `ModelResult` that have a name here are taken as they
            are given, by model.
        asked: as there.
        outcomes: by model.
        metrics: what is measured, by the name that its columns get.
        options: `resamples` is used.
        reporter: is told which metrics are left out, and why.
        examples: the n test examples.
        candidates: as there.
        offered: as there.
        scores: as there.
        answers: as there.
        seed: of the bootstrap.

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
    """What `save_scores` wrote: float32 [n, c].

    Raises:
        RosepoError: the file is missing or damaged.
    """
    try:
        scores: Floats = load_file(path)["scores"]
    except (OSError, KeyError, SafetensorError) as error:
        raise RosepoError(f"{path} holds no scores ({error}); delete its folder and run again") from None
    return scores
