"""Evaluation of score functions over persisted candidates, down to metrics.json."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from rosepo_core.errors import RosepoError
from rosepo_core.records import Candidates, Catalogue, Examples, SeenItems, Sequences, Split
from rosepo_core.sections import EvaluationOptions
from rosepo_core.stages import evaluation as stage

POPULARITY = np.array([4, 3, 0, 1, 2, 9], dtype=np.int64)
IDS = tuple("abcdef")


class Notes:
    def __init__(self):
        self.lines = []

    def progress(self, done, total, unit):
        pass

    def note(self, message):
        self.lines.append(message)


@pytest.fixture
def split():
    # Two users; the last item of each is the test target: d (3) and f (5).
    sequences = Sequences(np.array([0, 1, 2, 3, 1, 4, 5], dtype=np.int32), np.array([0, 4, 7]))
    test = Examples(sequences, np.array([0, 1], dtype=np.int32), np.array([3, 2], dtype=np.int32))
    return Split(
        users=("ann", "bob"),
        catalogue=Catalogue(IDS, tuple(f"Title {name}" for name in IDS), POPULARITY, pl.DataFrame()),
        train=sequences.prefix(np.array([2, 1])),
        validation=test,
        test=test,
        seen=SeenItems.of(sequences, 6),
    )


@pytest.fixture
def candidates():
    return Candidates(np.array([[4, 3, 5], [5, 0, 2]], dtype=np.int32), np.array([1, 0], dtype=np.int32))


OPTIONS = EvaluationOptions(candidates=3, ks=(1, 2))


def by_id(examples, items):
    """Ranks the items of the higher index first."""
    return items.astype(np.float32)


def evaluate(split, candidates, models, options=OPTIONS, reporter=None):
    return stage.evaluate(models, split, split.test, candidates, options, reporter or Notes())


def test_metrics_by_hand_in_the_order_of_the_table(split, candidates):
    result = evaluate(split, candidates, {"mine": by_id, "sft": by_id, "popularity": stage.popularity_scores(split)})
    assert list(result.models) == ["popularity", "sft", "mine"]
    assert result.protocol == "candidates-3"
    # Popularity: ann's d (1) comes after f (9) and e (2): rank 3; bob's f (9) comes first.
    popularity = result.models["popularity"]
    assert popularity.ranks.expected.tolist() == [3, 1]
    assert popularity.top.tolist() == [[5, 4], [5, 0]]
    assert popularity.metrics == pytest.approx(
        {"hr@1": 0.5, "hr@2": 0.5, "ndcg@2": 0.5, "mrr": (1 / 3 + 1) / 2}
        # Lists of one: f, f. Lists of two: f e, f a; the head of six items is the two most popular, a and f.
        | {"arp@1": 9, "arp@2": (5.5 + 6.5) / 2, "aplt@1": 0, "aplt@2": 0.25, "coverage@1": 1 / 6, "coverage@2": 0.5}
        # Counts 0 0 0 0 0 2 and 0 0 0 1 1 2, weights 2j - 7.
        | {"gini@1": 10 / 12, "gini@2": (1 + 3 + 10) / (6 * 4)}
    )
    assert result.models["sft"].ranks.expected.tolist() == [3, 1]
    assert result.offered == 5 / 6
    assert set(popularity.intervals) == {"hr@1", "hr@2", "ndcg@2", "mrr"}
    # Two users, reciprocal ranks 1/3 and 1: 2/3 -+ 1.96 / 3 leaves the range at its upper end.
    assert popularity.intervals["mrr"] == (pytest.approx(2 / 3 - 1.95996 / 3, abs=1e-4), 1)


def test_a_model_that_ranks_nothing_is_left_out_and_named(split, candidates):
    notes = Notes()
    result = evaluate(split, candidates, {"oracle": lambda examples, items: None, "base": by_id}, reporter=notes)
    assert list(result.models) == ["base"]
    assert notes.lines == ["'oracle' ranks nothing and is left out of the table"]


def test_bad_scores_name_the_model(split, candidates):
    def nan_for_bob(examples, items):
        return np.where(items == 0, np.nan, 1.0).astype(np.float32)

    with pytest.raises(RosepoError, match=r"model 'aligned' scored 1 of 6 candidates NaN, .* test example 1"):
        evaluate(split, candidates, {"aligned": nan_for_bob})
    with pytest.raises(RosepoError, match=r"model 'base' gave scores of shape \(2,\)"):
        evaluate(split, candidates, {"base": lambda examples, items: items[:, 0].astype(np.float32)})
    with pytest.raises(RosepoError, match="scores of 'sft' have shape"):
        stage.summarize({"sft": np.zeros((2, 4), np.float32)}, split, split.test, candidates, OPTIONS)
    nobody = split.test.take(np.array([], dtype=np.int64))
    with pytest.raises(RosepoError, match="no test examples"):
        stage.summarize({}, split, nobody, candidates, OPTIONS)


def test_places_without_a_candidate_are_not_shown_to_models_nor_counted(split):
    holed = Candidates(np.array([[-1, 3, 5], [5, 0, -1]], dtype=np.int32), np.array([1, 0], dtype=np.int32))
    asked = []

    def least_first(examples, items):
        asked.append(items)
        return -items.astype(np.float32)

    result = evaluate(split, holed, {"base": least_first}).models["base"]
    assert asked[0].tolist() == [[3, 3, 5], [5, 0, 5]]
    assert result.ranks.expected.tolist() == [1, 2]
    assert result.top.tolist() == [[3, 5], [0, 5]]
    assert result.scores[0, 0] == result.scores[1, 2] == -np.inf


def test_cached_scores_give_the_same_evaluation(split, candidates, tmp_path):
    scores = stage.score_model("base", by_id, split.test, candidates)
    stage.save_scores(scores, tmp_path / "base.safetensors")
    cached = stage.load_scores(tmp_path / "base.safetensors")
    assert cached.dtype == np.float32
    assert cached.tolist() == [[4, 3, 5], [5, 0, 2]]
    fresh = evaluate(split, candidates, {"base": by_id}).models["base"]
    assert stage.summarize({"base": cached}, split, split.test, candidates, OPTIONS).models["base"].metrics == (
        fresh.metrics
    )
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    for name in ("bad.safetensors", "missing.safetensors"):
        with pytest.raises(RosepoError, match=f"{name} holds no scores"):
            stage.load_scores(tmp_path / name)


def test_every_users_ranks_and_lists_are_kept(split, candidates, tmp_path):
    evaluation = evaluate(split, candidates, {"sft": by_id, "base": lambda examples, items: 0 * by_id(None, items)})
    stage.per_user_table(evaluation, split).write_parquet(tmp_path / "users.parquet")
    table = pl.read_parquet(tmp_path / "users.parquet")
    assert table.rows(named=True) == [
        {
            "model": "base",
            "user": "ann",
            "target": "d",
            "rank": 2.0,
            "tied": 2,
            "items": ["e", "d"],
            "scores": [0, 0],
        },
        {
            "model": "base",
            "user": "bob",
            "target": "f",
            "rank": 2.0,
            "tied": 2,
            "items": ["f", "a"],
            "scores": [0, 0],
        },
        {"model": "sft", "user": "ann", "target": "d", "rank": 3.0, "tied": 0, "items": ["f", "e"], "scores": [5, 4]},
        {"model": "sft", "user": "bob", "target": "f", "rank": 1.0, "tied": 0, "items": ["f", "c"], "scores": [5, 2]},
    ]
    assert table.schema["scores"] == pl.List(pl.Float32)


def test_lists_are_as_short_as_the_candidates_and_the_catalogue_allow(split, candidates):
    evaluation = evaluate(split, candidates, {"sft": by_id}, EvaluationOptions(candidates=3, ks=(10, 1)))
    assert evaluation.ks == (1, 10)
    assert evaluation.models["sft"].metrics["hr@10"] == 1
    assert stage.per_user_table(evaluation, split)["items"].to_list() == [["f", "e", "d"], ["f", "c", "a"]]


def test_two_models_are_compared_user_by_user(split, candidates):
    evaluation = evaluate(split, candidates, {"sft": by_id, "aligned": lambda examples, items: -by_id(None, items)})
    # SFT ranks 3 and 1, aligned 1 and 3: reciprocal ranks differ by +2/3 and -2/3.
    difference = stage.compare(evaluation, "aligned", "sft", "mrr")
    assert difference.mean == pytest.approx(0)
    # s = 2/3 sqrt(2), s / sqrt(2) = 2/3.
    assert (difference.low, difference.high) == (pytest.approx(-1.30664, abs=1e-4), pytest.approx(1.30664, abs=1e-4))


def test_metrics_json_has_the_documented_schema(split, candidates, tmp_path):
    evaluation = evaluate(split, candidates, {"popularity": stage.popularity_scores(split), "aligned": by_id})
    document = stage.metrics_document("movielens-100k", 7, [evaluation], {"sft": 12.34567, "alignment": 1.0})
    stage.write_metrics(document, tmp_path / "metrics.json")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    read = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert list(read) == ["schema", "dataset", "seed", "protocols", "seconds"]
    assert (read["schema"], read["dataset"], read["seed"]) == (1, "movielens-100k", 7)
    assert read["seconds"] == {"sft": 12.346, "alignment": 1.0}
    assert list(read["protocols"]) == ["candidates-3"]
    models = read["protocols"]["candidates-3"]
    assert list(models) == ["popularity", "aligned"]
    for values in models.values():
        assert list(values) == [
            *("hr@1", "hr@2", "ndcg@2", "mrr", "arp@1", "arp@2", "aplt@1", "aplt@2"),
            *("coverage@1", "coverage@2", "gini@1", "gini@2"),
        ]
        assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())


def test_metrics_json_is_not_touched_by_a_document_that_cannot_be_written(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        stage.write_metrics({"seconds": {"sft": float("nan")}}, path)
    assert path.read_text() == "old"
