"""Ranks, lists and the popular head, against numbers worked out by hand and against what must not change them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rosepo_core.contracts.ranking import (
    UNRANKED,
    Ranks,
    best_items,
    head_items,
    rank_in_lists,
    rank_targets,
    top_items,
)

NEVER = -np.inf
GAINS = np.array([1.0, 0.5, 0.25])


def ranks_of(scores, target, offered=None):
    return rank_targets(np.array(scores, dtype=np.float32), np.array(target), offered)


def test_a_tie_gets_the_mean_over_the_orders_of_the_tied():
    # One item above; the target and two others share places 2, 3 and 4.
    ranks = ranks_of([[5, 3, 3, 3, 1]], [2])
    assert (ranks.above.tolist(), ranks.tied.tolist(), ranks.expected.tolist()) == ([1], [2], [3.0])
    np.testing.assert_allclose(ranks.expectation(GAINS), [(0.5 + 0.25 + 0) / 3])
    assert ranks.limit() == 4


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


def test_several_targets_and_rows_with_fewer():
    ranks = ranks_of([[3, 2, 1, 0], [0, 1, 1, 5]], [[2, 0], [1, -1]])
    assert ranks.above.tolist() == [[2, 0], [1, UNRANKED]]
    assert ranks.tied.tolist() == [[0, 0], [1, 0]]
    assert ranks.expected.tolist() == [[3, 1], [2.5, np.inf]]
    np.testing.assert_allclose(ranks.expectation(GAINS), [[0.25, 1], [(0.5 + 0.25) / 2, 0]])
    # The best of each row; the second row's is tied with an item that is no target.
    np.testing.assert_allclose(ranks.first_expectation(GAINS), [1, 0.375])


def test_lists_rank_what_they_hold():
    ranks = rank_in_lists(np.array([[7, 4, 7], [1, -1, -1]]), np.array([[7, 4], [3, -1]]))
    assert ranks.above.tolist() == [[0, 1], [UNRANKED, UNRANKED]]
    assert ranks.first_expectation(GAINS).tolist() == [1, 0]
    assert rank_in_lists(np.array([[-1]]), np.array([[9]])).limit() == 1


coarse = arrays(np.float32, (4, 6), elements=st.sampled_from([NEVER, -2.0, -1.0, 0.0, 0.5, 3.0]))
targets = arrays(np.int32, 4, elements=st.integers(0, 5))


@given(coarse, targets)
def test_only_the_order_of_scores_counts(scores, target):
    before = rank_targets(scores, target)
    after = rank_targets(np.exp(scores.astype(np.float64)) * 5 - 100, target)
    assert (before.above == after.above).all()
    assert (before.tied == after.tied).all()


@given(coarse, targets, st.permutations(range(6)))
def test_the_order_of_candidates_does_not_count(scores, target, columns):
    before = rank_targets(scores, target)
    after = rank_targets(scores[:, columns], np.argsort(columns)[target])
    assert (before.above == after.above).all()
    assert (before.tied == after.tied).all()


ORDERS = np.array(list(permutations(range(5))))


@settings(max_examples=25, deadline=None)
@given(arrays(np.int64, 5, elements=st.integers(-1, 2)), st.permutations(range(5)), st.integers(1, 4))
def test_ties_are_worth_their_mean_over_every_order(levels, items, count):
    """Of all 120 orders of five items, those that respect the scores; the lowest level is minus infinity."""
    column = np.array(items)[:count]
    ranks = rank_targets(np.where(levels < 0, NEVER, levels)[None], column[None])
    orders = ORDERS[(np.diff(levels[ORDERS], axis=1) <= 0).all(axis=1)]
    place = np.argsort(orders, axis=1)[:, column]
    gains = np.append(GAINS, [0.0, 0.0])
    np.testing.assert_allclose(ranks.expectation(GAINS)[0], gains[place].mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(ranks.first_expectation(GAINS)[0], gains[place.min(axis=1)].mean(), atol=1e-12)


def test_top_items_best_first_ties_by_column_and_holes_last():
    items = np.array([[4, 7, 2, 9], [5, -1, 6, 8]])
    scores = np.array([[0.1, 0.5, 0.5, NEVER], [NEVER, 9.0, 1.0, 2.0]])
    assert top_items(scores, items, 3).tolist() == [[7, 2, 4], [8, 6, 5]]
    assert top_items(scores, items, 5).tolist() == [[7, 2, 4, 9, -1], [8, 6, 5, -1, -1]]


def test_best_items_have_their_scores_and_holes_have_none():
    scores = np.array([[0.5, 9.0, 0.25], [-np.inf, -2.0, 0.0]], dtype=np.float32)
    items = np.array([[4, -1, 6], [1, 2, 3]])
    top, best = best_items(scores, items, 4)
    assert top.tolist() == [[4, 6, -1, -1], [3, 2, 1, -1]]
    assert best.tolist() == [[0.5, 0.25, -np.inf, -np.inf], [0.0, -2.0, -np.inf, -np.inf]]


def test_the_head_is_the_most_popular_fifth():
    popularity = np.array([50, 5, 30, 1, 0, 2, 8, 50, 3, 1])
    assert np.flatnonzero(head_items(popularity)).tolist() == [0, 7]
    assert np.flatnonzero(head_items(popularity, 0.3)).tolist() == [0, 2, 7]
    # A fifth of four items is rounded up to one; the earlier of the equally popular ones is in.
    assert head_items(np.array([1, 3, 3, 2])).tolist() == [False, True, False, False]
    assert head_items(np.ones(15, dtype=np.int64)).sum() == 3


def test_ranks_of_nobody():
    nobody = Ranks(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.int64))
    assert nobody.expectation(GAINS).shape == (0, 1)
    assert nobody.first_expectation(GAINS).shape == (0,)
    assert nobody.limit() == 1
