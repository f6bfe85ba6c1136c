"""The recommender on a tiny model: one history or many, titles or ids, filters, candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue, Examples, SeenItems, Sequences, Split
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.serving.explanations import explain
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.sources import full_histories
from rosepo_core.testing import SilentReporter, prompt_template


class Notes(SilentReporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def described(catalogue: Catalogue) -> Catalogue:
    """Every third item is a comedy, every second a drama; the years are numbers."""
    genres = [
        "|".join(name for name, every in (("Comedy", 3), ("Drama", 2)) if item % every == 0)
        for item in range(len(catalogue))
    ]
    years = [1990 + item % 4 for item in range(len(catalogue))]
    return replace(catalogue, attributes=pl.DataFrame({"genres": genres, "year": years}))


@pytest.fixture(scope="module")
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="module")
def recommender(tiny_model: Any, tiny_tokenizer: Any, described: Catalogue, notes: Notes) -> Recommender:
    template = prompt_template({}, tiny_tokenizer, described, 8)
    users = {"ann": np.array([3, 1], dtype=np.int32)}
    return Recommender(TitleModel(tiny_model, template, notes, 0), described, users=lambda: users, reporter=notes)


@pytest.fixture(scope="module")
def histories(described: Catalogue) -> list[list[str]]:
    return [[described.titles[item] for item in items] for items in ([0, 7, 3], [12], [5, 6, 8, 9, 1])]


def assert_alike(found: Any, expected: Any) -> None:
    assert [(each.title, each.item) for each in found] == [(each.title, each.item) for each in expected]
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-4)


def test_many_histories_get_what_each_gets_alone(recommender, histories):
    together = recommender.recommend_many(histories, 5)
    for found, history in zip(together, histories, strict=True):
        assert len(found) == 5
        assert_alike(found, recommender.recommend(history, 5))
    assert recommender.recommend_many([], 5) == []


def test_equal_histories_are_answered_once(recommender, histories, tiny_model):
    read = []
    hook = tiny_model.get_input_embeddings().register_forward_hook(lambda layer, args, out: read.append(out.shape[1]))
    first, other, again = recommender.recommend_many([histories[0], histories[1], histories[0]], 5)
    of_three, read[:] = sum(read), []
    recommender.recommend_many(histories[:2], 5)
    hook.remove()
    assert of_three == sum(read)
    assert_alike(again, recommender.recommend(histories[0], 5))
    assert_alike(other, recommender.recommend(histories[1], 5))
    first.clear()
    assert len(again) == 5


def test_items_by_their_ids(recommender, described, histories):
    ids = [described.ids[described.titles.index(title)] for title in histories[0]]
    assert_alike(recommender.recommend(ids, 4, by="id"), recommender.recommend(histories[0], 4))
    with pytest.raises(RequestError, match="item id 'nobody' is not in the run's catalogue"):
        recommender.recommend(["nobody"], by="id")


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({"having": {"genres": {"Comedy"}}}, lambda item: item % 3 == 0),
        ({"having": {"genres": {"Comedy", "Drama"}}}, lambda item: item % 3 == 0 or item % 2 == 0),
        ({"having": {"genres": ["Comedy"], "year": ["1990"]}}, lambda item: item % 12 == 0),
        ({"lacking": {"genres": {"Drama"}}}, lambda item: item % 2 == 1),
        ({"having": {"genres": {"Comedy"}}, "lacking": {"genres": {"Drama"}}}, lambda item: item % 6 == 3),
    ],
)
def test_a_filter_leaves_the_order_of_the_others(recommender, described, histories, conditions, kept):
    everything = recommender.recommend(histories[0], len(described))
    expected = [each for each in everything if kept(described.titles.index(each.title))]
    assert 0 < len(expected) < len(everything)
    assert_alike(recommender.recommend(histories[0], len(described), filter=Filter(**conditions)), expected)
    # From the kept trie of this filter.
    assert_alike(recommender.recommend(histories[0], 2, filter=Filter(**conditions)), expected[:2])


def test_lists_of_what_is_possible_and_impossible(recommender, described, histories):
    best = recommender.recommend(histories[0], 6)
    names = [each.title for each in best]
    only = Filter(allow=[*names[3:], histories[0][0]], deny=[names[4]])
    # The history is never recommended, and what is denied stays out.
    assert_alike(recommender.recommend(histories[0], 10, filter=only), [best[3], best[5]])


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"having": {"genre": {"Comedy"}}}, "the catalogue has no attribute 'genre'; did you mean 'genres'"),
        ({"lacking": {"genres": {"Comedie"}}}, "no item has genres = 'Comedie'; did you mean 'Comedy'"),
        ({"deny": ["Nothing like it at all"]}, "title 'Nothing like it at all' is not in the run's catalogue"),
        ({"having": {"genres": {"Comedy"}}, "lacking": {"genres": {"Comedy"}}}, "no item of the catalogue passes"),
    ],
)
def test_filters_that_cannot_be_meant(recommender, histories, conditions, message):
    with pytest.raises(RequestError, match=message):
        recommender.recommend(histories[0], filter=Filter(**conditions))


def test_candidates_have_the_scores_that_they_have_among_all(recommender, described, histories):
    everything = {each.title: each for each in recommender.recommend(histories[1], len(described))}
    some = [described.titles[item] for item in (4, 30, 2, 21)]
    expected = sorted((everything[title] for title in some), key=lambda each: -each.score)
    assert_alike(recommender.rank(histories[1], some), expected)
    # Lists of different lengths, and a candidate out of the history.
    two, one = recommender.rank_many(histories[1:], [some[:2], histories[2][:1]])
    assert_alike(two, [each for each in expected if each.title in some[:2]])
    assert [each.title for each in one] == histories[2][:1]


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([["no such title, or any like it"]], "there are 2 histories and 1 lists of candidates"),
        ([[], ["x"]], "history 1: there are no candidates"),
    ],
)
def test_candidates_that_cannot_be_ranked(recommender, histories, candidates, message):
    with pytest.raises(RequestError, match=message):
        recommender.rank_many(histories[:2], candidates)
    with pytest.raises(RequestError, match="a candidate is there twice"):
        recommender.rank(histories[0], histories[1] * 2)


def test_unknown_items_are_an_error_or_skipped_with_a_note(recommender, histories, notes):
    unknown = [histories[1], [*histories[0], "Completely Unknown Work of Art"]]
    with pytest.raises(RequestError, match=r"history 2: title 'Completely Unknown Work of Art' is not in"):
        recommender.recommend_many(unknown, 3)
    notes.notes.clear()
    _, second = recommender.recommend_many(unknown, 3, on_unknown="skip")
    assert notes.notes == ["skipped 1 items of histories that are not in the catalogue"]
    assert_alike(second, recommender.recommend(histories[0], 3))
    with pytest.raises(RequestError, match="no item of the history is in the catalogue"):
        recommender.recommend(["Completely Unknown Work of Art"], on_unknown="skip")
    with pytest.raises(RequestError, match="a history is a list of titles, and 'Alien' is one title"):
        recommender.recommend_many(["Alien"])


def test_users_of_the_log(recommender, described):
    assert recommender.history("ann") == [described.titles[3], described.titles[1]]
    assert recommender.history("ann", by="id") == [described.ids[3], described.ids[1]]
    with pytest.raises(RequestError, match="user 'anne' is not in the run's log; did you mean 'ann'"):
        recommender.history("anne")


def test_full_histories_have_the_held_out_items(catalogue):
    train = Sequences(np.array([1, 2, 5, 8, 9], dtype=np.int32), np.array([0, 2, 3, 5, 5]))
    whole = Sequences(np.array([1, 2, 3, 4, 5, 6, 8, 9], dtype=np.int32), np.array([0, 4, 6, 8, 8]))

    def at(users, positions):
        return Examples.of(whole, np.array(users, dtype=np.int32), np.array(positions, dtype=np.int32))

    seen = SeenItems.of(whole, len(catalogue))
    split = Split(("a", "b", "c", "d"), catalogue, train, at([0, 1], [2, 1]), at([0], [3]), seen)
    found = {user: items.tolist() for user, items in full_histories(split).items()}
    # The user d has nothing.
    assert found == {"a": [1, 2, 3, 4], "b": [5, 6], "c": [8, 9]}


def test_an_explanation_leaves_out_each_item_in_turn(recommender, described, histories):
    found = recommender.recommend(histories[0], 3)
    explained = explain(recommender, histories[0], found)
    assert [each.recommendation for each in explained] == found
    counts = described.popularity
    for each in explained:
        item = described.ids.index(each.recommendation.item)
        assert each.popularity_rank == 1 + int((counts > counts[item]).sum())
        assert sorted(influence.position for influence in each.influences) == [1, 2, 3]
        sizes = [abs(influence.change) for influence in each.influences]
        assert sizes == sorted(sizes, reverse=True)
        for influence in each.influences:
            assert influence.title == histories[0][influence.position - 1]
            without = [title for title in histories[0] if title != influence.title]
            (alone,) = recommender.rank(without, [each.recommendation.title])
            assert influence.change == pytest.approx(each.recommendation.score - alone.score, abs=1e-4)


def test_a_history_of_one_item_has_no_influences(recommender, histories):
    found = recommender.recommend(histories[1], 2)
    assert [each.influences for each in explain(recommender, histories[1], found)] == [(), ()]
    assert explain(recommender, histories[1], []) == []


def test_ids_may_be_numbers(tiny_model: Any, tiny_tokenizer: Any, described: Catalogue, notes: Notes) -> None:
    numbered = replace(described, ids=tuple(str(item) for item in range(len(described))))
    template = prompt_template({}, tiny_tokenizer, numbered, 8)
    users = {"7": np.array([3, 1], dtype=np.int32)}
    model = Recommender(TitleModel(tiny_model, template, notes, 0), numbered, users=lambda: users)
    assert model.history(7, by="id") == ["3", "1"]
    assert model.recommend([3, 1], 2, by="id") == model.recommend(["3", "1"], 2, by="id")
    assert model.rank(np.array([3, 1]), np.array([5, 2]), by="id") == model.rank(["3", "1"], ["5", "2"], by="id")
