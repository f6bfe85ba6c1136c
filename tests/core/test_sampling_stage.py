"""From samplers to pairs: which examples, which slots, what is checked, and the files in between."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from rosepo_core.config import SamplerChoice
from rosepo_core.contracts.components import (
    PreferenceLoss,
    RejectedSampler,
    SamplerContext,
    SamplerOptions,
    SmoothingOracle,
)
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.contracts.options import Options
from rosepo_core.contracts.records import Catalogue, Examples, Places, SeenItems, Sequences, Split
from rosepo_core.contracts.sections import PreferenceOptions
from rosepo_core.stages import preferences, reference
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.stages.sampling import RejectedItems, assign_slots, check, choose_examples, fill_slots, stage
from rosepo_core.stages.session import Handle, QuietReporter
from rosepo_core.store.artifacts import Artifact
from rosepo_core.testing import prompt_template


def split_of(catalogue: Catalogue, *sequences: list[int]) -> Split:
    """Users whose training interactions these are; nothing is held out."""
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    train = Sequences(np.array([item for items in sequences for item in items], dtype=np.int32), offsets)
    nothing = Examples.of(train, np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))
    users = tuple(f"u{user}" for user in range(len(sequences)))
    return Split(users, catalogue, train, nothing, nothing, SeenItems.of(train, len(catalogue)))


@pytest.fixture
def split(catalogue: Catalogue) -> Split:
    """Users with 4, 1, 0, 3 and 2 training interactions: 3 + 2 + 1 places with something before them."""
    return split_of(catalogue, [0, 1, 2, 3], [4], [], [5, 6, 7], [8, 9])


def places(examples: Examples) -> list[tuple[int, int]]:
    return list(zip(examples.user.tolist(), examples.position.tolist(), strict=True))


class FirstUsers(np.random.Generator):
    """Draws users in the order in which they stand."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def permutation(self, x: Any, axis: int = 0) -> Any:
        return np.array(x)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (4, 1)]),
        ({"max_per_user": 1}, [(0, 3), (3, 2), (4, 1)]),
        ({"max_per_user": 2}, [(0, 2), (0, 3), (3, 1), (3, 2), (4, 1)]),
        ({"max_users": 2}, [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2)]),
        ({"max_users": 9}, [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (4, 1)]),
        # Whole users first; the last one is cut to its latest.
        ({"max_pairs": 4}, [(0, 1), (0, 2), (0, 3), (3, 2)]),
        ({"max_pairs": 3}, [(0, 1), (0, 2), (0, 3)]),
        ({"max_pairs": 1}, [(0, 3)]),
        ({"max_pairs": 100}, [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2), (4, 1)]),
        ({"max_pairs": 3, "max_per_user": 2}, [(0, 2), (0, 3), (3, 2)]),
        # Each makes three pairs, and none is cut: 10 pairs are three examples, 15 are five.
        ({"max_pairs": 10, "negatives": 3}, [(0, 1), (0, 2), (0, 3)]),
        ({"max_pairs": 15, "negatives": 3}, [(0, 1), (0, 2), (0, 3), (3, 1), (3, 2)]),
        ({"max_pairs": 3, "negatives": 3}, [(0, 3)]),
        ({"max_pairs": 5, "max_users": 1}, [(0, 1), (0, 2), (0, 3)]),
    ],
)
def test_the_examples_that_become_pairs(split, options, expected):
    chosen = choose_examples(split, PreferenceOptions(**options), FirstUsers())
    assert places(chosen) == expected
    assert (chosen.user.dtype, chosen.position.dtype) == (np.int32, np.int32)
    assert chosen.target.tolist() == [split.train[user][position] for user, position in expected]


def test_users_are_drawn_by_the_seed(split):
    drawn = [
        choose_examples(split, PreferenceOptions(max_users=1), np.random.default_rng(seed)).user[0]
        for seed in range(20)
    ]
    assert set(drawn) == {0, 3, 4}


def test_nothing_to_make_pairs_of(catalogue):
    with pytest.raises(RequestError, match="no user has two training interactions"):
        choose_examples(split_of(catalogue, [1], [], [2]), PreferenceOptions(), FirstUsers())


def test_slots_fall_to_samplers_by_weight():
    slots = assign_slots(5000, 4, np.array([3.0, 1.0, 4.0]), np.random.default_rng(0))
    assert (slots.shape, slots.dtype) == ((5000, 4), np.int32)
    shares = np.bincount(slots.ravel(), minlength=3) / slots.size
    # Three standard deviations of a share of 20,000 draws are 0.0106 at most.
    np.testing.assert_allclose(shares, [3 / 8, 1 / 8, 4 / 8], atol=0.011)
    assert (assign_slots(3, 2, np.array([0.5]), np.random.default_rng(0)) == 0).all()


class Fixed(RejectedSampler):
    """Gives rows of a table by user."""

    origin = "sampler 'fixed' of acme 1.0"

    def __init__(self, rows: dict[int, list[int]], allow_seen: bool = False) -> None:
        super().__init__(SamplerOptions(allow_seen=allow_seen))
        self.rows = rows
        self.asked: list[int] = []

    def sample(self, examples: Examples, k: int, context: SamplerContext) -> Any:
        self.asked += examples.user.tolist()
        return np.array([self.rows[user] for user in examples.user.tolist()], dtype=np.int32).reshape(-1, k)


def context(split: Split) -> SamplerContext:
    return SamplerContext(split.catalogue, split.train_seen, np.random.default_rng(0), QuietReporter())


GOOD = [[10, 11], [12, -1], [-1, -1]]


@pytest.mark.parametrize(
    ("rejected", "fault"),
    [
        (np.array(GOOD)[:2], r"returned int64 \(2, 2\), not integers \(3, 2\)"),
        (np.array(GOOD)[:, :1], r"returned int64 \(3, 1\), not integers \(3, 2\)"),
        (np.array(GOOD, dtype=float), r"returned float64 \(3, 2\), not integers"),
        (None, r"returned object \(\), not integers"),
        ([[10, 11], [12, 40], [-1, -1]], r"an index outside the catalogue for example 1 \(user index 3\)"),
        ([[10, -2], [12, -1], [-1, -1]], r"an index outside the catalogue for example 0 \(user index 0\)"),
        (
            np.array([[10, 11], [12, 2**32 + 13], [-1, -1]]),
            r"an index outside the catalogue for example 1 \(user index 3\)",
        ),
        ([[10, 3], [12, -1], [-1, -1]], r"the target for example 0 \(user index 0\)"),
        ([[10, 11], [12, 12], [-1, -1]], r"an item twice for example 1 \(user index 3\)"),
        ([[10, 11], [12, -1], [8, -1]], r"an item that the user has interacted with for example 2 \(user index 4\)"),
    ],
)
def test_a_sampler_that_breaks_its_contract_is_named(split, rejected, fault):
    examples = choose_examples(split, PreferenceOptions(max_per_user=1), FirstUsers())
    with pytest.raises(PluginError, match=f"^sampler 'fixed' of acme 1.0 .*{fault}"):
        check(Fixed({}), rejected, examples, 2, context(split))


def test_what_keeps_the_contract_passes(split):
    examples = choose_examples(split, PreferenceOptions(max_per_user=1), FirstUsers())
    passed = check(Fixed({}), GOOD, examples, 2, context(split))
    assert (passed.tolist(), passed.dtype) == (GOOD, np.int32)
    seen = [[0, 11], [12, 5], [8, -1]]
    assert check(Fixed({}, allow_seen=True), seen, examples, 2, context(split)).tolist() == seen


class Run:
    """What the sampling stage uses of a session, with samplers given as they are."""

    def __init__(self, folder: Path, samplers: list[RejectedSampler], weights: list[float], **options: Any) -> None:
        self.folder = folder
        self.samplers = samplers
        self.notes: list[str] = []
        self.reporter = SimpleNamespace(note=self.notes.append, progress=lambda *_: None)
        chosen = tuple(SamplerChoice(name="fixed", weight=weight, options=Options()) for weight in weights)
        self.config = SimpleNamespace(sampler=chosen, preferences=PreferenceOptions(**options), seed=0)
        self.that_decides: dict[str, Any] = {"preferences": {}}

    def component(self, section: str, index: int) -> RejectedSampler:
        return self.samplers[index]

    def plugin_settings(self, section: str) -> Any:
        return []

    def rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(list(purpose.encode()))

    listed_count = 0

    def lists(self, examples: Examples, items: int, rejected: Any) -> None:
        return None

    def artifact(
        self, stage: str, settings: Any, inputs: Any, build: Any, load: Any, *, by_all: bool
    ) -> Handle[RejectedItems]:
        build(self.folder)
        return Handle(Artifact(stage, self.folder, "f", None, 0.0), load)


def assigned(run: Run, n: int, k: int) -> Any:
    """The slots that the stage draws."""
    rng = run.rng("sampling")
    rng.permutation(n)
    weights = np.array([choice.weight for choice in run.config.sampler])
    return assign_slots(n, k, weights, rng).tolist()


def sampled(run: Run, split: Split) -> tuple[Examples, list[list[int]], list[list[int]]]:
    unused: Any = None
    found = stage(run, Handle(Artifact("split", run.folder, "s", None, 0.0), lambda _: split), unused, unused).content
    return found.examples, found.items.tolist(), found.sampler.tolist()


def test_a_mixture_fills_each_slot_from_its_own_sampler(tmp_path, catalogue):
    # Both offer 10 first, and what the first sampler has given the second passes over.
    split = split_of(catalogue, *[[0, 1]] * 40)
    first, second = (dict.fromkeys(range(40), row) for row in ([10, 11, 12], [10, 21, 22]))
    run = Run(tmp_path, [Fixed(first), Fixed(second)], [0.5, 0.5], negatives=3)
    examples, rejected, sampler = sampled(run, split)
    assert places(examples) == [(user, 1) for user in range(40)]
    expected = {
        (0, 0, 0): [10, 11, 12],
        (0, 0, 1): [10, 11, 21],
        (0, 1, 0): [10, 21, 11],
        (0, 1, 1): [10, 21, 22],
        (1, 0, 0): [21, 10, 11],
        (1, 0, 1): [21, 10, 22],
        (1, 1, 0): [21, 22, 10],
        (1, 1, 1): [10, 21, 22],
    }
    assert {tuple(row) for row in sampler} == expected.keys(), "not every mixture was drawn"
    assert rejected == [expected[tuple(row)] for row in sampler]
    assert run.notes == []


def test_a_sampler_that_has_fewer_leaves_its_last_slots_empty(tmp_path, catalogue):
    split = split_of(catalogue, [0, 1], [2, 3], [4, 5])
    run = Run(tmp_path, [Fixed({0: [10, -1, -1], 1: [-1, -1, -1], 2: [-1, 12, 13]})], [1.0], negatives=3)
    examples, rejected, sampler = sampled(run, split)
    assert places(examples) == [(0, 1), (2, 1)]
    assert rejected == [[10, -1, -1], [12, 13, -1]]
    assert sampler == [[0, -1, -1], [0, 0, -1]]
    assert run.notes == [
        "1 of 3 examples got no rejected item and are left out",
        "3 of 6 places for rejected items stay empty: no sampler had one more",
    ]


def test_what_one_sampler_cannot_fill_another_one_does(tmp_path, catalogue):
    # The first has one item for everyone, which the second has, too; users of odd number get fewer of the second.
    split = split_of(catalogue, *[[0, 1]] * 40)
    short = {user: [10, -1, -1] for user in range(40)}
    long = {user: [10, -1, 11] if user % 2 else [10, 11, 12] for user in range(40)}
    run = Run(tmp_path, [Fixed(short), Fixed(long)], [0.5, 0.5], negatives=3)
    examples, rejected, sampler = sampled(run, split)
    slots = assigned(run, 40, 3)
    assert {tuple(row) for row in slots} == set(itertools.product((0, 1), repeat=3)), "not every mixture was drawn"
    for user, row, source, slot in zip(examples.user.tolist(), rejected, sampler, slots, strict=True):
        by_item = dict(zip(row, source, strict=True))
        assert sorted(by_item) == ([-1, 10, 11] if user % 2 else [10, 11, 12])
        # Whoever has a slot fills it first; the rest is the second sampler's.
        assert by_item.pop(10) == (0 if 0 in slot else 1)
        assert by_item.pop(-1, -1) == -1
        assert set(by_item.values()) == {1}
    filled = sum(
        there not in (-1, wanted)
        for source, slot in zip(sampler, slots, strict=True)
        for there, wanted in zip(source, slot, strict=True)
    )
    assert run.notes == [
        f"{filled} of 120 rejected items come from another sampler than the one drawn for them, which had no more",
        "20 of 120 places for rejected items stay empty: no sampler had one more",
    ]


def test_a_sampler_is_asked_once_about_a_row_and_only_where_it_is_needed():
    slots = np.array([[0, 0], [0, 1], [1, 1], [0, 0]], dtype=np.int32)
    has = {0: [[5, 6], [5, -1], [5, 6], [-1, -1]], 1: [[7, 8], [7, 8], [7, -1], [7, 5]]}
    asked = []

    def ask(sampler, rows):
        asked.append((sampler, rows.tolist()))
        return np.array(has[sampler], dtype=np.int32)[rows]

    items, source = fill_slots(slots, 2, ask)
    assert items.tolist() == [[5, 6], [5, 7], [7, 5], [7, 5]]
    assert source.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert asked == [(0, [0, 1, 3]), (1, [1, 2]), (0, [2]), (1, [3])]


def test_a_sampler_without_a_slot_is_not_asked(tmp_path, catalogue):
    class Broken(Fixed):
        def sample(self, examples: Examples, k: int, context: SamplerContext) -> Any:
            raise AssertionError("asked for nothing")

    split = split_of(catalogue, [0, 1])
    run = Run(tmp_path, [Fixed({0: [10]}), Broken({})], [1.0, 1e-9], negatives=1)
    assert sampled(run, split)[1] == [[10]]


def test_no_rejected_item_at_all_is_said_at_once(tmp_path, catalogue):
    split = split_of(catalogue, [0, 1], [2, 3])
    run = Run(tmp_path, [Fixed({0: [-1, -1], 1: [-1, -1]})], [1.0], negatives=2)
    with pytest.raises(RequestError, match="no example got a rejected item"):
        sampled(run, split)
    assert list(tmp_path.iterdir()) == []


PAIRS = {
    "user": [0, 0, 0, 3],
    "position": [2, 2, 3, 1],
    "slot": [0, 2, 1, 0],
    "chosen_item": [2, 2, 3, 6],
    "rejected_item": [10, 11, 12, 13],
    "sampler": ["a", "b", "a", "a"],
    "eps": [0.1, 0.2, 0.3, 0.4],
    "reference_chosen": [-1.0, -1.0, -2.0, -3.0],
    "reference_rejected": [-4.0, -5.0, -6.0, -7.0],
    "prompt": [""] * 4,
    "chosen": [""] * 4,
    "rejected": [""] * 4,
}


@pytest.fixture
def pairs(tmp_path, split):
    small = dict.fromkeys(("user", "position", "slot", "chosen_item", "rejected_item"), pl.Int32)
    real = dict.fromkeys(("eps", "reference_chosen", "reference_rejected"), pl.Float32)
    pl.DataFrame(PAIRS).cast(small | real).write_parquet(tmp_path / "pairs.parquet")
    return preferences.load_pairs(tmp_path, split)


def test_pairs_come_back_as_they_were_written(pairs):
    assert places(pairs.examples) == [(0, 2), (0, 3), (3, 1)]
    assert pairs.examples.target.tolist() == [2, 3, 6]
    assert pairs.rejected.tolist() == [[10, -1, 11], [-1, 12, -1], [13, -1, -1]]
    assert pairs.eps.tolist() == np.float32([[0.1, 0, 0.2], [0, 0.3, 0], [0.4, 0, 0]]).tolist()
    assert pairs.reference_chosen.tolist() == [-1, -2, -3]
    assert pairs.reference_rejected.tolist() == [[-4, 0, -5], [0, -6, 0], [-7, 0, 0]]
    floats = (pairs.eps, pairs.reference_chosen, pairs.reference_rejected)
    assert {array.dtype for array in floats} == {np.dtype(np.float32)}


def test_trees_carry_the_numbers_of_their_own_pairs(pairs, tiny_tokenizer, catalogue):
    template = prompt_template({"header": "Chosen:\n"}, tiny_tokenizer, catalogue, 5)
    trees = preference_trees(template, pairs)
    # The places of user 0 share a window; user 3 has a tree of their own.
    by_user = {len(tree): tree for tree in trees}
    assert sorted(by_user) == [1, 2]
    for tree, rows in ((by_user[2], [0, 1]), (by_user[1], [2])):
        assert tree.eps.tolist() == pairs.eps[rows].tolist()
        assert tree.reference[:, 0].tolist() == pairs.reference_chosen[rows].tolist()
        assert tree.reference[:, 1:].tolist() == pairs.reference_rejected[rows].tolist()
        inner = tree.tree
        held = {
            (row, column): inner.targets[start : start + length].tolist()
            for row, column, start, length in zip(
                inner.rows.tolist(),
                inner.columns.tolist(),
                (np.cumsum(inner.lengths) - inner.lengths).tolist(),
                inner.lengths.tolist(),
                strict=True,
            )
        }
        items = np.concatenate([pairs.examples.target[rows, None], pairs.rejected[rows]], axis=1)
        assert held == {
            (row, column): template.response_ids[items[row, column]].tolist()
            for row, column in np.argwhere(items >= 0).tolist()
        }


class Oracle(SmoothingOracle):
    """Says what it is told to."""

    origin = "oracle 'told' of acme 1.0"

    def __init__(self, eps: Any) -> None:
        super().__init__()
        self.eps = eps

    def flip_probability(self, places: Places, chosen: Any, rejected: Any) -> Any:
        return self.eps


def test_flip_probabilities_are_checked_where_there_is_a_pair(split):
    examples = choose_examples(split, PreferenceOptions(max_users=1, max_per_user=2), FirstUsers())
    rejected = np.array([[10, -1], [11, 12]], dtype=np.int32)
    eps = preferences.flip_probabilities(Oracle([[0.0, 7.0], [0.25, 0.5]]), examples, examples.target, rejected)
    assert (eps.dtype, eps[rejected >= 0].tolist()) == (np.float32, [0, 0.25, 0.5])
    for wrong, fault in (
        ([[1.0, 0], [0, 0]], r"the flip probability 1\.0, which is not in \[0, 1\)"),
        ([[0.5, 0], [0, -0.25]], r"the flip probability -0\.25"),
        ([[0.5, 0], [float("nan"), 0]], "the flip probability nan"),
        ([0.5, 0.5], r"flip probabilities of shape \(2,\), not \(2, 2\)"),
        (0.1, r"flip probabilities of shape \(\), not \(2, 2\)"),
    ):
        with pytest.raises(PluginError, match=f"^oracle 'told' of acme 1.0 returned .*{fault}"):
            preferences.flip_probabilities(Oracle(wrong), examples, examples.target, rejected)


class Unread(PreferenceLoss):
    """Reads neither the reference nor smoothing factors."""

    needs_reference = False

    def __call__(self, log_probs: Any) -> Any:
        return -log_probs.chosen


def test_what_a_loss_does_not_read_is_not_computed(tmp_path, split):
    items = np.array([[10, -1], [11, 12]], dtype=np.int32)
    examples = choose_examples(split, PreferenceOptions(max_users=1, max_per_user=2), FirstUsers())
    unused: Any = Handle(Artifact("any", tmp_path, "f", None, 0.0), lambda _: pytest.fail("read"))
    rejected = Handle(unused.artifact, lambda _: RejectedItems(examples, items, items))
    # A session without a language model: to ask for its scores would fail.
    session: Any = SimpleNamespace(
        loss=Unread,
        artifact=lambda stage, settings, inputs, build, load, by_all: (
            build(tmp_path),
            Handle(unused.artifact, load),
        )[1],
    )
    found = reference.stage(session, unused, unused, rejected).content
    assert found.chosen.tolist() == [0, 0]
    assert found.rejected.tolist() == [[0, -np.inf], [0, 0]]
