"""Ratings and delays of chosen and rejected items, from a log that is read by eye."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rosepo_core.api import coded
from rosepo_core.contracts.records import Corpus, Examples
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.splitting import split_corpus
from rosepo_core.stages import ratings

# Of each user, the last two interactions are held out. Ann takes b twice, and rates it anew; and a, the second time
# among those held out.
LOG = {
    "ann": [("b", 2.0), ("a", 5.0), ("c", None), ("b", 4.0), ("d", 1.0), ("a", 1.0)],
    "bob": [("a", 1.0), ("c", 2.0), ("d", 5.0), ("b", 5.0)],
}


@pytest.fixture(params=["text", "numbers"])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    rows = [(user, item, time, rating) for user, taken in LOG.items() for time, (item, rating) in enumerate(taken)]
    log = pl.DataFrame(rows, schema=["user", "item", "timestamp", "rating"], orient="row")
    if request.param == "numbers":
        log = log.with_columns(coded(log["user"]), coded(log["item"]))
    items = ["a", "b", "c", "d", "e"]
    return Corpus("toy", log, pl.DataFrame({"item": items, "title": [item.upper() for item in items]}))


def test_ratings_and_delays_of_training_alone(corpus):
    split = split_corpus(corpus, SplitOptions())
    names = split.catalogue.ids
    a, b, c, d, e = (names.index(name) for name in "abcde")
    ann, bob = split.users.index("ann"), split.users.index("bob")
    # Ann's a, with c and b after it, and d held out; and bob's c, with a before it.
    examples = Examples.of(split.train, np.array([ann, bob], np.int32), np.array([1, 1], np.int32))
    assert examples.target.tolist() == [a, c]
    items = np.array([[a, c, b, d, e], [c, a, b, -1, e]], dtype=np.int32)
    found, delays = ratings.of_items(corpus, split, examples, items)
    nan = np.nan
    np.testing.assert_equal(found, np.float32([[5, nan, 4, nan, nan], [2, 1, nan, nan, nan]]))
    np.testing.assert_equal(delays, np.float32([[0, 1, 2, nan, nan], [0, nan, nan, nan, nan]]))
