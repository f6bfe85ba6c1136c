"""Pools of titles: sources in turn, each item once, and nothing that must not be recommended."""

from __future__ import annotations

import numpy as np

from rosepo_core.contracts.records import Places, Sequences
from rosepo_core.evaluation.pools import PoolSources, nearest_to_history, pooled

HISTORY = Sequences(np.array([0, 1, 2], dtype=np.int32), np.array([0, 2, 3], dtype=np.int64))
PLACES = Places(HISTORY, np.array([0, 1], dtype=np.int32), np.array([2, 1], dtype=np.int32))
EXCLUDED = [np.array([0, 1]), np.array([2])]


def test_sources_take_turns_and_no_item_comes_twice():
    searched = np.array([[5, 3, -1], [1, -1, -1]], dtype=np.int32)
    popular = np.array([[5, 4], [4, 1]], dtype=np.int32)
    found = pooled([searched, popular], 4)
    # First both sources' first items, then their second ones.
    assert found.tolist() == [[5, 3, 4, -1], [1, 4, -1, -1]]
    assert pooled([searched, popular], 2).tolist() == [[5, 3], [1, 4]]


def test_a_small_catalogue_is_ranked_whole():
    sources = PoolSources(np.array([3, 9, 1, 7], dtype=np.int64))
    found = sources.pools(PLACES, EXCLUDED, np.empty((2, 0), dtype=np.int32), 4)
    assert [sorted(row) for row in found.tolist()] == [[-1, -1, 2, 3], [-1, 0, 1, 3]]


def test_each_source_gives_its_best_new_items():
    popularity = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], dtype=np.int64)

    def oracle(places, items):
        # The highest index first.
        assert items.shape == (len(places), 10)
        return items.astype(np.float32)

    titles = np.eye(10, dtype=np.float32)
    titles[7] = titles[1]
    titles[6] = titles[2]
    searched = np.array([[5], [5]], dtype=np.int32)
    found = PoolSources(popularity, oracle, titles).pools(PLACES, EXCLUDED, searched, 4)
    # The search's 5, the oracle's 9, the most popular new item, and the title that means what the history does.
    assert found.tolist() == [[5, 9, 2, 7], [5, 9, 0, 6]]
    without = PoolSources(popularity).pools(PLACES, EXCLUDED, searched, 3)
    assert without.tolist() == [[5, 2, 3], [5, 0, 1]]


def test_pools_do_not_depend_on_how_the_work_is_cut(monkeypatch):
    popularity = np.arange(10, dtype=np.int64)
    searched = np.array([[5], [4]], dtype=np.int32)
    whole = PoolSources(popularity).pools(PLACES, EXCLUDED, searched, 3)
    monkeypatch.setattr("rosepo_core.evaluation.pools.BLOCK_CELLS", 1)
    np.testing.assert_array_equal(PoolSources(popularity).pools(PLACES, EXCLUDED, searched, 3), whole)


def test_the_nearest_title_of_a_history_counts():
    titles = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], dtype=np.float32)
    found = nearest_to_history(PLACES, titles)
    # The first user chose the titles 0 and 1, the second the title 2.
    np.testing.assert_allclose(found, [[1, 1, 0.8, 0], [0.6, 0.8, 1, -0.6]], atol=1e-6)
