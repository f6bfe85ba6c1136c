"""Every first-party metric on a world small enough to work out by hand, and ranking metrics against ir-measures."""

from __future__ import annotations

import math
from dataclasses import replace

import ir_measures
import numpy as np
import polars as pl
import pytest
from ir_measures import RR, Qrel, R, ScoredDoc, Success, nDCG
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from rosepo_core.contracts.outcome import Outcome
from rosepo_core.contracts.records import Catalogue, Examples, SeenItems, Sequences
from rosepo_core.plugins.registry import load_plugins

NAN = float("nan")
NEVER = -np.inf

# Items a to f; ann chose a, b, c and then d; bob chose b, e and then f; cat chose c and then a.
GENRES = [["Comedy"], ["Drama"], [], ["Comedy", "Drama"], ["War"], ["Drama"]]
CATALOGUE = Catalogue(
    tuple("abcdef"),
    tuple(f"Title {name}" for name in "abcdef"),
    np.array([4, 3, 0, 1, 2, 9], dtype=np.int64),
    pl.DataFrame({"genres": GENRES}),
)
SEQUENCES = Sequences(np.array([0, 1, 2, 3, 1, 4, 5, 2, 0], dtype=np.int32), np.array([0, 4, 7, 9]))
EXAMPLES = Examples.of(SEQUENCES, np.arange(3, dtype=np.int32), np.array([3, 2, 1], dtype=np.int32))
SEEN = SeenItems.of(SEQUENCES, 6)


def listed(top, **more):
    return Outcome.of_lists(EXAMPLES, CATALOGUE, SEEN, (1, 2, 3), np.array(top, dtype=np.int32), **more)


def scored(items, scores, column, **more):
    items, scores = np.array(items, dtype=np.int32), np.array(scores, dtype=np.float32)
    return Outcome.of_scores(EXAMPLES, CATALOGUE, SEEN, (1, 2, 3), items, scores, np.array(column), **more)


def measured(name, outcome, **options):
    found = load_plugins().create("metric", f"rosepo/{name}", options).measure(outcome)
    return {key: value.tolist() if np.ndim(value) else value for key, value in found.items()}


def close(value):
    return pytest.approx(value, nan_ok=True, abs=1e-7)


# Ranks 1, 2 and, of four, the last one.
THREE = scored(
    [[3, 4, 5, 0], [0, 5, 2, 3], [0, 1, 3, 5]], [[9, 1, 2, 3], [9, 8, 2, 3], [0, 1, 2, 3]], column=[0, 1, 0]
)
# The same targets; ann's is tied with two others below one.
TIED = scored(
    [[3, 4, 5, 0], [0, 5, 2, 3], [0, 1, 3, 5]], [[1, 1, 1, 2], [9, 8, 2, 3], [0, 1, 2, 3]], column=[0, 1, 0]
)
# Lists: ann's target is second, bob's does not come, cat got nothing.
LISTS = listed([[4, 3, 4], [1, 0, -1], [-1, -1, -1]])


def test_hr():
    assert measured("hr", THREE) == {"@1": [1, 0, 0], "@2": [1, 1, 0], "@3": [1, 1, 0]}
    assert measured("hr", THREE, ks=(4,)) == {"@4": [1, 1, 1]}
    # Ann's target stands at 2, 3 or 4.
    assert {key: value[0] for key, value in measured("hr", TIED).items()} == close(
        {"@1": 0, "@2": 1 / 3, "@3": 2 / 3}
    )
    assert measured("hr", LISTS) == {"@1": [0, 0, 0], "@2": [1, 0, 0], "@3": [1, 0, 0]}


def test_ndcg():
    # 1 / log2(3) = 0.6309298, 1 / log2(5) = 0.4306766; NDCG@1 would be HR@1.
    found = measured("ndcg", THREE, ks=(1, 3, 4))
    assert found == {"@3": close([1, 0.6309298, 0]), "@4": close([1, 0.6309298, 0.4306766])}
    assert measured("ndcg", TIED)["@3"][0] == close((0.6309298 + 0.5) / 3)
    assert measured("ndcg", LISTS)["@2"] == close([0.6309298, 0, 0])


def test_mrr():
    assert measured("mrr", THREE) == {"": close([1, 1 / 2, 1 / 4])}
    assert measured("mrr", TIED)[""][0] == close((1 / 2 + 1 / 3 + 1 / 4) / 3)
    # Nothing is known behind the end of a list of three; of a list of one it could only repeat HR@1.
    assert measured("mrr", LISTS) == {"@3": [0.5, 0, 0]}
    assert measured("mrr", listed([[3], [0], [1]])) == {}


def test_a_constant_model_is_exactly_as_good_as_chance():
    constant = scored(THREE.items, np.zeros((3, 4)), column=[0, 1, 0])
    assert measured("hr", constant)["@3"] == close([3 / 4] * 3)
    assert measured("mrr", constant)[""] == close([(1 + 1 / 2 + 1 / 3 + 1 / 4) / 4] * 3)
    assert measured("auc", constant) == {"": [0.5] * 3}
    assert measured("popularity-confusion", constant)[""] == close([0.5, NAN, 0.5])


def test_several_held_out_items():
    # Two held out for ann, at ranks 1 and 3 of 4; bob's one at 2; cat's two at 3 and 4.
    several = scored(THREE.items, THREE.scores, column=[[0, 2], [1, -1], [0, 1]])
    assert several.targets.tolist() == [[3, 5], [5, -1], [0, 1]]
    assert measured("recall", several) == {"@1": [0.5, 0, 0], "@2": [0.5, 1, 0], "@3": [1, 1, 0.5]}
    assert measured("hr", several)["@3"] == [1, 1, 1]
    assert measured("mrr", several)[""] == close([1, 1 / 2, 1 / 3])
    # DCG@3 of ann 1 + 1/2, of cat 1/2; the ideal of two is 1.6309298.
    assert measured("ndcg", several)["@3"] == close([1.5 / 1.6309298, 0.6309298, 0.5 / 1.6309298])
    # Ann's pairs: d beats a and e, f beats e alone. Cat's: both lose to d and f.
    assert measured("auc", several) == {"": close([3 / 4, 2 / 3, 0])}


def test_auc():
    assert measured("auc", THREE) == {"": close([1, 2 / 3, 0])}
    assert measured("auc", TIED)[""][0] == close(1 - (1 + 2 / 2) / 3)
    alone = scored([[3, -1], [5, 0], [0, 1]], [[1, NEVER], [1, 0], [1, 0]], column=[0, 0, 0])
    assert measured("auc", alone) == {"": close([NAN, 1, 1])}


def test_ranking_metrics_agree_with_ir_measures():
    rng = np.random.default_rng(7)
    users, width, held_out = 200, 20, 3
    sequences = Sequences(np.zeros(users, dtype=np.int32), np.arange(users + 1))
    examples = Examples.of(sequences, np.arange(users, dtype=np.int32), np.zeros(users, dtype=np.int32))
    scores = rng.normal(size=(users, width)).astype(np.float32)
    columns = np.stack([rng.permutation(width)[:held_out] for _ in range(users)])
    columns[::2, 1:] = -1
    columns[1::4, 2] = -1
    catalogue = Catalogue(("",) * width, ("",) * width, np.ones(width, dtype=np.int64), pl.DataFrame())
    items = np.tile(np.arange(width, dtype=np.int32), (users, 1))
    outcome = Outcome.of_scores(
        examples, catalogue, SeenItems.of(sequences, width), (1, 5, 10), items, scores, columns
    )
    ours = {}
    for metric, theirs in (("hr", "Success"), ("ndcg", "nDCG"), ("recall", "R"), ("mrr", "RR")):
        for cut_off, value in measured(metric, outcome).items():
            ours[theirs + cut_off] = value
    ours["nDCG@1"] = ours.pop("nDCG@1", ours["Success@1"])

    qrels = [Qrel(f"u{row}", f"i{item}", 1) for row in range(users) for item in columns[row] if item >= 0]
    run = [ScoredDoc(f"u{row}", f"i{column}", float(scores[row, column])) for row, column in np.ndindex(users, width)]
    measures = [RR, *(measure @ k for measure in (Success, nDCG, R) for k in (1, 5, 10))]
    expected = {str(measure): np.full(users, NAN) for measure in measures}
    for result in ir_measures.iter_calc(measures, qrels, run):
        expected[str(result.measure)][int(result.query_id[1:])] = result.value
    assert expected.keys() == ours.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-6, err_msg=name)
    relevant = np.zeros((users, width), dtype=bool)
    for row, column in np.argwhere(columns >= 0):
        relevant[row, columns[row, column]] = True
    aucs = [roc_auc_score(relevant[row], scores[row]) for row in range(users)]
    np.testing.assert_allclose(measured("auc", outcome)[""], aucs)


# Cosines with d: a 0.8, e 0.6, c 0.6, f 0, b -1. With f: b 0, e 0.8, a 0.6. With a: b -0.8, d 0.8, e 0.96, f 0.6.
EMBEDDINGS = np.array([[0.8, 0.6], [-1, 0], [0.6, -0.8], [1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)


def test_semantic_hallucination():
    def share(outcome, neighbours):
        return measured("semantic-hallucination", outcome, neighbours=neighbours)[""]

    items = [[3, 4, 5], [5, 0, 2], [0, 4, 3]]
    scores = [[1, 2, 0], [1, 0, 2], [1, 1, 1]]
    outcome = scored(items, scores, column=[0, 0, 0], title_embeddings=lambda: EMBEDDINGS)
    # Ann has seen a and c, so d's nearest is e, which outranks it. Bob has seen e: f's nearest is a, which does not.
    # Cat has seen c: a's nearest is e, tied with it.
    assert share(outcome, 1) == close([1, 0, 0.5])
    # Second nearest: f does not outrank d; d is not among bob's candidates; d is tied as well.
    assert share(outcome, 2) == close([1, 0, 2 / 3])
    far = scored([[3, 5], [5, 2], [0, 1]], np.ones((3, 2)), column=[0, 0, 0], title_embeddings=lambda: EMBEDDINGS)
    assert share(far, 1) == close([NAN, NAN, NAN])


def test_semantic_hallucination_in_lists_and_of_twins():
    def share(top, embeddings=EMBEDDINGS):
        outcome = listed(top, title_embeddings=lambda: embeddings)
        return measured("semantic-hallucination", outcome, neighbours=1)[""]

    # The neighbours are e, a and e: before the target; after it; without it.
    assert share([[4, 3, 5], [5, 0, 1], [4, 1, 2]]) == [1, 0, 1]
    # Without a neighbour; and without any item, which is the worst.
    assert share([[5, 3, 1], [1, 2, 3], [-1, -1, -1]]) == [0, 0, 1]
    # e has the very title of d: no neighbour; f is.
    twins = EMBEDDINGS.copy()
    twins[4] = twins[3]
    assert share([[4, 3, 5], [5, 0, 1], [4, 1, 2]], twins)[0] == 0
    assert share([[5, 3, 4], [5, 0, 1], [4, 1, 2]], twins)[0] == 1


def test_out_of_catalogue():
    answered = np.array([[True, True, True], [True, True, False], [False, False, False]])
    outcome = listed([[4, -1, -1], [1, 0, -1], [-1, -1, -1]], answered=answered)
    assert measured("out-of-catalogue", outcome) == {
        "@1": [0, 0, 1],
        "@2": [1 / 2, 0, 1],
        "@3": close([2 / 3, 0, 1]),
    }


def test_valid_ratio():
    # Ann answers an item and two that are none, bob two items, cat nothing.
    answered = np.array([[True, True, True], [True, True, False], [False, False, False]])
    outcome = listed([[4, -1, -1], [1, 0, -1], [-1, -1, -1]], answered=answered)
    assert measured("valid-ratio", outcome) == {
        "@1": [1, 1, 0],
        "@2": [1 / 2, 1, 0],
        "@3": close([1 / 3, 1, 0]),
    }


def test_hr_of_valid_answers():
    # Ann answers no item, then her target d; bob an item that is not his target; cat no item.
    answered = np.ones((3, 2), dtype=bool)
    outcome = listed([[-1, 3], [1, 0], [-1, -1]], answered=answered)
    assert measured("hr-valid", outcome, ks=(1, 2)) == {"@1": close([NAN, 0, NAN]), "@2": close([1, 0, NAN])}
    assert measured("hr", outcome, ks=(1, 2)) == {"@1": [0, 0, 0], "@2": [1, 0, 0]}


def test_repeated():
    outcome = listed([[4, 3, 4], [1, 1, 1], [-1, -1, 2]])
    assert measured("repeated", outcome) == {"@2": [0, 1 / 2, 1], "@3": close([1 / 3, 2 / 3, 0])}


def test_already_seen():
    # Ann had a, b and c; bob b and e; cat c. Their targets were still ahead.
    outcome = listed([[0, 3, 2], [5, 4, -1], [1, -1, -1]])
    assert measured("already-seen", outcome)["@3"] == close([2 / 3, 1 / 2, 0])
    assert measured("already-seen", LISTS)["@1"] == [0, 1, 1]


def test_arp():
    assert measured("arp", LISTS) == {
        "@1": close([2, 3, NAN]),
        "@2": close([1.5, 3.5, NAN]),
        "@3": close([5 / 3, 3.5, NAN]),
    }


def test_popularity_lift():
    # Histories have (4 + 3 + 0) / 3, (3 + 2) / 2 and, cat's, 0.
    outcome = listed([[5, 3, 4], [1, 0, -1], [0, 1, 2]])
    assert measured("popularity-lift", outcome)["@1"] == close([9 / (7 / 3) - 1, 3 / 2.5 - 1, NAN])
    assert measured("popularity-lift", outcome)["@2"] == close([5 / (7 / 3) - 1, 3.5 / 2.5 - 1, NAN])


def test_aplt():
    # The head of six items is the two most popular ones, a and f.
    outcome = listed([[0, 3, 5], [5, 0, -1], [-1, -1, -1]])
    assert measured("aplt", outcome) == {
        "@1": close([0, 0, NAN]),
        "@2": close([1 / 2, 0, NAN]),
        "@3": close([1 / 3, 0, NAN]),
    }
    assert measured("aplt", outcome, head=0.1)["@2"] == close([1, 1 / 2, NAN])


def test_popularity_confusion():
    # All three others are more popular than d, and none outranks it; f is the most popular; b and d are less popular
    # than a, which loses to f.
    assert measured("popularity-confusion", THREE) == {"": close([0, NAN, 1])}
    # Ann's d is tied with e and f and loses to a.
    assert measured("popularity-confusion", TIED)[""][0] == close((1 + 0.5 + 0.5) / 3)
    by_popularity = scored(THREE.items, CATALOGUE.popularity[THREE.items], column=[0, 1, 0])
    assert measured("popularity-confusion", by_popularity) == {"": close([1, NAN, 1])}


def test_popularity_correlation():
    log_popularity = np.log1p(CATALOGUE.popularity)[THREE.items]
    expected = [pearsonr(THREE.scores[row], log_popularity[row]).statistic for row in range(3)]
    assert measured("popularity-correlation", THREE) == {"": close(expected)}
    steps = scored([[0, 1, 2], [0, 1, 2], [0, 1, 2]], [[1, 2, NEVER], [1, 1, 1], [-4, -3, 0]], column=[0, 0, 0])
    # Two scores; the same score; log 5, log 4, 0 against -4, -3, 0.
    logs, scores = np.array([math.log(5), math.log(4), 0]), np.array([-4, -3, 0])
    assert measured("popularity-correlation", steps)[""] == close([NAN, NAN, np.corrcoef(logs, scores)[0, 1]])
    exact = scored(THREE.items, -3 * log_popularity, column=[0, 1, 0])
    assert measured("popularity-correlation", exact) == {"": pytest.approx([-1] * 3)}


# a twice, d twice, e once; c, b and f never.
SHARED = listed([[0, 3, -1], [0, 3, 4], [-1, -1, -1]])


def test_coverage():
    assert measured("coverage", SHARED) == {"@1": close(1 / 6), "@2": close(2 / 6), "@3": close(3 / 6)}


def test_gini():
    # Counts 0 0 0 1 2 2 of six items, weights -5 -3 -1 1 3 5.
    assert measured("gini", SHARED)["@3"] == close((1 + 6 + 10) / (6 * 5))
    counts = np.array([2, 0, 0, 2, 1, 0])
    assert measured("gini", SHARED)["@3"] == close(np.abs(counts[:, None] - counts).mean() / (2 * counts.mean()))
    assert measured("gini", SHARED)["@1"] == close(5 / 6)
    assert measured("gini", listed(np.arange(6).reshape(3, 2)), ks=(2,)) == {"@2": 0}


def test_or_ratio():
    assert measured("or-ratio", SHARED) == {"@1": 1, "@2": 1, "@3": 1}
    assert measured("or-ratio", SHARED, items=2)["@3"] == close(4 / 5)
    assert measured("or-ratio", listed(np.arange(6).reshape(3, 2)), ks=(2,)) == {"@2": 0.5}


def test_div_ratio():
    assert measured("div-ratio", SHARED) == {"@1": close(1 / 2), "@2": close(2 / 4), "@3": close(3 / 5)}


def test_nothing_recommended_to_anyone():
    nothing = listed(np.full((3, 2), -1))
    for name in ("gini", "or-ratio", "div-ratio", "mgu", "dgu"):
        assert measured(name, nothing, ks=(1,)) == {"@1": close(NAN)}, name
    assert measured("coverage", nothing, ks=(1,)) == {"@1": 0}


def test_mgu_and_dgu():
    # Histories: a, b, c; b, e; c: Comedy 1, Drama 2, War 1 of 4. c has no genre.
    # First two: a, d, a, d: Comedy 2 + 2/2 = 3, Drama 2/2 = 1, War 0 of 4.
    # So GU is 3/4 - 1/4, 1/4 - 1/2, 0 - 1/4.
    assert measured("mgu", SHARED)["@2"] == close((1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert measured("dgu", SHARED)["@2"] == close(1 / 2 + 1 / 4)
    same = listed([[0, 1, 1], [4, -1, -1], [2, -1, -1]])
    assert measured("mgu", same)["@3"] == close(0)
    assert measured("dgu", same)["@3"] == close(0)


def test_intra_list_distance():
    # a and d share one of two genres, a and e none, d and e none; c has none and is left out.
    outcome = listed([[0, 3, 4], [0, 2, 3], [2, 0, -1]])
    assert measured("intra-list-distance", outcome) == {
        "@2": close([1 / 2, NAN, NAN]),
        "@3": close([(1 / 2 + 1 + 1) / 3, 1 / 2, NAN]),
    }


def test_genres_may_be_text_with_bars_between():
    text = pl.DataFrame({"genres": ["Comedy", "Drama", None, "Comedy|Drama", "War", "Drama"]})
    catalogue = Catalogue(CATALOGUE.ids, CATALOGUE.titles, CATALOGUE.popularity, text)
    assert (replace(SHARED, catalogue=catalogue).genres == SHARED.genres).all()
    assert SHARED.genres.sum(axis=1).tolist() == [1, 1, 0, 2, 1, 1]


@pytest.mark.parametrize("genres", [None, [1, 2, 3, 4, 5, 6], [[], [], [], [], [], []], ["", "", "", "", "", ""]])
def test_genres_are_lists_of_text_in_a_column_of_that_name(genres):
    columns = {} if genres is None else {"genres": genres}
    catalogue = Catalogue(CATALOGUE.ids, CATALOGUE.titles, CATALOGUE.popularity, pl.DataFrame(columns))
    outcome = Outcome.of_lists(EXAMPLES, catalogue, SEEN, (1,), np.zeros((3, 1), dtype=np.int32))
    assert outcome.genres is None
    assert not outcome.offers("genres")
