"""The tables of commands, for a run whose models rank by every score."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rosepo_cli.tables.evaluations import show_evaluations
from rosepo_cli.tables.seeds import show_seeds
from rosepo_core.contracts.outcome import Measure
from rosepo_core.contracts.ranking import Ranks
from rosepo_core.contracts.records import Examples, Sequences
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.measurement import Column
from rosepo_core.evaluation.results import Evaluation, ModelResult
from rosepo_core.evaluation.statistics import over_seeds
from rosepo_core.pipeline import Run
from rosepo_core.seeds import SeedRuns, SeedTable, Spread

SCORES = ("", " mean", " prior-corrected", " fusion")
MODELS = [
    *("popularity", "oracle", "oracle fusion"),
    *(f"{model}{score}" for model in ("base", "sft", "aligned") for score in SCORES),
]
COLUMNS = {
    **{f"hr@{k}": Column(Measure("HR", "higher", "Accuracy"), f"@{k}", "") for k in (1, 5, 10)},
    **{f"ndcg@{k}": Column(Measure("NDCG", "higher", "Accuracy"), f"@{k}", "") for k in (5, 10)},
    "mrr": Column(Measure("MRR", "higher", "Accuracy"), "", ""),
    "auc": Column(Measure("AUC", "higher", "Accuracy"), "", ""),
    "semantic-hallucination": Column(Measure("Semantic hallucination", "lower", "Hallucination"), "", ""),
    "arp@1": Column(Measure("ARP", "lower", "Popularity bias", high=math.inf, decimals=1), "@1", ""),
}


def value_of(model, column):
    return MODELS.index(model) / 100 + list(COLUMNS).index(column) / 1000


@pytest.fixture
def evaluation():
    sequences = Sequences(np.zeros(3, dtype=np.int32), np.arange(4))
    examples = Examples.of(sequences, np.arange(3, dtype=np.int32), np.zeros(3, dtype=np.int32))
    ranks = Ranks(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))
    models = {}
    for name in MODELS:
        metrics = {column: value_of(name, column) for column in COLUMNS}
        per_user = {column: np.full(3, value) for column, value in metrics.items()}
        per_user["mrr"] = np.array([metrics["mrr"], math.nan, math.nan])
        if name in ("oracle", "sft mean"):
            per_user["auc"] = np.array([metrics["auc"], metrics["auc"], math.nan])
        models[name] = ModelResult(None, ranks, np.zeros((3, 10), dtype=np.int32), per_user, metrics, {})
    logit = ConditionalLogit(("likelihood",), (1.0,), (1.0,), (0.5,), (1.5,), 3, (("popularity", "it is constant"),))
    recall = {name: 0.8 + 0.1 * name.startswith("base") for name in MODELS if name.startswith(("base", "aligned "))}
    fusions = {f"{name} fusion": logit for name in ("sft", "aligned")}
    return Evaluation(
        *("catalogue", "lists of 10", examples, None, COLUMNS, models, (), 1.0), fusions=fusions, pool_recall=recall
    )


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_every_row_of_accuracy_and_one_score_beyond_it(evaluation, capsys):
    show_evaluations(Run(Path("run"), (evaluation,)))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    start = lines.index("Accuracy, catalogue")
    assert [line[:23].rstrip() for line in lines[start + 2 : start + 17]] == MODELS
    assert lines[start + 16].split()[2:] == [
        f"{value_of('aligned fusion', column):.3f}" for column in list(COLUMNS)[:7]
    ]
    start = lines.index("Beyond accuracy, catalogue, ranked by fusion")
    assert lines[start + 1].split() == ["popularity", "oracle", "base", "sft", "aligned"]
    used = ("popularity", "oracle fusion", "base fusion", "sft fusion", "aligned fusion")
    assert lines[start + 2].split()[3:] == [f"{value_of(name, 'semantic-hallucination'):.3f}" for name in used]


def test_lines_below_the_tables(evaluation, capsys):
    show_evaluations(Run(Path("run"), (evaluation,)))
    lines = capsys.readouterr().out.splitlines()
    assert "over 1 of them: MRR of popularity, oracle, base, sft, aligned" in lines
    assert "over 2 of them: AUC of oracle, sft mean" in lines
    assert "targets in the pools (pool recall): base 0.900, aligned 0.800" in lines
    assert "sft fusion, aligned fusion without popularity: it is constant" in lines


def test_seeds(capsys):
    models = {
        model: {
            name: Spread((value_of(model, name),) * 2, over_seeds([value_of(model, name)] * 2)) for name in COLUMNS
        }
        for model in MODELS
    }
    show_seeds(SeedRuns(Path("run"), {0: Path("a"), 1: Path("b")}, {"candidates-20": SeedTable(COLUMNS, models)}))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    start = lines.index("Beyond accuracy, candidates-20, ranked by fusion")
    assert lines[start + 1].split() == ["popularity", "oracle", "base", "sft", "aligned"]
    assert lines[start + 2].split()[-1] == f"{value_of('aligned fusion', 'semantic-hallucination'):.3f}"
