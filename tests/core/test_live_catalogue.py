"""A catalogue that changes without training: what a changed recommender gives is what one built from scratch with the
changed catalogue gives."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from rosepo_core.contracts.components import Component
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.engine.title_trie import TitleTrie, title_trie
from rosepo_core.evaluation.decision_rules import DecisionRule
from rosepo_core.evaluation.pools import PoolSources
from rosepo_core.serving.filters import Filter
from rosepo_core.serving.places import places_of
from rosepo_core.serving.ranker import Ranker, oracle_scores
from rosepo_core.serving.recommender import Recommender
from rosepo_core.stages.prior import no_history
from rosepo_core.testing import SilentReporter, prompt_template

NEW = "Harvest Moon Over Trieste (2026)"


@pytest.fixture(scope="module")
def described(catalogue: Catalogue) -> Catalogue:
    genres = ["Comedy|Drama" if item % 3 == 0 else "Drama" for item in range(len(catalogue))]
    return replace(catalogue, attributes=pl.DataFrame({"genres": genres, "year": [1990] * len(catalogue)}))


def built(tiny_model: Any, tiny_tokenizer: Any, catalogue: Catalogue, options: dict[str, Any]) -> Recommender:
    template = prompt_template(options, tiny_tokenizer, catalogue, 8)
    return Recommender(TitleModel(tiny_model, template, SilentReporter(), 0), catalogue)


@pytest.fixture(scope="module", params=[{}, {"name": "chat", "attributes": "genres"}], ids=["timeline", "chat"])
def options(request: Any) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture(scope="module")
def trained(tiny_model: Any, tiny_tokenizer: Any, described: Catalogue, options: dict[str, Any]) -> Recommender:
    return built(tiny_model, tiny_tokenizer, described, options)


def items(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame(columns)


def everything(recommender: Recommender, history: list[str]) -> list[tuple[str, str, float]]:
    found = recommender.recommend(history, len(recommender.catalogue), by="id")
    return sorted((each.item, each.title, pytest.approx(each.score, abs=1e-4)) for each in found)


STEPS = (
    items(item=["n1", "n2"], title=[NEW, "The Light"], genres=["Comedy", None]),
    items(item=["i7", "i12"], retired=[True, True]),
    items(item=["i3", "n2"], title=["Harvest Moon II (1996)", "The Lighthouse Keeper II (2026)"]),
    items(item=["i12"], retired=["no"]),
)


def changed(catalogue: Catalogue) -> Catalogue:
    """The catalogue after all steps, written down by hand."""
    titles = [*catalogue.titles, NEW, "The Lighthouse Keeper II (2026)"]
    titles[3] = "Harvest Moon II (1996)"
    return Catalogue(
        ids=(*catalogue.ids, "n1", "n2"),
        titles=tuple(titles),
        popularity=np.append(catalogue.popularity, [0, 0]),
        attributes=pl.DataFrame(
            {"genres": [*catalogue.attributes["genres"], "Comedy", None], "year": [1990] * 40 + [None] * 2}
        ),
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 3, 0, 2), (1, 0, 3, 2)])
def test_a_changed_recommender_is_one_built_from_scratch(
    trained, tiny_model, tiny_tokenizer, described, options, order
):
    found = trained
    for step in order:
        found = found.with_items(STEPS[step])
    catalogue = changed(described)
    assert (found.catalogue.ids, found.titles) == (catalogue.ids, catalogue.titles)
    assert found.catalogue.popularity.tolist() == catalogue.popularity.tolist()
    assert found.catalogue.attributes.equals(catalogue.attributes)
    scratch = built(tiny_model, tiny_tokenizer, catalogue, options)
    assert_same_trie(title_trie(found.language_model.template), title_trie(scratch.language_model.template))
    # A retired item and a new one may be in a history.
    for history in (["i0", "i7", "n1", "i3"], ["n2"]):
        expected = [each for each in everything(scratch, history) if each[0] != "i7"]
        assert everything(found, history) == expected
        best = found.recommend(history, 3, by="id")
        of_all = [each for each in scratch.recommend(history, 4, by="id") if each.item != "i7"]
        assert [each.item for each in best] == [each.item for each in of_all[:3]]
        comedies = Filter(having={"genres": {"Comedy"}})
        assert [each.item for each in found.recommend(history, 50, filter=comedies, by="id")] == [
            each.item for each in scratch.recommend(history, 50, filter=comedies, by="id") if each.item != "i7"
        ]


def assert_same_trie(one: TitleTrie, other: TitleTrie) -> None:
    for name in vars(other):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_titles_are_found_by_their_new_names(trained):
    found = trained.with_items(STEPS[0]).with_items(STEPS[2])
    assert found.ids_of([NEW.lower(), "harvest moon ii"]) == ["n1", "i3"]
    with pytest.raises(RequestError, match=r"title 'Harvest Moon \(1996\)' is not in the run's catalogue"):
        found.ids_of(["Harvest Moon (1996)"])
    assert trained.ids_of(["Harvest Moon (1996)"]) == ["i3"]
    again = found.with_items(items(id=["i3"], title=["Harvest Moon (1996)"]))
    assert again.ids_of(["Harvest Moon (1996)"]) == ["i3"]
    assert again.language_model.template.texts[:40] == trained.language_model.template.texts


def test_what_has_no_interactions_is_marked(trained):
    found = trained.with_items(STEPS[0]).rank(["i0"], ["n1", "i1"], by="id")
    assert {each.item: each.new for each in found} == {"n1": True, "i1": False}


def test_retired_items(trained):
    found = trained.with_items(items(item=["i1", "i2"], retired=["true", "1"]))
    assert repr(found) == "<Recommender : 38 items by likelihood>"
    with pytest.raises(RequestError, match="candidate 'i1' is retired and never recommended; leave it out"):
        found.rank(["i0"], ["i1", "i3"], by="id")
    with pytest.raises(RequestError, match="all items that pass the filter are retired"):
        found.recommend(["i0"], filter=Filter(allow=["i1", "i2"]), by="id")


def test_a_table_of_all_items_retires_the_others(trained):
    found = trained.with_items(items(item=["i5"], retired=[True]))
    found = found.with_items(items(item=["i4", "i5", "n1"], title=[None, None, NEW]), whole=True)
    assert {each.item for each in found.recommend(["i0"], 50, by="id")} == {"i4", "i5", "n1"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"title": [NEW]}, "the items .* has the columns title: name the one with ids 'item'"),
        ({"item": ["n1"]}, "row 0: item 'n1' is not in the catalogue and has no title; give it one, or mend its id"),
        ({"item": ["n1", "n1"], "title": ["A", "B"]}, "rows 0 and 1: item 'n1' is there twice"),
        ({"item": [None], "title": ["A"]}, "row 0: the item has no id"),
        (
            {"item": ["n1", "n2"], "title": ["One", "ONE "]},
            "rows 0 and 1: both items have the title 'ONE'; give each its own",
        ),
        (
            {"item": ["n0", "n1"], "title": ["One", "quiet  rivers"]},
            "row 1: the title 'quiet  rivers' is that of item 'i6'; give item 'n1' a title of its own",
        ),
        ({"item": ["i0"], "retired": ["perhaps"]}, "row 0: retired 'perhaps' is not true or false"),
        ({"item": ["i0"], "genre": ["Comedy"]}, "no attribute 'genre'; did you mean 'genres'.*genres, year: rename"),
        ({"item": ["i0"], "year": ["soon"]}, "row 0: year 'soon' is not Int64; mend it or leave it empty"),
        (
            {"item": ["n1"], "title": ["long " * 1100]},
            "row 0: the title of item 'n1' has .* tokens, and",
        ),
    ],
)
def test_rows_that_cannot_be_used(trained, rows, message):
    with pytest.raises(RequestError, match=message):
        trained.with_items(items(**rows))
    assert len(trained.catalogue) == 40


@pytest.mark.parametrize("score", ["mean", "prior-corrected"])
def test_other_scores_need_the_title_alone(trained, tiny_model, tiny_tokenizer, described, options, score):
    def ranked(recommender: Recommender, catalogue: Catalogue) -> Recommender:
        model = recommender.language_model
        priors = model.log_probs(no_history(), np.arange(len(catalogue), dtype=np.int32)[None])[0]
        rule = DecisionRule("aligned", score, catalogue.popularity, model.title_lengths, priors)
        ranker = Ranker(rule, PoolSources(catalogue.popularity), 50, 10, 8, None, {}, known=40)
        return Recommender(model, catalogue, ranker)

    scratch = ranked(built(tiny_model, tiny_tokenizer, changed(described), options), changed(described))
    found = ranked(trained, described)
    for step in STEPS:
        found = found.with_items(step)
    for history in (["i0", "i7", "n1"], ["n2"]):
        assert everything(found, history) == [each for each in everything(scratch, history) if each[0] != "i7"]


class Counts(Component):
    """An oracle that scores each item by its number, plus 10 for each item of the history."""

    ranks = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []

    def score(self, places: Any, items: Any) -> Any:
        assert items.max(initial=0) < 4
        self.asked += places.histories(3).tolist()
        return items.astype(np.float32) + 10 * places.position[:, None]


def test_an_oracle_is_not_asked_about_new_items():
    """Items 0 to 3 are known. The histories keep one item, two and none."""
    oracle: Any = Counts()
    histories = [np.array(items, np.int32) for items in ([4, 1], [2, 0], [5])]
    items = np.array([[3, 4, 2], [0, 1, -1], [4, 1, 2]], dtype=np.int32)
    scores = oracle_scores(oracle, places_of(histories), items, 4)
    assert scores is not None
    assert scores.tolist() == [[13, 12, 12], [20, 21, -np.inf], [0, 0, 0]]
    assert oracle.asked == [[-1, -1, 1], [-1, 2, 0]]
    scores = oracle_scores(oracle, places_of(histories[2:]), items[2:], 4)
    assert scores is not None
    assert scores.tolist() == [[0, 0, 0]]


def test_nothing_may_be_left(trained):
    with pytest.raises(RequestError, match="all items would be retired"):
        trained.with_items(items(item=trained.catalogue.ids, retired=[True] * 40))


def test_two_titles_can_change_places(trained):
    found = trained.with_items(
        items(item=["i0", "i1"], title=["The Lighthouse (1995)", "The Lighthouse Keeper (1995)"])
    )
    assert found.titles[:2] == ("The Lighthouse (1995)", "The Lighthouse Keeper (1995)")
    assert found.ids_of(["The Lighthouse (1995)"]) == ["i0"]


def test_short_and_cut_titles_stay_different(tiny_model, tiny_tokenizer, described):
    """Items that the model knows keep their texts: 'Glass Mountain' of 1979 is what it has learned."""
    short = built(tiny_model, tiny_tokenizer, described, {"titles": "short"})
    both = items(item=["n1", "n2", "n3"], title=["Glass Mountain (2020)", "Rain (2001)", "Snow (2001)"])
    found = short.with_items(both).with_items(items(item=["n4"], title=["Snow (2002)"]))
    assert short.language_model.template.texts[7] == "Glass Mountain"
    texts = found.language_model.template.texts
    assert texts[:40] == short.language_model.template.texts
    assert texts[40:] == ("Glass Mountain (2020)", "Rain", "Snow (2001)", "Snow (2002)")
    with pytest.raises(
        RequestError,
        match=r"row 1: the title 'Glass Mountain' of item 'n6' is 'Glass Mountain' in the prompts, and so is 'Glass "
        r"Mountain \(1979\)' of item 'i7'; give it another one",
    ):
        short.with_items(items(item=["n5", "n6"], title=["Glass Hill", "Glass Mountain"]))
    cut = built(tiny_model, tiny_tokenizer, described, {"title_tokens": 3})
    known = cut.language_model.template.texts
    found = cut.with_items(items(item=["n1"], title=[f"{known[10]} and more (2020)"]))
    assert found.language_model.template.texts[:40] == known
    assert found.language_model.template.texts[40].startswith(known[10] + " ")


def test_requests_under_way_finish_on_the_old_catalogue(trained):
    """One thread asks while another changes the catalogue: each list is wholly of the old or of the new one."""
    holder = [trained]
    lists: list[set[str]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            lists.append({each.title for each in holder[0].recommend(["i0"], 50, by="id")})

    asker = threading.Thread(target=ask)
    asker.start()
    states = []
    for number in range(4):
        states.append({*holder[0].titles} - {"The Lighthouse Keeper (1995)"})
        renamed = items(item=["i1", "n1"], title=[f"The Lighthouse {number} (1995)", f"{number} {NEW}"])
        holder[0] = holder[0].with_items(renamed)
    states.append({*holder[0].titles} - {"The Lighthouse Keeper (1995)"})
    done.set()
    asker.join()
    assert lists
    assert all(each in states for each in lists)


def test_changes_hold_for_a_catalogue_that_was_trained_again(described):
    """Changes are by ids: an item that a later training knows is no longer new, and one that it lacks is gone."""
    changes = CatalogueInUse.of(described).updated(
        pl.DataFrame(
            {"item": ["n1", "i39"], "title": [NEW, None], "retired": [None, True], "genres": ["Comedy", None]}
        ).with_columns(year=pl.lit(None, pl.Int64))
    )
    assert (changes.items.ids[40:], changes.retitled, changes.retired.sum()) == (("n1",), (40,), 1)
    later = Catalogue(
        ids=(*described.ids[:39], "n1"),
        titles=(*described.titles[:39], NEW),
        popularity=described.popularity,
        attributes=described.attributes,
    )
    again = CatalogueInUse(later, changes.changes)
    assert (again.items.ids, again.items.titles, again.retitled) == (later.ids, later.titles, ())
    assert again.items.attributes["genres"][39] == "Comedy"
    assert not again.retired.any()
