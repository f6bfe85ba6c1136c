"""The titles that a training prompt lists: what they hold, what they do not give away, and what they depend on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Examples, Ints, Sequences
from rosepo_core.data.listed_candidates import draw_lists
from rosepo_core.stages.session import Session

ITEMS = 40


def many(users: int = 500, length: int = 6) -> Examples:
    """The second and the last place of users with sequences of random items."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(ITEMS)[:length] for _ in range(users)]).astype(np.int32)
    sequences = Sequences(items, np.arange(0, users * length + 1, length))
    user = np.repeat(np.arange(users, dtype=np.int32), 2)
    return Examples.of(sequences, user, np.tile(np.array([1, length - 1], dtype=np.int32), users))


def losing(examples: Examples, k: int) -> Ints:
    """Items that the user never chose, the last of every third row missing."""
    rng = np.random.default_rng(1)
    new = [rng.permutation(np.setdiff1d(np.arange(ITEMS), examples.sequences[user]))[:k] for user in examples.user]
    rejected = np.array(new, dtype=np.int32)
    rejected[::3, -1] = -1
    return rejected


def test_a_list_holds_the_target_and_items_that_are_new_to_the_user() -> None:
    examples = many()
    lists = draw_lists(examples, 5, ITEMS, [7])
    assert (lists.shape, lists.dtype) == ((1000, 5), np.int32)
    for row, listed in enumerate(lists.tolist()):
        assert len(set(listed)) == 5
        assert set(listed) & set(examples.sequences[examples.user[row]].tolist()) == {int(examples.target[row])}
    # Every item that may be listed is, about as often as any other: 1000 rows, 4 of 34 new items each.
    others = np.bincount(lists[lists != examples.target[:, None]], minlength=ITEMS)
    assert others.sum() == 4000
    # Four standard deviations of a count of mean 100.
    assert abs(others - 100).max() < 40


@pytest.mark.parametrize("k", [1, 3])
def test_a_list_around_rejected_items_holds_them_and_does_not_tell_which_they_are(k: int) -> None:
    examples = many()
    rejected = losing(examples, k)
    lists = draw_lists(examples, 5, ITEMS, [7], rejected=rejected)
    for row, listed in enumerate(lists.tolist()):
        assert len(set(listed)) == 5
        assert {int(examples.target[row]), *rejected[row][rejected[row] >= 0].tolist()} <= set(listed)
        known = set(examples.sequences[examples.user[row]].tolist())
        assert set(listed) & known == {int(examples.target[row])}
    # Target and first rejected item stand at each of the five places equally often: 200 of 1000 times, give or take
    # four standard deviations of 12.6.
    held = rejected[:, 0] >= 0
    for item, rows in ((examples.target, np.full(1000, True)), (rejected[:, 0], held)):
        places = np.argmax(lists[rows] == item[rows][:, None], axis=1)
        assert abs(np.bincount(places, minlength=5) - rows.sum() / 5).max() < 51


def test_a_model_that_copies_from_the_list_tells_no_pair() -> None:
    examples = many()
    rejected = losing(examples, 1)[:, :1]
    some = rejected[:, 0] >= 0
    lists = draw_lists(examples, 5, ITEMS, [7], rejected=rejected)

    def accuracy(weights: list[float]) -> float:
        """Of a model that gives the title at each place of the list this probability, and all others none."""
        given = np.array([*weights, 0.0])

        def probability(items: Ints) -> Ints:
            found = lists == items[:, None]
            return given[np.where(found.any(1), found.argmax(1), 5)]

        chosen, lost = probability(examples.target), probability(rejected[:, 0])
        return float((np.where(chosen == lost, 0.5, chosen > lost))[some].mean())

    # Four standard deviations of a share of 667 pairs are 0.077.
    assert accuracy([0.2] * 5) == 0.5
    for weights in ([0.5, 0.2, 0.15, 0.1, 0.05], [0.05, 0.1, 0.15, 0.2, 0.5], [0, 0, 1.0, 0, 0]):
        assert accuracy(weights) == pytest.approx(0.5, abs=0.078)
    # With lists around the target alone, it would.
    lists = draw_lists(examples, 5, ITEMS, [7])
    assert accuracy([0.2] * 5) > 0.9


def test_lists_follow_the_seed_and_nothing_else() -> None:
    examples = many()
    rejected = losing(examples, 2)
    lists = draw_lists(examples, 5, ITEMS, [7], rejected=rejected)
    assert draw_lists(examples, 5, ITEMS, [7], rejected=rejected).tolist() == lists.tolist()
    other = draw_lists(examples, 5, ITEMS, [8], rejected=rejected)
    assert (other != lists).any(axis=1).mean() > 0.9
    # Whatever examples stand beside, and in whatever order.
    rows = np.random.default_rng(2).permutation(1000)[:50]
    assert draw_lists(examples.take(rows), 5, ITEMS, [7], rejected=rejected[rows]).tolist() == lists[rows].tolist()


def test_a_user_who_knows_nearly_all_is_refused() -> None:
    sequences = Sequences(np.array([5, 6], dtype=np.int32), np.array([0, 2]))
    examples = Examples.of(sequences, np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.int32))
    assert sorted(draw_lists(examples, 39, ITEMS, [0])[0].tolist()) == [item for item in range(ITEMS) if item != 5]
    with pytest.raises(
        RequestError, match=r"'prompt\.candidates' = 40: set it lower, only 38 items are new to user 0"
    ):
        draw_lists(examples, 40, ITEMS, [0])


def test_a_run_draws_its_lists_by_its_own_seed() -> None:
    examples = many(users=50)
    rejected = losing(examples, 2)

    def lists(seed: int, around: Ints | None, count: int = 5) -> Any:
        session: Any = SimpleNamespace(config=SimpleNamespace(seed=seed), listed_count=count)
        return Session.lists(session, examples, ITEMS, around)

    for around in (None, rejected):
        assert lists(3, around).tolist() == lists(3, around).tolist()
        assert (lists(3, around) != lists(4, around)).any(axis=1).mean() > 0.9
    # What stands where in the list that a sampler saw says nothing of the list of the pair.
    assert (lists(3, None) != lists(3, np.full((100, 1), -1))).any(axis=1).mean() > 0.9
    assert lists(3, rejected, count=0) is None
