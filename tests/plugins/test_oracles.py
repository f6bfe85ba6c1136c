"""The preference oracles: what they learn, what they may look at, and how good their probabilities are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from rosepo_core.api import Catalogue, Examples, OracleContext, RequestError, RosepoError, SeenItems, Sequences, Split
from rosepo_core.contracts.ranking import rank_targets
from rosepo_core.contracts.sections import SplitOptions
from rosepo_core.data.filters import filter_corpus
from rosepo_core.data.splitting import split_corpus
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing.toys import SilentReporter, toy_supplied_split
from rosepo_metrics.accuracy import hit_rate, ndcg
from rosepo_oracles import calibration
from rosepo_oracles.sequential import CatalogueCrossEntropy, training_windows

ITEMS = 20
SMALL = {"hidden_size": 16, "heads": 2, "layers": 1, "max_history": 8, "learning_rate": 2e-2, "max_epochs": 12}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def split_of(rows: list[np.ndarray], items: int) -> Split:
    """Leave-one-out of the users' sequences."""
    lengths = np.array([len(row) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    whole = Sequences(np.concatenate(rows).astype(np.int32), offsets)
    train = whole.prefix(lengths - 2)
    users = np.arange(len(rows), dtype=np.int32)
    names = tuple(f"item {number}" for number in range(items))
    popularity = np.bincount(train.items, minlength=items).astype(np.int64)
    return Split(
        users=tuple(map(str, users)),
        catalogue=Catalogue(names, names, popularity, pl.DataFrame()),
        train=train,
        validation=Examples.of(whole, users, (lengths - 2).astype(np.int32)),
        test=Examples.of(whole, users, (lengths - 1).astype(np.int32)),
        seen=SeenItems.of(whole, items),
    )


def cycle(users: int = 80) -> Split:
    """Item i is followed by item i + 1, and the last by the first; sequences of 5 to 18 items start anywhere."""
    rng = np.random.default_rng(0)
    return split_of([(rng.integers(ITEMS) + np.arange(rng.integers(5, 19))) % ITEMS for _ in range(users)], ITEMS)


def make(**options):
    return load_plugins().create("oracle", "sasrec", options)


def fitted(split: Split, seed: int = 0, **options):
    oracle = make(**{**SMALL, **options})
    shown = oracle.fit(split, OracleContext(np.random.default_rng(seed), seed, SilentReporter()))
    return oracle, shown


@pytest.fixture(scope="module")
def learned():
    """With a temperature of its own: what is learned perfectly has none that fits best."""
    return fitted(cycle(), temperature=3.0)


def ranks_among_unseen(oracle, examples: Examples, items: int):
    everything = np.broadcast_to(np.arange(items, dtype=np.int32), (len(examples), items))
    offered = np.ones(everything.shape, dtype=np.bool_)
    for row, (user, position) in enumerate(zip(examples.user, examples.position, strict=True)):
        offered[row, examples.sequences[user][:position]] = False
    return rank_targets(oracle.score(examples, everything), examples.target, offered)


def at(sequence: list[int], *positions: int) -> Examples:
    """Places in one user's sequence."""
    sequences = Sequences(np.array(sequence, dtype=np.int32), np.array([0, len(sequence)], dtype=np.int64))
    return Examples.of(sequences, np.zeros(len(positions), dtype=np.int32), np.array(positions, dtype=np.int32))


def all_scores(oracle, examples: Examples) -> np.ndarray:
    return oracle.score(examples, np.tile(np.arange(ITEMS, dtype=np.int32), (len(examples), 1)))


def test_learns_which_item_follows_which(learned):
    oracle, shown = learned
    split = cycle()
    assert ndcg(ranks_among_unseen(oracle, split.test, ITEMS), 10).mean() > 0.95
    assert shown["ndcg@10"] > 0.95
    assert shown["auc"] > 0.99


def test_validation_quality_is_that_of_the_whole_catalogue_without_the_history(learned):
    oracle, shown = learned
    ranks = ranks_among_unseen(oracle, cycle().validation, ITEMS)
    assert shown["ndcg@10"] == pytest.approx(ndcg(ranks, 10).mean(), abs=1e-9)
    assert shown["hr@10"] == pytest.approx(hit_rate(ranks, 10).mean(), abs=1e-9)


def test_the_test_part_is_not_looked_at():
    split = cycle(users=20)
    other = replace(split, test=None, seen=None)
    first, second = fitted(split, max_epochs=2)[0].state(), fitted(other, max_epochs=2)[0].state()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_scores_depend_on_earlier_items_alone(learned):
    oracle, _ = learned
    longer = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    other = [*longer[:6], 19, 2, 17, 0, 1]
    positions = range(7)  # the items before place 6 are the same; the target at place 6 is not
    np.testing.assert_allclose(
        all_scores(oracle, at(longer, *positions)), all_scores(oracle, at(other, *positions)), atol=1e-5
    )
    differ = np.abs(all_scores(oracle, at(longer, 7)) - all_scores(oracle, at(other, 7)))
    assert differ.max() > 0.1


def test_many_places_in_one_pass_score_as_each_alone(learned):
    """Also beyond `max_history`, where the history is cut: which items are seen depends on the position alone."""
    oracle, _ = learned
    sequence = [(5 * place) % ITEMS for place in range(30)]
    together = all_scores(oracle, at(sequence, *range(30)))
    shuffled = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(all_scores(oracle, at(sequence, *shuffled)), together[shuffled], atol=1e-5)
    for place in (0, 1, 7, 8, 9, 15, 29):
        np.testing.assert_allclose(
            all_scores(oracle, at(sequence[: place + 1], place))[0], together[place], atol=1e-5
        )


def test_sees_at_least_three_quarters_of_max_history_and_no_more_than_all_of_it(learned):
    """`max_history` is 8: of place 29 in a sequence, items 22 to 28 count at least, and none before 21."""
    oracle, _ = learned
    base = [(3 * place) % ITEMS for place in range(30)]
    before = all_scores(oracle, at(base, *range(9, 30)))
    for place in range(9, 30):
        for distance in (1, 6, 9):
            changed = list(base)
            changed[place - distance] = (changed[place - distance] + 1) % ITEMS
            after = all_scores(oracle, at(changed, place))[0]
            moved = np.abs(after - before[place - 9]).max() > 1e-4
            assert moved == (distance <= 6)


def test_empty_and_one_item_histories(learned):
    oracle, _ = learned
    scores = all_scores(oracle, at([7, 8], 0, 1))
    assert np.isfinite(scores).all()
    assert scores[1].argmax() == 8
    assert np.ptp(scores[0]) < np.ptp(scores[1])
    nothing = at([7, 8])
    assert oracle.score(nothing, np.zeros((0, 3), dtype=np.int32)).shape == (0, 3)
    assert oracle.flip_probability(nothing, nothing.target, np.zeros((0, 3), dtype=np.int32)).shape == (0, 3)


def test_flips_are_the_sigmoid_of_the_margin_and_clipped(learned):
    oracle, _ = learned
    examples = at([4, 5, 6, 7], 3)
    rejected = np.array([[8, 1, 6, 12, -1]], dtype=np.int32)
    scores = oracle.score(examples, np.array([[7, 8, 1, 6, 12]], dtype=np.int32))[0].astype(np.float64)
    expected = 1 / (1 + np.exp((scores[0] - scores[1:]) / oracle.temperature))
    flips = oracle.flip_probability(examples, examples.target, rejected)
    np.testing.assert_allclose(flips[0, :4], np.minimum(expected, 0.45), rtol=1e-5)
    assert flips[0, 4] == 0
    assert oracle.score(examples, rejected)[0, 4] == -np.inf
    wrong_way_round = at([4, 5, 6, 1], 3)  # the "target" is not what follows 6
    assert oracle.flip_probability(wrong_way_round, wrong_way_round.target, np.array([[7]], dtype=np.int32))[
        0, 0
    ] == np.float32(0.45)
    # What it believes is not clipped: the two orders of a pair add up to one.
    pairs = ((wrong_way_round, 7), (at([4, 5, 6, 7], 3), 1))
    both = [
        float(oracle.preference_probability(pair, pair.target, np.array([[other]], dtype=np.int32))[0, 0])
        for pair, other in pairs
    ]
    assert both[0] > 0.5
    assert sum(both) == pytest.approx(1)


def test_flips_fall_as_margins_grow(learned):
    oracle, _ = learned
    everything = np.delete(np.arange(ITEMS, dtype=np.int32), 7)[None]
    examples = at([4, 5, 6, 7], 3)
    order = np.argsort(oracle.score(examples, everything)[0])
    assert (np.diff(oracle.flip_probability(examples, examples.target, everything)[0][order]) >= 0).all()


def test_a_restored_oracle_gives_the_very_same_flips(learned):
    oracle, _ = learned
    split = cycle()
    rejected = np.random.default_rng(0).integers(0, ITEMS, size=(len(split.test), 5), dtype=np.int32)
    again = make(**SMALL)  # without the temperature, which is part of the state
    again.restore({name: value.copy() for name, value in oracle.state().items()})
    np.testing.assert_array_equal(
        again.flip_probability(split.test, split.test.target, rejected),
        oracle.flip_probability(split.test, split.test.target, rejected),
    )


def test_a_seed_repeats_a_run_and_another_does_not():
    split = cycle(users=20)
    before = torch.random.get_rng_state()
    first, same, other = (fitted(split, seed=seed, max_epochs=2, dropout=0.2)[0].state() for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], same[name]) for name in first)
    assert not np.array_equal(first["item.weight"], other["item.weight"])
    assert torch.equal(before, torch.random.get_rng_state()), "torch's own generator was moved"


def test_a_given_temperature_is_taken_as_it_is():
    assert fitted(cycle(users=20), max_epochs=1, temperature=2.5)[1]["temperature"] == 2.5


def test_flips_where_it_was_trained_are_on_average_those_where_it_was_not():
    """Sequences at random: all that is learned is learned by heart, and margins are too wide where it was trained."""
    rng = np.random.default_rng(0)
    split = split_of([rng.permutation(ITEMS)[:10] for _ in range(60)], ITEMS)
    oracle, shown = fitted(split, max_epochs=20, patience=20)
    assert shown["mean_flip_trained"] < shown["mean_flip"]
    assert shown["temperature"] > shown["temperature_held_out"]
    last = Examples.of(split.train, split.validation.user, (split.train.lengths - 1).astype(np.int32))
    scores = all_scores(oracle, last)
    unseen = ~split.train_seen.contains(last.user, np.tile(np.arange(ITEMS), (60, 1)))
    margins = (scores[np.arange(60), last.target][:, None] - scores)[unseen]
    mean = (1 / (1 + np.exp(margins / oracle.temperature))).mean()
    assert mean == pytest.approx(shown["mean_flip"], abs=0.01)


def test_flips_are_widened_as_well_where_nobody_is_in_two_parts():
    """Given examples: who has a validation target has no training position of their own to compare it with."""
    _, shown = fitted(toy_supplied_split(users=100), max_epochs=20, patience=20)
    assert shown["mean_flip_trained"] < shown["mean_flip"]
    assert shown["temperature"] > shown["temperature_held_out"]


def test_trains_without_validation_examples():
    split = cycle(users=20)
    none = split.validation.take(np.zeros(0, dtype=np.int64))
    _, shown = fitted(replace(split, validation=none), max_epochs=2)
    assert shown == {"epochs": 2.0, "temperature": 1.0}


def test_stops_when_validation_gets_no_better():
    """Every validation target is an item that training never shows."""
    rng = np.random.default_rng(0)
    rows = [np.concatenate([rng.integers(0, 10, size=6), [10, 11]]) for _ in range(30)]
    reports = []

    class Reporter(SilentReporter):
        def progress(self, done, total, unit):
            reports.append(done)

    oracle = make(**{**SMALL, "max_epochs": 100, "patience": 2})
    shown = oracle.fit(split_of(rows, 12), OracleContext(np.random.default_rng(0), 0, Reporter()))
    assert reports[-1] == shown["epochs"] + 2 < 100


def test_a_learning_rate_that_diverges_is_named():
    with pytest.raises(RosepoError, match=r"oracle\.learning_rate lower than 1e\+30"):
        fitted(cycle(users=20), learning_rate=1e30)


def test_asked_before_it_was_fitted():
    with pytest.raises(RosepoError, match="before it was fitted"):
        make().score(at([1, 2], 1), np.zeros((1, 1), dtype=np.int32))


@pytest.mark.parametrize("options", [{"hidden_size": 64, "heads": 3}, {"heads": 3}, {"hidden_size": 63}])
def test_heads_must_divide_the_hidden_size(options):
    with pytest.raises(RequestError, match=r"oracle\.heads.*must divide hidden_size"):
        make(**options)


def test_gru4rec_learns_which_item_follows_which_and_reads_the_whole_history():
    """It scores as torch's own units do, one item after another; what is far back counts."""
    split = cycle()
    oracle = load_plugins().create("oracle", "gru4rec", {"hidden_size": 16, "max_history": 8, "max_epochs": 12})
    shown = oracle.fit(split, OracleContext(np.random.default_rng(0), 0, SilentReporter()))
    assert ndcg(ranks_among_unseen(oracle, split.test, ITEMS), 10).mean() > 0.9
    assert shown["ndcg@10"] > 0.9

    network = oracle.network.cpu()
    history = [3, 9, 4, 17]
    state = torch.zeros(16)
    cell = torch.nn.GRUCell(16, 16)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in network.units.state_dict().items()})
    with torch.no_grad():
        for item in (ITEMS, *history):  # the start marker comes first
            state = cell(network.item.weight[item] * 4, state)
        expected = network.item.weight[:ITEMS] @ network.norm(state) + network.bias
    found = all_scores(oracle, at([*history, 0], 4))[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert np.abs(all_scores(oracle, at([5, *history[1:], 0], 4))[0] - found).max() > 1e-4


def test_training_windows_cover_every_position_once():
    lengths = np.array([3, 0, 10, 11, 57, 1])
    for seed in range(20):
        windows = training_windows(lengths, 10, np.random.default_rng(seed))
        assert windows.length.min() >= 1
        assert windows.length.max() <= 10
        covered = [
            (user, place)
            for user, start, length in zip(windows.user, windows.start, windows.length, strict=True)
            for place in range(start, start + length)
        ]
        assert sorted(covered) == [(user, place) for user, length in enumerate(lengths) for place in range(length)]


def test_cross_entropy_equals_torchs(monkeypatch):
    """Value and gradients, in chunks of two rows."""
    monkeypatch.setattr("rosepo_oracles.sequential.LOGITS_PER_CHUNK", 14)
    generator = torch.Generator().manual_seed(0)
    target = torch.tensor([0, 6, 3, 3, 1])
    values, gradients = [], []
    for loss in (
        lambda h, w, b: CatalogueCrossEntropy.apply(h, w, b, target),
        lambda h, w, b: torch.nn.functional.cross_entropy(h @ w.T + b, target),
    ):
        generator.manual_seed(0)
        inputs = [torch.randn(*shape, generator=generator).requires_grad_() for shape in ((5, 4), (7, 4), (7,))]
        value = loss(*inputs)
        (3 * value).backward()
        values.append(value.item())
        gradients.append([each.grad for each in inputs])
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_temperature_by_hand():
    """Margins 2 (three times) and -2 (once): sigmoid(2 / T) must be 3/4, so T = 2 / log 3."""
    assert calibration.fit_temperature(np.array([2.0, 2.0, -2.0, 2.0])) == pytest.approx(2 / np.log(3))


def test_temperature_for_a_mean_flip_by_hand():
    """Flips of margins 2 and 2 are 1/4 each where exp(-2 / T) is 1/3."""
    assert calibration.temperature_for_mean_flip(np.array([2.0, 2.0]), 0.25) == pytest.approx(2 / np.log(3))


def test_temperature_equals_logistic_regression_without_an_intercept():
    margins = np.random.default_rng(0).normal(1.0, 3.0, size=500)
    both = np.concatenate([margins, -margins])[:, None]
    labels = np.repeat([1, 0], 500)
    slope = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(both, labels).coef_[0, 0]
    assert calibration.fit_temperature(margins) == pytest.approx(1 / slope, rel=1e-5)


@pytest.mark.parametrize(
    ("margins", "temperature"), [([], 1.0), ([0.0, 0.0], 1.0), ([2.0, 4.0], 3e-3), ([-2.0, -4.0], 3e3)]
)
def test_temperature_where_none_is_best(margins, temperature):
    """No pairs, no margins, all in the right order (as cold as allowed), all in the wrong one (as hot)."""
    assert calibration.fit_temperature(np.array(margins)) == pytest.approx(temperature)


def test_expected_calibration_error_by_hand():
    """At T = 1 / log 3, margins of 1 and -1 have a confidence of 3/4; of four such pairs, two are right: an error of
    1/4. A tie has a confidence and an accuracy of 1/2. Together (4 * 1/4 + 0) / 5."""
    error = calibration.expected_calibration_error(np.array([1.0, 1.0, -1.0, -1.0, 0.0]), 1 / np.log(3))
    assert error == pytest.approx(0.2)


def test_expected_calibration_error_equals_scikit_learns_curve():
    rng = np.random.default_rng(0)
    margins = rng.normal(1.0, 2.0, size=400)
    confidence, right = 1 / (1 + np.exp(-np.abs(margins))), margins > 0
    bins = 15
    accuracy, mean = calibration_curve(right, 2 * confidence - 1, n_bins=bins)
    counts = np.bincount(np.minimum(((2 * confidence - 1) * bins).astype(int), bins - 1), minlength=bins)
    expected = (np.abs(accuracy - (mean + 1) / 2) * counts[counts > 0]).sum() / 400
    assert calibration.expected_calibration_error(margins, 1.0) == pytest.approx(expected)


def test_auc_counts_ties_half():
    assert calibration.pairwise_auc(np.array([1.0, 2.0, 0.0, -1.0])) == 0.625


def test_constant():
    oracle = load_plugins().create("oracle", "constant", {"value": 0.25})
    assert oracle.flip_probability(
        at([1, 2], 1, 0), np.array([2, 1], dtype=np.int32), np.array([[3, -1], [4, 5]], dtype=np.int32)
    ).tolist() == [
        [0.25, 0.25],
        [0.25, 0.25],
    ]
    assert oracle.score(at([1, 2], 1), np.array([[3]], dtype=np.int32)) is None
    assert load_plugins().create("oracle", "constant", {}).options.value == 0.1


@pytest.mark.parametrize("value", [-0.1, 0.5])
def test_constant_is_a_probability_below_one_half(value):
    with pytest.raises(RequestError, match=r"oracle\.value"):
        load_plugins().create("oracle", "constant", {"value": value})


@pytest.mark.real
def test_quality_on_movielens_100k():
    """The thresholds that the project set: whole catalogue, seen items excluded, nothing sampled."""
    dataset = load_plugins().create("dataset", "movielens-100k", {})
    split = split_corpus(filter_corpus(dataset.load(SilentReporter()), dataset.options), SplitOptions())
    oracle = make()
    shown = oracle.fit(split, OracleContext(np.random.default_rng(0), 0, SilentReporter()))
    ranks = ranks_among_unseen(oracle, split.test, len(split.catalogue))
    assert ndcg(ranks, 10).mean() >= 0.095
    assert hit_rate(ranks, 10).mean() >= 0.18
    assert shown["auc"] > 0.9
    assert shown["ece"] < 0.02
    assert 0.75 < shown["temperature_held_out"] < 1.25
