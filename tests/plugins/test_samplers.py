"""The samplers: exact exclusion, exact distributions, and the order in which each prefers items."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rosepo_core.api import (
    Catalogue,
    Examples,
    Floats,
    LanguageModel,
    RejectedSampler,
    RequestError,
    SamplerContext,
    SeenItems,
    Sequences,
)
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import FakeLanguageModel, SamplerContract, SilentReporter

NAMES = (
    *("uniform", "popularity-aware", "semantic-similar", "self-hard", "oracle-hard", "in-batch", "cluster-exposure"),
    *("disliked", "in-candidates"),
)


def make(name: str, **options: Any) -> RejectedSampler:
    sampler: RejectedSampler = load_plugins().create("sampler", name, options)
    return sampler


def log_of(*users: Seq[int]) -> Sequences:
    lengths = [len(user) for user in users]
    items = np.array([item for user in users for item in user], dtype=np.int32)
    return Sequences(items, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def last_items(sequences: Sequences) -> Examples:
    users = np.arange(len(sequences), dtype=np.int32)
    return Examples.of(sequences, users, (sequences.lengths - 1).astype(np.int32))


def world(
    sequences: Sequences,
    titles: Seq[str] | int,
    *,
    popularity: Seq[int] | None = None,
    embeddings: Any = None,
    language_model: LanguageModel | None = None,
    oracle_scores: Any = None,
    seed: int = 0,
) -> SamplerContext:
    names = tuple(f"Film {item}" for item in range(titles)) if isinstance(titles, int) else tuple(titles)
    counted = np.bincount(sequences.items, minlength=len(names)) if popularity is None else np.array(popularity)
    unit: Floats | None = None
    if embeddings is not None:
        rows = np.array(embeddings, dtype=np.float32)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return SamplerContext(
        catalogue=Catalogue(names, names, counted.astype(np.int64), pl.DataFrame()),
        seen=SeenItems.of(sequences, len(names)),
        rng=np.random.default_rng(seed),
        reporter=SilentReporter(),
        language_model=language_model,
        oracle_scores=oracle_scores,
        title_embeddings=None if unit is None else lambda: unit,
    )


def on_circle(*degrees: float) -> Floats:
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], dtype=np.float32)


class TestSelfHardPoolContract(SamplerContract):
    name = "self-hard"

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"mode": "pool", "temperature": 0.5}


@st.composite
def small_worlds(draw: Any) -> tuple[int, list[list[int]], list[int], int]:
    """Items in the catalogue, each user's items, title of each item (twins are likely), items wanted."""
    items = draw(st.integers(1, 9))
    users = draw(st.lists(st.permutations(range(items)).map(list), min_size=1, max_size=4))
    users = [user[: draw(st.integers(1, items))] for user in users]
    return items, users, draw(st.lists(st.integers(0, 7), min_size=items, max_size=items)), draw(st.integers(1, 6))


@pytest.mark.parametrize("allow_seen", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("uniform", {}),
        ("popularity-aware", {"power": 1.0}),
        ("popularity-aware", {"power": 0.0}),
        ("semantic-similar", {"pool": 2}),
        ("semantic-similar", {"pool": 2, "to": "history"}),
        ("self-hard", {"mode": "generate"}),
        ("self-hard", {"mode": "pool", "pool": 3}),
        ("oracle-hard", {"pool": 2}),
    ],
)
@settings(max_examples=40, deadline=None)
@given(drawn=small_worlds())
def test_rows_are_as_full_as_the_eligible_items_allow(
    name: str, options: dict[str, Any], allow_seen: bool, drawn: tuple[int, list[list[int]], list[int], int]
) -> None:
    """For every user, however much of the catalogue is seen: only eligible items, each once, and -1 only when no
    eligible item is left. Items that share the target's title are not eligible."""
    items, users, titles, k = drawn
    sequences = log_of(*users)
    examples = last_items(sequences)
    context = world(
        sequences,
        [f"Film {title}" for title in titles],
        embeddings=on_circle(*(37 * item for item in range(items))),
        language_model=FakeLanguageModel(items),
        oracle_scores=FakeLanguageModel(items).score,
    )

    rejected = make(name, allow_seen=allow_seen, **options).sample(examples, k, context)

    assert rejected.shape == (len(users), k)
    assert rejected.dtype == np.int32
    for row, user in zip(rejected.tolist(), users, strict=True):
        eligible = {item for item in range(items) if titles[item] != titles[user[-1]]}
        if not allow_seen:
            eligible -= set(user)
        count = min(k, len(eligible))
        assert len(set(row[:count])) == count
        assert set(row[:count]) <= eligible
        assert row[count:] == [-1] * (k - count)


def frequencies(name: str, user: Seq[int], titles: int, k: int, rows: int = 20_000, **more: Any) -> Any:
    """How often each ordered row comes out over `rows` examples of one and the same user."""
    sequences = log_of(user)
    example = last_items(sequences).take(np.zeros(rows, dtype=np.int64))
    popularity = more.pop("popularity", None)
    embeddings, oracle_scores = more.pop("embeddings", None), more.pop("oracle_scores", None)
    context = world(sequences, titles, popularity=popularity, embeddings=embeddings, oracle_scores=oracle_scores)
    rejected = make(name, **more).sample(example, k, context)
    found, counts = np.unique(rejected, axis=0, return_counts=True)
    return {tuple(row): int(count) for row, count in zip(found.tolist(), counts, strict=True)}


def assert_distributed(counts: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float]) -> None:
    assert set(counts) == set(expected)
    total = sum(counts.values())
    observed = [counts[row] for row in expected]
    assert stats.chisquare(observed, [total * p for p in expected.values()]).pvalue > 1e-3


def test_uniform_draws_every_ordered_pair_alike() -> None:
    """Items 1, 3, 4, 5 are left of six: 4 * 3 = 12 ordered pairs."""
    counts = frequencies("uniform", [2, 0], 6, 2)

    left = [1, 3, 4, 5]
    assert_distributed(counts, {(a, b): 1 / 12 for a in left for b in left if a != b})


def test_uniform_is_exact_where_rejection_gives_up() -> None:
    """Of 2,000 items all but three are seen: almost every row ends in the draw over the whole catalogue."""
    user = [item for item in range(2000) if item not in (7, 1000, 1999)]
    counts = frequencies("uniform", user, 2000, 2, rows=3000)

    left = [7, 1000, 1999]
    assert_distributed(counts, {(a, b): 1 / 6 for a in left for b in left if a != b})


@pytest.mark.parametrize(
    ("power", "weights"),
    [(1.0, {1: 1.0, 2: 4.0, 3: 16.0}), (0.5, {1: 1.0, 2: 2.0, 3: 4.0}), (0.0, {1: 1, 2: 1, 3: 1})],
)
def test_popularity_aware_draws_in_proportion_without_replacement(power: float, weights: dict[int, float]) -> None:
    """P(a then b) = w_a / W * w_b / (W - w_a) over the eligible items; item 0 is seen, item 4 the target."""
    counts = frequencies("popularity-aware", [0, 4], 5, 2, popularity=[90, 1, 4, 16, 50], power=power)

    whole = sum(weights.values())
    assert_distributed(
        counts,
        {(a, b): weights[a] / whole * weights[b] / (whole - weights[a]) for a in weights for b in weights if a != b},
    )


def test_popularity_aware_keeps_its_proportions_where_rejection_gives_up() -> None:
    """The seen items hold all but a two-hundred-thousandth of the weight, so rows are drawn over the whole catalogue;
    items 5 and 6, of no popularity, must not slip in there."""
    counts = frequencies("popularity-aware", [0, 1], 7, 2, rows=5000, popularity=[10**6, 10**6, 2, 3, 5, 0, 0])

    weights = {2: 2, 3: 3, 4: 5}
    assert_distributed(
        counts, {(a, b): weights[a] / 10 * weights[b] / (10 - weights[a]) for a in weights for b in weights if a != b}
    )


def test_popularity_aware_takes_unpopular_items_last_and_uniformly() -> None:
    """Items 2 and 3 have popularity; 4 and 5, without any, fill the third place only, each half of the time."""
    counts = frequencies("popularity-aware", [0, 1], 6, 3, popularity=[1, 1, 1, 1, 0, 0])

    assert_distributed(counts, {(a, b, c): 1 / 4 for a, b in [(2, 3), (3, 2)] for c in [4, 5]})


def test_popularity_aware_without_any_popularity_is_uniform() -> None:
    counts = frequencies("popularity-aware", [0], 4, 1, popularity=[0, 0, 0, 0])

    assert_distributed(counts, {(1,): 1 / 3, (2,): 1 / 3, (3,): 1 / 3})


def test_a_large_power_leaves_the_most_popular_items() -> None:
    """10 ** 400 overflows; 9 / 10 to the power 400 is 5e-19."""
    counts = frequencies("popularity-aware", [0], 4, 1, popularity=[1, 9, 10, 1], power=400.0, rows=500)

    assert counts == {(2,): 500}


def test_oracle_hard_takes_what_the_oracle_ranks_highest() -> None:
    """Higher numbers score higher for users 0 and 1, lower ones for user 2. User 0 has seen item 5, the target of
    user 1 is item 6; of user 2, who has seen 0, item 1 is the target."""

    def scores(examples: Examples, items: Any) -> Floats:
        sign = np.where(examples.user == 2, -1.0, 1.0)
        return (sign[:, None] * items).astype(np.float32)

    sequences = log_of([5, 0], [0, 6], [0, 1])
    context = world(sequences, 7, oracle_scores=scores)

    one = make("oracle-hard", pool=1).sample(last_items(sequences), 1, context)
    two = make("oracle-hard", pool=1).sample(last_items(sequences), 2, context)

    assert one.tolist() == [[6], [5], [2]]
    assert np.sort(two).tolist() == [[4, 6], [4, 5], [2, 3]]


def test_oracle_hard_draws_uniformly_from_its_pool() -> None:
    """Of items 0 to 5 the user has seen 5 and goes for 0; 4, 3 and 2 score highest of the rest."""

    def scores(examples: Examples, items: Any) -> Floats:
        floats: Floats = items.astype(np.float32)
        return floats

    counts = frequencies("oracle-hard", [5, 0], 6, 2, pool=3, oracle_scores=scores)

    assert_distributed(counts, {(a, b): 1 / 6 for a in (2, 3, 4) for b in (2, 3, 4) if a != b})


def test_semantic_similar_takes_the_nearest_titles_in_order_of_angle() -> None:
    """Titles at angles of 0, 10, 25, 90 and 180 degrees: with a pool of one the nearest eligible is the answer, and a
    user who has seen the item at 10 gets the one at 25."""
    sequences = log_of([0], [1, 0], [4, 3], [2])
    context = world(sequences, 5, embeddings=on_circle(0, 10, 25, 90, 180))

    rejected = make("semantic-similar", pool=1).sample(last_items(sequences), 1, context)

    assert rejected.tolist() == [[1], [2], [2], [1]]


def test_semantic_similar_draws_uniformly_from_its_pool() -> None:
    counts = frequencies("semantic-similar", [5, 0], 6, 2, pool=3, embeddings=on_circle(0, 10, 25, 30, 180, 5))

    assert_distributed(counts, {(a, b): 1 / 6 for a in (1, 2, 3) for b in (1, 2, 3) if a != b})


def test_semantic_similar_widens_its_pool_to_the_items_wanted() -> None:
    sequences = log_of([0])
    context = world(sequences, 5, embeddings=on_circle(0, 10, 25, 30, 180))

    rejected = make("semantic-similar", pool=1).sample(last_items(sequences), 3, context)

    assert sorted(rejected[0].tolist()) == [1, 2, 3]


def test_semantic_similar_never_takes_the_target_under_another_id_but_takes_its_remake() -> None:
    """Items 1 to 3 are item 0 in other case, white space and width of letters; item 4 is a remake."""
    titles = [
        "Sabrina (1954)",
        "SABRINA (1954)",
        " Sabrina  (1954) ",
        "\uff33abrina (1954)",
        "Sabrina (1995)",
        "Heat",
    ]
    sequences = log_of([0])
    context = world(sequences, titles, embeddings=on_circle(0, 0, 0, 0, 1, 90))

    rejected = make("semantic-similar", pool=1).sample(last_items(sequences), 3, context)

    assert sorted(rejected[0].tolist()) == [-1, 4, 5]


def test_semantic_similar_looks_beyond_the_neighbours_it_keeps() -> None:
    """A user who has seen the 150 nearest of 400 titles still gets the nearest unseen one, number 151."""
    sequences = log_of([*range(1, 151), 0], [0])
    context = world(sequences, 400, embeddings=on_circle(*(0.3 * item for item in range(400))))

    rejected = make("semantic-similar", pool=1).sample(last_items(sequences), 1, context)

    assert rejected.tolist() == [[151], [1]]


def test_semantic_similar_to_the_history_takes_what_is_like_its_latest_items() -> None:
    """Titles at angles of 0, 20, 40, 120, 180 and 12 degrees. The user took 0, 1 and 2, and 3 is the target. Of the
    latest two, at 20 and 40, the mean is at 30: item 5 at 12 is nearest. The target is nearest to item 4."""
    sequences = log_of([0, 1, 2, 3])
    context = world(sequences, 6, embeddings=on_circle(0, 20, 40, 120, 180, 12))
    examples = last_items(sequences)
    near = make("semantic-similar", pool=1, to="history", recent=2)
    assert near.sample(examples, 2, context).tolist() in ([[5, 4]], [[4, 5]])
    assert near.sample(examples, 1, context).tolist() == [[5]]
    assert make("semantic-similar", pool=1).sample(examples, 1, context).tolist() == [[4]]

    # The history of user 1 turns from 0 to 180 degrees: what counts is how much of it is looked at.
    turning = log_of([0, 0, 4, 3])
    context = world(turning, 6, embeddings=on_circle(0, 20, 160, 90, 180, 12))
    for recent, nearest in ((1, 2), (3, 5)):
        sampler = make("semantic-similar", pool=1, to="history", recent=recent)
        assert sampler.sample(last_items(turning), 1, context).tolist() == [[nearest]]


def test_in_batch_takes_the_targets_of_others() -> None:
    """Of the targets 1, 2, 3 and 2, user 0 has seen 1 and 3; user 1 may get 1 and 3; user 2 has seen 2."""
    sequences = log_of([3, 1], [0, 2], [2, 3], [0, 2])
    context = world(sequences, 5)
    rejected = make("in-batch").sample(last_items(sequences), 3, context)
    assert rejected[0].tolist() == [2, -1, -1]
    assert sorted(rejected[1].tolist()) == sorted(rejected[3].tolist()) == [-1, 1, 3]
    assert rejected[2].tolist() == [1, -1, -1]


def test_in_batch_draws_in_proportion_to_the_targets_and_keeps_to_its_batch() -> None:
    """Of user 0's rivals, three go for item 1 and one for item 2: the first item is 1 in three of four cases."""
    sequences = log_of([9, 0], [1], [1], [1], [2])
    rng = np.random.default_rng(1)
    counts = {1: 0, 2: 0}
    context = replace(world(sequences, 10), rng=rng)
    for _ in range(400):
        counts[int(make("in-batch").sample(last_items(sequences), 1, context)[0, 0])] += 1
    assert stats.binomtest(counts[1], 400, 0.75).pvalue > 1e-3

    four = log_of([0], [1], [2], [3])
    pairs = make("in-batch", batch_size=2).sample(last_items(four), 3, world(four, 10))
    assert ((pairs >= 0).sum(axis=1) == 1).all()


def test_disliked_takes_what_the_user_disliked_alone() -> None:
    """User 0 disliked 3, 4 and her target; user 1 liked 4 after all; user 2 disliked nothing."""
    sequences = log_of([1, 0], [4, 2], [1])
    context = replace(world(sequences, 6), disliked=SeenItems.of(log_of([4, 3, 0], [4, 5], []), 6))
    rejected = make("disliked").sample(last_items(sequences), 3, context).tolist()
    assert sorted(rejected[0]) == [-1, 3, 4]
    assert rejected[1:] == [[5, -1, -1], [-1, -1, -1]]
    assert set(make("disliked", allow_seen=True).sample(last_items(sequences), 3, context)[1].tolist()) == {4, 5, -1}


def test_in_candidates_takes_eligible_items_of_the_list() -> None:
    """Of the first list, 1 is seen, 0 is the target, and 3 is there twice; the second is empty."""
    sequences = log_of([1, 0], [2])
    lists = np.array([[1, 3, 0, 3, 5], [-1, -1, -1, -1, -1]], dtype=np.int32)
    context = replace(world(sequences, 6), candidates=lambda examples: lists)
    rejected = make("in-candidates").sample(last_items(sequences), 3, context)
    assert sorted(rejected[0].tolist()) == [-1, 3, 5]
    assert rejected[1].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("cluster", "exposure", "expected"),
    [
        ("out", "low", [4, 2, 1, 3]),
        ("out", "high", [2, 4, 1, 3]),
        ("in", "low", [3, 1, -1, -1]),
        ("in", "high", [1, 3, -1, -1]),
    ],
)
def test_cluster_exposure_by_hand(cluster: str, exposure: str, expected: list[int]) -> None:
    """The model answers 1, 2, 3 and 4. The history is item 5, of A and B; item 1 is of A, 3 of both, 2 and 4 of
    neither. Training has 7, 9, 5 and 2 interactions with 1 to 4."""
    sequences = log_of([5, 0])
    context = world(sequences, 6, popularity=[1, 7, 9, 5, 2, 1], language_model=RankedModel())
    genres = pl.DataFrame({"genres": ["C", "A", "C", "A|B", "C", "A|B"]})
    context = replace(context, catalogue=replace(context.catalogue, attributes=genres))
    sampler = make("cluster-exposure", cluster=cluster, exposure=exposure, candidates=4)
    assert sampler.sample(last_items(sequences), 4, context).tolist() == [expected]


def test_cluster_exposure_looks_at_the_most_frequent_genres_alone() -> None:
    """A is in two items of the history, B in one. With one genre, item 2 of B is outside of the cluster."""
    sequences = log_of([3, 4, 0])
    context = world(sequences, 5, popularity=[1, 1, 9, 1, 1], language_model=RankedModel())
    genres = pl.DataFrame({"genres": [[], ["A"], ["B"], ["A", "B"], ["A"]]})
    context = replace(context, catalogue=replace(context.catalogue, attributes=genres))
    for most, first in ((1, 2), (2, 1)):
        sampler = make("cluster-exposure", genres=most, candidates=2)
        assert sampler.sample(last_items(sequences), 1, context).tolist() == [[first]]


def test_cluster_exposure_needs_genres() -> None:
    sequences = log_of([1, 0])
    with pytest.raises(RequestError, match="needs a catalogue with a column 'genres'"):
        make("cluster-exposure").sample(last_items(sequences), 1, world(sequences, 4, language_model=RankedModel()))


def test_self_hard_resamples_what_is_right() -> None:
    """The favourites are 0, 1, 2, ... Users may get what they have not seen, and their targets 0 and 2. At
    temperature 0, what is right is lost: user 0's answers are 0 and 2. Above, the next are 0 and 3."""
    sequences = log_of([1, 0], [5, 2])
    examples = last_items(sequences)
    context = world(sequences, 50, language_model=RankedModel())
    cold = make("self-hard", exclude="resample").sample(examples, 2, context)
    warm = make("self-hard", exclude="resample", temperature=1.0).sample(examples, 2, context)
    once = make("self-hard", exclude="resample", temperature=1.0, attempts=1).sample(examples, 2, context)
    assert cold.tolist() == once.tolist() == [[2, -1], [0, 1]]
    assert warm.tolist() == [[2, 3], [0, 1]]


class RankedModel:
    """Prefers items of a low number: item i has the log-probability -i, whatever the history."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def generate(self, examples: Examples, k: int, *, exclude: Any, beams: int = 8, temperature: float = 0.0) -> Any:
        self.asked = {"beams": beams, "temperature": temperature}
        halves = np.array_split(np.arange(len(examples)), 2)
        banned = [set(array.tolist()) for half in halves for array in exclude(half)]
        return np.array([[item for item in range(50) if item not in row][:k] for row in banned], dtype=np.int32)

    def score(self, examples: Examples, items: Any) -> Any:
        self.asked = {"pool": items}
        return np.where(items >= 0, -items, -np.inf).astype(np.float32)


def test_self_hard_rejects_what_the_model_would_recommend_instead() -> None:
    """The model's favourites are 0, 1, 2, ...: minus what each user has seen, minus the target."""
    sequences = log_of([1, 0], [5, 2], [0, 1, 3])
    model = RankedModel()
    sampler = make("self-hard", beams=3, temperature=0.7)

    rejected = sampler.sample(last_items(sequences), 2, world(sequences, 50, language_model=model))

    assert rejected.tolist() == [[2, 3], [0, 1], [2, 4]]
    assert model.asked == {"beams": 3, "temperature": 0.7}


def test_self_hard_searches_with_as_many_beams_as_items_are_wanted() -> None:
    sequences = log_of([1, 0])
    model = RankedModel()

    make("self-hard", beams=3).sample(last_items(sequences), 5, world(sequences, 50, language_model=model))

    assert model.asked == {"beams": 5, "temperature": 0.0}


def test_self_hard_may_be_let_reject_seen_items_but_not_the_target() -> None:
    sequences = log_of([0, 1, 2])
    context = world(sequences, 50, language_model=RankedModel())

    rejected = make("self-hard", allow_seen=True).sample(last_items(sequences), 3, context)

    assert rejected.tolist() == [[0, 1, 3]]


def test_self_hard_pool_takes_the_best_of_what_it_drew() -> None:
    """Whatever the pool, the items of the lowest numbers in it win, in order; a pool as large as the catalogue gives
    the model's own ranking."""
    sequences = log_of([1, 0], [5, 2])
    examples = last_items(sequences)
    model = RankedModel()

    some = make("self-hard", mode="pool", pool=6).sample(examples, 2, world(sequences, 50, language_model=model))
    assert model.asked["pool"].shape == (2, 6)
    assert some.tolist() == np.sort(model.asked["pool"], axis=1)[:, :2].tolist()

    whole = make("self-hard", mode="pool", pool=50).sample(examples, 3, world(sequences, 50, language_model=model))
    assert whole.tolist() == [[2, 3, 4], [0, 1, 3]]


def test_self_hard_pool_with_temperature_draws_from_the_models_distribution() -> None:
    """Items 1, 2, 3 have log-probabilities -1, -2, -3; at temperature 2 their odds are e^-0.5 : e^-1 : e^-1.5."""
    sequences = log_of([0])
    examples = last_items(sequences).take(np.zeros(8000, dtype=np.int64))
    context = world(sequences, 4, language_model=RankedModel())

    rejected = make("self-hard", mode="pool", temperature=2.0).sample(examples, 1, context)

    counts = {(item,): int((rejected == item).sum()) for item in (1, 2, 3)}
    odds = {(item,): float(np.exp(-item / 2)) for item in (1, 2, 3)}
    assert_distributed(counts, {item: value / sum(odds.values()) for item, value in odds.items()})


@pytest.mark.parametrize("name", ["popularity-aware", "semantic-similar"])
def test_no_array_of_all_examples_by_all_items_is_made(name: str) -> None:
    """1,000 examples of 20,000 items, all but ten of them seen, so that every row needs the whole catalogue: such an
    array of float64 or int64 takes 160 MB, and a draw makes several."""
    random = np.random.default_rng(0)
    sequences = log_of(*(random.permutation(20_000)[:19_990] for _ in range(4)))
    examples = Examples.of(
        sequences,
        random.integers(0, 4, size=1000).astype(np.int32),
        random.integers(0, 19_990, size=1000).astype(np.int32),
    )
    context = world(sequences, 20_000, embeddings=random.normal(size=(20_000, 4)))

    tracemalloc.start()
    rejected = make(name).sample(examples, 4, context)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (rejected >= 0).all()
    assert peak < 150e6


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("popularity-aware", {"power": -1}, "power"),
        ("semantic-similar", {"pool": 0}, "pool"),
        ("self-hard", {"mode": "guess"}, "mode"),
        ("self-hard", {"mode": "pool", "exclude": "resample"}, "exclude"),
        ("in-batch", {"batch_size": 1}, "batch_size"),
        ("self-hard", {"temperature": -0.1}, "temperature"),
        ("uniform", {"temperature": 1.0}, "temperature"),
    ],
)
def test_options_out_of_range_are_refused_by_name(name: str, options: dict[str, Any], key: str) -> None:
    with pytest.raises(RequestError, match=f"sampler.{key}"):
        make(name, **options)


def test_each_sampler_says_what_it_needs() -> None:
    assert {name: set(make(name).needs) for name in NAMES} == {
        "uniform": set(),
        "popularity-aware": set(),
        "semantic-similar": {"title-embeddings"},
        "self-hard": {"language-model"},
        "oracle-hard": {"oracle"},
        "in-batch": set(),
        "cluster-exposure": {"language-model"},
        "disliked": {"disliked"},
        "in-candidates": {"candidates"},
    }
