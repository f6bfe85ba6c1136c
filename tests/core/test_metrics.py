"""Metrics against numbers worked out by hand, against ir-measures, and against what must not change them."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ir_measures import RR, Qrel, ScoredDoc, Success, nDCG
from scipy.stats import binomtest

from rosepo_core import metrics

NEVER = -np.inf


def ranks_of(scores, target, offered=None):
    return metrics.rank_targets(np.array(scores, dtype=np.float32), np.array(target), offered)


def test_accuracy_of_four_users_by_hand():
    # Ranks 1, 2, 3 and 4 of four candidates.
    ranks = ranks_of([[9, 1, 2, 3], [9, 8, 2, 3], [1, 2, 3, 0], [0, 1, 2, 3]], [0, 1, 0, 0])
    assert ranks.expected.tolist() == [1, 2, 3, 4]
    assert metrics.hit_rate(ranks, 1).tolist() == [1, 0, 0, 0]
    assert metrics.hit_rate(ranks, 3).tolist() == [1, 1, 1, 0]
    # 1 / log2(2), 1 / log2(3), 1 / log2(4), 0.
    np.testing.assert_allclose(metrics.ndcg(ranks, 3), [1, 0.63092975, 0.5, 0], atol=1e-8)
    np.testing.assert_allclose(metrics.ndcg(ranks, 10), [1, 0.63092975, 0.5, 0.43067656], atol=1e-8)
    np.testing.assert_allclose(metrics.reciprocal_rank(ranks), [1, 1 / 2, 1 / 3, 1 / 4])
    assert metrics.mean({"mrr": metrics.reciprocal_rank(ranks)})["mrr"] == pytest.approx(25 / 48)


def test_a_tie_gets_the_mean_over_the_orders_of_the_tied():
    # One item above; the target and two others share places 2, 3 and 4.
    ranks = ranks_of([[5, 3, 3, 3, 1]], [2])
    assert (ranks.above.tolist(), ranks.tied.tolist(), ranks.expected.tolist()) == ([1], [2], [3.0])
    assert metrics.hit_rate(ranks, 1).tolist() == [0]
    np.testing.assert_allclose(metrics.hit_rate(ranks, 2), [1 / 3])
    np.testing.assert_allclose(metrics.hit_rate(ranks, 3), [2 / 3])
    assert metrics.hit_rate(ranks, 4).tolist() == [1]
    np.testing.assert_allclose(metrics.ndcg(ranks, 3), [(0.63092975 + 0.5) / 3], atol=1e-8)
    np.testing.assert_allclose(metrics.reciprocal_rank(ranks), [(1 / 2 + 1 / 3 + 1 / 4) / 3])


def test_a_constant_model_is_exactly_as_good_as_chance():
    ranks = ranks_of(np.zeros((7, 20)), range(7))
    np.testing.assert_allclose(metrics.hit_rate(ranks, 5), 5 / 20)
    np.testing.assert_allclose(metrics.reciprocal_rank(ranks), (1 / np.arange(1, 21)).mean())


def test_minus_infinity_ranks_last_and_nan_has_no_rank():
    ranks = ranks_of([[NEVER, -1e9, 0.0], [0.0, NEVER, NEVER]], [0, 1])
    assert ranks.expected.tolist() == [3.0, 2.5]
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        ranks_of([[0.0, 1.0], [0.0, np.nan]], [0, 0])


def test_columns_without_an_item_neither_rank_nor_tie():
    offered = np.array([[True, False, True], [True, True, False]])
    ranks = ranks_of([[1.0, 5.0, 0.0], [NEVER, 2.0, NEVER]], [0, 0], offered)
    assert ranks.expected.tolist() == [1.0, 2.0]
    assert ranks_of([[1.0, np.nan]], [0], np.array([[True, False]])).expected.tolist() == [1.0]
    with pytest.raises(ValueError, match="no item"):
        ranks_of([[1.0, 2.0]], [0], np.array([[False, True]]))


def test_names_and_order_of_the_accuracy_metrics():
    names = list(metrics.accuracy(ranks_of([[1, 0]], [0]), (1, 5, 10)))
    assert names == ["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"]
    assert {name.split("@")[0] for name in names} <= metrics.DIRECTIONS.keys()


def test_agrees_with_ir_measures():
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(300, 20)).astype(np.float32)
    target = rng.integers(20, size=300)
    ranks = metrics.rank_targets(scores, target)
    ours = {f"Success@{k}": metrics.hit_rate(ranks, k) for k in (1, 5, 10)}
    ours |= {f"nDCG@{k}": metrics.ndcg(ranks, k) for k in (5, 10)} | {"RR": metrics.reciprocal_rank(ranks)}

    qrels = [Qrel(f"u{row}", f"i{column}", 1) for row, column in enumerate(target)]
    run = [ScoredDoc(f"u{row}", f"i{column}", float(scores[row, column])) for row, column in np.ndindex(300, 20)]
    measures = [nDCG @ 5, nDCG @ 10, RR, Success @ 1, Success @ 5, Success @ 10]
    theirs = {str(measure): np.full(300, np.nan) for measure in measures}
    for result in ir_measures.iter_calc(measures, qrels, run):
        theirs[str(result.measure)][int(result.query_id[1:])] = result.value
    assert theirs.keys() == ours.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-6, err_msg=name)


coarse = arrays(np.float32, (4, 6), elements=st.sampled_from([NEVER, -2.0, -1.0, 0.0, 0.5, 3.0]))
targets = arrays(np.int32, 4, elements=st.integers(0, 5))


@given(coarse, targets)
def test_only_the_order_of_scores_counts(scores, target):
    before = metrics.accuracy(metrics.rank_targets(scores, target), (1, 3))
    after = metrics.accuracy(metrics.rank_targets(np.exp(scores.astype(np.float64)) * 5 - 100, target), (1, 3))
    assert all((before[name] == after[name]).all() for name in before)


@given(coarse, targets, st.permutations(range(6)))
def test_the_order_of_candidates_does_not_count(scores, target, columns):
    before = metrics.accuracy(metrics.rank_targets(scores, target), (1, 3))
    moved = np.argsort(columns)[target]
    after = metrics.accuracy(metrics.rank_targets(scores[:, columns], moved), (1, 3))
    assert all((before[name] == after[name]).all() for name in before)


@settings(max_examples=20, deadline=None)
@given(coarse, targets)
def test_ties_are_worth_what_breaking_them_at_random_is_worth(scores, target):
    rng = np.random.default_rng(0)
    exact = metrics.ndcg(metrics.rank_targets(scores, target), 4)
    low = np.where(np.isneginf(scores), -1e6, scores)
    draws = [metrics.ndcg(metrics.rank_targets(low + rng.uniform(0, 1e-3, low.shape), target), 4) for _ in range(400)]
    # Five standard errors of a mean of 400 values in [0, 1].
    np.testing.assert_allclose(np.mean(draws, axis=0), exact, atol=5 * 0.5 / 20)


def test_top_items_best_first_ties_by_column_and_holes_last():
    items = np.array([[4, 7, 2, 9], [5, -1, 6, 8]])
    scores = np.array([[0.1, 0.5, 0.5, NEVER], [NEVER, 9.0, 1.0, 2.0]])
    assert metrics.top_items(scores, items, 3).tolist() == [[7, 2, 4], [8, 6, 5]]
    assert metrics.top_items(scores, items, 5).tolist() == [[7, 2, 4, 9, -1], [8, 6, 5, -1, -1]]


POPULARITY = np.array([50, 5, 30, 1, 0, 2, 8, 50, 3, 1])


def test_the_head_is_the_most_popular_fifth():
    assert np.flatnonzero(metrics.head_items(POPULARITY)).tolist() == [0, 7]
    # A fifth of four items is rounded up to one; the earlier of the equally popular ones is in.
    assert metrics.head_items(np.array([1, 3, 3, 2])).tolist() == [False, True, False, False]
    assert metrics.head_items(np.ones(15, dtype=np.int64)).sum() == 3


def test_recommended_lists_by_hand():
    top = np.array([[0, 2], [7, 4], [0, -1]], dtype=np.int32)
    at_2 = metrics.recommended(top, POPULARITY, (2,))
    assert at_2["arp@2"] == pytest.approx(((50 + 30) / 2 + (50 + 0) / 2 + 50) / 3)
    assert at_2["aplt@2"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert at_2["coverage@2"] == 4 / 10
    # Counts of the ten items, ascending: six 0, 1, 1, 1, 2; weights 2j - 11: 3, 5, 7, 9 for the last four.
    assert at_2["gini@2"] == pytest.approx((3 + 5 + 7 + 2 * 9) / (10 * 5))
    assert list(metrics.recommended(top, POPULARITY, (1, 2))) == [
        *("arp@1", "arp@2", "aplt@1", "aplt@2", "coverage@1", "coverage@2", "gini@1", "gini@2"),
    ]
    with pytest.raises(ValueError, match="no test examples"):
        metrics.recommended(top[:0], POPULARITY, (1,))


@given(arrays(np.int32, (5, 3), elements=st.integers(0, 7)))
def test_gini_is_half_the_relative_mean_absolute_difference(top):
    counts = np.bincount(top.ravel(), minlength=8).astype(float)
    by_definition = np.abs(counts[:, None] - counts[None, :]).mean() / (2 * counts.mean())
    assert metrics.gini(top, 8) == pytest.approx(by_definition)


def test_gini_at_its_ends():
    assert metrics.gini(np.arange(6, dtype=np.int32)[:, None], 6) == 0
    assert metrics.gini(np.full((9, 1), 3, dtype=np.int32), 6) == pytest.approx(5 / 6)


def test_intervals():
    low, high = metrics.mean_interval(np.array([1.0, 2.0, 3.0, 4.0]))
    # s = sqrt(5/3), so 1.96 s / 2 = 1.2652.
    assert (low, high) == (pytest.approx(2.5 - 1.26516, abs=1e-4), pytest.approx(2.5 + 1.26516, abs=1e-4))
    assert np.isnan(metrics.mean_interval(np.array([1.0]))).all()
    for hits, n in ((0, 10), (3, 10), (200, 943), (10, 10)):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        low, high = metrics.rate_interval(np.repeat([1.0, 0.0], [hits, n - hits]))
        assert (low, high) == (pytest.approx(expected.low, abs=1e-6), pytest.approx(expected.high, abs=1e-6))
