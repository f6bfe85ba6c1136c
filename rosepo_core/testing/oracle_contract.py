"""Tests for every oracle, as a class to inherit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from rosepo_core.contracts.components import OracleContext, SmoothingOracle
from rosepo_core.contracts.records import Examples, Ints, Places, Split
from rosepo_core.testing.component_contract import ComponentContract
from rosepo_core.testing.toys import (
    FakeLanguageModel,
    SilentReporter,
    toy_split,
    toy_supplied_split,
    train_examples,
)


class OracleContract(ComponentContract):
    """Tests for every oracle. Set options with which it learns within seconds."""

    kind = "oracle"

    def fit(self, options: Mapping[str, Any], split: Split, seed: int = 0) -> SmoothingOracle:
        """An oracle trained on a split whose test examples cannot be read."""
        oracle = self.made(options, split)
        prior = FakeLanguageModel(len(split.catalogue)).table[-1] if "title-prior" in oracle.needs else None
        context = OracleContext(np.random.default_rng(seed), seed, SilentReporter(), title_prior=prior)
        shown = oracle.fit(replace(split, test=cast(Examples, _Forbidden())), context)
        assert all(isinstance(key, str) and np.isfinite(value) for key, value in shown.items())
        return oracle

    def made(self, options: Mapping[str, Any], split: Split) -> SmoothingOracle:
        """A new oracle with what it needs."""
        oracle = cast(SmoothingOracle, self.make(options))
        if "language-model" in oracle.needs:
            oracle.language_model = FakeLanguageModel(len(split.catalogue))
        return oracle

    @staticmethod
    def rejected(split: Split, examples: Examples, k: int = 4) -> Ints:
        """Random items that are not the target; some slots are -1."""
        rng = np.random.default_rng(3)
        items = len(split.catalogue)
        shift = np.stack([rng.permutation(items - 1)[:k] + 1 for _ in range(len(examples))])
        rejected: Ints = ((examples.target[:, None] + shift) % items).astype(np.int32)
        rejected[::3, -1] = -1
        rejected.flags.writeable = False
        return rejected

    def test_flip_probability(self, options: Mapping[str, Any]) -> None:
        """The flip probability of each slot is at least 0 and below 1, also at places that were not in training."""
        split = toy_split()
        oracle = self.fit(options, split)
        for examples in (train_examples(split), split.test):
            rejected = self.rejected(split, examples)
            flips = oracle.flip_probability(examples, examples.target, rejected)
            assert (flips.shape, flips.dtype.name) == (rejected.shape, "float32")
            assert np.isfinite(flips).all()
            assert ((flips >= 0) & (flips < 1)).all()

    def test_learns_where_nobody_is_in_two_parts(self, options: Mapping[str, Any]) -> None:
        """It also learns from given examples, where held-out users have no training interactions."""
        split = toy_supplied_split()
        oracle = self.fit(options, split)
        for examples in (train_examples(split), split.test):
            flips = oracle.flip_probability(examples, examples.target, self.rejected(split, examples))
            assert ((flips >= 0) & (flips < 1)).all()

    def test_scores(self, options: Mapping[str, Any]) -> None:
        """It gives each item a finite score that does not depend on the other items, or no scores at all."""
        split = toy_split()
        oracle = self.fit(options, split)
        items = np.abs(self.rejected(split, split.test))
        scores = oracle.score(split.test, items)
        if scores is None:
            return
        assert (scores.shape, scores.dtype.name) == (items.shape, "float32")
        assert np.isfinite(scores).all()
        backwards = oracle.score(split.test, items[:, ::-1].copy())
        assert backwards is not None
        np.testing.assert_allclose(backwards[:, ::-1], scores, rtol=1e-4, atol=1e-4)
        alone = oracle.score(split.test, items[:, :1].copy())
        assert alone is not None
        np.testing.assert_allclose(alone, scores[:, :1], rtol=1e-4, atol=1e-4)

    def test_scores_at_the_end_of_a_sequence(self, options: Mapping[str, Any]) -> None:
        """Scores are the same if the sequences end at the places, as in recommending, where the next item is not
        known."""
        split = toy_split()
        oracle = self.fit(options, split)
        items = np.abs(self.rejected(split, split.test))
        scores = oracle.score(split.test, items)
        if scores is None:
            return
        lengths = np.zeros(len(split.test.sequences), dtype=np.int64)
        lengths[split.test.user] = split.test.position
        places = Places(split.test.sequences.prefix(lengths), split.test.user, split.test.position)
        ended = oracle.score(places, items)
        assert ended is not None
        np.testing.assert_allclose(ended, scores, rtol=1e-5, atol=1e-5)

    def test_state_round_trip(self, options: Mapping[str, Any]) -> None:
        """A new instance with the saved arrays answers the same."""
        split = toy_split()
        oracle = self.fit(options, split)
        state = {key: np.array(value) for key, value in oracle.state().items()}
        assert all(value.dtype.kind in "biuf" for value in state.values()), "safetensors holds numbers only"
        restored = self.made(options, split)
        restored.restore(state)
        rejected = self.rejected(split, split.test)
        np.testing.assert_allclose(
            restored.flip_probability(split.test, split.test.target, rejected),
            oracle.flip_probability(split.test, split.test.target, rejected),
            atol=1e-6,
        )
        scores, again = oracle.score(split.test, np.abs(rejected)), restored.score(split.test, np.abs(rejected))
        assert (scores is None) == (again is None)
        if scores is not None and again is not None:
            np.testing.assert_allclose(again, scores, rtol=1e-5, atol=1e-5)

    def test_preference_probability(self, options: Mapping[str, Any]) -> None:
        """The probability before it is changed for training is at least 0 and below 1 in each slot, too."""
        split = toy_split()
        rejected = self.rejected(split, split.test)
        likely = self.fit(options, split).preference_probability(split.test, split.test.target, rejected)
        assert (likely.shape, likely.dtype.name) == (rejected.shape, "float32")
        assert ((likely >= 0) & (likely < 1)).all()

    def test_same_seed_same_flips(self, options: Mapping[str, Any]) -> None:
        """Learning twice with the same seed gives the same result."""
        split = toy_split()
        rejected = self.rejected(split, split.test)
        first, second = (
            self.fit(options, split, seed=4).flip_probability(split.test, split.test.target, rejected)
            for _ in range(2)
        )
        np.testing.assert_allclose(first, second, atol=1e-6)


class _Forbidden:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError("an oracle must not look at split.test")
