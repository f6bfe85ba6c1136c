"""Several runs side by side whose models rank by several scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rosepo_core.contracts.outcome import Measure
from rosepo_core.contracts.ranking import rank_targets
from rosepo_core.contracts.records import Candidates, Examples, Sequences
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.measurement import Column
from rosepo_core.evaluation.results import Evaluation, ModelResult
from rosepo_core.evaluation.side_by_side import RunEvaluation, side_by_side

SEQUENCES = Sequences(np.array([0, 1, 2, 3], dtype=np.int32), np.arange(5))
EXAMPLES = Examples.of(SEQUENCES, np.arange(4, dtype=np.int32), np.zeros(4, dtype=np.int32))
CANDIDATES = Candidates(np.tile(np.arange(4, dtype=np.int32), (4, 1)), np.arange(4, dtype=np.int32))


def result(seed):
    scores = np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)
    values = {"hr@1": np.random.default_rng(seed).random(4)}
    ranks = rank_targets(scores, CANDIDATES.target_column)
    top = np.argsort(-scores, axis=1).astype(np.int32)
    return ModelResult(scores, ranks, top, values, {"hr@1": float(values["hr@1"].mean())}, {"hr@1": (0.0, 1.0)})


def run(score, **models):
    """A run by the seeds of its models; underscores of names are blanks."""
    logit = ConditionalLogit(("likelihood",), (1.0,), (float(models.get("aligned", 0)),), (0.5,), (1.5,), 4)
    names = {name.replace("_", " "): result(seed) for name, seed in models.items()}
    evaluation = Evaluation(
        *("candidates-4", "", EXAMPLES, CANDIDATES, {"hr@1": Column(Measure("HR", "higher", "Accuracy"), "@1", "")}),
        *(names, (), 1.0),
        fusions={name: logit for name in names if name.endswith("fusion")},
        pool_recall={name: 0.5 for name in names if name.endswith("fusion")},
    )
    return RunEvaluation((evaluation,), "abcd", "0123", score=score)


FIRST = run("fusion", popularity=0, sft=1, sft_fusion=2, aligned=3, aligned_mean=4, aligned_fusion=5)
SECOND = run("fusion", popularity=0, sft=1, sft_fusion=2, aligned=6, aligned_mean=7, aligned_fusion=8)
MEAN = run("mean", popularity=0, sft=1, aligned=9, aligned_mean=10)


def compared(runs):
    (evaluation,) = side_by_side(runs)
    return evaluation, [(each.model, each.baseline) for each in evaluation.comparisons]


def test_runs_are_compared_by_the_score_that_they_rank_by():
    found, pairs = compared({"a": FIRST, "b": SECOND})
    assert pairs == [("aligned fusion (b)", "aligned fusion (a)")]
    assert list(found.models) == [
        *("popularity", "sft", "sft fusion", "aligned (a)", "aligned (b)", "aligned mean (a)", "aligned mean (b)"),
        *("aligned fusion (a)", "aligned fusion (b)"),
    ]
    difference = found.comparisons[0].difference
    assert difference == pytest.approx(result(8).metrics["hr@1"] - result(5).metrics["hr@1"])


def test_weights_and_recall_have_the_names_of_their_rows():
    found, _ = compared({"a": FIRST, "b": SECOND})
    assert (
        list(found.fusions) == list(found.pool_recall) == ["sft fusion", "aligned fusion (a)", "aligned fusion (b)"]
    )
    assert found.fusions["aligned fusion (a)"].weights == (3.0,)
    assert found.fusions["aligned fusion (b)"].weights == (6.0,)


def test_runs_of_several_scores_are_compared_by_the_last_that_all_have():
    assert compared({"a": FIRST, "m": MEAN})[1] == [("aligned mean (m)", "aligned mean (a)")]
    plain = run("likelihood", aligned=11)
    assert compared({"a": FIRST, "p": plain})[1] == [("aligned (p)", "aligned (a)")]


def test_what_ranks_by_no_score_is_compared_as_it_is():
    def without_scores(each):
        (evaluation,) = each.evaluations
        models = {name: found for name, found in evaluation.models.items() if " " not in name}
        return replace(each, evaluations=(replace(evaluation, models=models, fusions={}, pool_recall={}),))

    assert compared({"a": without_scores(FIRST), "b": without_scores(SECOND)})[1] == [("aligned (b)", "aligned (a)")]


def test_one_model_with_fusions_of_two_kinds_stands_once():
    """Two runs that differ in what their fusion combines have the same model."""
    other = run("fusion", popularity=0, sft=1, sft_fusion=2, aligned=3, aligned_mean=4, aligned_fusion=12)
    found, pairs = compared({"a": FIRST, "b": other})
    assert pairs == [("aligned fusion (b)", "aligned fusion (a)")]
    assert list(found.models)[3:] == ["aligned", "aligned mean", "aligned fusion (a)", "aligned fusion (b)"]
