"""Evaluation of score functions over persisted candidates, down to metrics.json."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.components import Metric
from rosepo_core.contracts.errors import PluginError, RosepoError
from rosepo_core.contracts.outcome import Measure, Outcome
from rosepo_core.contracts.records import Candidates, Catalogue, Examples, SeenItems, Sequences, Split
from rosepo_core.contracts.sections import EvaluationOptions
from rosepo_core.evaluation import results as stage
from rosepo_core.evaluation import tables
from rosepo_core.evaluation.calibration import ReliabilityBin
from rosepo_core.evaluation.measurement import measure
from rosepo_core.evaluation.oracle_quality import OracleQuality
from rosepo_core.plugins.registry import load_plugins

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
    test = Examples.of(sequences, np.array([0, 1], dtype=np.int32), np.array([3, 2], dtype=np.int32))
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


OPTIONS = EvaluationOptions(candidates=3, ks=(1, 2), resamples=500)
METRICS = {
    name: load_plugins().create("metric", f"rosepo/{name}", {})
    for name in ("hr", "ndcg", "mrr", "arp", "aplt", "popularity-confusion", "coverage", "gini")
}


def by_id(examples, items):
    """Ranks the items of the higher index first."""
    return items.astype(np.float32)


def evaluate(split, candidates, models, options=OPTIONS, reporter=None, metrics=METRICS, examples=None):
    examples = examples or split.test
    scores = {name: stage.score_model(name, score, examples, candidates) for name, score in models.items()}
    return stage.summarize(scores, split, examples, candidates, options, metrics, reporter or Notes())


def summarize(scores, split, examples, candidates):
    return stage.summarize(scores, split, examples, candidates, OPTIONS, METRICS, Notes())


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
        # Ann's d is less popular than both others, which outrank it; nothing is more popular than bob's f.
        | {"popularity-confusion": 1}
    )
    assert popularity.per_user["popularity-confusion"].tolist() == pytest.approx([1, math.nan], nan_ok=True)
    assert result.models["sft"].ranks.expected.tolist() == [3, 1]
    assert result.offered == 5 / 6
    assert list(result.columns) == list(popularity.metrics)
    assert {column.title for column in result.columns.values()} >= {"HR@1", "NDCG@2", "MRR", "Tail@1", "Gini@2"}
    assert result.columns["mrr"].summary == "One over the rank of the first held-out item."
    # What belongs to all lists together has none.
    assert (
        popularity.intervals.keys()
        == popularity.per_user.keys()
        == {
            *("hr@1", "hr@2", "ndcg@2", "mrr", "arp@1", "arp@2", "aplt@1", "aplt@2", "popularity-confusion"),
        }
    )
    # Of two users, a quarter of the resamples has ann's 1/3 alone, a quarter bob's 1.
    assert popularity.intervals["mrr"] == (pytest.approx(1 / 3), 1)
    assert np.isnan(popularity.intervals["popularity-confusion"]).all()


def test_a_model_that_ranks_nothing_has_no_scores(split, candidates):
    assert stage.score_model("oracle", lambda examples, items: None, split.test, candidates) is None


def test_bad_scores_name_the_model(split, candidates):
    def nan_for_bob(examples, items):
        return np.where(items == 0, np.nan, 1.0).astype(np.float32)

    with pytest.raises(RosepoError, match=r"model 'aligned' scored 1 of 6 candidates NaN, .* test example 1"):
        evaluate(split, candidates, {"aligned": nan_for_bob})
    with pytest.raises(RosepoError, match=r"model 'base' gave scores of shape \(2,\)"):
        evaluate(split, candidates, {"base": lambda examples, items: items[:, 0].astype(np.float32)})
    with pytest.raises(RosepoError, match="scores of 'sft' have shape"):
        summarize({"sft": np.zeros((2, 4), np.float32)}, split, split.test, candidates)
    nobody = split.test.take(np.array([], dtype=np.int64))
    with pytest.raises(RosepoError, match="no test examples"):
        summarize({}, split, nobody, candidates)


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
    again = summarize({"base": cached}, split, split.test, candidates).models["base"]
    assert again.metrics == pytest.approx(fresh.metrics, nan_ok=True)
    assert again.intervals["mrr"] == fresh.intervals["mrr"]
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    for name in ("bad.safetensors", "missing.safetensors"):
        with pytest.raises(RosepoError, match=f"{name} holds no scores"):
            stage.load_scores(tmp_path / name)


def test_every_users_ranks_lists_and_values_are_kept(split, candidates, tmp_path):
    metrics = {name: METRICS[name] for name in ("mrr", "popularity-confusion", "gini")}
    models = {"sft": by_id, "base": lambda examples, items: 0 * by_id(None, items)}
    evaluation = evaluate(split, candidates, models, metrics=metrics)
    tables.per_user_table([evaluation], split).write_parquet(tmp_path / "users.parquet")
    table = pl.read_parquet(tmp_path / "users.parquet")
    assert table.columns[0] == "protocol"
    assert set(table["protocol"]) == {"candidates-3"}
    assert table["answer"].null_count() == table.height
    names = ("model", "user", "target", "rank", "tied", "items", "scores", "mrr", "popularity-confusion")
    chance = pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert table.drop("protocol", "answer").rows(named=True) == [
        dict(zip(names, row, strict=True))
        for row in (
            ("base", "ann", "d", 2.0, 2, ["e", "d"], [0, 0], chance, 0.5),
            ("base", "bob", "f", 2.0, 2, ["f", "a"], [0, 0], chance, None),
            ("sft", "ann", "d", 3.0, 0, ["f", "e"], [5, 4], pytest.approx(1 / 3), 1.0),
            ("sft", "bob", "f", 1.0, 0, ["f", "c"], [5, 2], 1.0, None),
        )
    ]
    assert table.schema["scores"] == pl.List(pl.Float32)


def test_lists_are_as_short_as_the_candidates_and_the_catalogue_allow(split, candidates):
    evaluation = evaluate(split, candidates, {"sft": by_id}, EvaluationOptions(candidates=3, ks=(10, 1, 1)))
    assert list(evaluation.columns)[:3] == ["hr@1", "hr@10", "ndcg@10"]
    assert evaluation.models["sft"].metrics["hr@10"] == 1
    assert tables.per_user_table([evaluation], split)["items"].to_list() == [["f", "e", "d"], ["f", "c", "a"]]


def test_a_metrics_own_cut_off_makes_lists_long_enough(split, candidates):
    own = {"hr": METRICS["hr"], "arp": load_plugins().create("metric", "rosepo/arp", {"ks": [3]})}
    result = evaluate(split, candidates, {"sft": by_id}, metrics=own).models["sft"]
    assert list(result.metrics) == ["hr@1", "hr@2", "arp@3"]
    assert result.top.tolist() == [[5, 4, 3], [5, 2, 0]]


def test_two_models_are_compared_user_by_user(split, candidates):
    evaluation = evaluate(split, candidates, {"sft": by_id, "aligned": lambda examples, items: -by_id(None, items)})
    # SFT ranks 3 and 1, aligned 1 and 3: reciprocal ranks differ by +2/3 and -2/3.
    found = evaluation.comparison("aligned", "sft", "mrr")
    assert (found.users, found.difference) == (2, pytest.approx(0))
    assert (found.low, found.high) == (pytest.approx(-2 / 3), pytest.approx(2 / 3))
    assert (found.p_bootstrap, found.p_wilcoxon, found.p_holm, found.p_bh) == (1, 1, 1, 1)
    assert evaluation.comparison("sft", "base", "mrr") is None
    assert {each.column for each in evaluation.comparisons} == set(evaluation.models["sft"].per_user)
    # The metric applies to ann alone.
    one = evaluation.comparison("aligned", "sft", "popularity-confusion")
    assert (one.users, math.isnan(one.difference), math.isnan(one.p_holm)) == (1, True, True)


def test_p_values_are_corrected_for_all_comparisons(split):
    """Sixty users: SFT beats base for all, aligned equals SFT."""
    examples = split.test.take(np.tile([0, 1], 30))
    candidates = Candidates(
        np.tile(np.array([[4, 3, 5], [5, 0, 2]], dtype=np.int32), (30, 1)), np.tile([1, 0], 30).astype(np.int32)
    )

    def knows(examples, items):
        return (items == examples.target[:, None]).astype(np.float32)

    models = {"base": lambda examples, items: -knows(examples, items), "sft": knows, "aligned": knows}
    metrics = {name: METRICS[name] for name in ("hr", "mrr")}
    evaluation = evaluate(split, candidates, models, metrics=metrics, examples=examples)
    assert len(evaluation.comparisons) == 6
    better, same = evaluation.comparison("sft", "base", "mrr"), evaluation.comparison("aligned", "sft", "mrr")
    assert better.p_bootstrap == pytest.approx(1 / 501)
    # Three comparisons have this p, three have 1: times 6 of 6, and times 6 / 3.
    assert (better.p_holm, better.p_bh) == (pytest.approx(6 / 501), pytest.approx(2 / 501))
    assert (same.difference, same.p_bootstrap, same.p_holm) == (0, 1, 1)


def test_a_metric_without_what_it_needs_is_left_out_and_named(split, candidates):
    notes = Notes()
    names = ("mrr", "mgu", "dgu", "out-of-catalogue", "semantic-hallucination")
    metrics = {name: load_plugins().create("metric", f"rosepo/{name}", {}) for name in names}
    assert list(evaluate(split, candidates, {"sft": by_id}, reporter=notes, metrics=metrics).columns) == ["mrr"]
    assert notes.lines == [
        "not measured under candidates-3: mgu, dgu (the catalogue has no column 'genres' of lists of text, or of "
        "text with '|' between)",
        "not measured under candidates-3: out-of-catalogue (the model only ranked, and wrote nothing)",
        "not measured under candidates-3: semantic-hallucination (there are no title embeddings)",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros(3), r"gave 'odd@1' of shape \(3,\), not one number a user \(2\) nor one in all"),
        (np.array([0.5, 1.25]), "gave 'odd@1' = 1.25, not within 0 and 1"),
        (-0.5, "gave 'odd@1' = -0.5, not within 0 and 1"),
        (np.array([np.inf, 0.0]), "gave 'odd@1' = inf, not within 0 and 1"),
    ],
)
def test_a_metric_that_breaks_its_contract_is_named(split, candidates, value, said):
    class Odd(Metric):
        about = Measure("Odd", "higher", "Accuracy")
        origin = "metric 'odd' of acme 1.0"

        def measure(self, outcome):
            return {"@1": value}

    with pytest.raises(PluginError, match=f"^metric 'odd' of acme 1.0 {said}"):
        evaluate(split, candidates, {"sft": by_id}, metrics={"odd": Odd()})


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.array([1.0, 0.25]), True),
        (np.array([np.nan, 0.25]), True),
        (np.array([0.9, 0.25]), False),
        (0.5, True),
    ],
)
def test_no_metric_rewards_a_model_for_its_silence(split, value, kept):
    """The first of two users got no item."""

    class Odd(Metric):
        about = Measure("Odd", "lower", "Accuracy")
        origin = "metric 'odd' of acme 1.0"

        def measure(self, outcome):
            return {"": value}

    outcome = Outcome.of_lists(split.test, split.catalogue, split.seen, (1,), np.array([[-1, -1], [0, 1]]))
    if kept:
        assert measure(Odd(), "odd", outcome).keys() == {""}
    else:
        with pytest.raises(PluginError, match="a value for users whose lists hold no item: give them the worst, 1,"):
            measure(Odd(), "odd", outcome)


def test_metrics_json_has_the_documented_schema(split, candidates):
    models = {"popularity": stage.popularity_scores(split), "sft": by_id, "aligned": by_id}
    quality = OracleQuality(4, 0.75, math.nan, (ReliabilityBin(0.0, 0.5, 4, 0.25, 0.5),))
    evaluation = replace(evaluate(split, candidates, models), oracle_quality=quality)
    document = tables.metrics_document("movielens-100k", 7, [evaluation], {"sft": 12.34567, "alignment": 1.0})
    read = json.loads(tables.metrics_text(document))
    parts = ["protocols", "intervals", "users", "comparisons", "oracle_quality"]
    parts += ["fusions", "confidence", "pool_recall"]
    assert list(read) == ["schema", "dataset", "seed", *parts, "seconds"]
    assert (read["schema"], read["dataset"], read["seed"]) == (3, "movielens-100k", 7)
    assert [list(read[part]) for part in parts] == [["candidates-3"]] * len(parts)
    assert read["seconds"] == {"sft": 12.346, "alignment": 1.0}
    models, intervals = read["protocols"]["candidates-3"], read["intervals"]["candidates-3"]
    assert list(models) == list(intervals) == ["popularity", "sft", "aligned"]
    for values in models.values():
        assert list(values) == [
            *("hr@1", "hr@2", "ndcg@2", "mrr", "arp@1", "arp@2", "aplt@1", "aplt@2", "popularity-confusion"),
            *("coverage@1", "coverage@2", "gini@1", "gini@2"),
        ]
        assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())
    assert intervals["sft"]["mrr"] == [pytest.approx(1 / 3), 1]
    # Nothing is more popular than bob's target. Coverage is of all lists.
    assert read["users"]["candidates-3"]["sft"]["popularity-confusion"] == 1
    assert read["users"]["candidates-3"]["sft"]["mrr"] == 2
    assert "coverage@1" not in read["users"]["candidates-3"]["sft"]
    # One user is no sample.
    assert intervals["sft"]["popularity-confusion"] == [None, None]
    (compared,) = [each for each in read["comparisons"]["candidates-3"] if each["column"] == "mrr"]
    assert compared == {
        "model": "aligned",
        "baseline": "sft",
        "column": "mrr",
        "users": 2,
        "difference": 0,
        "low": 0,
        "high": 0,
        **dict.fromkeys(("p_bootstrap", "p_wilcoxon", "p_holm", "p_bh"), 1),
    }
    assert read["oracle_quality"]["candidates-3"] == {
        "pairs": 4,
        "auc": 0.75,
        "ece": None,
        "reliability": [{"low": 0, "high": 0.5, "count": 4, "predicted": 0.25, "observed": 0.5}],
    }


def test_metrics_json_holds_nothing_that_is_not_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        tables.metrics_text({"seconds": {"sft": float("nan")}})
